"""Command lines: help at once, mistakes in one clear message, a dry run that leaves nothing behind."""

import ast
import dataclasses
import importlib
import inspect
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cvjax.workflow.config import TrainingConfig
from tests.experiments.written_runs import write_run

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "experiments").glob("*.py") if path.stem not in ("__init__", "__main__"))
EXPERIMENTS = [path.stem for path in MODULES if "\nPRESETS" in path.read_text()]
COMMANDS = [path.stem for path in MODULES if path.stem not in EXPERIMENTS]  # they leave no run behind
ON_SCENES = ("segment", "detect", "rcnn")
ON_DATA = [name for name in EXPERIMENTS if name not in ON_SCENES]  # whole images
TRAINING = ["mae_pretrain", "finetune", "supervised", "scaling"]
NOISE = 2.5  # the suite runs on every core of a machine that others may use too: time measured is not time needed


def config_of(experiment: str) -> type:
    module = importlib.import_module(f"experiments.{experiment}")
    return module.Config


@pytest.mark.parametrize("experiment", EXPERIMENTS + COMMANDS)
def test_help_comes_within_three_seconds(experiment, environment):
    seconds = []
    for _ in range(3):  # the best of three
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"experiments.{experiment}", "--help-all"], cwd=ROOT,
                              env=environment(), capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        if seconds[-1] < 3:
            break
    assert min(seconds) < 3 * NOISE
    for field in dataclasses.fields(config_of(experiment)):
        assert f"--{field.name.replace('_', '-')}" in done.stdout or "Positional" in str(field.type)
    assert ("Presets: " in done.stdout) == (experiment in EXPERIMENTS)
    assert "usage: python -m experiments" in done.stdout


def test_help_imports_nothing_heavy(python):
    modules = ", ".join(f"experiments.{name}" for name in EXPERIMENTS + COMMANDS)
    loaded = python(f"import sys, json, {modules}; print(json.dumps(sorted(sys.modules)))")
    assert not {"jax", "flax", "orbax", "grain", "sklearn", "matplotlib"} & set(loaded)


