"""Pre-training that goes on from learnt weights: what starts from them, when it begins to move, and what care saves."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.errors import ConfigError
from cvjax.evaluate.knn import knn_accuracy
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.tasks.task import outputs_of
from cvjax.train.checkpoint import Checkpointer, restore_weights
from cvjax.workflow.continued import late_schedules, with_part
from cvjax.workflow.inputs import held_out
from cvjax.workflow.prepared import Prepared, schedule_of
from experiments.dino_pretrain import Config
from experiments.wiring import dino_pretrain
from experiments.wiring.plan import prepare

SIZES = dict(patch_size=4, width=16, depth=1, heads=2)
VIT = ("--model", "vit_tiny_patch16_224", "--model-fields", *(f"{name}={size}" for name, size in SIZES.items()))
DINO = ("digits", *VIT, "--head-layers", 1, "--head-bottleneck", 8, "--no-head-batch-norm", "--out-dim", 16,
        "--local-crops", 0, "--batch-size", 8, "--steps", 8)
SIMSIAM = ("digits", *VIT, "--dim", 16, "--projector-hidden", 16, "--predictor-hidden", 8, "--batch-size", 8,
           "--steps", 8)
MAE = ("digits", "--patch-size", 4, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16,
       "--decoder-depth", 1, "--batch-size", 8, "--steps", 8)
HOW = Preprocessing((0.25,), (0.75,))
TWO_STEPS = 2 * 8 / 1437  # in epochs


def vit(**fields: Any) -> Any:
    return create_model("vit_tiny_patch16_224", **SIZES, image_size=8, in_channels=1, num_classes=0, **fields)


def written(model: Any, file: Path, *inputs: Any) -> Any:
    """The parameters of random variables, which it writes into a file with statistics of their own."""
    variables = jax.jit(model.init)(jax.random.key(5), jnp.zeros((1, 8, 8, 1)), *inputs)
    file.parent.mkdir()
    save_weights(variables, model, file, preprocessing=HOW)
    return variables["params"]


def prepared(experiment: str, *arguments: Any) -> Prepared[Any]:
    return prepare(experiment, list(map(str, arguments)))


def equal(one: Any, two: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, two))


def test_a_part_of_all_collections_is_replaced():
    found = with_part({"params": {"a": 1, "b": 2}, "batch_stats": {"a": 3}, "other": {"a": 4}}, "a",
                      {"params": 5, "batch_stats": 6})
    assert found == {"params": {"a": 5, "b": 2}, "batch_stats": {"a": 6}, "other": {"a": 4}}


def test_what_is_learnt_stands_still_and_then_has_a_run_of_its_own(capsys):
    """20 of 100 steps; then the whole schedule, warm-up included, over the 80 that are left, at half the rate."""
    config = Config(pretrained="x", epochs=10, batch_size=10, head_warmup_epochs=2, backbone_rate=0.5, warmup=0.1)
    ((owns, late),) = late_schedules(config, "backbone", 100, images=100)
    rates = jax.vmap(late)(jnp.arange(100))
    np.testing.assert_array_equal(rates[:20], 0)
    np.testing.assert_allclose(rates[20:], 0.5 * jax.vmap(schedule_of(config, 80))(jnp.arange(80)), rtol=1e-6)
    assert owns("backbone/norm/scale") and not owns("head/mlp/0/kernel")
    assert "backbone: learnt; it stands still for 20 of 100 steps" in capsys.readouterr().out


@pytest.mark.parametrize("options, words", [
    (dict(head_warmup_epochs=2.0), "--head-warmup-epochs 2.0: it must be left out without --pretrained"),
    (dict(backbone_rate=0.5), "--backbone-rate 0.5: it must be left out without --pretrained"),
    (dict(pretrained="x", backbone_rate=0.0), "--backbone-rate 0.0: it must be more than 0"),
    (dict(pretrained="x", head_warmup_epochs=-1.0), "--head-warmup-epochs -1.0: it must be 0 or more"),
])
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ConfigError) as error:
        Config(**options)
    assert str(error.value) == words


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="--head-warmup-epochs 10: it must be less than the run's 10 epochs"):
        late_schedules(Config(pretrained="x", head_warmup_epochs=10), "backbone", 100, images=2560)


def test_student_and_teacher_start_from_the_weights_and_wait_for_the_head(tmp_path):
    """Two steps in which every bit of the backbone stays, in both networks; then it moves."""
    learnt = written(vit(), tmp_path / "weights" / "vit.safetensors")
    run = prepared("dino_pretrain", *DINO, "--pretrained", tmp_path / "weights" / "vit.safetensors", "--warmup", 0,
                   "--head-warmup-epochs", TWO_STEPS, "--freeze-last-layer", 0)
    assert run.inputs.preprocessing == HOW and run.rules["collapse"].out_dim == 16
    state = first = jax.jit(run.initialize)(run.pretrained, run.constants)
    teacher = first.model_state["dino"]["teacher"]["params"]
    assert equal(first.params["backbone"], learnt) and equal(teacher, first.params)
    step, batches = jax.jit(run.step), run.inputs.train_batches(seed=0, workers=0)
    for batch in itertools.islice(batches, 2):
        state, _ = step(state, batch)
    assert equal(state.params["backbone"], learnt), "and weight decay does not shrink it"
    assert not equal(state.params["head"]["mlp"], first.params["head"]["mlp"])
    averaged = state.model_state["dino"]["teacher"]["params"]["backbone"]  # k x + (1 - k) x rounds three times a step
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2 * 3 * 2**-24, atol=0), averaged, learnt)
    for batch in itertools.islice(batches, 1):
        state, _ = step(state, batch)
    batches.close()
    assert not equal(state.params["backbone"], learnt)


def test_simsiams_backbone_starts_from_the_weights(tmp_path):
    learnt = written(vit(), tmp_path / "weights" / "vit.safetensors")
    run = prepared("simsiam_pretrain", *SIMSIAM, "--pretrained", tmp_path / "weights" / "vit.safetensors",
                   "--head-warmup-epochs", TWO_STEPS)
    assert run.inputs.preprocessing == HOW
    assert equal(jax.jit(run.initialize)(run.pretrained, run.constants).params["backbone"], learnt)


def test_an_mae_takes_an_encoder_and_learns_a_fresh_decoder_or_takes_both(tmp_path, capsys):
    learnt = written(vit(position="sincos2d"), tmp_path / "encoder" / "vit.safetensors")
    options = ("--head-warmup-epochs", TWO_STEPS)
    run = prepared("mae_pretrain", *MAE, "--pretrained", tmp_path / "encoder" / "vit.safetensors", *options)
    params = jax.jit(run.initialize)(run.pretrained, run.constants).params
    assert equal(params["encoder"], learnt) and run.inputs.preprocessing == HOW
    said = capsys.readouterr().out
    assert "vit.safetensors has no decoder: a fresh one learns" in said and "stands still for 2 of 8 steps" in said

    whole = written(run.model, tmp_path / "whole" / "mae.safetensors", jnp.zeros((1, 4)))
    run = prepared("mae_pretrain", *MAE, "--pretrained", tmp_path / "whole" / "mae.safetensors")
    assert equal(jax.jit(run.initialize)(run.pretrained, run.constants).params, whole)
    assert "stands still" not in capsys.readouterr().out, "nothing is fresh"
    for option in ("--backbone-rate", "--head-warmup-epochs"):
        with pytest.raises(ConfigError, match=f"{option} 0.5: it must be left out with weights that have a decoder"):
            prepared("mae_pretrain", *MAE, "--pretrained", tmp_path / "whole" / "mae.safetensors", option, 0.5)

    written(vit(), tmp_path / "learned" / "vit.safetensors")
    with pytest.raises(ConfigError, match="of other values than the model computes: pos_embed"):
        prepared("mae_pretrain", *MAE, "--pretrained", tmp_path / "learned" / "vit.safetensors", *options)


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_its_checkpoint_and_not_from_the_weights(command, tmp_path, monkeypatch):
    """It is stopped while the backbone stands still; the weights are others when it goes on."""
    file, other, save = tmp_path / "weights" / "vit.safetensors", tmp_path / "other", Checkpointer.save
    written(vit(), file)
    monkeypatch.setattr(dino_pretrain, "probe_pretrained", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(dino_pretrain, "draw", lambda *_: None)

    def run(name: str, *options: Any):
        return command("dino_pretrain", *DINO, "--run-dir", tmp_path / name, "--pretrained", file,
                       "--head-warmup-epochs", 2 * TWO_STEPS, "--checkpoint-every", 1)

    def save_and_stop(self, state, *arguments, **options):
        save(self, state, *arguments, **options)
        if int(state.step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run("alone").status == 0
    with monkeypatch.context() as context:
        context.setattr(Checkpointer, "save", save_and_stop)
        assert run("stopped").status == 143
    changed = vit()
    variables = jax.jit(changed.init)(jax.random.key(6), jnp.zeros((1, 8, 8, 1)))
    shutil.move(file, other)
    save_weights(variables, changed, file, preprocessing=HOW)
    done = run("stopped")
    assert done.status == 0 and "goes on from what its checkpoint holds" in done.out, done.err
    weights = [restore_weights(tmp_path / name / "checkpoints")[0] for name in ("alone", "stopped")]
    jax.tree.map(np.testing.assert_array_equal, *weights)
    ends = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("alone", "stopped")]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] and ends[0]["metrics"] == ends[1]["metrics"]


SMALL = ("--model-fields", "width=8", "depths=(1,)")


def trained_classifier(file: Path) -> None:
    """The weights of a small ResNet that has learnt the training digits, but for those that are held out."""
    data = held_out(Config(validation=0.2), open_dataset("digits", seed=0)).train
    images = (np.stack([data[i]["image"] for i in range(len(data))]) / np.float32(255) - 0.5) / 0.5
    model, labels = create_model("resnet20", width=8, depths=(1,), image_size=8, in_channels=1), data.labels
    variables = jax.jit(model.init)(jax.random.key(3), images[:1])
    optimizer, draw = optax.adam(5e-3), np.random.default_rng(0)
    moments = optimizer.init(variables["params"])

    @jax.jit
    def step(variables: Any, moments: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            logits, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

        gradients, state = jax.grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(gradients, moments)
        return {"params": optax.apply_updates(variables["params"], updates), **state}, moments

    for _ in range(300):
        chosen = draw.choice(len(images), 64)
        variables, moments = step(variables, moments, images[chosen], labels[chosen])
    save_weights(variables, model, file)


def falls(file: Path, seeds: tuple[int, ...], epochs: float, *options: Any) -> list[float]:
    """How many points of kNN accuracy on held-out training digits the teacher's backbone loses in some epochs."""
    def run_of(seed: int) -> Prepared[Any]:
        return prepared("dino_pretrain", "digits", *SMALL, "--head-hidden", 32, "--head-bottleneck", 16, "--out-dim",
                        32, "--local-crops", 1, "--local-scale", 0.5, 1, "--color-jitter", 0, 0, 0, 0, "--batch-size",
                        32, "--validation", 0.2, "--pretrained", file, "--epochs", epochs, "--seed", seed, *options)

    first = run_of(seeds[0])
    step, inputs = jax.jit(first.step, donate_argnums=0), first.inputs
    parts = {part: inputs.records(part, range(len(getattr(inputs.dataset, part)))) for part in ("train", "validation")}
    features = jax.jit(lambda variables, images: outputs_of(
        first.model.backbone.clone(parent=None), variables, inputs.preprocess(images), train=False))

    def accuracy(state: Any) -> float:
        own = {name: tree["backbone"] for name, tree in state.model_state["dino"]["teacher"].items()}
        (seen, known), (asked, truth) = ((features(own, images), labels) for images, labels in parts.values())
        return 100 * knn_accuracy(seen, known, asked, truth, 10, ks=(10,))[10]

    lost = []
    for seed in seeds:
        run = run_of(seed)
        state = jax.jit(run.initialize)(run.pretrained, run.constants)
        before, batches = accuracy(state), run.inputs.train_batches(seed=seed, workers=0)
        for batch in itertools.islice(batches, run.total_steps):
            state, _ = step(state, batch)
        batches.close()
        lost.append(before - accuracy(state))
    return lost


@pytest.mark.slow
def test_an_epoch_of_dino_keeps_what_was_learnt_with_the_care_and_loses_it_without(tmp_path):
    """Means of three seeds; 0.35 points are one of 287 images. Without: the full rate at once, beside a random head.

    Measured: with the care 0.35 points were won by each seed; without it 1.74, 1.74 and 0.70 were lost.
    """
    trained_classifier(tmp_path / "classifier.safetensors")
    careful = falls(tmp_path / "classifier.safetensors", (0, 1, 2), 2)
    careless = falls(tmp_path / "classifier.safetensors", (0, 1, 2), 1, "--head-warmup-epochs", 0, "--warmup", 0)
    assert np.mean(careful) <= 1, careful
    assert np.mean(careless) > np.mean(careful) + 0.5, (careful, careless)
