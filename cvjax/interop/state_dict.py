"""Weight files to arrays: `.safetensors`, and the `.pth` files of `torch.save`, read without torch.

A `.pth` file is a zip archive: one pickle that describes the tensors, and a flat binary record per storage
(https://docs.pytorch.org/docs/stable/notes/serialization.html). A pickle is a program. It is run here with a
handful of harmless names, and a file that asks for any other is refused, so no code of its own is executed.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"), "BoolStorage": np.dtype("?"),
}

# Where training scripts put the weights inside a checkpoint, in the order they are looked for.
_WRAPPERS = ("state_dict", "model", "teacher")


class _StorageType(NamedTuple):
    dtype: np.dtype


def _strided(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """A tensor's view of its flat storage; ValueError where it would look outside (numpy would allow it)."""
    what = f"a tensor of size {size}, stride {stride} and offset {offset}"
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError(f"{what}: these must be non-negative integers, as many sizes as strides")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError(f"{what} leaves its storage of {storage.size} numbers")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _admitted() -> dict[tuple[str, str], Any]:
    """What a pickle may name, made anew for each file so that a file can alter nothing that outlives it."""

    class Namespace:
        """Stands for argparse.Namespace: the training script's options, which are never looked at."""

    def rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        return _strided(storage, offset, size, stride)

    def rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
        return data

    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("argparse", "Namespace"): Namespace,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    }
    return names | {("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Runs a checkpoint's pickle with the admitted names; `record(key)` gives a storage's bytes."""

    def __init__(self, file: Any, record: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._names, self._record, self._loaded = _admitted(), record, {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            allowed = ", ".join(".".join(known) for known in self._names)
            raise ValueError(f"it asks for {module}.{name}, which is refused; allowed: {allowed}")
        return self._names[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, _):
                if (key, dtype) not in self._loaded:
                    self._loaded[key, dtype] = np.frombuffer(self._record(key), dtype)
                return self._loaded[key, dtype]
        raise ValueError(f"it refers to {pid!r}, which is refused; allowed: a storage of known type")


def _read_torch(path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError("no zip archive: save it with torch 1.6 or later, or as .safetensors") from None
    with archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} data.pkl, a file of torch.save holds 1")
        folder = pickles[0].removesuffix(".pkl")
        with archive.open(pickles[0]) as file:
            return _Unpickler(file, lambda key: archive.read(f"{folder}/{key}")).load()


def _unwrap(content: Any, part: str | None) -> dict[str, np.ndarray]:
    """The weights inside a checkpoint, without the `module.` that data-parallel training puts in front."""
    if part is not None and not isinstance(content.get(part), Mapping):
        raise ValueError(f"it has no part {part!r}; it has {', '.join(map(str, content))}")
    for wrapper in _WRAPPERS if part is None else (part,):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping of names to tensors")
    if others := [str(name) for name, value in content.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"{', '.join(others)} are no tensors; weights may be at the top or under one of "
                         f"{', '.join(_WRAPPERS)}")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): array for name, array in content.items()}


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a `.safetensors`, `.pth`, `.pt` or `.bin` file: name -> array, in the file's layout and dtype.

    Weights that a checkpoint keeps under `state_dict`, `model` or `teacher` are found there; what lies beside
    them (optimizer state, options) is dropped. part: the name under which to look instead, such as DINO's `student`.
    Arrays may be read-only views. ValueError on a file of another kind, and on a `.pth` that asks for anything but
    tensors, containers and an argparse.Namespace.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise ValueError(f"{path}: weights of kind {path.suffix!r}; allowed: .safetensors, .pth, .pt, .bin")
    read = safetensors.numpy.load_file if path.suffix == ".safetensors" else _read_torch
    try:
        return _unwrap(read(path), part)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
