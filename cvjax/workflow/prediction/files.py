"""The files that answers are written to: one of JSON lines, one table, label maps, and copies with answers on them."""

import contextlib
import csv
import json
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from PIL import Image

from cvjax.errors import DataError
from cvjax.text import name_as_text, naming, open_text
from cvjax.workflow.frozen.pictures import write_label_map
from cvjax.workflow.prediction.answers import Answer, LabelMap
from cvjax.workflow.prediction.pictures import Found, Frame

LINES, TABLE, DRAWN, LABEL_MAPS = "predictions.jsonl", "predictions.csv", "drawn", "label_maps"


class AnswerFiles:
    """A folder of answers, each written as it comes; a context. draws: whether copies of the pictures are drawn.

    `predictions.jsonl` has a line for each picture, `predictions.csv` a row for each thing said, `label_maps/` a PNG of
    class numbers for each segmented picture, and `drawn/` a JPEG for each picture and an MP4 for each video. Numbers
    have all their digits: read as float32 they are those of the answer.
    """

    def __init__(self, folder: Path, draws: bool) -> None:
        self.folder, self._draws = folder, draws
        self._open = contextlib.ExitStack()
        self._lines: TextIO | None = None
        self._table: Any = None
        self._video: tuple[Path, cv2.VideoWriter] | None = None

    def __enter__(self) -> "AnswerFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_video()
        self._open.close()

    def add(self, found: Found, answer: Answer, picture: np.ndarray | None, frame: Frame | None = None,
            every: int = 1) -> None:
        """Write an answer to a picture, or to a frame of a video.

        picture: uint8 `(H, W, 3)`, if copies are drawn. every: of how many frames of the video this is one.
        """
        if self._lines is None:
            self._begin(answer)
        assert self._lines is not None and self._table is not None
        said: dict[str, Any] = {"file": name_as_text(str(found.path))}
        if frame is not None:
            said |= {"frame": frame.number, "seconds": frame.seconds}
        said |= answer.as_json()
        if isinstance(answer, LabelMap):
            path = self._place(LABEL_MAPS, found, ".png", frame)
            write_label_map(path, answer.labels)
            said["label_map"] = name_as_text(path.relative_to(self.folder).as_posix())
        self._lines.write(json.dumps(said) + "\n")
        self._table.writerows([said["file"], said.get("frame", ""), *row] for row in answer.rows())
        if self._draws:
            assert picture is not None
            self._draw(found, answer.drawn(picture), frame, every)

    def _begin(self, answer: Answer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = self._open.enter_context(open_text(self.folder / LINES, "w"))
        self._table = csv.writer(self._open.enter_context(open_text(self.folder / TABLE, "w")))
        self._table.writerow(["file", "frame", *answer.COLUMNS])

    def _draw(self, found: Found, drawn: np.ndarray, frame: Frame | None, every: int) -> None:
        if frame is None:
            path = self._place(DRAWN, found, ".jpg")
            with naming(path):
                Image.fromarray(drawn).save(path, format="JPEG", quality=90)
            return
        path = self._place(DRAWN, found, ".mp4")
        height, width = (side - side % 2 for side in drawn.shape[:2])  # its codec takes even sides
        if self._video is None or self._video[0] != path:
            self._end_video()
            self._video = path, cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frame.rate / every,
                                                (width, height))
            self._size = width, height
            if not self._video[1].isOpened():
                raise DataError(f"{path}: OpenCV cannot write it here; --no-draw leaves drawn copies out")
        resized = drawn[:height, :width] if (width, height) == self._size else cv2.resize(drawn, self._size)
        self._video[1].write(np.ascontiguousarray(resized[:, :, ::-1]))

    def _end_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
            self._video = None

    def _place(self, kind: str, found: Found, ending: str, frame: Frame | None = None) -> Path:
        """The place of a result: the picture's own name, and behind it the ending unless it has that one."""
        path = self.folder / kind / found.place
        if frame is not None:
            path = path / f"{frame.number:06}{ending}"
        elif path.suffix.lower() not in (ending, ".jpeg" if ending == ".jpg" else ending):
            path = path.with_name(path.name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
