"""Our ViTs beside what timm_vits.py stored of timm's: arguments, and what images become."""

from typing import Any

import numpy as np
from timm_vits import FILES, USUAL, USUAL_IMAGES, read_stored

from cvjax.interop import Published
from cvjax.models import create_model, list_models
from cvjax.models.vit import VisionTransformer
from cvjax.timm_weights import timm_weights

MODELS = read_stored()


def test_every_vit_of_ours_is_one_of_timms() -> None:
    assert {name for name in list_models() if isinstance(create_model(name), VisionTransformer)} == MODELS.keys()
    assert {name for name, entry in timm_weights().items() if entry.file in FILES} & set(list_models()) == MODELS.keys()


def test_the_fields_of_every_name_are_timms_arguments() -> None:
    for name, entry in MODELS.items():
        model: Any = create_model(name)
        ours = {key: getattr(model, key) for key in (*USUAL, "image_size", "patch_size", "width", "depth", "heads")}
        ours |= {"fc_norm": not model.normed_tokens, "hidden": int(model.width * model.mlp_ratio)}
        assert ours == USUAL | entry["arguments"], name


# Without config.json these are taken for others of their names: OpenCLIP taught the first two with other statistics
# than CLIP's, and Google's weights of ImageNet-21k lack a head, as those of self-supervised ViTs do.
OTHERWISE = ("vit_large_patch14_clip_224", "vit_large_patch14_clip_336", "vit_huge_patch14_224",
             "vit_large_patch32_224")


def test_a_bare_file_is_seen_as_the_default_weights_are() -> None:
    for name, entry in MODELS.items():
        if "images" not in entry or name in OTHERWISE:
            continue
        images = USUAL_IMAGES | entry["images"]
        how, _ = Published(name, {f"{'norm' if entry['headless'] else 'head'}.weight": np.zeros(1)}).preprocessing(name)
        assert (list(np.broadcast_to(how.mean, 3)), list(np.broadcast_to(how.std, 3)), how.interpolation) == (
            images["mean"], images["std"], images["interpolation"]), name
