"""A network in timm's words, and `config.json` beside weights, from which timm builds that network.

timm (https://github.com/huggingface/pytorch-image-models) takes a name, in `architecture`, and puts `model_args` in the
place of its arguments; `pretrained_cfg` has the images, the classes, and where its weights meet both. What timm cannot
build is described in our own words alone, under `cvjax`, which timm passes over.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvjax.data.preprocessing import Preprocessing
from cvjax.durable import write_whole
from cvjax.interop.hub import CONFIG
from cvjax.interop.published import OTHERWISE_SAID, OWN, is_published, structure
from cvjax.interop.timm_arguments import FORMS
from cvjax.models import create_model
from cvjax.models.described import described
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.registry import name_of
from cvjax.text import read_text


def timm_arguments(model: ImageModel, name: str) -> dict[str, Any] | None:
    """What of timm's arguments makes its `name` this model, besides images and classes; None where timm has no such.

    name: a registered one of the model's class.
    """
    if type(model) not in FORMS:
        return None
    form_of, base = FORMS[type(model)], create_model(name)
    form = form_of(model)
    own, usual = structure(model)[1], structure(base)[1]
    changed = [field for field in own if own[field] != usual[field] and field != "in_channels"]
    if name in form.lacks or not form.arguments.keys() >= set(changed):
        return None
    return {theirs: value for field in changed for theirs, value in form.arguments[field].items()}


def write_config(path: Path, model: ImageModel, how: Preprocessing, class_names: Sequence[str] = (), *,
                 name: str | None = None, judged_size: int | None = None, license: str | None = None) -> None:
    """Write `config.json` beside the weights `path`, as timm reads it.

    name: the registered one to which the model is nearest; None to look for it. judged_size: side of the images that
    it is judged on, if that is not its own. license: the identifier of the weights' licence.
    Raises ValueError if a file of that name is there that is about something else.
    """
    config = path.with_name(CONFIG)
    if config.exists() and not is_published(json.loads(read_text(config))):
        raise ValueError(f"{config} is there already, and describes no weights: save them in another folder")
    name = name_of(model) if name is None else name
    content = _content(model, name, how, class_names, judged_size)
    if license is not None:
        content["pretrained_cfg"]["license"] = license
    write_whole(config, json.dumps(content, indent=2) + "\n")


def _content(model: ImageModel, name: str, how: Preprocessing, class_names: Sequence[str], judged_size: int | None
             ) -> dict[str, Any]:
    height, width = as_pair(model.image_size)
    classes, channels = getattr(model, "num_classes", 0), model.in_channels
    stated: dict[str, Any] = {
        "input_size": [channels, height, width], "num_classes": classes,
        "mean": list(how.mean * channels if len(how.mean) == 1 else how.mean),
        "std": list(how.std * channels if len(how.std) == 1 else how.std),
        "crop_pct": how.crop, "crop_mode": how.crop_mode, "interpolation": how.interpolation}
    if judged_size not in (None, height):
        stated["test_input_size"] = [channels, judged_size, judged_size]
    content: dict[str, Any] = {"num_classes": classes, "pretrained_cfg": stated}
    if class_names:
        content["label_names"] = list(class_names)
    description = described(model, name, without=OTHERWISE_SAID)
    arguments = timm_arguments(model, name)
    if arguments is not None:
        form = FORMS[type(model)](model)
        content["global_pool"] = getattr(model, "pool", "avg")
        stated |= {"fixed_input_size": form.fixed_size, "first_conv": form.first_conv, "classifier": form.classifier}
        if arguments:
            content["model_args"] = arguments
    if arguments is not None or structure(create_model(name)) == structure(model):
        content = {"architecture": name, **content}  # others have no name from which a reader could build them
    return {**content, OWN: description}
