"""The safety net of a refactoring: hashes of every training program, network and short run, to compare two versions.

    python -m tests.programs --write before.json --runs          # the programs, and the parameters of short runs
    python -m tests.programs --compare before.json after.json    # names what differs; exit status 1 if anything does
    python -m tests.programs --against ../other-checkout         # both in one step, this checkout against another
    python -m tests.programs --write some.json --only 'detect/*'

A program is what JAX exports for CPU, TPU and GPU from shapes: nothing is compiled or allocated. Programs are the whole
training step of every preset of every training experiment, on pretended data, and the initialisation, the evaluation
and the gradient of one network of each class. A hash covers the computation, not the names of functions or variables
or their places in the source, so it stays the same when code is moved or renamed.
"""

import argparse
import fnmatch
import gc
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters.mlir import make_ir_context  # no public one knows all dialects
from jax.extend.mlir import ir

from cvjax.models import create_model
from cvjax.workflow.lowering import lower_step
from experiments.plan import EXPERIMENTS
from experiments.wiring.plan import prepare

ROOT = Path(__file__).parents[1]
PLATFORMS = ("cpu", "tpu", "cuda")

# One network of each class; the training steps of the presets cover others.
MODELS = ("linear", "mlp", "lenet5", "alexnet", "vgg11_bn", "googlenet", "resnet18", "densenet121",
          "vit_tiny_patch16_224", "mae_vit_tiny_patch16", "swin_tiny_patch4_window7_224", "resnet9", "airbench94",
          "fcn_resnet50", "fcn8s_vgg16", "rcnn_alexnet", "sppnet", "fast_rcnn_vgg16", "faster_rcnn_vgg16",
          "faster_rcnn_resnet50_fpn", "yolov1", "yolov1_classifier", "yolo")

RUNS = ("mae_pretrain", "supervised", "dino_pretrain", "simsiam_pretrain", "segment", "detect")
STEPS = 24

# A small pre-trained network, for experiments that start from one.
PRETRAINING = ("--steps", "1", "--image-size", "8", "--patch-size", "2", "--width", "16", "--depth", "4", "--heads",
               "2", "--decoder-depth", "1", "--batch-size", "8")

Entry = dict[str, Any]


# The interface of the project: all of it that this file uses, besides `create_model` and the commands.

def experiment_presets() -> dict[str, list[str]]:
    """The presets of every training experiment."""
    return {name: list(importlib.import_module(f"experiments.{name}").PRESETS) for name in EXPERIMENTS}


def exported_step(experiment: str, arguments: list[str]) -> jax.export.Exported:
    """The training step of a command line."""
    return lower_step(prepare(experiment, arguments), PLATFORMS)


# Hashes of programs.

RESULT_NAME = re.compile(r',? ?jax\.result_info = "(?:[^"\\]|\\.)*"')
SYMBOL = re.compile(r'@(?:"(?:[^"\\]|\\.)*"|[\w.$-]+)')


