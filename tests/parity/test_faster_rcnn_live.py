"""Faster R-CNN against torchvision's, side by side: `pytest -m parity tests/parity` where torch is.

torchvision's transform, which normalises and resizes, is left out until the last test: both see the same tensors.
"""

import io
from types import ModuleType
from typing import Any

import faster_rcnn_side
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deterministic_weights import fill, random
from jax_side import assert_same
from PIL import Image

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.tasks.faster_rcnn import detections, faster_rcnn_detector, propose
from cvjax.workflow.detection.model import TrainedDetector

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs(torch: ModuleType) -> ModuleType:
    """The module faster_rcnn_reference, which needs torch and torchvision."""
    import faster_rcnn_reference

    return faster_rcnn_reference


def test_network_proposals_regions_losses_and_detections(theirs: ModuleType) -> None:
    numbers = theirs.numbers()
    shapes = {name.removeprefix("shape/"): tuple(numbers.pop(name).tolist()) for name in list(numbers)
              if name.startswith("shape/")}
    assert_same(faster_rcnn_side.numbers(shapes), numbers)


def test_gradients_of_the_joint_loss(theirs: ModuleType, torch: ModuleType) -> None:
    """Of the image with objects; its statistics are held, so norms' scales are all that torch freezes besides."""
    from cvjax.tasks.faster_rcnn import faster_rcnn_detector

    reference, shapes = theirs.filled(theirs.small())
    images, batch = faster_rcnn_side.images()[:1], {k: v[:1] for k, v in faster_rcnn_side.truth().items()}
    losses = theirs.losses(reference, torch.from_numpy(images).permute(0, 3, 1, 2), theirs.targets()[0])
    sum(losses.values()).backward()
    expected = {f"gradient/{name}": p.grad.numpy() for name, p in reference.named_parameters()}
    model = faster_rcnn_side.model()
    variables = load_weights(model, fill(shapes))
    detector = faster_rcnn_detector(model)

    def loss(params: Any) -> jax.Array:
        values, _ = detector.losses(params, {"batch_stats": variables["batch_stats"]}, jnp.asarray(images), batch,
                                    jax.random.key(0))
        return sum(values.values()).sum()

    ours = to_state_dict({"params": jax.jit(jax.grad(loss))(variables["params"])}, model)
    assert_same({f"gradient/{name}": value for name, value in ours.items()}, expected)


def whole(torch: ModuleType, device: str = "cpu") -> Any:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device(device):
        return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)


