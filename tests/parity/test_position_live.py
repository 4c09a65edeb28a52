"""Learned positions at other sizes, as torch interpolates them for each publisher: `pytest -m parity`."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model
from cvjax.ops.position import PositionResize, resize_positions

pytestmark = pytest.mark.parity

GRIDS = ((2, 2), (3, 3), (6, 6), (15, 20), (6, 8), (37, 5))
OPTIONS = {"deit": dict(align_corners=False), "dino": {}, "torchvision": dict(align_corners=True)}


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


def theirs(torch: ModuleType, positions: np.ndarray, trained: int, grid: tuple[int, int], how: str) -> np.ndarray:
    """The call of `interpolate` in the code of DeiT and MAE, of DINO, and of torchvision."""
    field = torch.tensor(positions.reshape(1, trained, trained, -1)).permute(0, 3, 1, 2)
    size = dict(scale_factor=tuple((n + 0.1) / trained for n in grid)) if how == "dino" else dict(size=grid)
    resized = torch.nn.functional.interpolate(field, mode="bicubic", **size, **OPTIONS[how])
    return resized.permute(0, 2, 3, 1).reshape(-1, positions.shape[-1]).numpy()


@pytest.mark.parametrize("how", list(OPTIONS))
@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_resized_as_torch_does(torch: ModuleType, grid: tuple[int, int], how: PositionResize) -> None:
    """Torch places the taps in float32, whose last digit of a place near 14 is 1e-6: below 2e-5 for values up to 4."""
    positions = np.random.default_rng(0).standard_normal((14 * 14, 8)).astype(np.float32)
    found = resize_positions(jnp.asarray(positions), (14, 14), grid, how)
    np.testing.assert_allclose(found, theirs(torch, positions, 14, grid, how), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(32, 32), (96, 72)])
def test_dinos_features_at_other_sizes(torch: ModuleType, size: tuple[int, int]) -> None:
    """A model of 64x64 pixels on other images gives what it gives with torch's positions put in, up to rounding."""
    model = create_model("vit_tiny_patch16_224", width=32, depth=2, heads=2, patch_size=8, image_size=64,
                         num_classes=0, position_resize="dino")
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    variables = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))
    weights = to_state_dict(variables, model)
    grid = size[0] // 8, size[1] // 8
    resized = theirs(torch, np.asarray(weights["pos_embed"][0, 1:]), 8, grid, "dino")
    there = model.clone(image_size=size)
    expected = there.apply(load_weights(there, weights | {
        "pos_embed": np.concatenate([weights["pos_embed"][:, :1], resized[None]], axis=1)}, trained=size), images)
    found = model.apply(variables, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
