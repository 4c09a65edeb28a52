"""What the pre-activation form has besides its blocks, and small images; all else of ResNets is in parity tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model


def test_the_first_pre_activated_shortcut_starts_after_the_activation() -> None:
    """He et al. 2016b, appendix: the first activation comes right after conv1, before the paths split."""
    model = create_model("resnet20", preactivation=True, depths=(1,), width=4, num_classes=0)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), images)
    params = variables["params"]
    params["layer1"]["0"]["conv2"]["kernel"] *= 0.0  # the shortcut is left
    stem = jax.lax.conv_general_dilated(images, params["conv1"]["kernel"], (1, 1), "SAME",
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))
    # Fresh norms divide by sqrt(1 + 1e-5): the first of the block, and the last of the network.
    expected = jax.nn.relu(stem).mean(axis=(1, 2)) / (1 + 1e-5)
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-5)


@pytest.mark.parametrize("antialias, least", [("blur", 1), ("average", 3)])
def test_pooling_against_aliasing_takes_small_images_and_odd_maps(antialias: str, least: int) -> None:
    model = create_model("resnet50d", antialias=antialias, depths=(1, 1), width=8, stem_widths=(4, 4, 8), num_classes=0)
    for side in (least, 37):
        maps = jax.eval_shape(lambda side=side: model.init_with_output(
            jax.random.key(0), jnp.zeros((1, side, side, 3)), maps=model.map_names))[0]
        assert all(min(x.shape[1:3]) > 0 for x in maps.values())
    if least > 1:
        with pytest.raises(ValueError, match="images of 2x2 pixels are too small: both sides must be at least 3"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))
