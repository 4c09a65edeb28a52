"""R-CNN and SPP-net on scenes: what learns by heart, what the command writes, and how it refuses."""

import json

import jax
import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes.proposal_records import joined
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.scenes import open_scenes
from cvjax.evaluate.mean_ap import voc_ap
from cvjax.evaluate.region_classifiers import Regions, fit_region_classifiers
from cvjax.models import create_model
from cvjax.workflow.detection.inputs import DetectionInputs
from cvjax.workflow.detection.rcnn import Network, examples, features_by, judge, proposal_recall, region_crops


def inputs_of(count, side=64):
    """Scenes whose proposals are the objects, jittered objects and random boxes."""
    rng, scenes = np.random.default_rng(0), open_scenes("boxes", train=count, test=1, side=side)
    proposals = []
    for boxes in (scenes.train[i]["boxes"] for i in range(count)):
        near = np.repeat(boxes, 4, axis=0)
        near = near + rng.normal(0, 0.1, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
        corners = np.sort(rng.uniform(0, side, (30, 2, 2)), axis=1).reshape(-1, 4)
        proposals.append(np.clip(np.concatenate([boxes, near, corners]), 0, side))
    source = joined(scenes.train, proposals)
    dataset = type(scenes)(source, source, scenes.class_names, 3)
    return DetectionInputs(dataset, (side, side), 2, 5, BadFiles(count), Preprocessing(),
                           max_proposals=60)


def test_warped_regions_are_labelled_by_what_they_overlap():
    inputs = inputs_of(6)
    crops = region_crops(inputs, crop_size=16, context=1, per_image=10, seed=0)
    assert crops.images.shape[1:] == (16, 16, 3) and crops.images.dtype == np.uint8
    counts = np.bincount(crops.labels, minlength=11)
    assert counts[0] > 0 and 0 < counts[1:].sum() <= 30
    present = {int(label) + 1 for example in examples(inputs, "train") for label in example.truth.labels}
    assert set(np.flatnonzero(counts)) <= present | {0}
    assert proposal_recall(inputs, "train") == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rcnn", "sppnet"])
def test_four_scenes_are_learnt_by_heart(method):
    """On features of a network with random weights: this works because there are more features than regions."""
    inputs = inputs_of(4)
    model = create_model("sppnet", backbone="resnet20", backbone_fields=dict(width=16, depths=(1,)), map="layer1",
                         levels=(1, 2, 4), fc_width=512, image_size=24, num_classes=0)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 24, 24, 3), np.float32))
    extract = features_by(method, Network(model, variables, 24, 2, Preprocessing()), inputs, 32)
    regions = [Regions(e.proposals, extract(e.image, e.proposals, e.extent), tuple(e.extent))
               for e in examples(inputs, "train")]
    fitted = fit_region_classifiers(regions, [e.truth for e in examples(inputs, "train")], 10, c=100.0, ridge=1e-2)
    truths, found, _ = judge(extract, fitted, inputs, "test")
    assert voc_ap(truths, found, inputs.dataset.class_names).mean == 1


@pytest.mark.slow
def test_a_run_writes_average_precision_and_pictures(command, tmp_path):
    arguments = ("--training-pictures", 12, "--test-pictures", 6, "--epochs", 3, "--batch-size", 32, "--run-dir",
                 tmp_path / "run")
    done = command("rcnn", *arguments, "--dry-run")
    assert done.status == 0 and "12 training and 6 test pictures" in done.out and not (tmp_path / "run").exists()
    done = command("rcnn", *arguments)
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"rcnn/ap50", "sppnet/ap50", "proposals/recall"} <= set(summary["metrics"])
    assert summary["protocol"]["network"] == "trained on warped regions"
    for method in ("rcnn", "sppnet"):
        assert (tmp_path / "run" / "figures" / f"{method}.png").stat().st_size > 10_000
    assert "is complete" in command("rcnn", *arguments).out


@pytest.mark.parametrize("arguments, message", [
    (("--model", "alexnet"), "--model alexnet: it must be given with --weights, and only then"),
    (("--weights", "a.pth", "--checkpoint", "runs/x"), "--weights a.pth: it must be left out with --checkpoint"),
    (("--regions-per-picture", 1), "--regions-per-picture 1: it must be at least 2"),
    (("--data", "digits"), "unknown data set 'digits' for detection"),
])
def test_an_impossible_request_is_one_line(command, tmp_path, arguments, message):
    assert message in command("rcnn", *arguments, "--run-dir", tmp_path / "run").complaint
