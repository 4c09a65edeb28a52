"""Weight files to arrays: `.safetensors`, and the `.pth` files of `torch.save`, read without torch.

A `.pth` file is a zip archive: one pickle that describes the tensors, and a flat binary record per storage
(https://docs.pytorch.org/docs/stable/notes/serialization.html). A pickle is a program. Here it
can use a handful of harmless names. A file that asks for any other name is refused, so it cannot run code of its own.
Nor can it take memory or time out of proportion to its size: a few bytes of pickle can ask for gigabytes of places to
remember things in, or for the hash of a tuple of tuples of tuples that takes years.
"""

import collections
import io
import logging
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from cvjax.storage import facts, open_stream

try:
    import safetensors.numpy
except ModuleNotFoundError:
    raise ImportError("cvjax.interop reads and writes weight files by safetensors, which is not installed: "
                      "pip install 'cvjax[experiments]'") from None

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"), "BoolStorage": np.dtype("?"),
}

_log = logging.getLogger(__name__)

# Where training scripts put the weights inside a checkpoint, in the order they are looked for.
_WRAPPERS = ("state_dict", "model", "teacher")
# Where they put running averages of the same weights, which lie beside them.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# What stands before all names when a network was saved inside another module: data parallel, torch.compile, Lightning,
# transformers' wrapper of timm.
_PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")


# A large network's pickle, with an optimizer's state, has some hundred kilobytes.
_MOST_PICKLE = 2**23
# Numbers of a tensor that is larger than its storage, which has strides of 0.
_MOST_EXPANDED = 2**24
_MOST_PREFIXES = 8
_MOST_WORDS = 500  # letters of a reason


class _StorageType(NamedTuple):
    dtype: np.dtype


