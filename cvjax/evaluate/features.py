"""Run a frozen network over a data set and keep the features of each example."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from tqdm import tqdm


def extract_features(
    apply: Callable[[Mapping[str, np.ndarray]], jax.Array],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    desc: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of every real example, in the order the batches come.

    Args:
      apply: an (already jitted) function from a batch to features `(B, D)` of any float type.
      batches: dicts with `image`, `label` int `(B,)` or float `(B, K)`, and `mask` bool `(B,)`; rows where `mask` is
        False are padding and are dropped.
      desc: a name for the progress bar; None shows no bar.

    Returns:
      features float32 `(N, D)` and labels int32 `(N,)`, or float `(N, K)` as they come, NumPy arrays on the host.

    Raises:
      ValueError: no batch came, every row was padding, or `apply` did not return `(B, D)`.
    """
    if desc is not None:
        batches = tqdm(batches, desc=desc, unit="batch", delay=2)
    features, labels, pending = [], [], None
    for batch in batches:
        label, mask = np.asarray(batch["label"]), np.asarray(batch["mask"], bool)
        output = apply(batch)
        if output.ndim != 2 or output.shape[0] != len(label):
            raise ValueError(f"apply must return features (B={len(label)}, D), received shape {output.shape}")
        labels.append(label[mask])
        # The previous batch is fetched only after this one is dispatched, so that the device never waits.
        if pending is not None:
            features.append(_real_rows(*pending))
        pending = output, mask
    if pending is None:
        raise ValueError("batches is empty: there is nothing to extract features from")
    features.append(_real_rows(*pending))
    if not sum(map(len, labels)):
        raise ValueError("every row of every batch is padding (mask is False everywhere)")
    found = np.concatenate(labels)
    return np.concatenate(features), found.astype(np.int32) if found.ndim == 1 else found


def _real_rows(output: jax.Array, mask: np.ndarray) -> np.ndarray:
    return np.asarray(output, np.float32)[mask]
