"""What files of Hugging Face's `transformers` have in common, https://github.com/huggingface/transformers.

A network alone stores its parameters as they are called inside it. With a head, it stores them under its own name
(`vit.`), and the head beside them. Queries, keys and values are three linear layers, one of ours. Names are those of
the files, which `save_pretrained` writes; the modules of version 5 are called otherwise.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cvjax.interop.naming import Arrays, Naming, Rule, as_they_are

Hook = Callable[[Arrays, Any], Arrays]


def transformers(base: str, rules: Sequence[Rule], renames: Sequence[tuple[str, str]] = (), *, head: str,
                 others: Sequence[str] = (), constants: Callable[[Any], dict[str, np.ndarray]] = lambda model: {},
                 read: Hook = as_they_are, write: Hook = as_they_are) -> Naming:
    """The naming of a network that is stored under the name `base` if it has a head.

    head: pattern of the names of a head's parameters. others: names of the same network in other classes' files.
    The other arguments are those of `Naming`, on names without `base`.
    """
    bases = re.compile("|".join(re.escape(f"{name}.") for name in (base, *others)))

    def inside(arrays: Arrays, model: Any) -> Arrays:
        found = {}
        for name, array in arrays.items():
            match = bases.match(name)
            plain = name if match is None else name[match.end():]
            found[name if plain in arrays else plain] = array  # of two by one name, the one with the base is too many
        return read(found, model)

    def outside(arrays: Arrays, model: Any) -> Arrays:
        arrays = write(arrays, model)
        if not any(re.fullmatch(head, name) for name in arrays):
            return arrays
        return {name if re.fullmatch(head, name) else f"{base}.{name}": array for name, array in arrays.items()}

    return Naming(tuple(rules), tuple(renames), constants, inside, outside)
