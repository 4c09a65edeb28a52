"""Classifiers and regressors: options, what they learn, building them, transfer, augmentation, and reports on them."""
