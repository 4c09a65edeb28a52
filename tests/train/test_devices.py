"""One device, eight under jit and eight under pmap: the same records, the same draws, the same losses."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data.augment import View, multi_crop, normalize
from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Targets
from cvjax.data.preprocessing import HALF, Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.evaluate.multi_label import multi_label_scores
from cvjax.layers.partition import spread_axis
from cvjax.losses.classification import binary_cross_entropy
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.models.simsiam import SimSiam
from cvjax.tasks.dino import dino_task
from cvjax.tasks.distillation import logits_lesson
from cvjax.tasks.lora import Lora, lora_task
from cvjax.tasks.mae import mae_task
from cvjax.tasks.simsiam import simsiam_task
from cvjax.tasks.supervised import supervised_task
from cvjax.train import layout, metrics
from cvjax.train.layout import Layout, check_batch_size
from cvjax.train.loop import evaluate
from cvjax.train.mesh import MeshEngine
from cvjax.train.optim import make_optimizer
from cvjax.train.pmap import PmapEngine
from cvjax.train.schedules import cosine_between, stairs
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.image_inputs import ImageInputs

STEPS, BATCH = 20, 64
# The order of records. In some, DINO's steps make more of rounding (5e-5 with seed 2, under jit and pmap alike), or 20
# steps do not lower the classifier's loss.
ORDER = 1


@functools.cache
def inputs():
    return ImageInputs(open_dataset("digits"), 8, BATCH, BadFiles(1797), Preprocessing.of(1),
                       Augmentation(crop_scale=(0.6, 1.0), flip=True))


@functools.cache
def labelled():
    """The digits with three labels, none to two for each digit, in place of a class."""
    digits = inputs().dataset
    of_digit = np.eye(10, 3, dtype=np.float32) + np.eye(10, 3, -1, np.float32)
    parts = {part: dataclasses.replace(source, labels=of_digit[source.labels]) for part, source in
             (("train", digits.train), ("test", digits.test))}
    dataset = dataclasses.replace(digits, **parts, class_names=(), targets=Targets("labels", ("a", "b", "c")))
    return dataclasses.replace(inputs(), dataset=dataset)


def multi_label():
    """Its evaluation brings the answers to each example to the host."""
    model = create_model("vit_tiny_patch16_224", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                         num_classes=3, pool="avg")
    return supervised_task(model, augment=inputs().augment, preprocess=inputs().preprocess,
                           criterion=binary_cross_entropy, scores=multi_label_scores)


def mae():
    model = create_model("mae_vit_tiny_patch16", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                         decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)
    return mae_task(model, augment=inputs().augment, preprocess=inputs().preprocess, normalize_pixels=True)


def supervised(**options):
    """Without drop path and mixup, whose draws belong to a batch and so differ between shards."""
    model = create_model("vit_tiny_patch16_224", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                         num_classes=10, pool="avg")
    return supervised_task(model, augment=inputs().augment, preprocess=inputs().preprocess, label_smoothing=0.1,
                           **options)


def distilled():
    """The same, taught by a perceptron, and the constants that hold it."""
    teacher = create_model("mlp", hidden=(16,), image_size=8, in_channels=1, num_classes=10)
    variables = teacher.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    lesson = logits_lesson(teacher.apply, temperature=2.0, hard_weight=0.5)
    return supervised(lesson=lesson), {"teacher": jax.device_get(jax.tree.map(lambda x: 4 * x, variables))}


def low_rank():
    """The classifier with low-rank updates of all its kernels; all but these and its head stands still."""
    return lora_task(supervised(), Lora(4, 8.0, "all", lambda path: path.startswith("head/")))


def batch_norm():
    """A small ResNet: its batch statistics and their gradients need sums over all devices.

    It is built once for jit and once for pmap, where a norm must be told the name of the devices' axis.
    """
    def build(axis_name):
        model = create_model("resnet20", depths=(1, 1), width=8, image_size=8, in_channels=1, axis_name=axis_name,
                             zero_init_last=False)
        return supervised_task(model, augment=inputs().augment, preprocess=inputs().preprocess, label_smoothing=0.1)

    return build


def dino():
    """A small ViT as student and teacher, with batch norm in the head, on two sizes of views."""
    recipe = View(size=8, scale=(0.6, 1.0), flip=False, jitter=(0.4, 0.4, 0.0, 0.0), blur=0.0)

    def views(key, example):
        crops = multi_crop(key, example["image"], (recipe, recipe), dataclasses.replace(recipe, size=6), 1)
        return [normalize(x, HALF, HALF) for x in crops]

    def build(axis_name):
        backbone = create_model("vit_tiny_patch16_224", image_size=8, patch_size=2, in_channels=1, width=16, depth=1,
                                heads=2, num_classes=0)
        head = DINOHead(32, hidden=32, bottleneck=16, batch_norm=True, axis_name=axis_name)
        return dino_task(DINO(backbone, head), views=views, preprocess=inputs().preprocess, axis_name=axis_name,
                         teacher_momentum=cosine_between(0.9, 1.0, STEPS),
                         teacher_temperature=stairs(0.1, 0.08, 4, 3))

    return build


def simsiam():
    """A perceptron; the two MLPs on it have batch norms, which see one view at a time.

    Not a ResNet: its norms divide by small deviations here, so that the order of a batch's rows moves the 20th loss by
    1e-3 on one device.
    """
    recipe = View(size=8, scale=(0.6, 1.0), flip=False, jitter=(0.4, 0.4, 0.0, 0.0), blur=0.0)

    def views(key, example):
        (pair,) = multi_crop(key, example["image"], (recipe, recipe), recipe, 0)
        return normalize(pair, HALF, HALF)

    def build(axis_name):
        backbone = create_model("mlp", hidden=(32,), image_size=8, in_channels=1, num_classes=0)
        return simsiam_task(SimSiam(backbone, 16, 2, 16, 8, axis_name), views=views, preprocess=inputs().preprocess,
                            axis_name=axis_name)

    return build


def blank():
    return {"image": np.zeros((1, 8, 8, 1), np.uint8), "index": np.zeros(1, np.int64)}


ADAMW = dict(name="adamw", weight_decay=0.05, b2=0.95)
SGD = dict(name="sgd", weight_decay=1e-3)


def setup(engine, task, accumulate=1, rate=1e-3, options=ADAMW, constants=None):
    task = task(engine.axis_name) if callable(task) else task
    optimizer = make_optimizer(schedule=optax.constant_schedule(rate), clip_norm=1.0, **options)
    step = make_train_step(task, optimizer, accumulate=accumulate, ema_decay=0.9, axis_name=engine.axis_name)
    state = engine.create(
        lambda constants: create_state(lambda rng: task.init(rng, blank()), optimizer, jax.random.key(0), ema=True,
                                       constants=constants), constants)
    return state, engine.compile_step(step, state), evaluate(task, engine)


KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")


def curve(engine, task, data=inputs, **options):
    """What a short training gives: losses of 20 steps and of the test set, the squared norms of the averaged parameters
    and of the running statistics, and under jit how often each kind of communication occurs in the compiled step."""
    state, step, judge = setup(engine, task, **options)
    batches, losses, kinds = data().train_batches(seed=ORDER, workers=0), [], {}
    batch = engine.put(next(batches))
    if engine.axis_name is None:
        step = step.lower(state, batch).compile()
        kinds = {kind: len(re.findall(rf" {kind}(?:-start)?\(", step.as_text())) for kind in KINDS}
    for _ in range(STEPS):
        state, values = step(state, batch)
        losses.append(metrics.mean(metrics.to_host(values))["loss"])
        batch = engine.put(next(batches))
    batches.close()
    losses.append(judge({**state.variables, **state.constants}, data().eval_batches("test"))["loss"])
    single = engine.single(state)
    norms = [float(optax.tree.norm(each, squared=True)) for each in (single.ema, single.model_state)]
    return {"losses": losses + norms, "kinds": kinds}


def sharded(**options):
    """An engine that spreads arrays as small as those here."""
    layout.SMALL = 64
    return MeshEngine(layout=Layout(8 // options.get("model", 1), spread_axis=spread_axis, **options))


def main() -> None:
    """Print the curves of the default suite as JSON; for a process with eight devices."""
    assert jax.device_count() == 8
    one, jit, pmap = MeshEngine(jax.devices()[:1]), MeshEngine(), PmapEngine()
    found = {"mae": curves(mae(), {"one": one, "jit": jit, "pmap": pmap}),
             "supervised": curves(supervised(), {"one": one, "fsdp, model 2": sharded(model=2, shard="fsdp")},
                                  rate=1e-2),
             # SGD: AdamW makes a rounding of a gradient near zero, of which a norm has many, as large as any.
             "batch_norm": curves(batch_norm(), {"one": one, "jit": jit, "pmap": pmap}, rate=0.05, options=SGD)}
    found["mae"]["jit, accumulate 2"] = curve(jit, mae(), accumulate=2)
    print(json.dumps(found))


def slow_main() -> None:
    """The same of the other ones."""
    engines = {"one": MeshEngine(jax.devices()[:1]), "jit": MeshEngine(), "pmap": PmapEngine()}
    student, teacher = distilled()
    print(json.dumps({"supervised": curves(supervised(), engines, rate=1e-2),
                      "distilled": curves(student, engines, rate=1e-2, constants=teacher),
                      "low_rank": curves(low_rank(), engines, rate=1e-2),
                      "multi_label": curves(multi_label(), engines, rate=1e-2, data=labelled),
                      "dino": curves(dino(), engines, rate=0.05, options=SGD),
                      "simsiam": curves(simsiam(), engines, rate=0.05, options=SGD)}))


def curves(task, engines, **options):
    return {layout: curve(engine, task, **options) for layout, engine in engines.items()}


@pytest.fixture(scope="module")
def measured(python):
    return python("from tests.train import test_devices; test_devices.main()", devices=8)


@pytest.fixture(scope="module")
def slowly_measured(python):
    return python("from tests.train import test_devices; test_devices.slow_main()", devices=8)


# The order of float32 sums differs: 2**-24 = 6e-8 relative a sum, which 20 steps of AdamW may let grow.
# Measured: 1.9e-7 for MAE, 4.2e-7 for the classifier, 6.1e-7 with batch norm and SGD, 2.2e-6 for DINO, whose
# temperatures of 0.08 and 0.1 multiply what logits differ by, 1.2e-6 for SimSiam, whose losses are small.
# With batch norm and ReLU a rounding can carry a unit across 0, where the gradient jumps: at twice the rate one order
# of records in three gave 3.8e-6, at ten times the rate 5e-5. Statistics of each device alone give 6.6e-3.
TOLERANCE = {"mae": 2e-6, "supervised": 2e-6, "distilled": 2e-6, "low_rank": 2e-6, "multi_label": 2e-6,
             "batch_norm": 2e-5, "dino": 1e-5, "simsiam": 1e-5}


@pytest.mark.slow  # eight devices compile for a minute
@pytest.mark.parametrize("task, layout", [("mae", "jit"), ("mae", "pmap"), ("mae", "jit, accumulate 2"),
                                          ("supervised", "fsdp, model 2"), ("batch_norm", "jit"),
                                          ("batch_norm", "pmap")])
def test_eight_devices_give_the_loss_curve_of_one(measured, task, layout):
    one, eight = (np.array(measured[task][key]["losses"]) for key in ("one", layout))
    assert abs(one[STEPS - 1] - one[0]) > 0.03 * abs(one[0]), "it moves, so the curves are no constants"
    np.testing.assert_allclose(eight, one, rtol=TOLERANCE[task])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit", "pmap"])
@pytest.mark.parametrize("task", ["supervised", "distilled", "low_rank", "multi_label", "dino", "simsiam"])
def test_eight_devices_give_the_loss_curve_of_one_in_other_tasks(slowly_measured, task, layout):
    test_eight_devices_give_the_loss_curve_of_one(slowly_measured, task, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit", "jit, accumulate 2"])
def test_devices_exchange_sums_and_nothing_else(measured, layout):
    counts = dict(measured["mae"][layout]["kinds"])
    assert counts.pop("all-reduce") > 0
    assert not any(counts.values()), counts
    assert not any(measured["mae"]["one"]["kinds"].values())


def small_state(engine):
    """A state with every kind of leaf: counts, arrays, a typed key."""
    optimizer = optax.adam(0.1)
    return engine.create(lambda: create_state(lambda rng: {"params": {"w": jnp.arange(3.0)}}, optimizer,
                                              jax.random.key(0), ema=True))


@pytest.mark.slow
def test_batch_norm_costs_one_sum_forward_and_one_backward_a_norm_and_nothing_else(measured):
    counts = dict(measured["batch_norm"]["jit"]["kinds"])
    norms = 1 + 2 * 2  # of the stem, and of two blocks; measured: 11, the last is of gradients and metrics together
    assert 2 * norms <= counts.pop("all-reduce") <= 2 * norms + 1
    assert not any(counts.values()), counts


@pytest.mark.slow
def test_dino_exchanges_sums_and_nothing_else(slowly_measured):
    """Views stay where their images are. Sums: of the head's norms, and the gradients."""
    counts = dict(slowly_measured["dino"]["jit"]["kinds"])
    assert 0 < counts.pop("all-reduce") <= 7
    assert not any(counts.values()), counts


def test_a_step_uses_up_its_state():
    engine = MeshEngine(jax.devices()[:1])
    state = small_state(engine)
    engine.compile_step(lambda state, batch: (state, batch["x"].sum()), state)(state, engine.put({"x": np.ones(2)}))
    assert state.params["w"].is_deleted()


@pytest.mark.parametrize("engine", [MeshEngine, PmapEngine])
def test_single_and_spread_are_inverse(engine):
    engine = engine(jax.devices()[:1])
    single = engine.single(small_state(engine))
    back = engine.single(engine.spread(single))
    assert single.params["w"].shape == (3,) and single.rng.shape == ()
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch, accumulate, devices", [(100, 1, 8), (64, 3, 1), (64, 4, 32)])
def test_a_batch_that_does_not_split_is_refused_in_one_line(batch, accumulate, devices):
    with pytest.raises(ValueError) as error:
        check_batch_size(batch, accumulate=accumulate, devices=devices)
    assert f"batch_size {batch}" in str(error.value) and f"multiple of {accumulate * devices}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_batch_that_splits_is_accepted():
    check_batch_size(64, accumulate=4, devices=8)
