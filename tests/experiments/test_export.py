"""Exported networks: another process, without cvjax, gets the network's numbers from them."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop import create_pretrained, load_weights, save_weights, to_state_dict
from cvjax.models import create_model
from cvjax.workflow.classification.goal import MultiLabel, Regression
from cvjax.workflow.classification.model import load_classifier
from cvjax.workflow.export import onnx as onnx_module
from cvjax.workflow.export.folder import check_new, write_export
from cvjax.workflow.export.onnx import onnx
from cvjax.workflow.export.plain import plain
from cvjax.workflow.export.program import Program, program_of
from cvjax.workflow.export.stablehlo import stablehlo
from tests.experiments.exported import FAMILIES, NAMES, network_of
from tests.experiments.written_runs import write_model_run, write_run

ROOT = Path(__file__).parents[2]
FILES = ["export.json", "how_to_load.md", "labels.json", "preprocessing.json"]

# In a process that cannot import cvjax: the outputs of each program in a folder, for batches of 1 and 3 images.
ELSEWHERE = """
import sys
sys.modules["cvjax"] = None
from pathlib import Path
import numpy as np
from jax import export
for path in sorted(Path(".").glob("*/model.stablehlo")):
    model = export.deserialize(bytearray(path.read_bytes()))
    assert model.platforms == ("cpu", "cuda", "tpu"), model.platforms
    inputs = dict(np.load(path.with_name("inputs.npz")))
    for batch in (1, 3):
        outputs = model.call(*(array[:batch] for array in inputs.values()))
        np.savez(path.with_name(f"outputs{batch}.npz"), **outputs)
