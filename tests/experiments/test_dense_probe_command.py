"""`segment --frozen`: only the head learns, other commands read the run, and learnt features are better than random."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.train.checkpoint import restore_weights
from cvjax.workflow.prediction.predictor import load
from cvjax.workflow.restore import load_run
from tests.data.pictures import encode, photo
from tests.experiments.tiny_vit import write_vit_run
from tests.models.drawn import balanced_like

FIELDS = ("width=8", "depths=(1,1,1)", "stem=cifar")
SCENES = ("--data", "scenes:16,4,32", "--crop-size", 32, 32, "--batch-size", 8, "--steps", 2, "--log-every", 1,
          "--schedule", "cosine", "--warmup", 0)


def resnet() -> Any:
    return create_model("resnet18", width=8, depths=(1, 1, 1), stem="cifar", num_classes=0, image_size=32)


def write_resnet(file: Path) -> Any:
    model = resnet()
    variables = balanced_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    save_weights(variables, model, file, layout="timm", preprocessing=Preprocessing((0.25,) * 3, (0.75,) * 3))
    return variables


@pytest.mark.slow
def test_a_run_moves_its_head_alone_and_is_read_by_other_commands(command, tmp_path):
    """Two steps with weight decay: every bit of the network stays, and so do its statistics."""
    (tmp_path / "weights").mkdir()
    learnt = write_resnet(tmp_path / "weights" / "resnet.safetensors")
    run = tmp_path / "run"
    done = command("segment", *SCENES, "--frozen", "--model", "resnet18", "--model-fields", *FIELDS, "--pretrained",
                   tmp_path / "weights" / "resnet.safetensors", "--weight-decay", 0.5, "--decay", "all", "--run-dir",
                   run)
    assert done.status == 0, done.err
    saved, _ = restore_weights(run / "checkpoints")
    jax.tree.map(np.testing.assert_array_equal, saved["params"]["backbone"], learnt["params"])
    jax.tree.map(np.testing.assert_array_equal, saved["model_state"]["batch_stats"]["backbone"], learnt["batch_stats"])
    assert np.any(saved["params"]["score"]["kernel"]) and np.any(saved["params"]["norm"]["bias"])
    found = json.loads((run / "summary.json").read_text())
    assert found["protocol"]["frozen"] is True and 0 <= found["metrics"]["test/miou"] <= 1
    assert [source["file"] for source in found["sources"]] == [str(tmp_path / "weights" / "resnet.safetensors")]
    read = load_run(run)
    assert read.kind == "segmenter" and read.preprocessing.mean == (0.25,) * 3
    network = read.model.make_backbone()
    assert (type(network), network.width, network.depths, network.stem) == (type(resnet()), 8, (1, 1, 1), "cifar")
    (tmp_path / "photo.png").write_bytes(encode(photo(37, 70)))
    done = command("predict", tmp_path / "photo.png", "--checkpoint", run, "--output", tmp_path / "out")
    assert done.status == 0 and load(run)(tmp_path / "photo.png").labels.shape == (37, 70), done.err
    done = command("report", run)
    assert done.status == 0 and (run / "report.html").is_file(), done.err


@pytest.mark.slow
def test_the_network_of_a_run_is_taken_with_its_own_fields(command, tmp_path):
    """A ViT with positions for 32 pixels, on crops of 24x40 that its patches fill, and whole scenes of 32."""
    source = write_vit_run(tmp_path / "vit")
    done = command("segment", *SCENES, "--crop-size", 24, 40, "--frozen", "--pretrained", source, "--run-dir",
                   tmp_path / "run")
    assert done.status == 0 and f"the network of {source}, in place of --model" in done.out, done.err
    params = restore_weights(tmp_path / "run" / "checkpoints")[0]["params"]
    learnt = restore_weights(source / "checkpoints")[0]["params"]
    assert learnt.keys() - params["backbone"].keys() == {"head"}
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], {name: learnt[name] for name in params["backbone"]})


@pytest.mark.parametrize("arguments, message", [
    ("--map layer1", "--map layer1: it must be left out without --frozen"),
    ("--frozen --backbone-rate 0.5", "--backbone-rate 0.5: it must be left out with --frozen"),
    ("--frozen --model fcn", "timm publishes no weights of fcn: give a file"),
    ("--frozen --model resnet18 --pretrained /missing.pth", "--pretrained /missing.pth: "),
    ("--frozen --model resnet17 --pretrained /missing.pth", "unknown model 'resnet17'"),
])
def test_what_cannot_be_is_one_line(command, tmp_path, arguments, message):
    done = command("segment", *SCENES, *arguments.split(), "--model-fields", "--run-dir", tmp_path / "run", "--dry-run")
    assert message in done.complaint


@pytest.mark.parametrize("arguments, message", [
    (("--map", "layer9"), "no map layer9: the model names stem, layer1, layer2, layer3"),
    (("--scan",), "--scan True: ResNet has no scan"),
])
def test_what_the_network_lacks_is_one_line(command, tmp_path, arguments, message):
    write_resnet(tmp_path / "resnet.safetensors")
    done = command("segment", *SCENES, "--frozen", "--model", "resnet18", "--model-fields", *FIELDS, "--pretrained",
                   tmp_path / "resnet.safetensors", *arguments, "--run-dir", tmp_path / "run", "--dry-run")
    assert message in done.complaint