MISTAKES = [
    ("nope", "unknown preset 'nope': it must be one of digits"),
    ("--batch-size 0", "--batch-size 0: it must be at least 1"),
    ("--batch-size 2000", "--batch-size 2000 is larger than the training set of 1437 images"),
    ("--seed -1", "--seed -1: it must be in [0, 2**32)"),
    ("--seed 4294967296", "--seed 4294967296: it must be"),
    ("--seed 99999999999999999999", "--seed 99999999999999999999: it must be"),
    ("--data-max-bad 2", "--data-max-bad 2.0: it must be in [0, 1]"),
    ("--data nope", "unknown data set 'nope'; allowed: digits, folder:PATH"),
    ("--data folder:/missing", "no such folder: /missing"),
    ("--data npz:/missing", "no such file: /missing"),
    ("--data tfds:cifar", "unknown TFDS data set 'cifar'; did you mean cifar"),
]
TRAINING_MISTAKES = [
    ("--steps 5 --epochs 2", "--steps and --epochs both given: give one of them"),
    ("--steps=5 --epochs=2", "--steps and --epochs both given: give one of them"),
    ("--steps 0", "--steps 0: it must be at least 1"),
    ("--epochs 0", "--epochs 0.0: it must be more than 0"),
    ("--epochs inf", "--epochs inf: it must be"),
    ("--epochs nan", "--epochs nan: it must be"),
    ("--warmup 1.0", "--warmup 1.0: it must be in [0, 1)"),
    ("--crop-scale 0.9 0.5", "--crop-scale (0.9, 0.5): it must be LOW HIGH with 0 < LOW <= HIGH <= 1"),
    ("--accumulate 3", "--batch-size"),
    ("--clip-norm 0", "--clip-norm 0.0: it must be more than 0"),
    ("--ema-decay 1", "--ema-decay 1.0: it must be in (0, 1)"),
    ("--b2 1.5", "--b2 1.5: it must be"),
    ("--base-learning-rate inf", "--base-learning-rate inf: it must be"),
    ("--weight-decay -1", "--weight-decay -1.0: it must be 0 or more"),
    ("--checkpoint-every 0", "--checkpoint-every 0: it must be at least 1"),
    ("--workers -1", "--workers -1: it must be 0 or more"),
]
MAE_MISTAKES = [
    ("--mask-ratio 1.0", "--mask-ratio 1.0: it must be in"),
    ("--mask-ratio 0", "--mask-ratio 0.0: it must be in"),
    ("--mask-ratio 0.99", "leaves 0 of 16 tokens visible"),
    ("--patch-size 3", "image of 8x8 pixels cannot be cut into patches of 3: height and width must be multiples of 3"),
    ("--image-size 9", "image of 9x9 pixels cannot be cut into patches of 2"),
    ("--heads 5", "width 48 cannot be split into 5 heads"),
    ("--width 30", "a width that is a multiple of 4, got 30"),
    ("--model mae_vit_bas_patch16", "unknown model 'mae_vit_bas_patch16': did you mean mae_vit_base_patch16"),
    ("--model vit_tiny_patch16_224", "--model vit_tiny_patch16_224"),
    *((f"--{field} {value}", f"--{field} {value}") for field in ("patch-size", "heads", "width", "decoder-width")
      for value in (0, -2)),
    ("--image-size -8", "--image-size -8"),
    ("--depth -1", "--depth -1"),
]
CASES = [(e, *case) for e in ON_DATA for case in MISTAKES if (e, case[0]) != ("scaling", "--batch-size 2000")
         and not (e == "evaluate" and "--seed" in case[0])] \
    + [(e, *case) for e in TRAINING for case in TRAINING_MISTAKES] + [("mae_pretrain", *case) for case in MAE_MISTAKES]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> str:
    """Grey pictures of the digits' size, without labels: a run on them has nothing to probe, which saves its time."""
    path = tmp_path_factory.mktemp("data") / "grey.npz"
    np.savez(path, train_images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    return f"npz:{path}"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, process, unlabelled):
    """The folder of a short pre-training."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    done = process("mae_pretrain", "--run-dir", folder, "--steps", 2, "--data", unlabelled, *TINY)
    assert done.status == 0, done.err
    return folder


TINY = ("--batch-size", 16, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1,
        "--decoder-heads", 2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a run of supervised, as it would be after training."""
    return write_run(tmp_path_factory.mktemp("classifier") / "run", names=tuple("0123456789"))


@pytest.fixture
def dry(command, tmp_path, request):
    def run(experiment, *arguments):
        before = {"knn": "pretrained", "linear_probe": "pretrained", "finetune": "pretrained", "evaluate": "classifier",
                  "retrieval": "pretrained", "few_shot": "pretrained"}
        checkpoint = ("--checkpoint", request.getfixturevalue(before[experiment])) if experiment in before else ()
        return command(experiment, *arguments, "--run-dir", tmp_path / "run", "--dry-run", *checkpoint)

    return run


@pytest.mark.parametrize("experiment, arguments, message", CASES, ids=lambda value: str(value))
def test_an_impossible_configuration_is_one_line(dry, tmp_path, experiment, arguments, message):
    complaint = dry(experiment, *arguments.split()).complaint
    assert message in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments, message", [
    ("--nope 1", "--nope"), ("--batch-size abc", "'abc'"), ("--parallel tpu", "'tpu'"), ("--dtype float64", "bfloat16"),
    ("--crop-scale 0.5", "Expected 2 values"), ("digits extra", "extra"), ("--seed 1.5", "1.5"),
])
def test_a_mistake_of_form_is_explained_without_traceback(dry, arguments, message):
    done = dry("mae_pretrain", *arguments.split())
    assert done.status == 2 and "Traceback" not in done.err
    assert message in " ".join(done.err.split())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_preset_constructs(experiment):
    presets = importlib.import_module(f"experiments.{experiment}").PRESETS
    assert next(iter(presets)) == "digits" or experiment not in ON_DATA, "the default needs no network"
    for preset in presets.values():
        config_of(experiment)(**preset)


