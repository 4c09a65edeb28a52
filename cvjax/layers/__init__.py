"""Small Flax modules that several models share."""
