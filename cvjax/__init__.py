"""Functional computer vision in JAX and Flax."""