"""


def flatbuffers() -> None:
    pytest.importorskip("flatbuffers", reason="jax.export writes its files by flatbuffers")


def run_elsewhere(code: str, folder: Path, environment: dict[str, str]) -> str:
    """What a process prints that knows nothing of this repository."""
    others = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=others, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def example_of(folder: Path) -> str:
    """The code in `how_to_load.md`."""
    return re.search(r"```python\n(.*?)```", (folder / "how_to_load.md").read_text(), re.S)[1]


def inputs_of(program: Program, batch: int) -> dict[str, np.ndarray]:
    """Images of noise; of detectors with an extent that leaves a part of the canvas empty, and scale 1."""
    draw, found = np.random.default_rng(3), {}
    height, width, _ = program.inputs["image"].shape
    for name, one in program.inputs.items():
        shape = (batch, *one.shape)
        if one.dtype == np.uint8:
            found[name] = draw.integers(0, 256, shape, np.uint8)
        elif name == "image":
            found[name] = np.float32(draw.standard_normal(shape))
        else:
            found[name] = np.broadcast_to(np.float32((height - 3, width) if name == "extent" else 1), shape).copy()
    return found


def same(found: dict, expected: dict) -> None:
    """To the rounding of float32 sums in another order, through a whole network; places and flags exactly."""
    assert found.keys() == expected.keys()
    for name, values in jax.device_get(expected).items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
        if np.issubdtype(values.dtype, np.floating):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-5 * np.abs(values).max(), err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, name)


def exported(command, *arguments) -> None:
    done = command("export", *arguments)
    assert done.status == 0, done.err + done.out


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [False, True])
def test_a_run_leaves_as_a_program_that_jax_alone_runs(command, environment, tmp_path, pixels):
    flatbuffers()
    run = write_run(tmp_path / "run", 2.0, names=("../../dark", "\x1b[31mlight\n"))
    metrics, protocol = {"test/top1": 0.75}, {"crop": 0.875}
    (run / "summary.json").write_text(json.dumps({"metrics": metrics, "protocol": protocol, "steps": 1}))
    out = tmp_path / "deep" / "out"
    exported(command, run, "--output", out, *["--preprocessing"] * pixels)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "model.stablehlo"])
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing is left aside"

    facts = json.loads((out / "export.json").read_text())
    assert facts["run"] == {"experiment": "supervised", "finished": True, "metrics": metrics, "protocol": protocol,
                            "steps": 1}
    assert facts["inputs"] == {"image": {"shape": ["batch", 8, 8, 1], "dtype": "uint8" if pixels else "float32"}}
    assert facts["outputs"]["logits"] == {"shape": ["batch", 2], "dtype": "float32"}
    assert [source["run"] for source in facts["sources"]] == [str(run)]
    assert json.loads((out / "labels.json").read_text()) == ["../../dark", "\x1b[31mlight\n"]
    how = json.loads((out / "preprocessing.json").read_text())
    assert how["mean"] == [0.5] and how["height"] == how["width"] == 8 and how["normalized_inside"] == pixels
    text = (out / "how_to_load.md").read_text()
    assert "- test/top1: 0.75" in text and not re.search(r"[\x00-\x09\x0b-\x1f]", text)

    assert run_elsewhere(example_of(out), out, environment()).splitlines() == [
        "logits (2, 2) float32", "probabilities (2, 2) float32"]
    network = load_classifier(run)
    images = inputs_of(program_of(network, pixels=True), 3)["image"]
    np.savez(out / "inputs.npz", image=images if pixels else (images / np.float32(255) - np.float32(0.5)) * 2)
    run_elsewhere(ELSEWHERE, tmp_path / "deep", environment())
    for batch in (1, 3):
        logits = network.logits(network.variables, images[:batch])
        same(dict(np.load(out / f"outputs{batch}.npz")),
             {"logits": logits, "probabilities": network.goal.answers(logits)})


@pytest.mark.slow
def test_programs_of_every_family_run_elsewhere(environment, tmp_path):
    flatbuffers()
    programs = {}
    for name in FAMILIES.values():
        if name == "fast_rcnn":
            continue
        program = programs[name] = program_of(network_of(name), pixels=len(programs) % 2 == 1)
        write_export(tmp_path / name, program, "stablehlo", None)
        np.savez(tmp_path / name / "inputs.npz", **inputs_of(program, 3))
    run_elsewhere(ELSEWHERE, tmp_path, environment())
    for name, program in programs.items():
        compiled, inputs = jax.jit(program), inputs_of(program, 3)
        for batch in (1, 3):
            expected = compiled(*(array[:batch] for array in inputs.values()))
            same(dict(np.load(tmp_path / name / f"outputs{batch}.npz")), expected)
        assert np.asarray(expected.get("valid", True)).any(), f"{name} finds nothing to compare"


@pytest.mark.parametrize("views", ["mirror", "mirror_shift"])
def test_views_and_numbers_are_in_the_program(views):
    network = network_of("mlp")
    goal = Regression(("a", "b", "c"), (1.0, 2.0, 3.0), (2.0, 3.0, 4.0))
    program = program_of(dataclasses.replace(network, goal=goal, views=views), pixels=True)
    assert program.kind == "regressor"
    images = inputs_of(program, 2)["image"]
    logits = dataclasses.replace(network, views=views).logits(network.variables, images)
    same(program(images), {"numbers": np.asarray(logits) * np.float32([2, 3, 4]) + np.float32([1, 2, 3])})
    assert [str(side) for side in jax.eval_shape(program, *program.batched())["numbers"].shape] == ["batch", "3"]


@pytest.mark.parametrize("pool", ["token", "avg", "token+avg", "patches"])
def test_every_pool_of_an_encoder_takes_any_batch(pool):
    network = dataclasses.replace(network_of("encoder"), pool=pool)
    program = program_of(network, pixels=False)
    width = network.model.width * {"token+avg": 2, "patches": 4}.get(pool, 1)
    assert [str(side) for side in jax.eval_shape(program, *program.batched())["features"].shape] == [
        "batch", str(width)]


@pytest.mark.parametrize("within", [False, True])
def test_no_kernel_of_the_exporting_machine_is_in_a_program(monkeypatch, within):
    """On a machine with NVIDIA's GPU a ViT in bfloat16 takes cuDNN's, which no other platform has."""
    if within:
        network = network_of("dense_probe")
        fields = {**network.model.backbone_fields, "attention": "cudnn"}
        asked = network.model.clone(dtype=jnp.bfloat16, backbone_fields=fields)
    else:
        network = network_of("vit_tiny_patch16_224")
        asked = network.model.clone(dtype=jnp.bfloat16, attention="cudnn")
    network = dataclasses.replace(network, model=asked)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = program_of(network, pixels=False)
    assert program.model is asked, "the network is described as it was trained"
    lowered = jax.export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*program.batched())
    assert "cudnn" not in lowered.mlir_module()


@pytest.mark.parametrize("name", ["alexnet", "vit_tiny_patch16_224"])
def test_plain_functions_are_the_same_in_jaxs_own_operations(name):
    program = program_of(network_of(name), pixels=False)
    specs = program.batched()
    within = str(jax.make_jaxpr(plain(program, specs))(*specs))
    before = str(jax.make_jaxpr(program)(*specs))
    special = ["conv2d", "platform_index", "= pad["] if name == "alexnet" else ["attention_scores"]
    assert all(word in before and word not in within for word in special) and "jit[" not in within
    inputs = list(inputs_of(program, 2).values())
    expected = jax.jit(program)(*inputs)
    found = jax.jit(plain(program, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]))(*inputs)
    same(dict(zip(sorted(expected), found, strict=True)), expected)


def test_plain_loops_branches_padding_and_transposed_convolutions():
    kernel = np.float32(np.random.default_rng(0).standard_normal((3, 3, 2, 4)))

    def function(x):
        y = jax.lax.fori_loop(0, 3, lambda i, y: jnp.pad(y, ((0, 0), (1, 0), (0, 0), (0, 0)), "edge")[:, 1:] * 2 + i, x)
        y = jax.lax.cond(y.sum() > 0, lambda y: jax.lax.pad(y, 3.0, ((0, 0, 0), (2, -1, 1), (-1, 1, 0), (0, 0, 0))),
                         lambda y: jax.lax.pad(y, 1.0, ((0, 0, 0), (2, 1, 0), (0, 0, 0), (0, 0, 0))), y)
        y = jax.lax.conv_general_dilated(y, kernel, (1, 1), ((1, 0), (2, 2)), (2, 3),
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.stack([y, -y], axis=1)

    specs = jax.ShapeDtypeStruct((2, 3, 3, 2), jnp.float32),
    for sign in (1, -100):
        x = sign * np.float32(np.random.default_rng(1).random((2, 3, 3, 2)))
        np.testing.assert_allclose(jax.jit(plain(function, specs))(x)[0], jax.jit(function)(x), rtol=1e-5, atol=1e-3)
    within = str(jax.make_jaxpr(plain(function, specs))(*specs))
    assert not re.search(r"= (pad|stack|jit)\[", within) and "lhs_dilation=(1, 1)" in within


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES.values() if name not in ("yolo", "faster_rcnn",
                                                                                    "fast_rcnn")])
def test_onnx_gives_the_networks_numbers_for_any_batch(name, environment, tmp_path):
    """`onnx` itself has compared a batch of 2 in ONNX Runtime."""
    pytest.importorskip("jax2onnx", reason='pip install ".[export-onnx]"')
    network = network_of(name)
    program = program_of(dataclasses.replace(network, views="mirror") if name == "mlp" else network, pixels=True)
    write_export(tmp_path / "out", program, "onnx", None)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["image"]
    inputs = inputs_of(program, 3)
    expected = program(*inputs.values())
    found = session.run(None, inputs)
    for output, values in zip(session.get_outputs(), found, strict=True):
        here = np.asarray(expected[output.name])
        np.testing.assert_allclose(values, here, rtol=0, atol=1e-4 * np.abs(here).max(), err_msg=output.name)
    if name == "lenet5":
        assert "logits (2, 3) float32" in run_elsewhere(example_of(tmp_path / "out"), tmp_path / "out", environment())


def test_what_a_converter_makes_is_compared(monkeypatch):
    """A converter that errs is told, and so is one that is not there."""
    program = program_of(network_of("mlp"), pixels=False)
    expected = sorted(jax.eval_shape(program, *program.batched()))

    class Wrong:
        def __init__(self, **factors):
            self.factors = factors

        def run(self, names, inputs):
            return [np.asarray(program(*inputs.values())[name]) * self.factors.get(name, 1) for name in expected]

    assert 0.9e-3 < onnx_module._distance(Wrong(logits=1.001), program) < 1.1e-3
    assert np.isnan(onnx_module._distance(Wrong(probabilities=np.nan), program)), "also in the last of the outputs"
    program = dataclasses.replace(program, variables=jax.tree.map(np.zeros_like, program.variables))
    assert onnx_module._distance(Wrong(), program) == 0, "a head that is all zeros is no error"
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ConfigError, match=r'jax2onnx, which is not installed: pip install "\.\[export-onnx\]"'):
        onnx(program)


def test_parameters_leave_under_their_publishers_names(command, environment, tmp_path):
    model = create_model("lenet5", num_classes=3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    how = Preprocessing((0.1,), (0.3,))
    (tmp_path / "given").mkdir()
    save_weights(variables, model, tmp_path / "given" / "w.safetensors", preprocessing=how, class_names=("a", "b", "c"))
    out = tmp_path / "out"
    exported(command, "lenet5", "--weights", tmp_path / "given" / "w.safetensors", "--format", "safetensors",
             "--output", out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "config.json", "model.safetensors"])
    again = load_weights(model, out / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert json.loads((out / "labels.json").read_text()) == ["a", "b", "c"]
    assert json.loads((out / "preprocessing.json").read_text())["std"] == [0.3]
    printed = run_elsewhere(example_of(out), out, environment()).splitlines()
    assert sorted(line.split()[0] for line in printed) == sorted(to_state_dict(variables, model))
    text = (out / "how_to_load.md").read_text()
    assert 'create_pretrained("lenet5", "model.safetensors")' in text and "timm.create_model" not in text


def test_parameters_of_a_run_are_described_as_a_push_describes_them(command, tmp_path):
    """By the name that the run has, at the size that it was judged at, and with what its outputs mean."""
    model = create_model("resnet20", depths=(1, 1), width=4, image_size=8, in_channels=1, num_classes=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    run = write_model_run(tmp_path / "run", model, variables, names=("x", "y"), kind="regressor", metrics={},
                          image_size=12, config={"model": "resnet20"}, mean=[1.0, 2.0], std=[3.0, 4.0])
    out = tmp_path / "out"
    exported(command, run, "--format", "safetensors", "--output", out)
    done = command("push", run, "hf-hub:me/net", "--dry-run", "--output", tmp_path / "hub")
    assert done.status == 0, done.err
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["cvjax"]["name"] == "resnet20" and config["pretrained_cfg"]["test_input_size"] == [1, 12, 12]
    facts, text = json.loads((out / "export.json").read_text()), (out / "how_to_load.md").read_text()
    assert facts["run"]["answers"] == {"mean": [1, 2], "std": [3, 4]} and "numbers less their mean" in text
    assert facts["network"]["name"] == "resnet20" and text.startswith("# resnet20, a regressor")
    back = create_pretrained("resnet20", out / "model.safetensors")
    assert back.model.image_size == 12 == json.loads((out / "preprocessing.json").read_text())["height"]
    jax.tree.map(np.testing.assert_array_equal, back.variables, variables)


def test_a_failure_leaves_nothing(command, tmp_path, monkeypatch):
    flatbuffers()
    run, out = write_run(tmp_path / "run"), tmp_path / "out"

    def full(*_):
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr("cvjax.workflow.export.folder.how_to_load", full)
    assert "No space left" in command("export", run, "--output", out).complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_an_unfinished_run_is_told(command, tmp_path):
    flatbuffers()
    done = command("export", write_run(tmp_path / "run"), "--output", tmp_path / "out")
    assert done.status == 0 and f"{tmp_path / 'run'} is unfinished: step 1" in done.err
    assert json.loads((tmp_path / "out/export.json").read_text())["run"] == {
        "experiment": "supervised", "finished": False}
    assert "The run was unfinished when it was exported" in (tmp_path / "out/how_to_load.md").read_text()


@pytest.mark.parametrize("arguments, message", [
    ("RUN", "--output PATH must be given"), ("--output out", "SOURCE must be given"),
    ("RUN --output full", "--output full: it must be new or empty, and it holds files"),
    ("RUN --output full/file", "--output full/file: it must be a folder, or not exist"),
    ("RUN --output s3://bucket/out", "--output s3://bucket/out: it must be a path on this machine"),
    ("RUN --output full/file/out", "it must be in a folder that may be written to, and "),
    ("RUN --output out --format keras", "it must be one of stablehlo, onnx, safetensors"),
    ("RUN --output out --layout timm", "--layout timm: it must be left out of programs"),
    ("RUN --output out --format safetensors --preprocessing", "which hold no program"),
    ("RUN --output out --format safetensors", "no weight table for Linear"),
    ("RUN --output out --weights w.pth", "--weights w.pth: it must be left out with a run"),
    ("resnet5 --output out", "resnet5 is neither the folder of a run nor the name of a model: did you mean "),
    ("runs/none --output out", "runs/none is neither the folder of a run nor the name of a model"),
    ("full --output out", "full: no checkpoints in it; give the folder of a run"),
    ("rcnn --output out", "rcnn is a run of rcnn, whose stages (selective search"),
    ("knn --output out", "knn is a run of knn and has no checkpoint: there is no network to export"),
    ("damaged --output out", "is not the summary of a run"),
    ("probe --output out", "probe is a run of linear_probe, which judges a network that it did not train"),
    ("mae_vit_base_patch16 --output out", "export its encoder, vit_base_patch16_224, with --model-fields"),
    ("lenet5 --output out", "timm publishes no weights of lenet5"),
    ("lenet5 --weights none.pth --output out", "none.pth"),
])
def test_a_mistake_is_one_line(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("rcnn", "knn", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("file" if name == "full" else "config.json")).write_text(json.dumps({"experiment": name}))
    if "RUN" in arguments or "damaged" in arguments:
        run = write_run(tmp_path / "damaged")
        (run / "summary.json").write_text("{}" if "damaged" in arguments else '{"metrics": {}}')
    if "probe" in arguments:
        write_run(tmp_path / "probe", kind="encoder", experiment="linear_probe")
    assert message in command("export", *arguments.replace("RUN", "damaged").split()).complaint
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.partial"))


def test_a_place_where_no_folder_can_be_put_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    check_new(tmp_path / "out")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
    with pytest.raises(ConfigError, match="it must be a folder within this one"):
        check_new(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(ConfigError, match="--output .: it must be a folder within this one"):
        check_new(Path("."))
    check_new(Path("deep/new"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "out")  # root may write everywhere
    with pytest.raises(ConfigError, match="in a folder that may be written to"):
        check_new(Path("deep/new"))


def supported(name: str) -> dict[str, str]:
    """Whether a family leaves in each format, as the code says before anything is converted."""
    network, found = network_of(name), dict.fromkeys(("stablehlo", "onnx", "safetensors"), "no")
    with contextlib.suppress(ConfigError):
        program = program_of(network, pixels=False)
        found |= {"stablehlo": "yes", "onnx": "no" if "non-maximum suppression" in refused(program) else "yes"}
    with contextlib.suppress(ValueError):
        to_state_dict(network.variables, network.model)
        found["safetensors"] = "yes"
    return found


def refused(program: Program) -> str:
    try:
        onnx(dataclasses.replace(program, variables=jax.ShapeDtypeStruct((2**40,), jnp.float32)))
    except ConfigError as error:
        return str(error)
    raise AssertionError("weights of terabytes fit into a file")


def test_the_page_has_the_matrix_of_families_and_formats():
    rows = re.findall(r"^\| ([^|]+) \| (yes|no)[^|]* \| (yes|no)[^|]* \| (yes|no)[^|]* \|$",
                      (ROOT / "docs/guides/export.md").read_text(), re.M)
    told = {word: dict(zip(("stablehlo", "onnx", "safetensors"), answers)) for word, *answers in rows}
    assert told == {word: supported(name) for word, name in FAMILIES.items()}


def test_weights_that_no_program_holds_are_told():
    program = program_of(network_of("mlp"), pixels=False)
    assert "the weights are 4398.0 GB, and a program holds at most 2.1: export --format safetensors" in refused(program)
    large = dataclasses.replace(program, variables=jax.ShapeDtypeStruct((2**40,), jnp.float32))
    with pytest.raises(ConfigError, match="--format stablehlo: the weights are"):
        stablehlo(large)


def test_labels_have_independent_probabilities():
    program = program_of(dataclasses.replace(network_of("mlp"), goal=MultiLabel(NAMES)), pixels=False)
    assert program.kind == "multi label classifier"
    found = program(*inputs_of(program, 2).values())
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-found["logits"])), rtol=1e-5)