def _strided(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """A tensor's view of its flat storage. ValueError if it would read outside the storage, which numpy allows."""
    what = f"a tensor of size {size}, stride {stride} and offset {offset}"
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError(f"{what}: all must be non-negative integers, with one stride per size")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError(f"{what} leaves its storage of {storage.size} numbers")
    if math.prod(size) > max(storage.size, _MOST_EXPANDED):
        raise ValueError(f"{what} repeats its storage of {storage.size} numbers more than {_MOST_EXPANDED:,} numbers "
                         "need")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _admitted() -> dict[tuple[str, str], Any]:
    """The names that a pickle may use. Each file gets new ones, so that it cannot change them for the next file."""

    class Namespace:
        """Stands for argparse.Namespace: the training script's options, which are never looked at."""

    def rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        return _strided(storage, offset, size, stride)

    def rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
        return data

    class Plain:
        """Stands for numpy's dtype of numbers and booleans, the only ones whose bytes are data and nothing else."""

        def __init__(self, kind: str, *_: Any) -> None:
            if re.fullmatch(r"[biufc][0-9]{1,2}", kind) is None:
                raise ValueError(f"it holds a numpy scalar of kind {kind!r}, which is refused; allowed: numbers")
            self.dtype = np.dtype(kind)

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")

    def scalar(kind: Plain, content: bytes) -> Any:
        (value,) = np.frombuffer(content, kind.dtype)
        return value.item()

    def encode(text: str, coding: str) -> bytes:  # how a pickle of an old protocol writes bytes
        if coding != "latin1":
            raise ValueError(f"it encodes a text by {coding}, which is refused; allowed: latin1")
        return text.encode("latin1")

    def ordered(pairs: Iterable[tuple[Any, Any]] = ()) -> collections.OrderedDict:
        return collections.OrderedDict((_plain(key), value) for key, value in pairs)

    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): ordered,
        ("argparse", "Namespace"): Namespace,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("numpy", "dtype"): Plain,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("numpy._core.multiarray", "scalar"): scalar,
        ("_codecs", "encode"): encode,
    }
    return names | {("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()}


def _plain(key: Any) -> Any:
    """A key of a mapping, whose hash takes no time; ValueError for any other."""
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    if not all(part is None or type(part) in (str, bytes, int, float, bool) for part in parts):
        raise ValueError(f"it has a {type(key).__name__} as a key, which is refused; allowed: text, numbers, and "
                         "tuples of these")
    return key


class _Unpickler(pickle._Unpickler):
    """Runs a checkpoint's pickle with the admitted names; `record(key)` gives a storage's bytes.

    It is the one that is written in Python: that in C makes room for the place with the number 4,000,000,000 when a
    pickle remembers something there, and cannot be told to look at keys.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: run for code, run in pickle._Unpickler.dispatch.items() if bytes([code]) not in (
            pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4,
            pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)}

    def _set_items(self, target: Any, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_plain(key)] = value

    def _load_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def _load_items(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def _load_mapping(self) -> None:
        items, found = self.pop_mark(), {}
        self._set_items(found, items)
        self.append(found)

    dispatch |= {pickle.SETITEM[0]: _load_item, pickle.SETITEMS[0]: _load_items, pickle.DICT[0]: _load_mapping}

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
        raise ValueError(f"it refers to a {type(pid).__name__}, which is refused; allowed: a storage of known type")


def _read_torch(path: Path) -> Any:
    with open_stream(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            raise ValueError("not a zip archive: save it with torch 1.6 or later, or as .safetensors") from None
        with archive:
            return _run(archive, facts(path).size)


def _run(archive: zipfile.ZipFile, size: int) -> Any:
    """What the pickle in an archive of so many bytes makes."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its archive is compressed, which torch.save does not do")
    if sum(member.file_size for member in members) > size:
        raise ValueError(f"its archive says that it holds more than the {size:,} bytes of the file")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it holds {len(pickles)} data.pkl; a file of torch.save holds 1")
    folder, program = pickles[0].removesuffix(".pkl"), archive.read(pickles[0])
    if len(program) > _MOST_PICKLE:
        raise ValueError(f"its data.pkl has {len(program):,} bytes, the limit is {_MOST_PICKLE:,}")
    return _Unpickler(io.BytesIO(program), lambda key: archive.read(f"{folder}/{key}")).load()


def _unwrap(content: Any, part: str | None) -> tuple[dict[str, np.ndarray], str]:
    """The weights inside a checkpoint, without what stands before all of their names, and where they lay in it.

    What is left out is said in the log.
    """
    if part is not None and not isinstance(content.get(part), Mapping):
        raise ValueError(f"it has no part {part!r}; it has {', '.join(map(str, content))}")
    if part is None and isinstance(content, Mapping):
        for average in _AVERAGES:
            if isinstance(content.get(average), Mapping):
                _log.warning("it also holds averaged weights, in %s, which are not taken: part %s takes them", average,
                             average)
    place = ""
    for wrapper in _WRAPPERS if part is None else (part,):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content, place = content[wrapper], wrapper
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping of names to tensors")
    if others := [str(name) for name, value in content.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"{', '.join(others)} are not tensors; weights may be at the top or under one of "
                         f"{', '.join(_WRAPPERS)}")
    left = ""
    for _ in range(_MOST_PREFIXES):
        left += next((each for each in _PREFIXES if content and all(name.startswith(left + each)
                                                                     for name in content)), "")
    if left:
        _log.warning("%s stands before all names and is left out", left)
    return {name.removeprefix(left): array for name, array in content.items()}, place


def read_notes(path: str | Path) -> dict[str, str]:
    """What a `.safetensors` file says of itself, name -> text; nothing for most files."""
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata() or {}


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a `.safetensors`, `.pth`, `.pt` or `.bin` file: name -> array, in the file's layout and dtype.

    Weights that a checkpoint keeps under `state_dict`, `model` or `teacher` are found there; what lies beside
    them (optimizer state, options) is dropped. part: the name under which to look instead, such as DINO's `student` or
    timm's `state_dict_ema`. `module.`, `_orig_mod.`, `model.` and `timm_model.` before all names are left
    out.
    Arrays may be read-only views. ValueError on a file of another kind, and on a `.pth` that asks for anything but
    tensors, numpy's numbers, containers and an argparse.Namespace.
    """
    return read_wrapped(path, part)[0]


def read_wrapped(path: str | Path, part: str | None = None) -> tuple[dict[str, np.ndarray], str]:
    """What `read_state_dict` gives, and the name under which it was found in the file, "" for none."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise ValueError(f"{path}: weights of kind {path.suffix!r}; allowed: .safetensors, .pth, .pt, .bin")
    read = safetensors.numpy.load_file if path.suffix == ".safetensors" else _read_torch
    try:
        with open_stream(path):  # safetensors would wait for a FIFO
            pass
        return _unwrap(read(path), part)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())[:_MOST_WORDS] or type(error).__name__
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error
