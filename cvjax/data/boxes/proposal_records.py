"""Proposals beside the boxes of a record: they go through the same geometry, because they travel as boxes.

`with_proposals` adds them to a source's records as boxes without a class, which crops and mosaics move, cut and drop by
their own rules; `SplitProposals` around the crop takes them apart again. The fields of an example, for P proposals:

    proposals float32 (P, 4) in canvas pixels, proposal_mask bool (P,): False on rows that pad, which are 0.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvjax.data.boxes.annotations import BoxAnnotations, BoxSource
from cvjax.data.boxes.canvas import padded
from cvjax.data.boxes.selective_search import search_all
from cvjax.data.dataset import Dataset, Source, fingerprint
from cvjax.data.decode import DecodeError, decode
from cvjax.data.pipeline import Crop

_NO_CLASS = -1


@dataclasses.dataclass(frozen=True)
class ProposalSource:
    """A source of boxes whose records have proposals among them, of class -1 and difficult.

    A crop that has more boxes than it may keep drops difficult ones first, so no object is lost to a proposal.

    Attributes:
        source: the records.
        proposals: float32 `(T, 4)`, in pixels of the pictures, those of record i in rows `starts[i]` to
            `starts[i + 1]`.
        starts: int `(N + 1,)`.
    """

    source: BoxSource
    proposals: np.ndarray
    starts: np.ndarray

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def labels(self) -> np.ndarray | None:
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.source.fingerprint, self.proposals, self.starts])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        record, found = self.source[index], without_class(self.proposals_of(index))
        return record | {name: np.concatenate([record[name], column]) for name, column in found.items()}

    def proposals_of(self, index: int) -> np.ndarray:
        """float32 `(n, 4)`, best first."""
        return self.proposals[self.starts[index]:self.starts[index + 1]]

    def ground_truth(self) -> BoxAnnotations:
        """The boxes of all records, by position; no proposals."""
        return self.source.ground_truth()

    def name(self, index: int) -> str:
        return self.source.name(index)

    def take(self, positions: np.ndarray) -> "ProposalSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return joined(self.source.take(positions), [self.proposals_of(i) for i in positions])


@dataclasses.dataclass(frozen=True)
class SplitProposals:
    """`crop`, and then boxes without a class as proposals.

    Attributes:
        crop: keeps `max_boxes + max_proposals` boxes.
        max_boxes, max_proposals: rows of each; if there are more, the largest are kept, in their order.
    """

    crop: Crop
    max_boxes: int
    max_proposals: int

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator, **annotations: np.ndarray
                 ) -> dict[str, np.ndarray]:
        fields = self.crop(image, rng, **annotations)
        assert isinstance(fields, dict), "a crop of boxes gives fields"
        boxes, labels, difficult, there = map(fields.pop, ("boxes", "box_label", "box_difficult", "box_mask"))
        proposal = labels == _NO_CLASS
        objects, proposals = (padded((boxes[rows], labels[rows], difficult[rows]), count) for rows, count in
                              ((there & ~proposal, self.max_boxes), (there & proposal, self.max_proposals)))
        return fields | objects | {"proposals": proposals["boxes"], "proposal_mask": proposals["box_mask"]}


def without_class(proposals: np.ndarray) -> dict[str, np.ndarray]:
    """Proposals float32 `(n, 4)` as the annotations of a record, in a form that `SplitProposals` recognises."""
    return {"boxes": proposals, "box_label": np.full(len(proposals), _NO_CLASS, np.int32),
            "box_difficult": np.ones(len(proposals), bool)}


def joined(source: BoxSource, proposals: Sequence[np.ndarray]) -> ProposalSource:
    """A source and the proposals of each of its records, float `(n, 4)`.

    Raises:
        ValueError: if there are not as many as records.
    """
    if len(proposals) != len(source):
        raise ValueError(f"there must be proposals for each of {len(source)} records, received {len(proposals)}")
    starts = np.concatenate([[0], np.cumsum([len(boxes) for boxes in proposals])])
    return ProposalSource(source, np.concatenate([np.zeros((0, 4)), *proposals]).astype(np.float32), starts)


def with_proposals(dataset: Dataset, mode: str = "fast", *, max_proposals: int, folder: Path | None = None) -> Dataset:
    """The data set with selective search's boxes in the records of all its parts; see `search_all`.

    In place of a picture that cannot be read, a grey pixel is searched; no batch will show it.
    """
    def searched(source: BoxSource | None) -> ProposalSource | None:
        if source is None:
            return None
        images = (_picture(source, i) for i in range(len(source)))
        return joined(source, search_all(images, mode, max_proposals=max_proposals, folder=folder, total=len(source)))

    return dataclasses.replace(dataset, **{part: searched(getattr(dataset, part)) for part in
                                           ("train", "validation", "test")})


def _picture(source: Source, index: int) -> np.ndarray:
    """uint8 `(H, W, 3)`; a grey pixel for one that cannot be read."""
    try:
        return decode(source[index]["image"])
    except (DecodeError, OSError):
        return np.full((1, 1, 3), 128, np.uint8)