@pytest.mark.parametrize("layout", ["torchvision", "torchvision_hub"])
def test_parameters_have_the_published_names_and_shapes(layout: str, theirs: ModuleType, torch: ModuleType) -> None:
    """torchvision itself reads the names of its older files, too."""
    reference, model = whole(torch, "meta"), create_model("faster_rcnn_resnet50_fpn")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    stand_in = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    names = to_state_dict(stand_in, model, layout)
    assert ("rpn.head.conv.weight" in names) == (layout == "torchvision_hub")
    assert names["backbone.body.conv1.weight"].shape == (64, 3, 7, 7)
    with torch.device("meta"):
        tensors = {name: torch.empty(array.shape) for name, array in names.items()}
    reference.load_state_dict(tensors | {name: value for name, value in reference.state_dict().items()
                                         if name.endswith("num_batches_tracked")}, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name, epsilon", [("faster_rcnn_resnet50_fpn", 1e-5), ("faster_rcnn_resnet50_fpn_coco", 0.0)])
def test_full_size(theirs: ModuleType, torch: ModuleType, name: str, epsilon: float) -> None:
    """Each part on what torchvision's part before it gave: with random weights thousands of scores are nearly equal,
    and rounding decides which of two comes first (of proposals always: torchvision orders them by sigmoids, of which
    many are 1). Rounding over the network's layers: see test_live.py."""
    from torchvision.models.detection.image_list import ImageList

    size = (800, 1088)
    reference, shapes = theirs.filled(whole(torch))
    for module in reference.modules():  # as torchvision does for its weights of COCO
        if hasattr(module, "eps"):
            module.eps = epsilon
    model = create_model(name)
    variables = load_weights(model, fill(shapes))
    images = random("faster_rcnn full size").standard_normal((1, *size, 3)).astype(np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    listed = ImageList(x, [size])
    with torch.no_grad():
        maps = reference.backbone(x)
        objectness, codes = (
            [y.permute(0, 2, 3, 1).reshape(1, -1, last) for y in ys]
            for ys, last in zip(reference.rpn.head(list(maps.values())), (1, 4)))
        objectness, codes = torch.cat(objectness, 1)[..., 0], torch.cat(codes, 1)
        proposals, _ = reference.rpn(listed, maps)
        regions = reference.roi_heads.box_roi_pool(maps, proposals, [size])
        logits, region_codes = reference.roi_heads.box_predictor(reference.roi_heads.box_head(regions))
        found, _ = reference.roi_heads(maps, proposals, [size])
    proposals, boxes = proposals[0].numpy(), jnp.asarray(proposals[0].numpy())[None]
    expected = {f"map{i}": y.permute(0, 2, 3, 1).numpy() for i, y in enumerate(maps.values())}

    @jax.jit
    def network(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        def parts(module: FasterRCNN) -> Any:
            maps = module.features(images)
            given = [jnp.asarray(expected[f"map{i}"]) for i in range(5)]
            return {f"map{i}": y for i, y in enumerate(maps)} | dict(zip(
                ("objectness", "anchor_codes", "logits", "codes"),
                (*module.propose(given), *module.classify(given, boxes, size)))) | {
                    "regions": module.region_features(given, boxes, size)[0]}

        return model.apply(variables, method=parts)

    expected |= {"objectness": objectness.numpy(), "anchor_codes": codes.numpy(), "logits": logits.numpy()[None],
                 "codes": region_codes.reshape(1, -1, 91, 4).numpy(), "regions": regions.permute(0, 2, 3, 1).numpy()}
    ours = {name: np.asarray(value) for name, value in network(variables, images).items()}
    assert_same(ours, expected, forward=1e-4)

    anchors, counts = model.anchors([expected[f"map{i}"] for i in range(5)], size)
    kept, there = jax.jit(lambda *given: propose(*given, anchors, counts, jnp.float32(size), candidates=1000,
                                                 proposals=1000))(objectness.numpy()[0], codes.numpy()[0])
    assert there.sum() == len(proposals)
    far = np.abs(np.asarray(kept)[there][:, None] - proposals).max(axis=-1)
    assert max(far.min(axis=0).max(), far.min(axis=1).max()) < 1e-2  # pixels: float32 at 1088, and exp of codes
    result = jax.jit(lambda *given: detections(*given, np.ones(len(proposals), bool), jnp.float32(size),
                                               score_threshold=0.05, nms_threshold=0.5, limit=100))(
        logits.numpy(), region_codes.reshape(-1, 91, 4).numpy(), proposals)
    valid = np.asarray(result["valid"])
    assert valid.sum() == len(found[0]["labels"]) > 20
    np.testing.assert_array_equal(result["box_label"][valid], found[0]["labels"] - 1)
    np.testing.assert_allclose(result["score"][valid], found[0]["scores"], atol=1e-5)
    np.testing.assert_allclose(result["boxes"][valid], found[0]["boxes"], atol=1e-2)


def photo(size: tuple[int, int], draw: int) -> bytes:
    """A JPEG: discs of one colour on waves, with grain."""
    rng = random(f"photo {draw}")
    y, x = (grid.astype(float) for grid in np.mgrid[:size[0], :size[1]])
    pixels = 90 + 60 * (np.sin(y / 47) * np.cos(x / 61))[..., None] + np.zeros(3)
    for _ in range(8):
        centre, radii = rng.uniform(0, size), rng.uniform(0.05, 0.2, 2) * size
        pixels[((y - centre[0]) / radii[0])**2 + ((x - centre[1]) / radii[1])**2 < 1] = rng.uniform(0, 255, 3)
    pixels += 12 * rng.standard_normal((*size, 1))
    file = io.BytesIO()
    Image.fromarray(np.uint8(pixels.clip(0, 255))).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("size, draw, background", [((427, 640), 5, 38.6), ((640, 480), 2, 39.4)])
def test_from_a_photos_bytes_to_boxes(theirs: ModuleType, torch: ModuleType, size: tuple[int, int], draw: int,
                                      background: float) -> None:
    """All of torchvision's detector for COCO, its transform and norms included, in each orientation.

    The background's logit is such that few detections stand out. torchvision in float64 says how far they are apart:
    neither rounding nor thresholds moved by ten times the tolerance change one of them. float32 moves a logit by 1e-5
    of its size, about 40, a score by a quarter of that at most, and a box of 100 pixels by 1e-3.
    """
    tolerance, last, data = 1e-4, "roi_heads.box_predictor", photo(size, draw)
    reference = whole(torch)
    weights = fill({name: tuple(value.shape) for name, value in reference.state_dict().items()
                    if "num_batches" not in name})
    scores = weights[f"{last}.cls_score.weight"]
    scores[:] = 6 * (scores - scores.mean(axis=1, keepdims=True))
    scores[0] = weights[f"{last}.cls_score.bias"][:] = 0
    weights[f"{last}.cls_score.bias"][0] = background
    for name in (f"{last}.bbox_pred.weight", "rpn.head.bbox_pred.weight"):
        weights[name] *= np.float32(0.3)  # moves of less than a box's size
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    for module in reference.eval().modules():  # as torchvision does for its weights of COCO
        if hasattr(module, "eps"):
            module.eps = 0.0
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1) / 255

    heads, seen = reference.roi_heads, []
    postprocess = heads.postprocess_detections
    heads.postprocess_detections = lambda *given: seen.append(given) or postprocess(*given)
    with torch.no_grad():
        found, exact = ({name: value.numpy() for name, value in reference.to(dtype)([pixels.to(dtype)])[0].items()}
                        for dtype in (torch.float32, torch.float64))
        assert 5 <= len(exact["scores"]) <= 100
        assert -np.diff(exact["scores"]).max() > 10 * tolerance
        for moved in (-10 * tolerance, 10 * tolerance):
            heads.score_thresh, heads.nms_thresh = 0.05 + moved, 0.5 + moved
            np.testing.assert_array_equal(postprocess(*seen[-1])[1][0].numpy(), exact["scores"])

    model = create_model("faster_rcnn_resnet50_fpn_coco")
    detector = TrainedDetector(model, faster_rcnn_detector(model), load_weights(model, weights), (), 3,
                               Preprocessing(), None)
    ours = detector.predict(data)
    for result in (found, {"boxes": ours["boxes"], "scores": ours["score"], "labels": ours["box_label"] + 1}):
        np.testing.assert_array_equal(result["labels"], exact["labels"])
        np.testing.assert_allclose(result["scores"], exact["scores"], atol=tolerance)
        np.testing.assert_allclose(result["boxes"], exact["boxes"], atol=5e-3)
