"""Weights for colours in a model of other channels; `tests/parity/test_published_live.py` asks timm itself."""

from functools import partial

import jax
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model


@pytest.mark.parametrize("name, fields", [
    ("vit_tiny_patch16_224", dict(patch_size=8, width=16, depth=1, heads=2, image_size=16)),
    pytest.param("resnet18", dict(depths=(1, 1, 1, 1), width=8), marks=pytest.mark.slow)])
def test_repeated_channels_answer_as_the_colours_did(name: str, fields: dict, caplog: pytest.LogCaptureFixture) -> None:
    rgb = create_model(name, num_classes=3, **fields)
    grey = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    variables = jax.jit(rgb.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    published = to_state_dict(variables, rgb)
    expected = jax.jit(partial(rgb.apply, method="features"))(variables, np.repeat(grey, 3, axis=3))  # heads start at 0
    for channels in (1, 6):  # of six, each colour comes twice and counts half
        model = create_model(name, num_classes=3, in_channels=channels, **fields)
        adapted = load_weights(model, published)
        assert "adapted to other channels" in caplog.text
        # Sums in another order: float32's rounding over few layers.
        found = jax.jit(partial(model.apply, method="features"))(adapted, np.repeat(grey, channels, axis=3))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="another shape"):
        load_weights(create_model(name, num_classes=3, **fields), to_state_dict(adapted, model))
