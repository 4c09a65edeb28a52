"""The text beside an exported network: what it takes and gives, and an example that runs in its folder."""

from collections.abc import Mapping
from typing import Any

from cvjax.interop.timm_config import timm_arguments
from cvjax.models.swin import SwinTransformer
from cvjax.models.vit import VisionTransformer
from cvjax.text import printable
from cvjax.workflow.export.program import Program

_STABLEHLO = """\
from pathlib import Path

import numpy as np
from jax import export

model = export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
{inputs}
outputs = model.call({names})
for name, array in outputs.items():
    print(name, array.shape, array.dtype)
"""
_ONNX = """\
import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession("model.onnx")
{inputs}
outputs = model.run(None, {{{named}}})
for output, array in zip(model.get_outputs(), outputs):
    print(output.name, array.shape, array.dtype)
"""
_SAFETENSORS = """\
from safetensors.numpy import load_file

parameters = load_file("model.safetensors")
for name, array in parameters.items():
    print(name, array.shape, array.dtype)
"""
_NEEDS = {"stablehlo": "It needs `pip install jax flatbuffers`. JAX keeps such files readable for at least six months "
                       "of later releases. The file runs on CPUs, NVIDIA's GPUs and TPUs.",
          "onnx": "It needs `pip install onnxruntime`.",
          "safetensors": "It needs `pip install safetensors numpy`."}
_MEANING = {
    "logits": "a score for each class", "probabilities": "of each class or label of `labels.json`, in its order",
    "numbers": "those of `labels.json`, in their own units", "labels": "the likeliest class of each pixel, a place in "
    "`labels.json`", "features": "for a classifier of your own", "boxes": "x1 y1 x2 y2 in pixels of the canvas",
    "score": "of each box, in [0, 1]", "box_label": "a place in `labels.json`",
    "valid": "False for rows that are no box"}
_CROPPED = ("Before that a photo is resized and its central square is cut out, as `preprocessing.json` says in timm's "
            "words: `crop` is the share of the resized image that the square keeps on a side. One of exactly the "
            "square's size stays as it is.")
_BEFORE = {"detector": "Before that a photo is resized in proportion to fit the canvas, and put into its upper left "
                       "corner; the rest is ImageNet's mean.",
           "segmenter": "Photos are not resized: smaller ones are filled up with ImageNet's mean."}
_TAKEN = {"extent": "height and width of the picture, whose upper left corner is the canvas's",
          "scale": "pixels of the canvas for one of the picture's file"}


def how_to_load(program: Program, facts: Mapping[str, Any]) -> str:
    """The text of `how_to_load.md`. facts: the content of `export.json`."""
    form = facts["format"]
    lines = [f"# {program.name}, {_article(program.kind)} {program.kind}", ""]
    if form == "safetensors":
        lines += _parameters(program, facts)
    else:
        code = _code(form, facts)
        lines += [_NEEDS[form], "", "```python", code.rstrip(), "```", "", "Inputs:", "", *_listed(
            facts["inputs"], _TAKEN | {"image": _image(program)}), "", "Outputs:", "", *_listed(
                facts["outputs"], _MEANING)]
    lines += ["", f"{_BEFORE.get(program.kind, _CROPPED)} Mean and deviation are of pixels in [0, 1].", ""]
    return "\n".join(lines + _numbers(facts["run"])) + "\n"


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"


def _code(form: str, facts: Mapping[str, Any]) -> str:
    inputs = facts["inputs"]
    made = [f"{name} = np.zeros({(2, *one['shape'][1:])}, np.{one['dtype']})" for name, one in inputs.items()]
    made[0] += "  # two images; any number can go together"
    template = _STABLEHLO if form == "stablehlo" else _ONNX
    return template.format(inputs="\n".join(made), names=", ".join(inputs),
                           named=", ".join(f'"{name}": {name}' for name in inputs))


def _listed(arrays: Mapping[str, Any], meaning: Mapping[str, str]) -> list[str]:
    return [f"- `{name}`, {one['dtype']} ({', '.join(map(str, one['shape']))}): {meaning[name]}"
            for name, one in arrays.items()]


def _image(program: Program) -> str:
    channels = program.inputs["image"].shape[-1]
    colours = {1: "grey", 3: "red, green and blue"}.get(channels, f"{channels} channels")
    if program.pixels:
        return f"{colours}, pixels of 0 to 255, which the program normalises"
    return f"{colours}, each normalised: (pixel / 255 - mean) / std with those of `preprocessing.json`"


def _parameters(program: Program, facts: Mapping[str, Any]) -> list[str]:
    lines = [_NEEDS["safetensors"], "", "```python", _SAFETENSORS.rstrip(), "```", "",
             f"In cvjax: `create_pretrained(\"{program.name}\", \"model.safetensors\")`."]
    if facts["layout"] == "timm" and timm_arguments(program.model, program.name) is not None:
        size = program.inputs["image"].shape[0]
        sized = f", img_size={size}" if isinstance(program.model, VisionTransformer | SwinTransformer) else ""
        lines += ["", f"In timm: `timm.create_model(\"local-dir:FOLDER\", pretrained=True{sized})`."]
    if program.kind == "regressor":
        lines += ["", "Its outputs are numbers less their mean, over their deviation. Both are in `export.json`, under "
                  "`run`, `answers`."]
    return lines


def _numbers(run: Mapping[str, Any] | None) -> list[str]:
    if run is None:
        return []
    if not run["finished"]:
        return ["The run was unfinished when it was exported: it has no numbers yet."]
    return ["The run's own numbers, whose protocol is in `export.json`:", "",
            *(f"- {printable(name)}: {value}" for name, value in run["metrics"].items())]
