"""Early stopping: when has a validation metric stopped getting better?"""

import dataclasses
import math
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """The rule (patience, mode, min_delta) and its state (best, waited).

    patience: stop after this many evaluations in a row without improvement, at least 1. mode: "min" when smaller is
    better, "max" when larger is. min_delta: 0 or more; a value improves when it is better than the best by more than
    this. Source: Prechelt 1998, sec. 2.2 (https://doi.org/10.1007/3-540-49430-8_3), criterion UP, except that values
    are compared with the best one, not the one before.

    Raises ValueError for a rule that is not allowed. flax.training.early_stopping is not used: it only minimises, stops
    one evaluation later, and after a first value of nan no other value improves on it.
    """

    patience: int
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    best: float | None = None  # None before the first finite value
    waited: int = 0  # evaluations since the best

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience {self.patience}: it must be at least 1")
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode {self.mode!r}: it must be 'min' or 'max'")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta {self.min_delta}: it must be 0 or more")

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    def update(self, value: float) -> "EarlyStopping":
        """The rule after an evaluation that gave `value`; nan and inf are no improvement."""
        value = float(value)
        sign = 1.0 if self.mode == "min" else -1.0
        improves = math.isfinite(value) and (self.best is None or sign * (self.best - value) > self.min_delta)
        return dataclasses.replace(self, **({"best": value, "waited": 0} if improves else {"waited": self.waited + 1}))

    def state(self) -> dict[str, Any]:
        """The state as JSON for a checkpoint; `dataclasses.replace(rule, **state)` resumes from it."""
        return {"best": self.best, "waited": self.waited}
