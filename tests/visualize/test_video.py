import numpy as np
import pytest
from PIL import Image, ImageSequence

from cvjax.visualize.heatmaps import overlay
from cvjax.visualize.video import attention_video
from tests.visualize.figures import misplaced, texts

T = 3
FRAMES = np.linspace(0, 1, T * 16).reshape(T, 4, 4, 1).astype(np.float32)
HEAT = np.zeros((T, 2, 2))
HEAT[np.arange(T), np.arange(T) // 2, np.arange(T) % 2] = 0.3


def video(path, **change):
    attention_video(path, **dict(frames=FRAMES, heatmaps={"mean": HEAT, "head 1": HEAT[::-1]}) | change)


def test_the_animation_holds_frames_and_overlays(tmp_path, saved):
    video(tmp_path / "v.gif", frames_per_second=15, title="a title")
    assert misplaced(saved[0]) == [] and texts(saved[0]) == ["a title", "frame", "mean", "head 1"]
    with Image.open(tmp_path / "v.gif") as animation:
        assert animation.format == "GIF" and animation.info["loop"] == 0 and animation.n_frames == T
        shown, times = zip(*((np.asarray(image.convert("RGB")) / 255, image.info["duration"])
                             for image in ImageSequence.Iterator(animation)))
    assert set(times) == {70}  # 6.67 hundredths of a second, in milliseconds
    big = FRAMES.repeat(36, axis=1).repeat(36, axis=2)
    top = shown[0].shape[0] - 18 - 144
    pictures = [np.broadcast_to(big, (T, 144, 144, 3)), overlay(big, HEAT), overlay(big, HEAT[::-1])]
    for time in range(T):
        for place, picture in enumerate(pictures):
            part = shown[time][top:top + 144, 18 + 150 * place:18 + 150 * place + 144]
            # 256 colours for the smooth overlays: close on the whole, exact nowhere.
            assert np.abs(part - picture[time]).mean() < 0.02
    assert np.ptp(shown[0][:4]) == 0  # paper


def test_photographs_and_few_frames(tmp_path, saved):
    frames = np.random.default_rng(0).random((1, 150, 200, 3), np.float32)
    video(tmp_path / "V.GIF", frames=frames, heatmaps={"日本語": HEAT[:1]}, title="long title " * 9)
    assert misplaced(saved[0]) == []
    with Image.open(tmp_path / "V.GIF") as animation:
        assert animation.n_frames == 1 and animation.size[0] == 2 * 206 - 6 + 36


@pytest.mark.parametrize("change, message", [
    (dict(frames=FRAMES * 255), r"images must lie in \[0, 1\]"), (dict(frames=FRAMES[:0]), "received 0 and 2"),
    (dict(heatmaps={}), "received 3 and 0"), (dict(heatmaps={"mean": HEAT[:2]}), "N = 3, received shape .2, 2, 2"),
    (dict(frames_per_second=0.5), "frames_per_second must be from 1 to 50, received 0.5"),
    (dict(frames_per_second=60), "received 60")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        video(tmp_path / "v.gif", **change)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match='path must end in ".gif", received .*v.mp4'):
        video(tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []
