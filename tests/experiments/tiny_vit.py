"""Vision transformers so small and simple that their features can be worked out."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.state import TrainState
from cvjax.workflow.config import DataConfig
from cvjax.workflow.restore import record_of

NAME, PATCH, SIZE = "vit_tiny_patch16_224", 8, 32
FIELDS = (f"patch_size={PATCH}", "width=16", "depth=1", "heads=2", f"image_size={SIZE}")


def tiny_vit(*, plain: bool = True, num_classes: int = 0):
    """A model of two heads and patches of 8 pixels, and its variables, drawn at random.

    plain: its attention is uniform, and its last tokens are functions of their own patch alone, wherever that is:
    blocks add nothing, and positions are 0.
    """
    fields = dict(field.split("=") for field in FIELDS)
    model = create_model(NAME, num_classes=num_classes, **{name: int(value) for name, value in fields.items()})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))

    def made(path, leaf):
        where = jax.tree_util.keystr(path)
        if plain and any(name in where for name in ("'qkv'", "'attn']['proj'", "'fc2'", "pos_embed")):
            return jnp.zeros(leaf.shape)
        draw = np.random.default_rng(zlib.crc32(where.encode()))  # the same with and without a head
        return jnp.ones(leaf.shape) if "scale" in where else jnp.asarray(draw.normal(0, 0.2, leaf.shape), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(made, shapes)


def write_weights(path: Path, **options) -> tuple:
    """Arguments of a command that take the model from a weight file."""
    model, variables = tiny_vit(**options)
    save_weights(variables, model, path)
    return "--model", NAME, "--weights", path, "--model-fields", *FIELDS


def write_vit_run(folder: Path, **options) -> Path:
    """The same as the classifier of a run."""
    model, variables = tiny_vit(num_classes=2, **options)
    state = TrainState(step=jnp.int32(1), params=variables["params"], model_state={}, opt_state=(), ema=None,
                       rng=jax.random.key(0))
    meta = record_of("supervised", DataConfig(), "classifier", model, image_size=(SIZE, SIZE), channels=3,
                     preprocessing=Preprocessing(crop=0.9), class_names=("a", "b"), validated=False)
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(state, meta)
    return folder


def write_picture(path: Path, pixels) -> Path:
    """A PNG of pixels `(H, W, 3)`, or of labels `(H, W)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, format="PNG")
    return path


def plain_picture(path: Path, colour, size: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """A PNG of one colour."""
    return write_picture(path, np.broadcast_to(np.uint8(colour), (*size, 3)))
