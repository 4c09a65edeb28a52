"""Protocols read from summaries: the keys that belong to one, and those that only name the encoder."""

import pytest

from cvjax.evaluate.protocol import column_of, differences, protocol_of

SUMMARY = {
    "metrics": {name: 0.5 for name in (
        "test/loss", "knn/dino", "knn/dino/k=20", "knn/pixels", "linear_probe/dino", "few_shot/dino/shots=1",
        "few_shot/dino/shots=5", "few_shot/dino/shots=5/deviation")},
    "protocol": {
        "seed": 3,
        "data": {"fingerprint": "ab", "classes": 10},
        "images": {"size": 8, "crop": None},
        "features": {"dino": {"pool": "token", "knn_blocks": 1, "linear_probe_blocks": 4, "few_shot_blocks": 3},
                     "pixels": {"features": "raw pixels"}},
        "knn": {"k": 10, "ks": [10, 20], "temperature": 0.07},
        "linear_probe": {"form": "sweep", "augmentation": {"flip": True}, "learning_rates": [0.1, 1.0]},
        "few_shot": {"shots=1": {"shots": 1, "l2s": [1024.0]}, "shots=5": {"shots": 5, "l2s": [1.0, 4.0]}},
        "chosen": {"linear_probe": {"dino": {"learning_rate": 0.1}}},
        "encoders": {"dino": {"checkpoint": "runs/a", "step": "latest"}},
    },
}
SHARED = {"data/fingerprint": "ab", "data/classes": 10, "images/size": 8, "images/crop": None}


@pytest.mark.parametrize("metric, own", [
    ("knn/dino", {"knn/k": 10, "knn/temperature": 0.07, "features/pool": "token", "features/blocks": 1}),
    ("knn/dino/k=20", {"knn/k": 20, "knn/temperature": 0.07, "features/pool": "token", "features/blocks": 1}),
    ("knn/pixels", {"knn/k": 10, "knn/temperature": 0.07, "features/features": "raw pixels"}),
    ("linear_probe/dino", {"linear_probe/form": "sweep", "linear_probe/augmentation/flip": True,
                           "linear_probe/learning_rates": [0.1, 1.0], "features/pool": "token", "features/blocks": 4}),
    ("few_shot/dino/shots=1", {"few_shot/shots": 1, "few_shot/l2s": [1024.0], "features/pool": "token",
                               "features/blocks": 3}),
    ("few_shot/dino/shots=5/deviation", {"few_shot/shots": 5, "few_shot/l2s": [1.0, 4.0], "features/pool": "token",
                                         "features/blocks": 3}),
    ("test/loss", {}),
])
def test_a_metric_has_its_kinds_protocol_its_features_and_what_is_shared_and_nothing_else(metric, own):
    assert protocol_of(SUMMARY, metric) == own | SHARED


def test_neither_seed_nor_what_was_chosen_nor_the_encoders_name_makes_a_difference():
    other = {"metrics": {"linear_probe/mae": 0.1, "knn/mae": 0.2}, "protocol": SUMMARY["protocol"] | {
        "seed": 4, "chosen": {"linear_probe": {"mae": {"learning_rate": 1.0}}}, "encoders": {"mae": {"step": "best"}},
        "features": {"mae": SUMMARY["protocol"]["features"]["dino"]},
        "knn": SUMMARY["protocol"]["knn"] | {"ks": [10, 20, 100]}}}
    for kind in ("linear_probe", "knn"):
        assert protocol_of(other, f"{kind}/mae") == protocol_of(SUMMARY, f"{kind}/dino")


def test_metrics_without_a_part_of_their_own_have_the_plain_values_and_the_configurations_data():
    summary = {"metrics": {"test/top1": 0.5, "test/loss": 1.0}, "protocol": {
        "pretrained": "file.pth", "image_size": 32, "parameters": 7, "training_images": 9, "chosen_by": "last step"}}
    config = {"experiment": "supervised", "data": "digits", "seed": 0, "epochs": 3}
    expected = {"image_size": 32, "chosen_by": "last step", "data/name": "digits"}
    assert protocol_of(summary, "test/top1", config) == expected
    assert protocol_of(summary, "test/loss", config) == expected | {"experiment": "supervised"}
    assert protocol_of(summary, "test/top1") == {"image_size": 32, "chosen_by": "last step"}
    assert "data/name" not in protocol_of(SUMMARY, "test/loss", config), "the part says more than a name"


def test_a_metric_that_is_not_there():
    with pytest.raises(KeyError, match="knn/mae"):
        protocol_of(SUMMARY, "knn/mae")


@pytest.mark.parametrize("metric, column", [
    ("knn/dino", "knn"), ("knn/mae/k=20", "knn/k=20"), ("knn/random", "knn/random"),
    ("knn/pixels/k=20", "knn/pixels/k=20"), ("linear_probe/supervised", "linear_probe"),
    ("few_shot/dino/shots=5/deviation", "few_shot/shots=5/deviation"), ("test/top1", "test/top1"),
    ("collapsed", "collapsed"),
])
def test_columns_leave_the_encoders_name_out(metric, column):
    assert column_of(metric) == column


def test_differences_name_keys_values_and_runs():
    found = differences({"a": {"k": 10, "x": [1], "pool": "avg"}, "b": {"k": 20, "x": [1], "pool": "avg"},
                         "c": {"k": 10, "x": [1]}})
    assert found == {"k": {"10": ["a", "c"], "20": ["b"]}, "pool": {"avg": ["a", "b"], "not recorded": ["c"]}}
    assert differences({"a": {"k": 1}, "b": {"k": 1}}) == {}
