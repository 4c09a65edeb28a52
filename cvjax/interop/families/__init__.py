"""Tables of published names, one file for each model family.

Every file is imported here, and registers its tables by the models they belong to.
"""

import importlib
import pkgutil

from cvjax.interop.families.registry import family_of

for _file in sorted(file.name for file in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_file}")

__all__ = ["family_of"]
