"""Model families, one file each: images in, outputs out.

Every file is imported here, and registers its models by name.
"""

import importlib
import pkgutil

from cvjax.models.registry import create_model, list_models

for _file in sorted(file.name for file in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_file}")

__all__ = ["create_model", "list_models"]
