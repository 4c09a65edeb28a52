"""Reading weight files without torch, and refusing what is not weights."""

import os
import pickle
import re
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cvjax.interop import open_published, read_state_dict

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
    ("w.pth", b"\x80\x02", "not a zip archive: save it with"),
    ("w.safetensors", b"nonsense", "cannot be read as weights"),
    ("w.npz", b"", "weights of kind '.npz'; allowed: .safetensors, .pth, .pt"),
])
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / name)


def test_a_mapping_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epoch, lr are not tensors"):
        read_state_dict(_archive(tmp_path / "w.pth", pickle.dumps({"epoch": 3, "lr": 0.1})))
    with pytest.raises(ValueError, match="holds a list, not a mapping"):
        read_state_dict(_archive(tmp_path / "w.pth", pickle.dumps([1])))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.safetensors")


def test_an_installation_of_the_models_only_says_which_extra_reads_weights(python) -> None:
    message = python("""
import json, sys
sys.modules["safetensors"] = None  # as if it were not installed
try:
    import cvjax.interop
except ImportError as error:
    print(json.dumps(str(error)))
""")
    assert "safetensors" in message and "pip install 'cvjax[experiments]'" in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod.module.",
                                    "timm_model."])
def test_what_stands_before_all_names_is_left_out_and_said(tmp_path: Path, prefix: str,
                                                           caplog: pytest.LogCaptureFixture) -> None:
    arrays = {"conv1.weight": np.zeros(1, np.float32), "model.fc.weight": np.ones(1, np.float32)}
    safetensors.numpy.save_file({prefix + name: array for name, array in arrays.items()}, tmp_path / "w.safetensors")
    assert sorted(read_state_dict(tmp_path / "w.safetensors")) == sorted(arrays)
    assert f"{prefix} stands before all names and is left out" in caplog.text
    safetensors.numpy.save_file({"model.fc.weight": arrays["model.fc.weight"], "fc.bias": np.zeros(1, np.float32)},
                                tmp_path / "w.safetensors")
    assert sorted(read_state_dict(tmp_path / "w.safetensors")) == ["fc.bias", "model.fc.weight"], "not before all"


