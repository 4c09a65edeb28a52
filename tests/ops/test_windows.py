"""Windows of a map, the mask of shifted ones, and tables of relative positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.windows import (
    merge_windows,
    pad_to_multiple,
    partition_windows,
    relative_position_index,
    resize_relative_positions,
    shifted_window_mask,
)


def test_windows_are_cut_row_by_row_and_put_back() -> None:
    x = np.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3)
    windows = partition_windows(x, (3, 2))
    assert windows.shape == (2 * 2 * 4, 6, 3)
    for image in range(2):
        for row in range(2):
            for column in range(4):
                part = x[image, 3 * row:3 * row + 3, 2 * column:2 * column + 2]
                np.testing.assert_array_equal(windows[8 * image + 4 * row + column], part.reshape(6, 3))
    np.testing.assert_array_equal(merge_windows(windows, (3, 2), (6, 8)), x)
    with pytest.raises(ValueError, match="windows of 4x2 do not tile a map of 6x8: both sides must be multiples"):
        partition_windows(x, (4, 2))


def test_padding_is_zeros_below_and_to_the_right() -> None:
    x = jnp.ones((2, 5, 8, 3))
    padded = pad_to_multiple(x, (3, 4))
    assert padded.shape == (2, 6, 8, 3)
    np.testing.assert_array_equal(padded[:, :5], x)
    assert not padded[:, 5:].any()
    assert pad_to_multiple(x, (5, 2)).shape == x.shape


@pytest.mark.parametrize("size, window, shift", [
    ((8, 8), (4, 4), (2, 2)), ((6, 9), (3, 3), (1, 1)), ((4, 8), (4, 4), (0, 2)), ((10, 6), (5, 2), (2, 1)),
])
def test_shifted_windows_see_neighbours_alone(size: tuple, window: tuple, shift: tuple) -> None:
    """Two tokens see each other where they share a window of the shifted grid on an image without a wrap."""
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)[None]  # (1, H, W, 2)
    rolled = partition_windows(np.roll(places, (-shift[0], -shift[1]), axis=(1, 2)), window)
    cells = [(rolled[..., axis] + window[axis] - shift[axis]) // window[axis] for axis in (0, 1)]
    same = [cell[:, :, None] == cell[:, None, :] for cell in cells]
    mask = shifted_window_mask(size, window, shift)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, same[0] & same[1])


def test_every_offset_has_one_row() -> None:
    h, w = 3, 4
    index = relative_position_index((h, w))
    offsets = {}
    for query in range(h * w):
        for key in range(h * w):
            offset = query // w - key // w, query % w - key % w
            assert offsets.setdefault(offset, index[query, key]) == index[query, key]
    assert sorted(offsets.values()) == list(range((2 * h - 1) * (2 * w - 1)))
    assert [offsets[offset] for offset in sorted(offsets)] == list(range(len(offsets)))  # from above left onwards


def test_resized_tables_keep_centre_ends_and_constants() -> None:
    table = np.random.default_rng(0).standard_normal((5 * 5, 2)).astype(np.float32)  # windows of 3
    assert resize_relative_positions(table, (3, 3), (3, 3)) is table
    larger = resize_relative_positions(table, (3, 3), (6, 4))
    assert larger.shape == (11 * 7, 2) and larger.dtype == np.float32
    before, after = table.reshape(5, 5, 2), larger.reshape(11, 7, 2)
    np.testing.assert_allclose(after[5, 3], before[2, 2], rtol=1e-5)  # a token and itself
    np.testing.assert_allclose(after[4:7, 2:5], before[1:4, 1:4], rtol=1e-5)  # and its neighbours
    np.testing.assert_allclose(after[::10, ::6], before[::4, ::4], rtol=1e-4)  # the corners: the largest offsets
    constant = resize_relative_positions(np.full((25, 2), 1.5), (3, 3), (5, 2))
    np.testing.assert_allclose(constant, np.full((9 * 3, 2), 1.5))
    one = resize_relative_positions(table, (3, 3), (1, 1))
    np.testing.assert_allclose(one, table[12:13], rtol=1e-6)
