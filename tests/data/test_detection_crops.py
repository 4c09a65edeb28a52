"""Boxes against the pixels they are about: filled rectangles, found again after the geometry."""

import pickle

import numpy as np
import pytest

from cvjax.data.boxes.annotations import gather
from cvjax.data.boxes.canvas import inside, mirrored, to_original
from cvjax.data.boxes.crops import Letterbox, RandomView
from cvjax.data.boxes.mosaic import Mosaic
from cvjax.data.scenes import open_scenes
from tests.data.pictures import encode, gradient

# A resized edge is a ramp of whole levels, and it is cut off at the border of a part: 0.2 of a pixel cover both. Boxes
# are multiplied by one scale, but sides are rounded to pixels, so a box may be off by half a pixel more.
FOUND = 0.2


def rectangle(rng, height, width):
    """A black picture with a white rectangle of a quarter to a half of its sides, and that one's annotations."""
    h, w = (int(rng.integers(side // 4, side // 2)) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[top:top + h, left:left + w] = 255
    return image, {"boxes": np.float32([[left, top, left + w, top + h]]), "box_label": np.int32([3]),
                   "box_difficult": np.array([True])}


def spans(profile):
    """Begin and end of the bright part of a profile `(n,)`: those of a box of the same height and mass."""
    profile = profile / profile.max()
    mass, middle = profile.sum(), (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
    return middle - mass / 2, middle + mass / 2


def found_box(picture):
    """Corners of the one bright rectangle in `(h, w)`, to fractions of a pixel; None if there is none."""
    bright = picture.astype(float) / 255
    if bright.max() < 0.9:
        return None
    rows, columns = bright.max(1) > 0.9, bright.max(0) > 0.9
    y1, y2 = spans(bright[:, columns].mean(1))
    x1, x2 = spans(bright[rows].mean(0))
    return np.array([x1, y1, x2, y2])


def sizes(rng):
    return int(rng.integers(24, 90)), int(rng.integers(24, 90))


def test_letterbox_moves_boxes_with_pixels():
    rng, crop = np.random.default_rng(0), Letterbox(48, 64, 4)
    for _ in range(300):
        height, width = sizes(rng)
        image, annotations = rectangle(rng, height, width)
        example = crop(image, None, **annotations)
        scale = min(48 / height, 64 / width)
        assert example["scale"] == np.float32(scale)
        np.testing.assert_array_equal(example["extent"], [round(height * scale), round(width * scale)])
        h, w = example["extent"].astype(int)
        assert (example["image"][h:] == [124, 116, 104]).all() and (example["image"][:, w:] == [124, 116, 104]).all()
        np.testing.assert_allclose(example["boxes"][0], found_box(example["image"][:h, :w, 0]), atol=0.5 + FOUND)
        back = to_original(example["boxes"][None], example["scale"][None])[0, 0]
        # Back in the file's pixels: what was cut off at the canvas's rounded border, and single precision.
        np.testing.assert_allclose(back, annotations["boxes"][0], atol=0.5 / scale + 1e-4)
        assert example["box_mask"].tolist() == [True, False, False, False]
        assert example["box_label"][0] == 3 and example["box_difficult"][0]
        assert not example["boxes"][1:].any()


@pytest.mark.parametrize("shape, scale", [((375, 500), 1.6), ((500, 375), 1.6), ((500, 334), 600 / 334),
                                          ((500, 200), 2.0), ((200, 500), 2.0), ((500, 500), 1.2)])
@pytest.mark.parametrize("crop", [Letterbox(1000, 1000, 1, sides=(600, 1000)),
                                  RandomView(1000, 1000, 1, (1.0, 1.0), flip=False, sides=(600, 1000))])
def test_sides_are_those_of_fast_rcnn(crop, shape, scale):
    """py-faster-rcnn: 600 pixels for the short side, unless the long one would have more than 1000."""
    example = crop(np.zeros((*shape, 3), np.uint8), np.random.default_rng(0), boxes=np.float32([[10, 20, 110, 140]]),
                   box_label=np.zeros(1, np.int32), box_difficult=np.zeros(1, bool))
    assert example["scale"] == np.float32(scale)
    np.testing.assert_array_equal(example["extent"], [round(shape[0] * scale), round(shape[1] * scale)])
    np.testing.assert_allclose(example["boxes"][0], np.array([10, 20, 110, 140]) * scale,
                               rtol=0.5 / 400)  # a view's sides are whole pixels, 400 at least
    assert example["image"].shape == (1000, 1000, 3)


def test_a_long_side_is_limited_below_the_canvas():
    """torchvision's 800 and 1333 pixels, on a canvas of whole strides."""
    crop = Letterbox(1344, 1344, 1, sides=(800, 1333))
    for shape, scale in (((360, 640), 1333 / 640), ((640, 360), 1333 / 640), ((480, 640), 800 / 480)):
        assert crop(np.zeros((*shape, 3), np.uint8))["scale"] == np.float32(scale)


def test_a_canvas_of_one_orientation_makes_the_other_smaller():
    assert Letterbox(600, 1000, 1, sides=(600, 1000))(np.zeros((500, 375, 3), np.uint8))["scale"] == np.float32(1.2)


@pytest.mark.parametrize("options", [
    dict(crop_scale=(1.0, 1.0)), dict(crop_scale=(0.2, 1.0), flip=False), dict(crop_scale=(0.2, 1.0), zoom_out=0.6)],
    ids=["flip", "crop", "all"])
def test_random_views_move_boxes_with_pixels(options):
    rng, crop, gone, flipped = np.random.default_rng(1), RandomView(56, 48, 2, **options), 0, 0
    for _ in range(400):
        height, width = sizes(rng)
        image, annotations = rectangle(rng, height, width)
        example = crop(image, rng, **annotations)
        h, w = example["extent"].astype(int)
        picture = example["image"][:h, :w, 0]
        there = found_box(picture)
        if example["box_mask"][0]:
            np.testing.assert_allclose(example["boxes"][0], there, atol=FOUND)
            # A mirrored box whose picture is whole is at the same distance from the other side.
            x1, _, x2, _ = annotations["boxes"][0] * w / width
            flipped += abs(example["boxes"][0, 0] - (w - x2)) < abs(example["boxes"][0, 0] - x1)
        else:
            gone += 1
            # Its middle is not on the canvas: what shows of it is at a border.
            if there is not None:
                assert there[0] < 1 or there[1] < 1 or there[2] > w - 1 or there[3] > h - 1
        assert not example["box_mask"][1]
    if options["crop_scale"] == (1.0, 1.0):
        assert gone == 0 and 150 < flipped < 250
    else:
        assert 20 < gone < 200


class Rectangles:
    """Pictures of one rectangle each; number 1 cannot be read."""

    channels = 3

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 1:
            return {"image": b"no picture", "label": -1, "index": 1}
        rng = np.random.default_rng(index)
        image, annotations = rectangle(rng, *sizes(rng))
        return {"image": image, "label": -1, "index": index, **annotations}


def test_mosaics_move_boxes_with_pixels():
    view = RandomView(64, 64, 8, crop_scale=(0.4, 1.0))
    crop, rng, seen = Mosaic(view, Rectangles(), 1.0, centre=(0.5, 0.5)), np.random.default_rng(2), 0
    for _ in range(150):
        image, annotations = rectangle(rng, *sizes(rng))
        example = crop(image, rng, **annotations)
        boxes = example["boxes"][example["box_mask"]]
        np.testing.assert_array_equal(example["extent"], [64, 64])
        for top in (0, 32):
            for left in (0, 32):
                there = found_box(example["image"][top:top + 32, left:left + 32, 0])
                mine = boxes[(boxes[:, 0] >= left) & (boxes[:, 2] <= left + 32)
                             & (boxes[:, 1] >= top) & (boxes[:, 3] <= top + 32)]
                assert len(mine) <= 1
                if len(mine):
                    seen += 1
                    np.testing.assert_allclose(mine[0], there + [left, top, left, top], atol=FOUND)
                elif there is not None:
                    assert min(there) < 1 or max(there) > 31
    assert seen > 150


def test_a_mosaics_point_and_chance():
    view, rng = RandomView(40, 60, 8), np.random.default_rng(0)
    image, annotations = rectangle(rng, 50, 50)
    never = Mosaic(view, Rectangles(), 0.0)
    first, second = (crop(image, np.random.default_rng(7), **annotations) for crop in (never, never))
    np.testing.assert_array_equal(first["image"], second["image"])
    for _ in range(30):
        example = Mosaic(view, Rectangles(), 1.0, centre=(0.05, 0.9))(image, rng, **annotations)
        assert example["image"].shape == (40, 60, 3) and (example["boxes"] <= [60, 40, 60, 40]).all()
    made = sum((Mosaic(view, Rectangles(), 0.3)(image, rng, **annotations)["extent"] == [40, 60]).all()
               for _ in range(200))
    assert 35 < made < 85  # 60, and six and a half the deviation


def test_a_mosaic_is_the_records_own_picture_and_others():
    """The record is blue, all others are not: about a quarter of the canvas."""
    image = np.zeros((30, 30, 3), np.uint8)
    image[..., 2] = 255
    rng, crop = np.random.default_rng(0), Mosaic(RandomView(32, 32, 8), Rectangles(), 1.0, centre=(0.5, 0.5))
    places = []
    for _ in range(60):
        blue = crop(image, rng)["image"].astype(int)
        blue = (blue[..., 2] > 200) & (blue[..., 0] < 50)
        assert blue.sum() == 256
        places.append(tuple(np.argwhere(blue)[0]))
    assert set(places) == {(0, 0), (0, 16), (16, 0), (16, 16)}


def test_where_no_other_can_be_read_places_stay_grey():
    class Unreadable(Rectangles):
        def __getitem__(self, index):
            raise OSError("gone")

    image, annotations = rectangle(np.random.default_rng(0), 40, 40)
    example = Mosaic(RandomView(32, 32, 4, (1.0, 1.0)), Unreadable(), 1.0, (0.5, 0.5))(
        image, np.random.default_rng(0), **annotations)
    assert (example["image"] == [124, 116, 104]).all(-1).sum() == 3 * 256


def test_boxes_stay_where_their_middle_is():
    """A part from (x, y) = (10, 20) to (50, 40)."""
    corners = np.float32([
        [0, 20, 20, 40],  # its middle is on the border at the left, which belongs to the part
        [0, 20, 19, 40],  # half a pixel before it
        [40, 25, 60, 30],  # its middle is on the border at the right, which does not
        [40, 25, 59, 30],
        [20, 0, 30, 41],  # its middle is above
        [5, 10, 70, 50],  # more than all of the part
    ])
    others = np.arange(6, dtype=np.int32), np.array([False, True] * 3)
    boxes, labels, difficult = inside((corners, *others), (20, 10, 20, 40))
    assert labels.tolist() == [0, 3, 4, 5] and difficult.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(boxes, [[0, 0, 10, 20], [30, 5, 40, 10], [10, 0, 20, 20], [0, 0, 40, 20]])


def test_the_mirror_image_twice_is_the_image():
    picture, found = gradient(9, 14), (np.float32([[1, 2, 5.5, 7]]), np.int32([4]), np.array([True]))
    once = mirrored(picture, found)
    np.testing.assert_array_equal(once[1][0], [[8.5, 2, 13, 7]])
    twice = mirrored(*once)
    np.testing.assert_array_equal(twice[0], picture)
    np.testing.assert_array_equal(twice[1][0], found[0])


def test_the_largest_boxes_are_kept_and_those_that_count_before_the_others():
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 30, 30], [0, 0, 10, 10], [0, 0, 20, 20], [0, 0, 5, 5]])
    annotations = {"boxes": boxes, "box_label": np.arange(5, dtype=np.int32),
                   "box_difficult": np.array([False, True, False, False, False])}
    image = np.zeros((32, 32, 3), np.uint8)
    for most, kept in ((2, [2, 3]), (3, [2, 3, 4]), (5, [0, 1, 2, 3, 4])):
        example = Letterbox(32, 32, most)(image, **annotations)
        assert example["box_label"].tolist() == kept and example["box_mask"].all()
        np.testing.assert_array_equal(example["boxes"], boxes[kept])
    many = np.repeat(boxes, 1000, 0)
    example = RandomView(32, 32, 7)(image, np.random.default_rng(0), boxes=many, box_label=np.zeros(5000, np.int32),
                                    box_difficult=np.zeros(5000, bool))
    assert example["boxes"].shape == (7, 4) and example["box_mask"].all()


def test_a_training_box_of_less_than_a_pixel_is_gone():
    annotations = {"boxes": np.float32([[10, 10, 17, 90], [10, 10, 19, 90]]), "box_label": np.int32([0, 1]),
                   "box_difficult": np.zeros(2, bool)}
    example = RandomView(16, 16, 3, (1.0, 1.0))(np.zeros((128, 128, 3), np.uint8), np.random.default_rng(0),
                                                **annotations)
    assert example["box_label"][example["box_mask"]].tolist() == [1]


def test_pictures_are_shown_smaller_down_to_zoom_out():
    image, rng = np.zeros((40, 60, 3), np.uint8), np.random.default_rng(0)
    crop = RandomView(80, 80, 1, (1.0, 1.0), zoom_out=0.25)
    widths = np.array([crop(image, rng)["extent"][1] for _ in range(200)])
    # Log-uniform in [20, 80]: half of them below 40, with a deviation of 7.
    assert widths.min() < 22 and widths.max() > 76 and 65 < (widths < 40).sum() < 135


@pytest.mark.parametrize("crop", [Letterbox(20, 30, 5), RandomView(20, 30, 5, zoom_out=0.5),
                                  Mosaic(RandomView(20, 30, 5), open_scenes("boxes", train=3, test=1).train, 0.5)])
def test_fields_and_pickles(crop):
    record = open_scenes("boxes", train=4, test=1).train[2]
    annotations = {name: record[name] for name in ("boxes", "box_label", "box_difficult")}
    for _ in range(4):
        first, second = (c(record["image"], np.random.default_rng(5), **annotations)
                         for c in (crop, pickle.loads(pickle.dumps(crop))))
    blank = crop(np.zeros((1, 1, 1), np.uint8), np.random.default_rng(0))
    assert set(first) == set(blank) and not any(blank["box_mask"]) or isinstance(crop, Mosaic)
    kinds = {"image": ((20, 30, 3), np.uint8), "extent": ((2,), np.float32), "scale": ((), np.float32),
             "boxes": ((5, 4), np.float32), "box_label": ((5,), np.int32), "box_difficult": ((5,), bool),
             "box_mask": ((5,), bool)}
    for example in (first, blank):
        assert {name: (value.shape, value.dtype) for name, value in example.items()} == {
            name: (shape, np.dtype(dtype)) for name, (shape, dtype) in kinds.items()}
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_a_large_jpeg_is_decoded_small_with_its_boxes():
    """Decoded at an eighth; a rectangle of blocks of 8 pixels has nothing to lose."""
    image = np.zeros((1600, 1200, 3), np.uint8)
    image[400:960, 320:640] = 255
    annotations = {"boxes": np.float32([[320, 400, 640, 960]]), "box_label": np.int32([0]),
                   "box_difficult": np.array([False])}
    encoded = encode(image, "JPEG", quality=95)
    for crop in (Letterbox(96, 96, 1), RandomView(64, 64, 1, (1.0, 1.0), flip=False)):
        example = crop(encoded, np.random.default_rng(0), **annotations)
        h, w = example["extent"].astype(int)
        np.testing.assert_allclose(example["boxes"][0], found_box(example["image"][:h, :w, 0]), atol=FOUND)


def test_a_picture_as_large_as_the_canvas_is_itself():
    record = open_scenes("boxes", train=1, test=1).train[0]
    example = Letterbox(96, 96, 5)(record["image"])
    np.testing.assert_array_equal(example["image"], record["image"])
    assert example["scale"] == 1


def test_grey_pictures():
    image, annotations = rectangle(np.random.default_rng(0), 30, 50)
    example = Letterbox(40, 40, 1, channels=1)(image[..., :1], **annotations)
    assert example["image"].shape == (40, 40, 1) and (example["image"][24:] == 128).all()


@pytest.mark.parametrize("make, words", [
    (lambda: Letterbox(0, 4, 1), "at least 1, got 0, 4, 1"), (lambda: Letterbox(4, 4, 0), "got 4, 4, 0"),
    (lambda: Letterbox(4, 4, 1, "nearest"), "nearest.*allowed: bicubic, bilinear"),
    (lambda: Letterbox(4, 4, 1, channels=2), "got 2"),
    (lambda: RandomView(4, 4, 1, crop_scale=(0, 1)), r"crop_scale.*\(0, 1\)"),
    (lambda: RandomView(4, 4, 1, ratio=(1.5, 2)), r"ratio.*\(1.5, 2\)"),
    (lambda: RandomView(4, 4, 1, zoom_out=1.5), "zoom_out.*1.5"),
    (lambda: Letterbox(4, 4, 1, sides=(5, 4)), r"1 <= short <= long, got \(5, 4\)"),
    (lambda: Mosaic(RandomView(4, 4, 1, sides=(4, 4)), Rectangles()), r"sides must be None, got \(4, 4\)"),
    (lambda: Mosaic(RandomView(4, 4, 1), Rectangles(), 1.1), "chance.*1.1"),
    (lambda: Mosaic(RandomView(4, 4, 1), Rectangles(), centre=(0, 0.5)), "centre.*0, 0.5"),
    (lambda: Mosaic(RandomView(1, 4, 1), Rectangles()), "1 x 4")])
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_to_original_for_any_number_of_axes():
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(to_original(boxes, np.float32([2, 0.5])),
                                  np.stack([boxes[0] / 2, boxes[1] * 2]))
    np.testing.assert_array_equal(to_original(boxes[:, 0], np.float32([2, 0.5])),
                                  np.stack([boxes[0, 0] / 2, boxes[1, 0] * 2]))


def test_annotations_of_some_pictures():
    pictures = [{"boxes": np.full((n, 4), n, np.float32), "box_label": np.full(n, n, np.int32),
                 "box_difficult": np.arange(n) % 2 == 1} for n in (2, 0, 3)]
    every = gather(pictures, np.array([[4, 5], [6, 7], [8, 9]]))
    some = every.take(np.array([2, 1]))
    assert every.counts.tolist() == [2, 0, 3] and some.counts.tolist() == [3, 0] and len(some) == 2
    assert some.extents.tolist() == [[8, 9], [6, 7]]
    for name, value in every[2].items():
        np.testing.assert_array_equal(some[0][name], value)
    assert len(every.take(np.array([], int))) == 0 and every[1]["boxes"].shape == (0, 4)
    with pytest.raises(IndexError):
        every[3]
