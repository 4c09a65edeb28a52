"""Trainings that choose their micro-batches by the memory at hand."""

import dataclasses

import pytest

from cvjax.errors import ConfigError
from cvjax.train.layout import Layout
from cvjax.workflow import budget, fitting
from cvjax.workflow.memory import measure_memory
from experiments.wiring import plan
from experiments.wiring.plan import Room, prepare

MLP = ("supervised", "digits", "--model", "mlp", "--model-fields", "hidden=(16,)", "--batch-size", "480", "--steps",
       "20", "--log-every", "20", "--schedule", "constant")


def reckoned(accumulate):
    prepared = prepare(MLP[0], [*MLP[1:], "--accumulate", str(accumulate)])
    return measure_memory(prepared, Layout(1), "cpu").total


def test_the_least_number_of_micro_batches_is_taken_that_fits(capsys):
    needs = {parts: reckoned(parts) for parts in (1, 2, 3, 4, 480)}
    assert sorted(needs.values(), reverse=True) == list(needs.values()) and needs[1] > needs[480]
    for memory, chosen in ((needs[1], 1), (needs[1] - 1, 2), (needs[3], 3), (needs[4], 4)):
        prepared = prepare(MLP[0], [*MLP[1:], "--fit"], Room(1, memory, "cpu"))
        assert prepared.config.accumulate == chosen
        assert f"--fit: --accumulate {chosen}, {480 // chosen} of 480 images at a time" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--fit: 1 images at a time take .* try --shard fsdp"):
        prepare(MLP[0], [*MLP[1:], "--fit"], Room(1, needs[480] - 1, "cpu"))


def test_norms_of_groups_stay_whole():
    config = prepare("supervised", ["resnet50", "--model", "resnet20", "--model-fields", "width=8", "depths=(1,)",
                                    "--image-size", "32", "--data", "blank:512,40,10"]).config
    assert config.batch_size == 256 and config.batch_norm_group == 32
    assert fitting._choices(config, 1) == [1, 2, 4, 8]
    assert fitting._choices(dataclasses.replace(config, accumulate=2), 4) == [2, 4, 8]


def test_a_training_says_what_it_chose_and_learns_the_same_as_by_hand(command, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "memory_here", lambda: reckoned(4))
    numbers = []
    for name, options in (("fit", ("--fit",)), ("hand", ("--accumulate", 4))):
        done = command(*MLP, *options, "--parallel", "pmap", "--run-dir", tmp_path / name)
        assert done.status == 0, done.err
        assert ("--fit: --accumulate 4, 120 of 480 images" in done.out) == (name == "fit")
        numbers.append((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0].partition('"loss"')[2])
    assert numbers[0] == numbers[1]


def test_a_plan_fits_the_device_that_it_is_for(capsys):
    plan.run(plan.Config(device="t4", devices=1, compile=False),
             ["supervised", "deit_small", "--fit", "--batch-size", "256", "--model-fields", "depth=2"])
    out = capsys.readouterr().out
    assert "--fit: --accumulate " in out and "of 13.60 GB" in out and "TOO MUCH" not in out


def test_there_is_memory_here():
    assert 2**28 < fitting.memory_here() < 2**50
