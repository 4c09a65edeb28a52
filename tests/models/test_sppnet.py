"""SPP-net: one map for all regions, and images of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.models.sppnet import map_stride
from cvjax.ops.pyramid import pyramid_pool

TINY = dict(backbone="resnet20", backbone_fields=dict(width=4, depths=(1, 1)), map="layer2", fc_width=8, num_classes=3,
            image_size=32)


@pytest.fixture(scope="module")
def tiny():
    model = create_model("sppnet", **TINY)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.slow
def test_features_of_a_region_are_those_of_a_crop_of_the_map(tiny):
    model, variables = tiny
    images = jax.random.normal(jax.random.key(1), (2, 40, 56, 3))
    # The map's stride is 2: pixels 4 to 15 down and 3 to 20 across, and 0 to 9 and 14 to 27.
    boxes = jnp.float32([[6, 8, 42, 32], [28, 0, 56, 20]])[None].repeat(2, axis=0)

    def everything(module):
        x = module.convolutions(images)
        crops = (x[:, 4:16, 3:21], x[:, 0:10, 14:28])
        wanted = [module.fully_connected(pyramid_pool(crop, module.levels)) for crop in crops]
        return module.region_features(images, boxes), jnp.stack(wanted, axis=1)

    features, wanted = jax.jit(lambda v: model.apply(v, method=everything))(variables)
    assert features.shape == (2, 2, 8)
    # Maxima are equal; sums of 400 products in another order are not, by at most 400 eps of their size.
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(19, 33), (64, 40)])
def test_images_of_any_size_are_classified(tiny, size):
    model, variables = tiny
    images = jax.random.normal(jax.random.key(2), (2, *size, 3))
    logits = model.apply(variables, images)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    # The whole image is one region of its map.
    whole = jnp.broadcast_to(jnp.float32([0, 0, size[1] + 1, size[0] + 1]), (2, 1, 4))
    features = model.apply(variables, images, whole, method="region_features")[:, 0]
    np.testing.assert_allclose(features, model.apply(variables, images, method="features"), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_regions_are_moved_by_where_the_map_begins(tiny):
    """`sppnet_alexnet` says where: a pixel of the image that only pixel (0, 0) of the map is centred at."""
    model = create_model("sppnet_alexnet")
    maps = jnp.arange(25.0).reshape(1, 5, 5, 1)
    # Centres are at 15.5, 31.5, 47.5, ...: the box holds those of rows 1 and 2 and of columns 0 and 1.
    boxes = jnp.float32([[[10, 20, 40, 60]]])
    bound = model.clone(levels=(2,))
    pooled = jax.eval_shape(bound.init, jax.random.key(0), jnp.zeros((1, 100, 100, 3)))
    values = bound.apply({"params": jax.tree.map(lambda x: jnp.zeros(x.shape), pooled["params"])}, maps, boxes,
                         method="pool_regions")
    assert values[0, 0, :, 0].tolist() == [5, 6, 10, 11]


@pytest.mark.parametrize("name, map_name, stride", [("alexnet", "conv5", 16), ("vgg16", "conv5_3", 16),
                                                    ("resnet18", "layer4", 32), ("vit_tiny_patch16_224", "final", 0)])
def test_strides_of_maps(name, map_name, stride):
    backbone = create_model(name, num_classes=0)
    if stride:
        assert map_stride(backbone, map_name) == stride
    else:
        with pytest.raises(ValueError, match="no map final"):
            map_stride(backbone, map_name)
