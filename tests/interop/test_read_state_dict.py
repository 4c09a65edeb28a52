"""Reading weight files without torch, and refusing what is not weights."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cvjax.interop import read_state_dict

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "checkpoint.pth"  # torch.save's own, by make_goldens.py


def _archive(path: Path, program: bytes, storage: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", storage)
    return path


def _tensor_program(size: str, stride: str, offset: int = 0) -> bytes:
    """A pickle of {"w": tensor} on a storage "0", size and stride as pickle's text opcodes."""
    storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQ"
    arguments = f"({storage}I{offset}\n({size}t({stride}tI00\n(dt"
    return f"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n{arguments}Rs.".encode()


def test_every_kind_of_tensor_in_a_training_checkpoint() -> None:
    numbers = np.arange(24, dtype=np.float32)
    expected = {
        "plain": numbers.reshape(2, 3, 4), "transposed": numbers.reshape(4, 6).T,
        "part": numbers.reshape(4, 6)[1:3, 2:5], "expanded": np.float32([[1, 1, 1], [2, 2, 2]]),
        "scalar": np.array(7, np.int64), "empty": np.zeros((0, 3), np.float32),
        "half": numbers.astype(np.float16), "bfloat16": numbers.astype(ml_dtypes.bfloat16),
        "double": numbers.astype(np.float64), "flags": numbers > 20, "parameter": numbers[:2],
    }
    weights = read_state_dict(CHECKPOINT)
    assert list(weights) == list(expected)
    for name, array in expected.items():
        assert weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors(tmp_path: Path, dtype: Any) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    safetensors.numpy.save_file({"w": array}, tmp_path / "w.safetensors")
    read = read_state_dict(tmp_path / "w.safetensors")["w"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "teacher"])
def test_wrappers_and_the_data_parallel_prefix(tmp_path: Path, wrapper: str) -> None:
    tensor = _tensor_program("I2\nI3\n", "I3\nI1\n").replace(b"S'w'", b"S'module.w'").removesuffix(b".")
    program = f"(dS'{wrapper}'\n".encode() + tensor + b"sS'epoch'\nI3\ns."
    path = _archive(tmp_path / "w.pt", program, np.arange(6, dtype=np.float32).tobytes())
    read = read_state_dict(path)
    np.testing.assert_array_equal(read["w"], np.arange(6).reshape(2, 3))


class Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("touch attacked",)


def test_code_is_named_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _archive(tmp_path / "attack.pth", pickle.dumps({"model": {"w": Attack()}}))
    with pytest.raises(ValueError, match=rf"attack.pth cannot be .* asks for {os.system.__module__}.system"):
        read_state_dict(path)
    assert not Path("attacked").exists()


@pytest.mark.parametrize("module, name", [
    ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("collections", "Counter"),
    ("torch.storage", "_load_from_bytes"),
])
def test_other_names_are_refused(tmp_path: Path, module: str, name: str) -> None:
    path = _archive(tmp_path / "w.pth", f"c{module}\n{name}\n.".encode())
    with pytest.raises(ValueError, match=f"asks for {module}.{name}, which is refused; allowed: coll"):
        read_state_dict(path)


@pytest.mark.parametrize("size, stride, offset", [
    ("I2\nI3\n", "I3\nI1\n", 1), ("I2\nI4\n", "I3\nI1\n", 0), ("I7\n", "I1\n", 0),
    ("I2\n", "I-1\n", 1), ("I-2\n", "I1\n", 0), ("I2\nI3\n", "I1\n", 0), ("I2\n", "F0.5\n", 0),
    ("I1\n", "I1\n", -1),
])
def test_tensors_stay_inside_their_storage(tmp_path: Path, size: str, stride: str, offset: int) -> None:
    program, storage = _tensor_program(size, stride, offset), np.zeros(6, np.float32).tobytes()
    with pytest.raises(ValueError, match="leaves its storage of 6|must be non-negative integers"):
        read_state_dict(_archive(tmp_path / "w.pth", program, storage))


@pytest.mark.parametrize("name, content, message", [
    ("w.pth", b"\x80\x02", "no zip archive: save it with"),
    ("w.safetensors", b"nonsense", "cannot be read as weights"),
    ("w.npz", b"", "weights of kind '.npz'; allowed: .safetensors, .pth, .pt"),
])
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / name)


def test_a_mapping_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epoch, lr are no tensors"):
        read_state_dict(_archive(tmp_path / "w.pth", pickle.dumps({"epoch": 3, "lr": 0.1})))
    with pytest.raises(ValueError, match="holds a list, not a mapping"):
        read_state_dict(_archive(tmp_path / "w.pth", pickle.dumps([1])))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.safetensors")
