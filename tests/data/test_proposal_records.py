"""Proposals go where the pixels go, and never in an object's place."""

import dataclasses

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes.crops import Letterbox, RandomView
from cvjax.data.boxes.mosaic import Mosaic
from cvjax.data.boxes.proposal_records import SplitProposals, joined, with_proposals
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.scenes import open_scenes
from cvjax.workflow.detection.inputs import DetectionInputs
from cvjax.workflow.prepared import example_batch


@pytest.fixture(scope="module")
def scenes():
    return open_scenes("boxes", train=6, test=3, side=40)


def doubled(source):
    """A source in which the proposals are the objects themselves."""
    return joined(source, [source[i]["boxes"] for i in range(len(source))])


@pytest.mark.parametrize("make", [
    lambda source: Letterbox(50, 60, 10), lambda source: RandomView(50, 60, 10, (0.3, 1.0), zoom_out=0.5),
    lambda source: Mosaic(RandomView(50, 60, 50, (0.5, 1.0)), source, 1.0)])
def test_a_proposal_on_an_object_stays_on_it(scenes, make):
    source = doubled(scenes.train)
    crop = SplitProposals(make(source), 25, 25)
    for index in range(len(source)):
        record = source[index]
        fields = crop(record["image"], np.random.default_rng(index), boxes=record["boxes"],
                      box_label=record["box_label"], box_difficult=record["box_difficult"])
        np.testing.assert_array_equal(fields["proposals"], fields["boxes"])
        np.testing.assert_array_equal(fields["proposal_mask"], fields["box_mask"])
        assert not fields["box_difficult"].any() and (fields["box_label"] >= 0).all()
    assert any(len(scenes.train[i]["boxes"]) for i in range(6))


def test_objects_come_before_proposals_and_the_largest_of_each_stay(scenes):
    image = np.zeros((40, 40, 3), np.uint8)
    sides = np.float32([9, 3, 8, 20, 30, 25])
    boxes = np.stack([np.zeros(6), np.zeros(6), sides, sides], 1).astype(np.float32)
    label = np.int32([4, 5, 6, -1, -1, -1])
    crop = SplitProposals(Letterbox(40, 40, 4), 2, 2)
    fields = crop(image, None, boxes=boxes, box_label=label, box_difficult=label < 0)
    assert fields["box_label"].tolist() == [4, 6] and fields["boxes"][:, 2].tolist() == [9, 8]
    assert fields["proposals"][:, 2].tolist() == [30, 0] and fields["proposal_mask"].tolist() == [True, False]


def test_a_blank_picture_has_neither(scenes):
    fields = SplitProposals(Letterbox(20, 20, 5), 2, 3)(np.zeros((1, 1, 1), np.uint8), None)
    assert fields["proposals"].shape == (3, 4) and not fields["proposal_mask"].any() and not fields["box_mask"].any()


def test_a_source_with_proposals_is_a_source(scenes):
    source = doubled(scenes.train)
    part = source.take(np.array([4, 1]))
    np.testing.assert_array_equal(part.proposals_of(0), scenes.train[4]["boxes"])
    np.testing.assert_array_equal(part[1]["image"], scenes.train[1]["image"])
    # Crops let go of what is difficult before they let go of an object.
    np.testing.assert_array_equal(part[1]["box_difficult"], part[1]["box_label"] == -1)
    assert len(part) == 2 and part.name(0) == "scene 0" and part.channels == 3
    assert source.fingerprint != scenes.train.fingerprint != part.fingerprint
    np.testing.assert_array_equal(source.ground_truth().boxes, scenes.train.ground_truth().boxes)
    with pytest.raises(ValueError, match="proposals for each of 6 records, received 5"):
        joined(scenes.train, [np.zeros((0, 4))] * 5)


class Unreadable:
    """A source whose first picture is no picture."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index] | ({"image": b"no picture"} if index == 0 else {})


def test_selective_search_of_a_data_set_in_batches(scenes, tmp_path):
    dataset = with_proposals(scenes, max_proposals=30, folder=tmp_path)
    assert dataset.validation is None and len(list(tmp_path.glob("*.npy"))) == 9
    counts = np.diff(dataset.train.starts)
    assert counts.max() <= 30 and counts.min() > 0
    inputs = DetectionInputs(dataset, (40, 40), 2, 5, BadFiles(9), Preprocessing(), max_proposals=32, flip=True)
    batches = inputs.train_batches(seed=0, workers=0)
    batch = next(batches)
    batches.close()
    assert batch["proposals"].shape == (2, 32, 4) and batch["boxes"].shape == (2, 5, 4)
    np.testing.assert_array_equal(batch["proposal_mask"].sum(1), counts[batch["index"]])
    shapes = example_batch(inputs)
    assert {name: x.shape[1:] for name, x in shapes.items()} == {name: x.shape[1:] for name, x in batch.items()}
    tested = next(iter(inputs.eval_batches("test")))
    np.testing.assert_array_equal(tested["proposals"][0][tested["proposal_mask"][0]], dataset.test.proposals_of(0))
    broken = dataclasses.replace(scenes, train=Unreadable(scenes.test))
    broken = with_proposals(broken, max_proposals=5, folder=tmp_path)
    np.testing.assert_array_equal(broken.train.proposals_of(1), broken.test.proposals_of(1)[:5])
