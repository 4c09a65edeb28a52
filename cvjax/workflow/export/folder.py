"""The folder of an export: the network's file, what its inputs and outputs mean, and how to load it."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from cvjax.data.preprocessing import Preprocessing
from cvjax.durable import whole_folder, write_whole
from cvjax.errors import ConfigError
from cvjax.interop import save_weights, to_state_dict
from cvjax.interop.families import family_of
from cvjax.interop.timm_config import write_config
from cvjax.models.described import described
from cvjax.workflow.config import require
from cvjax.workflow.export.formats import Format
from cvjax.workflow.export.how_to_load import how_to_load
from cvjax.workflow.export.onnx import onnx
from cvjax.workflow.export.program import Program
from cvjax.workflow.export.stablehlo import PLATFORMS, stablehlo
from cvjax.workflow.folder import check_output, versions, write_json
from cvjax.workflow.origin import sources_json

LABELS, PREPROCESSING, EXPORT, HOW_TO_LOAD = "labels.json", "preprocessing.json", "export.json", "how_to_load.md"


def file_of(form: Format) -> str:
    """The name of the network's file."""
    return f"model.{form}"


def check_new(output: Path) -> None:
    """ConfigError for a place that an export cannot be written to: all but a new folder, and an empty one that can be
    replaced."""
    check_output(output)
    if output.exists():
        require(not any(output.iterdir()), "output", output, "new or empty, and it holds files")
        require(not (os.path.ismount(output) or output.samefile(".")), "output", output,
                "a folder within this one, in whose place another cannot be put")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    require(above.is_dir() and os.access(above, os.W_OK), "output", output,
            f"in a folder that may be written to, and {above} is none")


def write_export(output: Path, program: Program, form: Format, run: Mapping[str, Any] | None, *,
                 layout: str | None = None) -> None:
    """Write `model.*`, `labels.json`, `preprocessing.json`, `export.json` and `how_to_load.md`, all or nothing.

    run: its numbers and their protocol, None for published weights. layout: as in `save_weights`, of safetensors.
    ConfigError for a network that cannot be written in this form.
    """
    write = _writer(program, form, layout)  # what takes long and may fail comes before the folder
    facts = {"format": form, "file": file_of(form), **_described(program, form, layout), "run": run,
             "sources": sources_json([program.origin]), "versions": versions()}
    with whole_folder(output) as folder:
        write(folder)
        write_json(folder / LABELS, list(program.class_names))
        write_json(folder / PREPROCESSING, _preprocessing(program, form))
        write_json(folder / EXPORT, json.loads(json.dumps(facts), parse_constant=lambda _: None))
        write_whole(folder / HOW_TO_LOAD, how_to_load(program, facts))


def _writer(program: Program, form: Format, layout: str | None) -> Callable[[Path], None]:
    if form == "safetensors":
        try:
            to_state_dict(program.variables, program.model, layout)
        except ValueError as error:
            raise ConfigError(f"--format safetensors: {error}; --format stablehlo needs no names") from None
        return lambda folder: _write_parameters(program, folder / file_of(form), layout)
    content = (stablehlo if form == "stablehlo" else onnx)(program)
    return lambda folder: write_whole(folder / file_of(form), content)


def _write_parameters(program: Program, path: Path, layout: str | None) -> None:
    height, width, _ = program.inputs["image"].shape
    write_config(path, program.model, program.preprocessing, program.class_names, name=program.name,
                 judged_size=height if height == width else None)
    save_weights(program.variables, program.model, path, layout)


def _described(program: Program, form: Format, layout: str | None) -> dict[str, Any]:
    """The network; of parameters, whose names they have; of a program its inputs and outputs, where `batch` stands for
    any number of images."""
    facts: dict[str, Any] = {"network": described(program.model, program.name), "kind": program.kind}
    if form == "safetensors":
        return facts | {"layout": layout or next(iter(family_of(program.model).namings))}
    inputs = program.batched()
    outputs = jax.eval_shape(program, *inputs)
    facts |= {"inputs": {name: _shaped(one) for name, one in zip(program.inputs, inputs)},
              "outputs": {name: _shaped(outputs[name]) for name in sorted(outputs)}}
    return facts | ({"platforms": list(PLATFORMS)} if form == "stablehlo" else {})


def _shaped(array: jax.ShapeDtypeStruct) -> dict[str, Any]:
    return {"shape": [side if isinstance(side, int) else str(side) for side in array.shape],
            "dtype": str(array.dtype)}


def _preprocessing(program: Program, form: Format) -> dict[str, Any]:
    how: Preprocessing = program.preprocessing
    height, width, channels = program.inputs["image"].shape
    return how.as_json() | {"height": height, "width": width, "channels": channels,
                            "normalized_inside": program.pixels and form != "safetensors"}
