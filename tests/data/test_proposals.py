"""Selective search finds plain shapes, once; its files are whole or made anew."""

from pathlib import Path

import numpy as np
import pytest

from cvjax.data.boxes import selective_search as proposals
from cvjax.data.boxes.selective_search import search_all, selective_search

pytest.importorskip("cv2").ximgproc  # noqa: B018


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Two plain rectangles on grey, with some noise."""
    picture = np.full((60, 80, 3), 128, np.int16)
    picture[10:30, 8:40], picture[35:55, 50:74] = (250, 30, 30), (20, 40, 240)
    return (picture + np.random.default_rng(0).integers(-4, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def overlap(box: tuple, boxes: np.ndarray) -> float:
    shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2] - box[0]) * (box[3] - box[1])
    return (shared / (areas - shared)).max()


def test_shapes_are_found_and_kept(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = selective_search(image, folder=tmp_path)
    assert boxes.dtype == np.float32 and boxes.shape[1] == 4 and len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes <= [80, 60, 80, 60]).all()
    assert overlap((8, 10, 40, 30), boxes) > 0.8 and overlap((50, 35, 74, 55), boxes) > 0.8
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    searched = []
    real = proposals._search
    monkeypatch.setattr(proposals, "_search", lambda *a: searched.append(a[1]) or real(*a))
    np.testing.assert_array_equal(search_all([image, image], folder=tmp_path)[1], boxes)
    np.testing.assert_array_equal(selective_search(image, max_proposals=3, folder=tmp_path), boxes[:3])
    assert not searched
    for damage in (b"", files[0].read_bytes()[:-8], b"\x00" * 200):
        files[0].write_bytes(damage)
        np.testing.assert_array_equal(selective_search(image, folder=tmp_path), boxes)
    np.save(files[0], np.zeros((2, 3), np.int32))
    np.testing.assert_array_equal(selective_search(image, folder=tmp_path), boxes)
    assert searched == ["fast"] * 4 and list(tmp_path.iterdir()) == files
    selective_search(image, "quality", folder=tmp_path)
    selective_search(image[:, ::-1], folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_no_place_to_keep_them_is_no_error(image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(selective_search(image, folder=tmp_path / "file"))


def test_what_it_does_not_take(image: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), received uint8 of shape \(60, 80\)"):
        selective_search(image[..., 0], folder=tmp_path)
    with pytest.raises(ValueError, match="mode must be one of fast, quality, received 'slow'"):
        selective_search(image, "slow", folder=tmp_path)
    with pytest.raises(ValueError, match="max_proposals must be at least 1, received 0"):
        selective_search(image, max_proposals=0, folder=tmp_path)
