"""Has self-distillation collapsed? What a DINO teacher's answers say about it.

A teacher that answers every image alike teaches nothing (Caron et al. 2021, sec. 5.3 and fig. 7,
https://arxiv.org/abs/2104.14294). Without centring one prototype takes all: the entropy of the answers falls to 0.
Without sharpening the answers become uniform: entropy and loss stay at ln K. Either way the entropy of the mean answer,
less the mean entropy of the answers, is 0: that difference is what an answer tells about its image, in nats.
"""

import math
from collections.abc import Mapping
from typing import Any

NEAR = 0.01  # share of ln K that counts as "at" a bound
MOST = 0.5  # share of a batch on one prototype that no data of many kinds explains


class CollapseGuard:
    """Judges the means of logged windows: `warning` is one line while all is not well, None while it is.

    out_dim: K, the number of prototypes. patience: windows in a row that must look collapsed before it is said; at
    random parameters all answers are nearly alike, too. stop: whether a collapse ends the run.
    Reads `loss`, `teacher_entropy`, `kl_to_uniform` (ln K less the entropy of the batch's mean answer) and
    `top_prototype`, the share of the batch on the commonest prototype.
    """

    def __init__(self, out_dim: int, *, patience: int, stop: bool = False) -> None:
        if out_dim < 2 or patience < 1:
            raise ValueError(f"out_dim {out_dim}, patience {patience}: they must be at least 2 and 1")
        self.out_dim, self.patience, self.stop = out_dim, patience, stop
        self.windows, self.warning = 0, None

    @property
    def stopped(self) -> bool:
        """Whether the run shall end."""
        return self.stop and self.warning is not None

    def update(self, means: Mapping[str, float]) -> None:
        """Take in the means of one window; one of skipped steps alone has none (nan) and tells nothing."""
        if not math.isfinite(means["teacher_entropy"]):
            return
        reason = self._reason(means)
        self.windows = self.windows + 1 if reason else 0
        self.warning = f"collapse: {reason}" if self.windows >= self.patience else None

    def _reason(self, means: Mapping[str, float]) -> str | None:
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

    def state(self) -> dict[str, Any]:
        """What was seen, as JSON for a checkpoint."""
        return {"windows": self.windows, "warning": self.warning}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.windows, self.warning = state["windows"], state["warning"]
