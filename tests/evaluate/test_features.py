import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate import extract_features


def batch(start, rows, real):
    label = np.arange(start, start + rows)
    image = np.broadcast_to(np.float32(label)[:, None, None, None], (rows, 2, 2, 1))
    return {"image": image, "label": label, "mask": np.arange(rows) < real}


@jax.jit
def apply(batch):
    return batch["image"].reshape(len(batch["image"]), -1)[:, :3] * jnp.array([1, 10, 100])


@pytest.mark.parametrize("desc", [None, "features"])
def test_rows_come_in_order_without_padding(desc, monkeypatch):
    bars = []
    monkeypatch.setattr("cvjax.evaluate.features.tqdm", lambda batches, desc, **options: bars.append(desc) or batches)
    features, labels = extract_features(apply, [batch(0, 4, 4), batch(4, 4, 2)], desc=desc)
    np.testing.assert_array_equal(labels, np.arange(6))
    np.testing.assert_array_equal(features, np.arange(6)[:, None] * np.array([[1, 10, 100]]))
    assert (features.dtype, labels.dtype) == (np.float32, np.int32)
    assert bars == [desc] * (desc is not None)


def test_low_precision_features_become_float32():
    features, _ = extract_features(lambda b: apply(b).astype(jnp.bfloat16), [batch(0, 2, 2)])
    assert features.dtype == np.float32


def test_errors_say_what_came():
    with pytest.raises(ValueError, match="empty"):
        extract_features(apply, [])
    with pytest.raises(ValueError, match="padding"):
        extract_features(apply, [batch(0, 4, 0)])
    with pytest.raises(ValueError, match=r"\(B=4, D\), received shape \(4, 2, 2, 1\)"):
        extract_features(lambda b: b["image"], [batch(0, 4, 4)])