@pytest.mark.parametrize("experiment", ON_DATA)
def test_a_dry_run_says_what_would_run_and_writes_nothing(dry, tmp_path, experiment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = dry(experiment, *(("--widths", 16, 32, "--fractions", 0.2, 0.5, 1) if experiment == "scaling" else ()))
    assert done.status == 0, done.err
    assert ("360 images" if experiment == "evaluate" else "1,437 training") in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_pmap_is_that_of_jit(dry, tmp_path):
    done = dry("supervised", "--parallel", "pmap")
    assert done.status == 0, done.err
    assert "what --parallel jit would do" in done.out and "memory per device" in done.out


@pytest.mark.parametrize("variables, name", [
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, "Slurm"), ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI")])
def test_an_experiment_of_one_process_is_not_run_by_several(dry, monkeypatch, variables, name):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert f"{name} started several processes, but this experiment runs in one process" in dry("knn").complaint


def test_a_dry_run_does_not_touch_a_finished_run(command, pretrained, unlabelled):
    def content():
        return {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()}

    before = content()
    done = command("mae_pretrain", "--run-dir", pretrained, "--steps", 2, "--data", unlabelled, *TINY,
                   "--overwrite", "--dry-run")
    assert done.status == 0 and content() == before


def test_another_configuration_of_a_run_names_the_fields(command, pretrained, unlabelled):
    done = command("mae_pretrain", "--run-dir", pretrained, "--steps", 3, "--seed", 5, "--data", unlabelled, *TINY)
    assert "seed was 0, is now 5; steps was 2, is now 3" in done.complaint and "--overwrite" in done.complaint


def test_a_finished_run_says_so_and_changes_nothing(command, pretrained, unlabelled):
    before = {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()}
    done = command("mae_pretrain", "--run-dir", pretrained, "--steps", 2, "--data", unlabelled, *TINY)
    assert done.status == 0 and "is complete" in done.out and "test/loss" in done.out
    assert before == {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()}


def test_overwrite_starts_anew(command, pretrained, unlabelled, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    done = command("mae_pretrain", "--run-dir", folder, "--steps", 1, "--data", unlabelled, *TINY, "--overwrite")
    assert done.status == 0 and "resuming" not in done.out, done.err
    assert json.loads((folder / "summary.json").read_text())["steps"] == 1
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_folder_of_other_files_is_refused(command, tmp_path, options):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = command("mae_pretrain", "--run-dir", tmp_path, "--steps", 2, *TINY, *options)
    assert "holds files but no run" in done.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_folder(command, tmp_path):
    (tmp_path / "file").write_text("text")
    assert "is a file" in command("mae_pretrain", "--run-dir", tmp_path / "file").complaint


def test_a_run_killed_before_its_configuration_was_written_can_start_again(command, tmp_path):
    """A kill between any two lines of RunFolder leaves a folder that the same command accepts."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json.partial").write_text("{")
    (folder / "lock.1").touch()
    done = command("mae_pretrain", "--run-dir", folder, "--steps", 2, *TINY, "--dry-run")
    assert done.status == 0, done.err


@pytest.mark.parametrize("experiment", ["knn", "linear_probe", "few_shot", "finetune", "retrieval"])
def test_a_bad_checkpoint_path_is_one_line(command, tmp_path, experiment):
    done = command(experiment, "--checkpoint", tmp_path / "missing", "--run-dir", tmp_path / "run")
    assert f"{tmp_path}/missing: no checkpoints in it" in done.complaint


def test_an_empty_checkpoint_folder_is_one_line(command, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    done = command("knn", "--checkpoint", tmp_path / "run", "--run-dir", tmp_path / "knn")
    assert "no checkpoint 'latest'" in done.complaint


def test_run_folders_are_named_by_preset_and_changed_fields(command, tmp_path):
    from cvjax.workflow.command import parse

    module = importlib.import_module("experiments.mae_pretrain")

    def name(*arguments):
        return parse("mae_pretrain", module.Config, module.PRESETS, "Text.", arguments)[1]

    assert name() == "digits"
    assert name("--seed", "1", "--run-dir", "elsewhere", "--workers", "2") == "digits-seed=1"
    assert name("folder", "--data", "folder:a/b") == "folder-data=folder_a_b"
    assert name("--seed", "1", "--epochs", "10") == "digits-seed=1-epochs=10"
    assert name("--data-cache", "--crop-scale", "0.5", "1", "--base-learning-rate", "1e-3") == (
        "digits-data-cache-crop_scale=0.5,1-base_learning_rate=0.001")


@pytest.mark.parametrize("arguments, expected", [
    (["--model-fields", "a=1", "b=(1, 2)"], "digits-model_fields=a=1,b=_1,_2_"),
    (["--no-normalize-pixels"], "digits-no-normalize-pixels"),
    (["--ema-decay", "None"], "digits-ema_decay=none")])
def test_run_names_have_no_word_of_pythons(arguments, expected):
    from cvjax.workflow.command import parse

    @dataclasses.dataclass(frozen=True)
    class Config(TrainingConfig):
        model_fields: tuple[str, ...] = ()
        normalize_pixels: bool = True

    assert parse("x", Config, {"digits": {"ema_decay": 0.9}}, "Text.", arguments)[1] == expected


def test_long_run_names_are_cut_and_stay_different():
    """Two commands that differ only behind the cut, or only in what a name cannot hold there, have two folders."""
    from cvjax.workflow.command import LONGEST_NAME, parse

    def name(data: str) -> str:
        return parse("x", TrainingConfig, {"digits": {}}, "Text.", ["--data", data, "--seed", "7"])[1]

    names = [name(f"folder:/{'a' * 100}/{end}") for end in ("b", "c", "b/c", "b_c", "b-c")]
    assert len(set(names)) == 5 and all(len(each) <= LONGEST_NAME for each in names)
    assert all(each.startswith("digits-data=folder__aaaa") and each.rpartition("-")[2].isalnum() for each in names)
    assert name(f"folder:/{'a' * 100}/b") == names[0], "the same command finds its run"
    exact = "folder:" + "a" * (LONGEST_NAME - len("digits-data=folder_-seed=7"))
    assert name(exact).endswith("a-seed=7") and not name(exact + "a").endswith("-seed=7")
    assert len(name("folder:/" + "ü" * 100).encode()) <= LONGEST_NAME


def test_epochs_come_in_place_of_a_presets_steps():
    from cvjax.workflow.command import parse

    module = importlib.import_module("experiments.supervised")
    config, name = parse("supervised", module.Config, module.PRESETS, "Text.", ["cifar10_airbench94", "--epochs", "3"])
    assert module.PRESETS["cifar10_airbench94"]["steps"] and config.steps is None
    assert config.total_steps(1000 * config.batch_size) == 3000
    assert name == "cifar10_airbench94-epochs=3"


# A field that nothing reads would be accepted, shown by --help, and do nothing.

def modules_behind(experiment: str) -> set[Path]:
    """The experiment's two files and those of experiments and cvjax.workflow that it imports, directly or not."""
    found, waiting = set(), [ROOT / "experiments" / f"{experiment}.py",
                             ROOT / "experiments" / "wiring" / f"{experiment}.py"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            ours = ("cvjax.workflow.", "experiments.")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ours):
                waiting.append(ROOT / f"{node.module.replace('.', '/')}.py")
    return found


def fields_read(path: Path) -> set[str]:
    """`config.NAME`, `config["NAME"]` also in a loop over names, names in MAE_FIELDS, and `self.NAME` in methods of a
    configuration."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config":
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and "config" in ast.unparse(node.value) and hasattr(node.slice, "value"):
            found.add(node.slice.value)
        elif isinstance(node, ast.For) and "config[name]" in ast.unparse(node.body[0]):
            found |= set(ast.literal_eval(node.iter))
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MAE_FIELDS":
            found |= set(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef) and node.name == "total_steps":
            found |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_field_is_read_by_something(experiment):
    read = set().union(*map(fields_read, modules_behind(experiment)))
    fields = {field.name for field in dataclasses.fields(config_of(experiment))}
    assert fields - read == set()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_field_has_help(experiment):
    """A text in the annotation, under the field, or under an earlier field, whose text covers the next ones."""
    for klass in config_of(experiment).__mro__[:-1]:
        body = ast.parse(inspect.getsource(klass)).body[0].body
        for node, after in zip(body, body[1:]):
            if isinstance(node, ast.AnnAssign):
                text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = text or "Mark(help=" in ast.unparse(node.annotation)
                assert text or node.target.id in SPOKEN_FOR, f"{klass.__name__}.{node.target.id}"


SPOKEN_FOR = ("depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "b1", "b2", "eps",
              "policy_magnitude", "policy_magnitude_std", "policy_probability", "policy_table")
