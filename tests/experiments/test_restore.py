"""A checkpoint says enough to rebuild its network, whichever experiment wrote it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import CheckpointError, ConfigError
from cvjax.models import create_model, list_models
from cvjax.models.mae import MaskedAutoencoder
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.state import TrainState
from cvjax.workflow.config import DataConfig
from cvjax.workflow.restore import load_run, record_of
from tests.experiments.written_runs import write_run

CHANGED = {
    "resnet50": dict(num_classes=7, width=8, depths=(1, 1), dtype=jnp.bfloat16, in_channels=1),
    "vit_tiny_patch16_224": dict(num_classes=0, image_size=32, patch_size=4, pool="avg", drop_path=0.1),
    "swin_tiny_patch4_window7_224": dict(num_classes=3, depths=(1, 1, 1, 1)),
    "fcn": dict(backbone="resnet34", backbone_fields={"width": 8, "depths": (1, 1, 1, 1)}, num_classes=5),
    "yolo": dict(num_classes=2, image_size=(96, 64)),
    "linear": {},
}


def save(folder, model, params=None, model_state=None, **record):
    """A checkpoint of a model, of the step 1."""
    state = TrainState(jnp.asarray(np.int32(1)), params or {}, model_state or {}, (), None, jax.random.key(0))
    meta = record_of("some_experiment", DataConfig(), record.pop("kind", "classifier"), model, image_size=(8, 8),
                     channels=1, preprocessing=Preprocessing.of(1), validated=False, **record)
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(state, meta)
    return folder


@pytest.mark.parametrize("name", CHANGED)
def test_a_network_is_rebuilt_field_by_field(tmp_path, name):
    model = create_model(name, **CHANGED[name])
    rebuilt = load_run(save(tmp_path, model, {"x": jnp.zeros(1)})).model
    assert type(rebuilt) is type(model)
    for field in dataclasses.fields(model):
        if field.name not in ("parent", "name"):
            assert getattr(rebuilt, field.name) == getattr(model, field.name), field.name


def test_every_registered_model_can_be_described():
    for name in list_models():
        model = create_model(name)
        part = model.vit() if isinstance(model, MaskedAutoencoder) else model
        record = record_of("x", DataConfig(), "classifier", part, image_size=(8, 8), channels=1,
                           preprocessing=Preprocessing.of(1), validated=False)
        assert json.loads(json.dumps(record))["network"] == record["network"]


def test_a_part_of_the_trained_variables_is_read_back(tmp_path):
    """As DINO's teacher and MAE's encoder lie in their runs."""
    model = create_model("linear", num_classes=0, image_size=8, in_channels=1)
    teacher = {"params": {"backbone": {"w": jnp.ones(2)}, "head": {"w": jnp.zeros(2)}}, "batch_stats": {"head": {}}}
    folder = save(tmp_path / "teacher", model, {"w": jnp.zeros(2)}, {"dino": {"teacher": teacher}}, kind="encoder",
                  root=("dino", "teacher"), part="backbone")
    variables = load_run(folder).variables
    assert variables.keys() == {"params"} and np.array_equal(variables["params"]["w"], np.ones(2))
    folder = save(tmp_path / "encoder", model, {"encoder": {"w": jnp.ones(2)}, "decoder": {"w": jnp.zeros(2)}},
                  kind="encoder", part="encoder")
    assert np.array_equal(load_run(folder).variables["params"]["w"], np.ones(2))


def test_another_kind_of_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a run of supervised and holds a classifier; this takes a segmenter or a "
                                          "detector"):
        load_run(write_run(tmp_path)).require("segmenter", "detector")


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    state = TrainState(jnp.asarray(np.int32(1)), {"w": jnp.ones(1)}, {}, (), None, jax.random.key(0))
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(state, {"experiment": "supervised", "config": {}})
    with pytest.raises(CheckpointError, match="another version wrote its checkpoints, which lack 'network'"):
        load_run(tmp_path)


def test_a_fine_tuned_run_is_judged_and_answers(command, tmp_path):
    """Runs of finetune are read like those of supervised."""
    run = write_run(tmp_path / "tuned", experiment="finetune", names=("0", "1"))
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", train_images=rng.integers(0, 256, (8, 8, 8, 1), np.uint8), train_labels=[0, 1] * 4,
             test_images=rng.integers(0, 256, (8, 8, 8, 1), np.uint8), test_labels=[0, 1] * 4)
    done = command("evaluate", "--checkpoint", run, "--data", f"npz:{tmp_path / 'data.npz'}", "--batch-size", 4,
                   "--run-dir", tmp_path / "judged")
    assert done.status == 0, done.err
    assert "test/top1" in json.loads((tmp_path / "judged" / "summary.json").read_text())["metrics"]