def digest(*parts: str) -> str:
    """SHA-256 of texts in order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def fingerprint(text: str) -> tuple[str, int]:
    """SHA-256 of a StableHLO module, and the bytes of its text; both without locations and names of results.

    A value is hashed as its operation with the hashes of the operands, and a call as the function that is called. So
    names do not matter, nor the order of independent operations, nor whether a function is written once or twice.
    """
    with make_ir_context():
        module = ir.Module.parse(RESULT_NAME.sub("", text))
        functions = {f"@{ir.StringAttr(function.attributes['sym_name']).value}": function.operation
                     for function in module.body.operations}
        hashes: dict[str, str] = {}

        def called(match: re.Match[str]) -> str:
            name = match[0].replace('"', "")
            if name in functions and name not in hashes:
                hashes[name] = of_operation(functions[name], {})
            return hashes.get(name, name)

        def of_operation(operation: ir.Operation, values: dict[ir.Value, str], depth: int = 0) -> str:
            attributes = [f"{name} = {SYMBOL.sub(called, str(operation.attributes[name]))}"
                          for name in operation.attributes if name not in ("sym_name", "sym_visibility")]
            return digest(operation.name, *sorted(attributes), *(values[operand] for operand in operation.operands),
                          *(str(result.type) for result in operation.results),
                          *(of_block(block, values, depth + 1) for region in operation.regions for block in region))

        def of_block(block: ir.Block, outer: dict[ir.Value, str], depth: int) -> str:
            values = outer | {argument: f"argument {i} of block {depth}: {argument.type}"
                              for i, argument in enumerate(block.arguments)}
            ends = []  # what gives no value: the block's own results, checks
            for view in block.operations:
                operation = view.operation
                found = of_operation(operation, values, depth)
                values |= {result: digest(found, str(i)) for i, result in enumerate(operation.results)}
                if not len(operation.results):
                    ends.append(found)
            return digest(*ends)

        head = module.operation.attributes
        options = sorted(f"{name} = {head[name]}" for name in head if name != "sym_name")
        return digest(*options, of_operation(functions["@main"], {})), len(str(module).encode())


def program_entry(exported: jax.export.Exported) -> Entry:
    """What is written of a program."""
    sha256, size = fingerprint(exported.mlir_module())
    return {"sha256": sha256, "bytes": size}


# What to lower.

def step_programs(folder: Path) -> dict[str, Callable[[], Entry]]:
    """The training step of every preset; `folder` is for what they read and write."""
    def checkpoint(data: str) -> str:
        path = folder / ("grey" if data == "digits" else "colour")
        if not path.exists():
            run_experiment("mae_pretrain", "--data", data, *PRETRAINING, "--run-dir", str(path))
        return str(path)

    def teacher(data: str) -> str:
        path = folder / ("digits_teacher" if data == "digits" else "teacher")
        if not path.exists():
            run_experiment("supervised", "--data", data, "--image-size", "8", "--model", "linear", "--model-fields",
                           "--steps", "2", "--schedule", "cosine", "--batch-size", "8", "--run-dir", str(path))
        return str(path)

    def lower(experiment: str, preset: str) -> Entry:
        arguments = [preset, "--run-dir", str(folder / "run")]
        if experiment == "distill":  # pretended pictures have as many classes as ImageNet
            arguments += ["--teacher", teacher("digits" if preset == "digits" else "blank:64,8,1000"),
                          "--teacher-fields"]
        if preset.startswith("cifar10") and experiment not in ("finetune", "linear_probe"):  # pretended ones are larger
            arguments += ["--image-size", "32"]
        if experiment in ("finetune", "linear_probe"):  # pretended pictures have colours
            arguments += ["--checkpoint", checkpoint("digits" if preset == "run" else "blank:64,8,10")]
        if experiment == "linear_probe" and preset in ("run", "cifar10"):  # by default no gradient is needed
            arguments += ["--form", "mae"]
        return program_entry(exported_step(experiment, arguments))

    return {f"{experiment}/{preset}": lambda e=experiment, p=preset: lower(e, p)
            for experiment, presets in experiment_presets().items() for preset in presets}


def model_programs() -> dict[str, Callable[[], Entry]]:
    """Initialisation, evaluation and gradient of the networks, on two images."""
    def lower(name: str, part: str) -> Entry:
        model = create_model(name)
        height, width = np.broadcast_to(model.image_size, 2).tolist()
        inputs = [jax.ShapeDtypeStruct((2, height, width, model.in_channels), jnp.float32)]
        if name.startswith("mae_"):  # the noise that chooses the masked patches
            patches = (height // model.patch_size) * (width // model.patch_size)
            inputs.append(jax.ShapeDtypeStruct((2, patches), jnp.float32))

        def init(key: jax.Array, *inputs: jax.Array) -> Any:
            return model.init(jax.random.wrap_key_data(key), *inputs)

        def evaluate(variables: Any, *inputs: jax.Array) -> Any:
            return model.apply(variables, *inputs, train=False)

        def gradient(variables: Any, key: jax.Array, *inputs: jax.Array) -> Any:
            def total(params: Any) -> Any:
                outputs, state = model.apply({**variables, "params": params}, *inputs, train=True,
                                             mutable=["batch_stats"], rngs=jax.random.wrap_key_data(key))
                return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(outputs)
                           if jnp.issubdtype(x.dtype, jnp.floating)), state

            return jax.grad(total, has_aux=True)(variables["params"])

        key = jax.ShapeDtypeStruct((2,), jnp.uint32)
        if part == "init":
            function, arguments = init, [key, *inputs]
        else:
            variables = jax.eval_shape(init, key, *inputs)
            function, arguments = ((evaluate, [variables, *inputs]) if part == "evaluation" else
                                   (gradient, [variables, key, *inputs]))
        return program_entry(jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments))

    return {f"models/{name}/{part}": lambda n=name, p=part: lower(n, p)
            for name in MODELS for part in ("init", "evaluation", "gradient")}


def short_runs(folder: Path) -> dict[str, Callable[[], Entry]]:
    """The first preset of the experiments for a few steps; the hash is that of the final parameters."""
    def run(experiment: str) -> Entry:
        path = folder / f"short_{experiment}"
        run_experiment(experiment, "--steps", str(STEPS), "--seed", "0", "--run-dir", str(path))
        summary = json.loads((path / "summary.json").read_text())
        return {"sha256": summary["params_sha256"], "steps": summary["steps"]}

    return {f"runs/{experiment}": lambda e=experiment: run(e) for experiment in RUNS}


def run_experiment(experiment: str, *arguments: str) -> None:
    """An experiment of this checkout, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", f"experiments.{experiment}", *arguments], cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{experiment} ended with exit status {done.returncode}: {done.stderr.strip()[-2000:]}")