def _with(name: str, before: bytes) -> bytes:
    """A pickle of {"state_dict": {"w": tensor}, name: what is `before`}."""
    tensor = _tensor_program("I2\nI3\n", "I3\nI1\n").removesuffix(b".")
    return b"(dS'state_dict'\n" + tensor + b"s" + f"S'{name}'\n".encode() + before + b"s."


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema"])
def test_averages_beside_the_weights_are_said_and_taken_if_asked(tmp_path: Path, name: str,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    average = _tensor_program("I3\n", "I2\n").removesuffix(b".")
    path = _archive(tmp_path / "w.pth", _with(name, average), np.arange(6, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(read_state_dict(path)["w"], np.arange(6).reshape(2, 3))
    assert f"also holds averaged weights, in {name}" in caplog.text
    np.testing.assert_array_equal(read_state_dict(path, part=name)["w"], [0, 2, 4])
    np.testing.assert_array_equal(open_published(f"{path}#{name}").arrays["w"], [0, 2, 4])


@pytest.mark.parametrize("value", [np.float64(91.5), np.int64(7), np.float32(0.5), np.bool_(True)])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_numpys_numbers_beside_weights_are_plain_data(tmp_path: Path, value: Any, protocol: int,
                                                      module: bytes) -> None:
    """As torch.save writes a best accuracy; the module's name is that of numpy 2 or 1."""
    program = pickle.dumps({"best": value, "state_dict": {}}, protocol)
    if protocol == 2:
        program = program.replace(b"numpy._core.multiarray", module)
    path = _archive(tmp_path / "w.pth", program)
    assert read_state_dict(path) == {}


def test_numpys_objects_are_refused(tmp_path: Path) -> None:
    """An array of objects is a pickle inside the pickle."""
    program = b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI00\nI01\ntRS'x'\ntR."
    with pytest.raises(ValueError, match="a numpy scalar of kind 'O8', which is refused; allowed: numbers"):
        read_state_dict(_archive(tmp_path / "w.pth", program))


def _refused(path: Path) -> str:
    """The line by which a file is refused within five seconds and 200 MB."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        read_state_dict(path)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert "\n" not in str(error.value) and len(str(error.value)) < 800
    return str(error.value)


def _laughing_tuple(depth: int) -> bytes:
    """Opcodes of a tuple of two tuples of two tuples ...: small in memory, and 2 ** depth to hash."""
    return b"I1\n" + b"".join(b"q%c0h%ch%c\x86" % (n, n, n) for n in range(1, depth + 1))


@pytest.mark.parametrize("program, reason", [
    (b"}" + _laughing_tuple(60) + b"I1\ns.", "a tuple as a key"),
    (b"(" + _laughing_tuple(60) + b"I1\nd.", "a tuple as a key"),
    (b"}(" + _laughing_tuple(60) + b"I1\nu.", "a tuple as a key"),
    (b"ccollections\nOrderedDict\n](" + _laughing_tuple(60) + b"I1\n\x86e\x85R.", "a tuple as a key"),
    (b"\x8f(" + _laughing_tuple(60) + b"\x90.", ""), (b"(" + _laughing_tuple(60) + b"\x91.", ""),
    (_laughing_tuple(60) + b"Q.", "refers to a tuple"), (_laughing_tuple(60) + b".", "holds a tuple"),
    (b"]r\xff\xff\xff\x7f.", "holds a list"), (b"\x96" + b"\xff" * 7 + b"\x7f.", ""),
    (b"\x8e" + b"\xff" * 7 + b"\x7f.", ""), (b"\x95" + b"\xff" * 7 + b"\x7f.", ""), (b"I" + b"9" * 10_000 + b"\n.", ""),
    (b"]" * 100_000 + b"a" * 99_999 + b".", "holds a list"), (b"(" * 100_000 + b".", ""), (b"", ""), (b"\xff", ""),
    (b"}Vw\nI1\ns" + b"." * 2**23, "8,388,[0-9]* bytes, the limit is 8,388,608"),
    (b"}V" + b"x" * 10**6 + b"\nI1\ns.", "xxx"), (_tensor_program("L1000000000000L\n", "I0\n"), "more than 16,777,216"),
    (_tensor_program("I100000\nI100000\n", "I0\nI0\n"), "repeats its storage of 6 numbers"),
    (b"}I1\nI1\ns.", "1 are not tensors")], ids=lambda value: repr(value)[:30])
def test_a_pickle_out_of_proportion_is_refused(tmp_path: Path, program: bytes, reason: str) -> None:
    path = _archive(tmp_path / "w.pth", program, np.zeros(6, np.float32).tobytes())
    assert re.search(reason, _refused(path)), _refused(path)


def test_a_name_of_many_prefixes_takes_no_time(tmp_path: Path) -> None:
    program = b"}V" + b"module." * 100_000 + b"w\n" + _tensor_program("I6\n", "I1\n")[7:]
    start = time.monotonic()
    assert len(read_state_dict(_archive(tmp_path / "w.pth", program, np.zeros(6, np.float32).tobytes()))) == 1
    assert time.monotonic() - start < 2


def test_archives_that_hold_more_than_they_have_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(10**8))
    assert "its archive is compressed" in _refused(tmp_path / "deflated.pth")
    _archive(tmp_path / "one.pth", _tensor_program("I6\n", "I1\n"), bytes(10_000))
    content = (tmp_path / "one.pth").read_bytes()
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    end = content.index(b"PK\x05\x06")
    entry, tail = content[at:end], bytearray(content[end:])
    count = 100  # names for the same bytes
    entries = b"".join(entry.replace(b"archive/data/0", b"archive/data/%c" % (65 + n % 26)) for n in range(count))
    tail[8:12] = (count + 1).to_bytes(2, "little") * 2
    tail[12:16] = (end - content.index(b"PK\x01\x02") + len(entries) - len(entry)).to_bytes(4, "little")
    (tmp_path / "many.pth").write_bytes(content[:at] + entries + bytes(tail))
    assert "its archive says that it holds more than" in _refused(tmp_path / "many.pth")


def test_members_of_an_archive_are_written_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "w.pth"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../archive/data.pkl", _tensor_program("I6\n", "I1\n"))
        archive.writestr("../../archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_array_equal(read_state_dict(path)["w"], np.arange(6))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_files_that_are_none_are_not_waited_for(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"w.{ending}")
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    assert "is a FIFO, not a file" in _refused(tmp_path / f"w.{ending}")
    assert "is a device, not a file" in _refused(tmp_path / f"zero.{ending}")


@pytest.mark.parametrize("header", [
    b"{}", b"[" * 10_000, b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,24]}}',
    b'{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,2400]}}',
    b'{"w":{"dtype":"X","shape":[6],"data_offsets":[0,24]}}',
    b'{"w":{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}}', b'{"w":3}', b"\xff" * 20, b""])
@pytest.mark.parametrize("length", [None, 2**63, 100])
def test_headers_of_safetensors(tmp_path: Path, header: bytes, length: int | None) -> None:
    size = len(header) if length is None else length
    (tmp_path / "w.safetensors").write_bytes(size.to_bytes(8, "little") + header + bytes(24))
    _refused(tmp_path / "w.safetensors")


@pytest.mark.parametrize("config", [
    b"[" * 100_000, b"\xff", b'{"pretrained_cfg": [1]}', b'{"architecture": "a", "input_size": "big"}',
    b'{"pretrained_cfg": {"input_size": [3, 1e400, 5]}}', b'{"pretrained_cfg": {"test_input_size": [3, -1, 5]}}',
    b'{"architecture": "a", "num_classes": "many"}', b'{"pretrained_cfg": {"num_classes": 1180591620717411303424}}',
    b'{"architecture": "a", "label_names": 7}'])
def test_a_config_beside_weights_that_is_none_is_one_line(tmp_path: Path, config: bytes) -> None:
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ValueError, match="config.json") as error:
        open_published(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)
