"""R-CNN's network: what a classifier says of warped regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.ops.warp import warp_regions


@pytest.mark.slow
def test_features_of_a_region_are_the_classifiers_of_its_warped_pixels():
    fields = dict(width=4, depths=(1, 1))
    model = create_model("rcnn_alexnet", backbone="resnet20", backbone_fields=fields, crop_size=16, context=2)
    images = jax.random.normal(jax.random.key(0), (2, 20, 30, 3))
    boxes = jnp.float32([[[2, 3, 12, 18], [-5, 0, 40, 10], [7, 7, 9, 8]],
                         [[0, 0, 30, 20], [1, 1, 6, 6], [4, 5, 20, 9]]])
    extent = jnp.float32([[20, 30], [12, 18]])
    variables = jax.jit(model.init)(jax.random.key(1), images, boxes)
    features = model.apply(variables, images, boxes, extent, method="region_features")
    assert features.shape == (2, 3, 8)
    backbone = create_model("resnet20", num_classes=0, **fields)
    crops = [warp_regions(*each[:2], 16, context=2, extent=each[2]) for each in zip(images, boxes, extent)]
    for image in range(2):
        alone = backbone.apply({name: tree["backbone"] for name, tree in variables.items()}, crops[image])
        # 8 channels of sums of 36 to 72 products.
        np.testing.assert_allclose(features[image], alone, rtol=1e-4, atol=1e-5)
    whole = model.apply(variables, images[:, :16, :16])
    np.testing.assert_allclose(whole, model.apply(variables, images[:, :16, :16], jnp.float32([[[0, 0, 16, 16]]] * 2)))


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        jax.eval_shape(create_model("rcnn_alexnet").init, jax.random.key(0), jnp.zeros((1, 50, 50, 1)))
