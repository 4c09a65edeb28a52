"""Training steps lower for accelerators that this machine does not have."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from cvjax.data import ArraySource, Dataset
from cvjax.data.augment import IMAGENET_MEAN, IMAGENET_STD, mixup, normalize, random_flip
from cvjax.experiment.augmentation import AugmentationConfig, criterion, mixing, normalized_operations, pixel_operations
from cvjax.experiment.inputs import Inputs
from cvjax.experiment.multi_crop import make_views
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.tasks.dino import dino_task
from cvjax.tasks.mae import mae_task
from cvjax.tasks.supervised import supervised_task
from cvjax.train.optim import make_optimizer, vit_layer_decay
from cvjax.train.schedules import cosine_between, make_schedule, stairs
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step
from experiments.dino_pretrain import PRESETS, Config, is_last_layer


def lower(task, image_size: int, batch_size: int, **options) -> jax.export.Exported:
    """The step with a schedule, clipping and an average, exported for both; shapes only, nothing is allocated."""
    schedule = make_schedule("cosine", 1e-3, warmup_steps=5, total_steps=100)
    optimizer = make_optimizer("adamw", schedule, weight_decay=0.05, clip_norm=1.0, **options)

    def batch(rows):
        shapes = {"image": ((rows, image_size, image_size, 3), jnp.uint8), "index": ((rows,), jnp.int32),
                  "label": ((rows,), jnp.int32)}
        return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}

    def init(rng):
        one = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch(1).items()}
        return create_state(lambda rng: task.init(rng, one), optimizer, rng, ema=True)

    state = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    step = make_train_step(task, optimizer, ema_decay=0.999)

    # The root key travels as its two words: exported programs take arrays.
    def on_arrays(state, key, batch):
        state, metrics = step(state.replace(rng=jax.random.wrap_key_data(key)), batch)
        return state.replace(rng=None), metrics

    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.export.export(jax.jit(on_arrays), platforms=["tpu", "cuda"])(state.replace(rng=None), key,
                                                                            batch(batch_size))


def functions(model):
    return dict(augment=lambda key, image: normalize(random_flip(key, image)), preprocess=normalize)


def check(exported, rows, size):
    assert exported.platforms == ("tpu", "cuda")
    assert f"tensor<{rows}x{size}x{size}x3xui8>" in exported.mlir_module()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_mae_step_lowers_for_tpu_and_cuda(dtype):
    model = create_model("mae_vit_tiny_patch16", image_size=32, depth=1, decoder_depth=1, decoder_width=64,
                         decoder_heads=2, dtype=jnp.dtype(dtype), remat="dots", scan=True)
    check(lower(mae_task(model, normalize_pixels=True, **functions(model)), 32, 8), 8, 32)


def test_a_small_fine_tuning_step_lowers_for_tpu_and_cuda():
    model = create_model("vit_tiny_patch16_224", image_size=32, depth=2, num_classes=10, pool="avg", drop_path=0.1)
    task = supervised_task(model, mix=partial(mixup, alpha=0.8), label_smoothing=0.1, **functions(model))
    check(lower(task, 32, 8, layer_scale=vit_layer_decay(0.75, 2)), 8, 32)


def test_the_papers_mae_step_lowers_for_tpu_and_cuda():
    model = create_model("mae_vit_base_patch16")
    check(lower(mae_task(model, normalize_pixels=True, **functions(model)), 224, 8), 8, 224)


def test_the_papers_dino_step_lowers_for_tpu_and_cuda():
    """ViT-S/16 and its teacher, 65,536 prototypes, two views of 224 and eight of 96 pixels, made on the device."""
    model = DINO(create_model("vit_small_patch16_224", num_classes=0, drop_path=0.1, dtype=jnp.bfloat16), DINOHead())
    config = Config(**PRESETS["vit_small_patch16"])
    task = dino_task(model, views=make_views(config, 224, (IMAGENET_MEAN, IMAGENET_STD)), preprocess=normalize,
                     teacher_momentum=cosine_between(0.996, 1.0, 100), teacher_temperature=stairs(0.04, 0.07, 30, 10))
    exported = lower(task, 336, 8, held=(is_last_layer, 5), clip_each=3.0)
    check(exported, 8, 336)
    assert "x96x96x3xf32>" in exported.mlir_module(), "cropped on the device"


@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment"])
def test_a_resnet_step_with_every_augmentation_lowers_for_tpu_and_cuda(policy):
    config = AugmentationConfig(
        shift=4, policy=policy, policy_magnitude_std=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.1, noise=2.0,
        erasing=0.25, erasing_mode="pixel", cutout=16, mixup=0.2, cutmix=1.0, criterion="bce")
    blank = ArraySource(jnp.zeros((1, 256, 256, 3), jnp.uint8), jnp.zeros(1, jnp.int32))
    inputs = Inputs(Dataset(blank, None, ("a", "b"), 3), 224, 8, None, crop_scale=(0.08, 1.0), flip=True,
                    pixel_operations=pixel_operations(config, IMAGENET_MEAN),
                    normalized_operations=normalized_operations(config))
    task = supervised_task(create_model("resnet50"), augment=inputs.augment, preprocess=inputs.preprocess,
                           label_smoothing=0.1, mix=mixing(config), criterion=criterion(config))
    exported = lower(task, 256, 8)
    check(exported, 8, 256)
    assert "tensor<8x224x224x3xf32>" in exported.mlir_module(), "cropped on the device"
