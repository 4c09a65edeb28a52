"""Model families, one file each: images in, outputs out."""

from cvjax.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
