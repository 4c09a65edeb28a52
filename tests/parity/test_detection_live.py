"""The detection operations against torchvision's: `pytest -m parity tests/parity` where torch is.

Where torchvision's compiled operators do not load, its own Python stands in for roi_align and a plain nms for nms (see
`torchvision_detection`), and roi_pool is skipped.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.anchors import pyramid_anchors
from cvjax.ops.boxes import decode_boxes, encode_boxes, generalized_iou, pairwise_iou
from cvjax.ops.matching import match_anchors, match_proposals
from cvjax.ops.nms import class_wise_nms, nms
from cvjax.ops.pyramid import pyramid_pool
from cvjax.ops.roi import roi_align, roi_pool

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ops(torch: ModuleType) -> ModuleType:
    import torchvision_detection  # noqa: F401  before torchvision
    from torchvision import ops

    return ops


def boxes(rng: np.random.Generator, count: int, size: float = 200) -> np.ndarray:
    corners = np.sort(rng.uniform(0, size, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression(threshold: float, torch: ModuleType, ops: ModuleType) -> None:
    rng = np.random.default_rng(0)
    given, scores = boxes(rng, 3000), rng.random(3000).astype(np.float32)
    labels = rng.integers(0, 5, 3000, np.int32)
    valid = np.ones(3000, bool)
    tensors = [torch.from_numpy(x) for x in (given, scores, labels)]
    indices, found = nms(given, scores, valid, threshold, 3000)
    np.testing.assert_array_equal(indices[found], ops.nms(*tensors[:2], threshold))
    indices, found = class_wise_nms(given, scores, labels, valid, threshold, 3000)
    np.testing.assert_array_equal(indices[found], ops.batched_nms(*tensors, threshold))


def test_overlaps(torch: ModuleType, ops: ModuleType) -> None:
    rng = np.random.default_rng(1)
    a, b = boxes(rng, 300), boxes(rng, 200)
    tensors = [torch.from_numpy(x) for x in (a, b)]
    # Rounding of float32: of one quotient, and of a sum of two.
    np.testing.assert_allclose(pairwise_iou(a, b), ops.box_iou(*tensors), atol=2e-7)
    np.testing.assert_allclose(generalized_iou(a[:, None], b), ops.generalized_box_iou(*tensors), atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_coding(weights: tuple, torch: ModuleType, ops: ModuleType) -> None:
    from torchvision.models.detection._utils import BoxCoder

    rng = np.random.default_rng(2)
    given, anchors = boxes(rng, 1000), boxes(rng, 1000)
    codes = rng.normal(size=(1000, 12)).astype(np.float32) * 6
    coder = BoxCoder(weights)
    expected = coder.encode_single(torch.from_numpy(given), torch.from_numpy(anchors))
    np.testing.assert_allclose(encode_boxes(given, anchors, weights), expected, rtol=1e-5, atol=2e-5)
    decoded = coder.decode_single(torch.from_numpy(codes), torch.from_numpy(anchors)).reshape(1000, 3, 4)
    ours = decode_boxes(codes.reshape(1000, 3, 4), anchors[:, None], weights)
    np.testing.assert_allclose(ours, decoded, rtol=1e-5, atol=1e-2)  # sides up to 200 * 62.5, rounded to 1e-3


def test_matching(torch: ModuleType, ops: ModuleType) -> None:
    from torchvision.models.detection._utils import Matcher

    rng = np.random.default_rng(3)
    for _ in range(20):
        anchors, truth = boxes(rng, 500, 60), boxes(rng, 6, 60)
        quality = ops.box_iou(torch.from_numpy(truth), torch.from_numpy(anchors))
        mask = np.ones(6, bool)
        for found, matcher in ((match_anchors(anchors, truth, mask), Matcher(0.7, 0.3, True)),
                               (match_proposals(anchors, truth, mask), Matcher(0.5, 0.5, False))):
            expected = matcher(quality).numpy()
            np.testing.assert_array_equal(found.positive, expected >= 0)
            np.testing.assert_array_equal(found.negative, expected == -1)
            np.testing.assert_array_equal(found.index[found.positive], expected[expected >= 0])


def test_anchors(torch: ModuleType, ops: ModuleType) -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes = ((32, 64, 128), (256, 512, 100))
    ratios = (0.5, 1.0, 2.0)
    theirs = AnchorGenerator(sizes, (ratios,) * 2)
    grids = [(38, 50), (19, 25)]
    expected, = theirs(ImageList(torch.zeros(1, 3, 608, 800), [(608, 800)]), [torch.zeros(1, 8, *g) for g in grids])
    np.testing.assert_array_equal(pyramid_anchors(grids, [(16, 16), (32, 32)], sizes, ratios), expected)


def regions(rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(-20, 180, (2, 150, 2, 2))
    corners[:, 20:] = np.sort(corners[:, 20:], axis=2)
    return (np.round(4 * corners) / 4).reshape(2, 150, 4).astype(np.float32)


@pytest.mark.parametrize("name", ["pool", "align", "align_legacy"])
def test_regions_and_their_gradients(name: str, torch: ModuleType, ops: ModuleType) -> None:
    from torchvision_detection import COMPILED

    if name == "pool" and not COMPILED:
        pytest.skip("torchvision's compiled operators do not load, and there is no other roi_pool")
    rng = np.random.default_rng(4)
    features, given = rng.normal(size=(2, 12, 9, 5)).astype(np.float32), regions(rng)
    # At exactly one pixel outside the map a sample jumps; pooling has halves to round instead.
    given = given if name == "pool" else given + np.float32(0.0137)
    run, theirs = {
        "pool": (lambda x: roi_pool(x, given, (7, 5), 1 / 16),
                 lambda x, b: ops.roi_pool(x, b, (7, 5), 1 / 16)),
        "align": (lambda x: roi_align(x, given, (7, 5), 1 / 16),
                  lambda x, b: ops.roi_align(x, b, (7, 5), 1 / 16, 2, True)),
        "align_legacy": (lambda x: roi_align(x, given, (7, 5), 1 / 16, sampling_ratio=3, aligned=False),
                         lambda x, b: ops.roi_align(x, b, (7, 5), 1 / 16, 3, False)),
    }[name]
    ours, pull = jax.vjp(jax.jit(run), jnp.asarray(features))
    weights = rng.normal(size=ours.shape).astype(np.float32)
    x = torch.from_numpy(features.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = theirs(x, [torch.from_numpy(b) for b in given])
    expected.backward(torch.from_numpy(weights.reshape(300, 7, 5, 5).transpose(0, 3, 1, 2).copy()))
    # The maxima are the same numbers; means and gradients are sums in another order, of some hundred terms.
    np.testing.assert_allclose(ours.reshape(300, 7, 5, 5), expected.detach().permute(0, 2, 3, 1),
                               atol=0 if name == "pool" else 2e-5)
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], x.grad.permute(0, 2, 3, 1), atol=2e-4)


def test_pyramid(torch: ModuleType) -> None:
    features = np.random.default_rng(5).normal(size=(2, 13, 10, 4)).astype(np.float32)
    x = torch.from_numpy(features.transpose(0, 3, 1, 2).copy())
    expected = [torch.nn.functional.adaptive_max_pool2d(x, n).flatten(2).permute(0, 2, 1) for n in (1, 2, 3, 6)]
    np.testing.assert_array_equal(pyramid_pool(features), torch.cat(expected, dim=1))
