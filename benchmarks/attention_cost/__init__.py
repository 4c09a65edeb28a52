"""Arithmetic and time of ViT and Swin as images grow."""
