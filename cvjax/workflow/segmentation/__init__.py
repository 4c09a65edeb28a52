"""Semantic segmentation: inputs, building models, what is reported of them."""
