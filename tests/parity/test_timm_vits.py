"""Our ViTs beside what timm_vits.py stored of timm's: arguments, names and shapes, tags, and what images become."""

from collections import Counter
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import timm_vits
from timm_vits import STORED, USUAL, USUAL_IMAGES, Shapes, of_one_block, read_stored

from cvjax.interop import Published, to_state_dict
from cvjax.interop.default_tags import DEFAULT_TAGS
from cvjax.interop.naming import model_images
from cvjax.interop.pretrained import default_weights
from cvjax.models import create_model, list_models
from cvjax.models.vit import VisionTransformer
from tests.interop.timm_convnets import fingerprint

CONTENT = read_stored()
MODELS = CONTENT["models"]

# No two of these are alike, nor like 1, the 3 channels, or a number of registers.
WIDTH, HIDDEN, PATCH, CLASSES = 7, 26, 5, 11


@cache
def shapes_of_form(form: VisionTransformer) -> Shapes:
    """A state dict's, of a network of one block."""
    variables = jax.eval_shape(form.init, jax.random.key(0), *model_images(form))
    stand_in = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables)
    return {name: array.shape for name, array in to_state_dict(stand_in, form).items()}


def shapes_of(model: VisionTransformer) -> Shapes:
    """The same of a network of any size, from those of a small one: a trace of each would take a minute."""
    small = dict(width=WIDTH, mlp_ratio=(HIDDEN + 0.5) / WIDTH, patch_size=PATCH, num_classes=CLASSES, depth=1, heads=1,
                 image_size=PATCH)
    hidden, width = int(model.width * model.mlp_ratio), model.width
    sizes = {WIDTH: width, 2 * WIDTH: 2 * width, 3 * WIDTH: 3 * width, HIDDEN: hidden, HIDDEN // 2: hidden // 2,
             PATCH: model.patch_size, CLASSES: model.num_classes}

    def full(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) == 3:  # tokens and positions (1, T, D)
            patches = (model.image_size // model.patch_size) ** 2
            return 1, shape[1] + (patches - 1) * (name == "pos_embed"), width
        return tuple(sizes.get(size, size) for size in shape)

    form = model.clone(**small, layer_scale=None if model.layer_scale is None else 1.0, weight_init="timm",
                       norm_epsilon=1e-6, activation="swiglu" if model.activation == "swiglu" else "gelu")
    return {name: full(name, shape) for name, shape in shapes_of_form(form).items()}


def test_every_vit_of_ours_is_one_of_timms() -> None:
    assert {name for name in list_models() if isinstance(create_model(name), VisionTransformer)} == MODELS.keys()
    assert not CONTENT["others"].keys() & set(list_models())


def test_the_fields_of_every_name_are_timms_arguments() -> None:
    for name, entry in MODELS.items():
        model: Any = create_model(name)
        ours = {key: getattr(model, key) for key in (*USUAL, "image_size", "patch_size", "width", "depth", "heads")}
        ours |= {"fc_norm": not model.normed_tokens, "hidden": int(model.width * model.mlp_ratio)}
        assert ours == USUAL | entry["arguments"], name


def test_names_shapes_and_counts_of_every_name_are_timms() -> None:
    for name, entry in MODELS.items():
        model: Any = create_model(name)
        shapes = shapes_of(model)
        assert fingerprint(shapes) == entry["fingerprint"], (name, shapes)
        counts = Counter({key: int(np.prod(shape)) for key, shape in shapes.items()})
        block = sum(count for key, count in counts.items() if key.startswith("blocks."))
        assert counts.total() + (model.depth - 1) * block == entry["parameters"], name


def test_shapes_of_a_small_network_tell_those_of_a_large_one() -> None:
    model: Any = create_model("vit_so150m_patch16_reg4_gap_256", depth=2)
    assert shapes_of(model) == of_one_block(shapes_of_form(model))


def test_default_weights_are_timms() -> None:
    for name, entry in MODELS.items():
        if entry.get("default", "").startswith("timm/"):
            assert default_weights(name) == f"hf-hub:{entry['default']}"
        else:
            assert name not in DEFAULT_TAGS


# Without config.json these are taken for others of their names: OpenCLIP taught the first two with other statistics
# than CLIP's, and Google's weights of ImageNet-21k lack a head, as those of self-supervised ViTs do.
OTHERWISE = ("vit_large_patch14_clip_224", "vit_large_patch14_clip_336", "vit_huge_patch14_224",
             "vit_large_patch32_224")


def test_a_bare_file_is_seen_as_the_default_weights_are() -> None:
    for name, entry in MODELS.items():
        if "images" not in entry or name in OTHERWISE:
            continue
        images = USUAL_IMAGES | entry["images"]
        headless = set(entry["tags"].values()) == {0}
        how, _ = Published(name, {"norm.weight" if headless else "head.weight": np.zeros(1)}).preprocessing(name)
        assert (list(np.broadcast_to(how.mean, 3)), list(np.broadcast_to(how.std, 3)), how.interpolation) == (
            images["mean"], images["std"], images["interpolation"]), name


@pytest.mark.slow
@pytest.mark.parity
def test_the_file_is_what_timm_says() -> None:
    pytest.importorskip("torch")
    assert STORED.read_text(encoding="utf-8") == timm_vits.text_of(timm_vits.make())