# The command.

def write(file: Path, only: str = "*", runs: bool = False) -> int:
    """Write the hashes of all that matches `only` to a JSON file; exit status 1 if any program could not be made."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"XDG_CACHE_HOME": temporary, "JAX_PLATFORMS": "cpu"}
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        jax.config.update("jax_platforms", "cpu")
        every = step_programs(folder) | model_programs() | (short_runs(folder) if runs else {})
        chosen = {name: make for name, make in every.items() if fnmatch.fnmatch(name, only)}
        entries: dict[str, Entry] = {}
        start = time.monotonic()
        for number, (name, make) in enumerate(chosen.items(), 1):
            before = time.monotonic()
            try:
                entries[name] = make()
            except Exception as error:  # the others are still worth having
                entries[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
                traceback.print_exc()
            file.write_text(json.dumps(entries, indent=1) + "\n")
            jax.clear_caches()
            gc.collect()
            now = time.monotonic()
            left = (now - start) / number * (len(chosen) - number)
            print(f"{number}/{len(chosen)} {name}: {entries[name].get('error') or entries[name]['sha256'][:12]}, "
                  f"{now - before:.1f} s, about {left / 60:.1f} min left", file=sys.stderr, flush=True)
    failed = [name for name, entry in entries.items() if "error" in entry]
    print(f"{len(entries)} written to {file}, {len(failed)} of them failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


def compare(before: Path, after: Path) -> int:
    """Name what differs between two written files, with exit status 1 if anything does."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    lines = [f"missing: {name}" for name in old if name not in new]
    lines += [f"new: {name}" for name in new if name not in old]
    both = [name for name in old if name in new]
    for name in both:
        if {**old[name], "bytes": 0} != {**new[name], "bytes": 0}:  # equal functions may be written out once or twice
            lines.append(f"differs: {name}: {_described(old[name])} -> {_described(new[name])}")
        elif "error" in new[name]:
            lines.append(f"failed in both: {name}: {_described(new[name])}")
    print("\n".join([*lines, f"{len(both)} compared, {len(lines)} lines above" if lines else f"{len(both)} are equal"]))
    return 1 if lines else 0


def _described(entry: Entry) -> str:
    if "error" in entry:
        return entry["error"]
    return entry["sha256"][:12] + (f" ({entry['bytes']:,} bytes)" if "bytes" in entry else "")


def against(checkout: Path, only: str, runs: bool) -> int:
    """Compare this checkout with another one; each is written by its own version of this file."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, root in (("before", checkout.resolve()), ("after", ROOT)):
            if not (root / "tests/programs.py").exists():
                print(f"error: {root} has no tests/programs.py", file=sys.stderr)
                return 2
            files.append(Path(folder) / f"{name}.json")
            print(f"{name}: {root}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "tests.programs", "--write", str(files[-1]), "--only", only,
                            *(["--runs"] if runs else [])], cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
        return compare(*files)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.programs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="write the hashes of this checkout")
    action.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two written files")
    action.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare this checkout with another one")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of names, such as 'segment/*'")
    parser.add_argument("--runs", action="store_true", help="also train the default runs for a few steps each")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    if arguments.against:
        return against(arguments.against, arguments.only, arguments.runs)
    return write(arguments.write, arguments.only, arguments.runs)


if __name__ == "__main__":
    sys.exit(main())
