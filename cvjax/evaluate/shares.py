"""Which metrics are shares, and how a person reads a metric: a share in percent, any other number as it is."""

import math
import re

from cvjax.evaluate.protocol import PROBES

# Names that a metric of a share has in its first two parts, such as `test/top1`, `iou/sky` and `colour/miou`.
_SHARES = re.compile(r"(top\d+|ece|miou|iou|pixel_accuracy|mean_accuracy|accuracy|boundary_f|ap(\d+)?(_11point)?|map|f1"
                     r"|precision|recall|input_wait|skipped)(_mean|_std)?( of each class)?"
                     r"|jaccard|(jf|j|f)_(mean|recall|decay)")


def is_share(metric: str) -> bool:
    """Whether a metric, or a column of a table, is a share of 1: `test/top1` and `knn/dino/k=20` are, `test/loss` is
    not."""
    kind, *rest = metric.split("/")
    if kind in PROBES:
        return rest[-1:] != ["loss"]
    return any(_SHARES.fullmatch(part) for part in (kind, *rest[:1]))


def in_words(metric: str, value: float | None) -> str:
    """A metric's value: `81.11 %` of a share, else four digits; what is not finite or missing is said to be."""
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{100 * value:.2f} %" if is_share(metric) else f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
