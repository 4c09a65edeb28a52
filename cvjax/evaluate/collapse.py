"""Has self-supervised learning collapsed? What the logged means say about it.

A network that answers every image alike has learnt nothing, however small its loss is. `CollapseGuard` counts the
logged windows that look like that; how a collapse looks depends on the method.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

NEAR = 0.01  # share of ln K that counts as "at" a bound
MOST = 0.5  # share of a batch on one prototype that no data of many kinds explains
LEAST = 0.5  # share of 1 / sqrt(D) below which projections are no longer spread; healthy ones have more than 0.95


class CollapseGuard(ABC):
    """Judges the means of logged windows: `warning` is one line while the training looks collapsed, else None.

    patience: how many windows in a row must look collapsed before the warning; with random parameters, too, all answers
    may be nearly alike. stop: whether a collapse ends the run.
    """

    sign: ClassVar[str]
    """The metric that is not finite when all steps of a window were skipped."""

    def __init__(self, *, patience: int, stop: bool = False) -> None:
        self.patience, self.stop = patience, stop
        self.windows, self.warning = 0, None

    @abstractmethod
    def reason(self, means: Mapping[str, float]) -> str | None:
        """Why a window looks collapsed, in one line; None where it does not."""

    @property
    def stopped(self) -> bool:
        """Whether the run shall end."""
        return self.stop and self.warning is not None

    def update(self, means: Mapping[str, float]) -> None:
        """Take in the means of one window; a window of skipped steps only has no means (nan) and is left out."""
        if not math.isfinite(means[self.sign]):
            return
        reason = self.reason(means)
        self.windows = self.windows + 1 if reason else 0
        self.warning = f"collapse: {reason}" if self.windows >= self.patience else None

    def state(self) -> dict[str, Any]:
        """What was seen, as JSON for a checkpoint."""
        return {"windows": self.windows, "warning": self.warning}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.windows, self.warning = state["windows"], state["warning"]


class TeacherGuard(CollapseGuard):
    """DINO's teacher (Caron et al. 2021, sec. 5.3 and fig. 7, https://arxiv.org/abs/2104.14294).

    Without centring one prototype takes all: the entropy of the answers falls to 0. Without sharpening the answers
    become uniform: entropy and loss stay at ln K. Either way the entropy of the mean answer, less the mean entropy of
    the answers, is 0: that difference is what an answer tells about its image, in nats.

    out_dim: K, the number of prototypes.
    Reads `loss`, `teacher_entropy`, `kl_to_uniform` (ln K less the entropy of the batch's mean answer) and
    `top_prototype`, the share of the batch on the commonest prototype.
    """

    sign = "teacher_entropy"

    def __init__(self, out_dim: int, *, patience: int, stop: bool = False) -> None:
        if out_dim < 2 or patience < 1:
            raise ValueError(f"out_dim {out_dim}, patience {patience}: they must be at least 2 and 1")
        super().__init__(patience=patience, stop=stop)
        self.out_dim = out_dim

    def reason(self, means: Mapping[str, float]) -> str | None:
        largest = math.log(self.out_dim)
        entropy, spread = means["teacher_entropy"], largest - means["kl_to_uniform"]
        if entropy > (1 - NEAR) * largest and means["loss"] > (1 - NEAR) * largest:
            return (f"loss at ln({self.out_dim}) and the teacher's answers are uniform; a lower teacher temperature "
                    "sharpens them")
        if entropy < NEAR * largest and means["top_prototype"] > MOST:
            return (f"the teacher's entropy is 0 and one prototype takes {means['top_prototype']:.0%} of the images; "
                    "centring works against that")
        if spread - entropy < NEAR * NEAR * largest:
            return "the teacher answers every image alike"
        return None


class ProjectionGuard(CollapseGuard):
    """SimSiam's projections (Chen and He 2021, sec. 4.1 and fig. 2, https://arxiv.org/abs/2011.10566).

    The deviation of a channel of projections, scaled to length 1, is about 1 / sqrt(D) when their directions are spread
    and falls towards 0 when they become alike.

    dim: D, the width of a projection. Reads `projection_std`, that deviation.
    """

    sign = "projection_std"

    def __init__(self, dim: int, *, patience: int, stop: bool = False) -> None:
        if dim < 1 or patience < 1:
            raise ValueError(f"dim {dim}, patience {patience}: they must be at least 1")
        super().__init__(patience=patience, stop=stop)
        self.dim = dim

    def reason(self, means: Mapping[str, float]) -> str | None:
        share = means["projection_std"] * math.sqrt(self.dim)
        if share < LEAST:
            return f"the deviation of the projections is {share:.2f} of 1 / sqrt({self.dim}): images become alike"
        return None
