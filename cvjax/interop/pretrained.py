"""A registered model with published weights, as timm's `create_model(name, pretrained=True)` gives it.

Flax keeps parameters apart from modules, so `cvjax.models.create_model` makes a module only. Here both come together,
with what the images must become.
"""

from pathlib import Path
from typing import Any, NamedTuple

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop.hub import HUB
from cvjax.interop.published import QUICK_GELU, Published, open_published, resizing_as
from cvjax.interop.weights import load_weights
from cvjax.models import create_model, list_models
from cvjax.models.image_model import ImageModel
from cvjax.spelling import did_you_mean
from cvjax.timm_weights import timm_weights


class Pretrained(NamedTuple):
    """variables: for `model.apply`. preprocessing: what images become before the model sees them. class_names: of its
    outputs, () where nobody states them or the head is another."""

    model: ImageModel
    variables: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]


def create_pretrained(name: str, weights: str | Path | None = None, **fields: Any) -> Pretrained:
    """The model called `name` with published weights.

    name: a registered name; or `hf-hub:OWNER/NAME` or a folder, whose `config.json` names the model.
    weights: a .safetensors or .pth file, a folder with one, or `hf-hub:OWNER/NAME`; None for those that timm takes by
    default, from the hub. fields: of the model; with another `num_classes` than the weights have, the head starts
    fresh, and the log says so. By default the model has the size and the classes of the weights, and no head where they
    have none.

    Raises:
        ValueError: for an unknown name, for weights that do not fit, and for None where timm has no weights.
        OSError: for a file that cannot be read.
    """
    if weights is None and name not in list_models() and (name.startswith(HUB) or Path(name).is_dir()):
        published = open_published(name)
        name = published.name
    else:
        create_model(name, **fields)  # an unknown name or field comes before what is wrong with a file
        published = open_published(default_weights(name) if weights is None else weights)
    published.check_architecture(name, fields)
    preprocessing, _ = published.preprocessing(name)  # what is wrong with it comes before the weights are laid out
    headless = {"num_classes": 0} if published.num_classes == 0 else {}
    model, variables = fitted(name, published, headless | fields)
    own = published.num_classes in (None, getattr(model, "num_classes", None))
    return Pretrained(model, variables, preprocessing, published.class_names if own else ())


def default_weights(name: str) -> str:
    """The place on the hub of the weights that timm takes for a model's name by default; ValueError if it has none."""
    defaults = {known: entry.default for known, entry in timm_weights().items() if entry.default}
    if name not in defaults:
        hint = did_you_mean(name, defaults.keys() & set(list_models()), "cvjax.timm_weights lists those that it has")
        raise ValueError(f"timm publishes no weights of {name}: give a file or hf-hub:OWNER/NAME; {hint}")
    return f"{HUB}timm/{name.replace(*QUICK_GELU)}.{defaults[name]}"


def fitted(name: str, published: Published, fields: dict[str, Any], *, whole: bool = False
           ) -> tuple[ImageModel, dict[str, Any]]:
    """The model of a name at the size, with the classes and any other fields of published weights, unless `fields` say
    other ones, and its variables; whole and ValueError as in `load_weights`."""
    stated = {"image_size": published.image_size, "num_classes": published.num_classes}
    given = {field: value for field, value in stated.items() if value}
    model = resizing_as(create_model(name, **published.fields(name) | given | fields), published.position_resize)
    return model, load_weights(model, published.arrays, trained=published.trained, whole=whole)
