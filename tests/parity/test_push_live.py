"""What `experiments.push` writes, built by timm without a network: `pytest -m parity`."""

from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from deterministic_weights import fill

from cvjax.interop import create_pretrained, load_weights, to_state_dict
from cvjax.interop.timm_config import timm_arguments
from cvjax.models import create_model, list_models
from tests.experiments.written_runs import write_model_run

pytestmark = pytest.mark.parity

# Small networks whose every changed field is one of timm's arguments, some with pooling or norms that are not usual.
VIT = dict(image_size=32, patch_size=8, width=24, depth=2, heads=2, num_classes=5)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit_avg": ("vit_small_patch16_224", VIT | dict(pool="avg", in_channels=1, registers=2, layer_scale=0.1)),
    "vit_fixed": ("vit_tiny_patch16_224", VIT | dict(position="sincos2d", pool="avg", class_token=False)),
    "deit_distilled": ("deit_small_distilled_patch16_224", VIT),
    "resnet": ("resnet18", dict(depths=(1, 1, 1, 1), image_size=32, num_classes=5)),
    "convnext": ("convnext_tiny", dict(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), image_size=32, num_classes=5)),
    "convnextv2": ("convnextv2_atto", dict(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), kernel_size=5, image_size=32,
                                           num_classes=5)),
    "swin": ("swin_tiny_patch4_window7_224", dict(width=16, depths=(2, 2), heads=(2, 4), window=4, image_size=32,
                                                  num_classes=5)),
    "swin_v2": ("swinv2_tiny_window8_256", dict(width=16, depths=(2, 2), heads=(2, 4), window=4, image_size=32,
                                                num_classes=5)),
    "resnet_v2": ("resnetv2_18d", dict(depths=(1, 1, 1, 1), image_size=32, num_classes=5)),
    "dinov3": ("vit_small_patch16_dinov3", dict(depth=1, image_size=32, patch_size=8, num_classes=0)),
    "densenet": ("densenet121", dict(depths=(1, 1, 1, 1), growth_rate=8, stem_width=16, image_size=32, num_classes=5)),
    "encoder": ("vit_tiny_patch16_224", VIT | dict(num_classes=0)),
}


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    """timm, after what torchvision needs before it."""
    pytest.importorskip("torch")
    import torchvision_operators  # noqa: F401  # isort: skip
    import timm

    return timm


def filled(model: Any) -> Any:
    """Variables of a model that follow from names and shapes."""
    size = model.image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, size, size, model.in_channels), np.float32))
    stand_in = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    drawn = fill({name: array.shape for name, array in to_state_dict(stand_in, model, constants=False).items()})
    return load_weights(model, drawn | {name: array for name, array in to_state_dict(stand_in, model).items()
                                        if name not in drawn})


@pytest.mark.parametrize("case", CASES)
def test_timm_builds_it_and_gives_the_same_logits(timm: ModuleType, command: Any, tmp_path: Path, case: str) -> None:
    import torch

    name, fields = CASES[case]
    model = create_model(name, **fields)
    variables, names = filled(model), tuple(f"class {i}" for i in range(model.num_classes))
    run = write_model_run(tmp_path / "run", model, variables, names=names, metrics={"test/top1": 0.5},
                          kind="classifier" if names else "encoder", config={"model": name}, name="ours", pool="token",
                          blocks=1)
    done = command("push", run, "hf-hub:me/net", "--output", tmp_path / "out", "--dry-run")
    assert done.status == 0, done.err
    assert f"timm builds it as {name}" in done.out
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    size, channels = model.image_size, model.in_channels
    images = np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = np.asarray(jax.jit(model.apply)(variables, images))
    assert found.shape == expected.shape and np.abs(expected).max() > 1e-2
    # float32 through a dozen layers: far more than rounding gives, and far less than another constant.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    assert theirs.pretrained_cfg["input_size"] == (channels, size, size) or \
        theirs.pretrained_cfg["input_size"] == [channels, size, size]
    assert tuple(theirs.pretrained_cfg.get("label_names", ())) == names
    back = create_pretrained(name, tmp_path / "out" / "model.safetensors")
    assert back.class_names == names and jax.tree.structure(back.variables) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(back.variables), jax.tree.leaves(variables)))
    if names:  # fine-tuned in timm: another number of classes, and of channels
        other = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=3, in_chans=2)
        assert other(torch.zeros(2, 2, size, size)).shape == (2, 3)


def test_the_names_that_timm_lacks_are_listed(timm: ModuleType) -> None:
    known = {name for name in list_models() if timm_arguments(create_model(name), name) is not None}
    assert known == {name for name in list_models() if timm.is_model(name)}


@pytest.mark.parametrize("case", ["vit", "resnet"])
def test_timm_sees_images_as_the_run_did(timm: ModuleType, command: Any, tmp_path: Path, case: str) -> None:
    """At the size of the test, which for this run is not that of the training."""
    from timm.data import resolve_data_config

    from cvjax.data.preprocessing import Preprocessing

    name, fields = CASES[case]
    model = create_model(name, **fields)
    how = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.8, "squash", "bilinear")
    run = write_model_run(tmp_path / "run", model, filled(model), names=("a", "b", "c", "d", "e"), metrics={},
                          image_size=40, preprocessing=how, config={"model": name})
    assert command("push", run, "hf-hub:me/net", "--output", tmp_path / "out", "--dry-run").status == 0
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    found = resolve_data_config(model=theirs, use_test_size=True)
    assert tuple(found["input_size"]) == (3, 40, 40) and tuple(found["mean"]) == how.mean
    assert tuple(found["std"]) == how.std
    assert (found["crop_pct"], found["crop_mode"], found["interpolation"]) == (0.8, "squash", "bilinear")
