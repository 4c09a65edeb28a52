"""What is published beside weights: the statistics and the crop of their images, their classes, their architecture.

timm writes it into `config.json` (https://huggingface.co/docs/timm, `save_for_hf`). A bare file has no such companion;
then what its family's publishers state holds.
"""

import dataclasses
import fnmatch
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from cvjax.data.preprocessing import CLIP_MEAN, CLIP_STD, HALF, Preprocessing
from cvjax.durable import write_whole
from cvjax.errors import CvjaxError
from cvjax.interop.hub import CONFIG, HUB, download
from cvjax.interop.state_dict import read_notes, read_wrapped
from cvjax.models import create_model, list_models
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.registry import name_of
from cvjax.ops.position import PositionResize, sincos_2d
from cvjax.text import read_text

# Among a file's own notes: HEIGHTxWIDTH, and how learned positions were resized.
TRAINED, POSITION_RESIZE = "image_size", "position_resize"

# By the start of a model's name, a shell pattern, longest first: what its publishers state where no config.json does.
# torchvision, https://pytorch.org/vision/stable/models.html: bilinear, 256 to 224; its GoogLeNet turns ImageNet's
# statistics into 0.5 inside the network (`transform_input`). timm, https://github.com/huggingface/pytorch-image-models,
# `_cfg` of vision_transformer.py, deit.py, swin_transformer.py, convnext.py: bicubic; the default weights'.
_STATED: dict[str, Preprocessing] = {
    "googlenet": Preprocessing(HALF, HALF, interpolation="bilinear"),
    "resnext101_64x4d": Preprocessing(crop=224 / 232, interpolation="bilinear"),
    "vit_": Preprocessing(HALF, HALF, crop=0.9),
    "vit_*_gap_256": Preprocessing(HALF, HALF, crop=0.95),
    "vit_*_siglip_*": Preprocessing(HALF, HALF, crop=0.9),
    "vit_*_clip_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0),
    "vit_*_dinov2": Preprocessing(crop=1.0), "vit_*_dinov3": Preprocessing(crop=1.0),
    "vit_*_lingbot": Preprocessing(crop=1.0, crop_mode="squash", interpolation="bilinear"),
    "test_vit": Preprocessing(HALF, HALF, crop=0.95),
    "vit_*_tipsv2": Preprocessing((0,), (1,), crop=1.0),
    "vit_*_miil": Preprocessing((0,), (1,), interpolation="bilinear"),
    "eva_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0),
    "eva_giant_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=0.9),
    "eva_giant_patch14_336": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0, crop_mode="squash"),
    "eva_giant_patch14_560": Preprocessing(crop=1.0, crop_mode="squash"),
    "flexivit_": Preprocessing(HALF, HALF, crop=0.95),
    "deit_": Preprocessing(crop=0.9), "deit3_": Preprocessing(crop=0.9),
    "swin_": Preprocessing(crop=0.9),
    **{name: Preprocessing(interpolation="bilinear")
       for name in ("alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "faster_rcnn", "fcn_resnet")},
    # timm's own, its `_cfg` of resnet.py and convnext.py: bicubic.
    **{name: Preprocessing() for name in (
        "resnet10t", "resnet14t", "resnet18d", "resnet26", "resnet34d", "resnet50c", "resnet50d", "resnet50s",
        "resnet50t", "resnet101c", "resnet101s", "resnet152c", "resnet152s", "resnet200", "resnetaa", "resnetblur",
        "resnext50d")},
    **{name: Preprocessing(crop=0.94) for name in ("resnet26t", "resnet50_gn")},
    **{name: Preprocessing(crop=0.95) for name in (
        "convnext_nano", "convnext_pico_ols", "convnext_tiny_hnf", "ecaresnet269d", "resnet101d", "resnet152d",
        "resnet200d", "resnetaa50", "resnetaa101d", "seresnet50", "seresnet152d", "seresnext101_32x8d",
        "seresnext101d", "seresnextaa")},
    "seresnextaa201d": Preprocessing(crop=1.0),
    "convnextv2_huge": Preprocessing(crop=1.0, crop_mode="squash"),
    **{name: Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0) for name in ("convnext_large_mlp", "convnext_xxlarge")},
}
# The same for files with torchvision's names, where other publishers have their own.
_TORCHVISION: dict[str, Preprocessing] = {
    "vit_": Preprocessing(interpolation="bilinear"),
    "vit_large_patch16_": Preprocessing(crop=224 / 242, interpolation="bilinear"),
    "swin_tiny_": Preprocessing(crop=224 / 232), "swin_small_": Preprocessing(crop=224 / 246),
    "swin_base_": Preprocessing(crop=224 / 238),
    "convnext_tiny": Preprocessing(crop=224 / 236, interpolation="bilinear"),
    "convnext_small": Preprocessing(crop=224 / 230, interpolation="bilinear"),
    "convnext_": Preprocessing(crop=224 / 232, interpolation="bilinear"),
}
_SIZES_UNCROPPED = ("_384", "_448")  # ViTs and Swins of these sizes are judged on the whole square, but SigLIP's

# timm has one file for both: CLIP learnt with the quick form, but others fine-tuned its weights with the exact one.
QUICK_GELU = ("_clip_quickgelu_", "_clip_")


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights as they were published.

    source: the file, or its name on the hub. arrays: name -> array. config: the content of `config.json`, empty where
    there is none. trained: height and width of the images that the weights learnt from, None where nobody states it.
    position_resize: how their publisher's code resizes learned positions, see `position_resize_of`. path: the file on
    this machine.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained: tuple[int, int] | None = None
    position_resize: PositionResize = "timm"
    path: Path | None = None

    @property
    def _stated(self) -> Mapping[str, Any]:
        """timm's `pretrained_cfg`; older files have its entries at the top."""
        return self.config.get("pretrained_cfg") or self.config

    @property
    def image_size(self) -> int | None:
        """The side of the square images that the weights are judged on, None where nobody states it."""
        shape = self._stated.get("test_input_size") or self._stated.get("input_size")
        return None if shape is None else int(shape[-1])

    @property
    def num_classes(self) -> int | None:
        """The number of classes that their head tells apart, 0 without a head; None where nobody states it."""
        found = self._stated.get("num_classes", self.config.get("num_classes"))
        return None if found is None else int(found)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of their classes, () where nobody states them."""
        names = self._stated.get("label_names") or self.config.get("label_names") or ()
        return tuple(map(str, names))

    def preprocessing(self, name: str) -> tuple[Preprocessing, str]:
        """What their images become, and who says so. name: the registered name of their model."""
        stated = self._stated
        if "mean" not in stated or "std" not in stated:
            return _of_family(name, self.arrays)
        crop = stated.get("crop_pct")
        if stated.get("test_input_size"):
            crop = stated.get("test_crop_pct") or crop
        try:
            how = Preprocessing(tuple(stated["mean"]), tuple(stated["std"]), **{
                field: value for field, value in (("crop", crop), ("crop_mode", stated.get("crop_mode")),
                                                  ("interpolation", stated.get("interpolation"))) if value})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{CONFIG} of {self.source}: {error}") from None
        return how, f"{CONFIG} of {self.source}"

    def check_architecture(self, name: str) -> str:
        """Raise ValueError unless the weights are of the registered model `name`, at any size and number of classes.

        Returns a line that says what was compared.
        """
        given = self.config.get("architecture") or self._stated.get("architecture")
        if given is None:
            return f"{self.source} has no {CONFIG} that names its architecture: only names and shapes were compared"
        given = str(given).split(".")[0]
        known = given in list_models() and _structure(create_model(given)) in (
            _structure(create_model(name)), _structure(create_model(name.replace(*QUICK_GELU))))
        if given != name and not known:
            raise ValueError(f"{CONFIG} of {self.source} says that the weights are of {given}, not of {name}")
        return f"{self.source} is of {given}, says its {CONFIG}"


def _is_published(content: Any) -> bool:
    return isinstance(content, Mapping) and not content.keys().isdisjoint(("architecture", "pretrained_cfg"))


def _check_fields(config: Path, content: Mapping[str, Any]) -> None:
    """ValueError for fields of another form than timm writes."""
    stated = content.get("pretrained_cfg") or content
    if not isinstance(stated, Mapping):
        raise ValueError(f"{config}: pretrained_cfg must be an object, got a {type(stated).__name__}")
    for field, value in (*content.items(), *stated.items()):
        if field in ("input_size", "test_input_size") and value is not None:
            fits = isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 < n < 2**16 for n in value)
        elif field == "num_classes":
            fits = value is None or type(value) is int and 0 <= value < 2**24
        elif field == "label_names":
            fits = value is None or isinstance(value, list | dict)
        else:
            continue
        if not fits:
            raise ValueError(f"{config}: {field} is {str(value)[:40]!r}, which cannot be")


def _is_head(name: str) -> bool:
    return name.split(".")[-2:-1] in (["head"], ["fc"], ["classifier"])


def _is_torchvisions(name: str) -> bool:
    return name.startswith(("conv_proj.", "features."))


def position_resize_of(arrays: Mapping[str, Any], place: str = "") -> PositionResize:
    """How the code of a ViT's publisher resizes its learned positions, by a file without `config.json`.

    arrays: name -> array. place: the name under which they lay in the file. torchvision's are known by their names;
    those of DeiT and MAE, also fine-tuned, by the place `model`, MAE's also by its decoder or its fixed positions.
    Other files with a class token, without registers and without a classifier are DINO's or DINOv2's. The rest is
    timm's, whose way is also that of DINOv2's authors where there are registers.
    """
    names = [name.removeprefix("backbone.") for name in arrays]
    positions = next((arrays[name] for name in arrays if name.split(".")[-1] == "pos_embed"), None)
    if any(map(_is_torchvisions, names)):
        return "torchvision"
    masked = "mask_token" in names and not any(name.endswith("ls1.gamma") for name in names)  # DINOv2 has both
    if place == "model" or masked or positions is not None and _are_fixed(np.asarray(positions)):
        return "deit"
    return "timm" if any(map(_is_head, names)) or "cls_token" not in names or "reg_token" in names else "dino"


def _are_fixed(positions: np.ndarray) -> bool:
    """Whether positions `(1, 1 + L, D)` are the sine-cosine ones of a square grid, up to half precision."""
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    if positions.shape[1] != 1 + side**2 or positions.shape[2] % 4:
        return False
    return np.allclose(positions[0, 1:], sincos_2d(positions.shape[2], (side, side)), rtol=0, atol=5e-3)


def resizing_as(model: Any, how: PositionResize) -> Any:
    """A model whose learned positions, if it has any, are resized in this way, unless its fields say in which."""
    return model.clone(position_resize=how) if getattr(model, POSITION_RESIZE, "") is None else model


def _of_family(name: str, arrays: Iterable[str]) -> tuple[Preprocessing, str]:
    names, stated, who = tuple(arrays), _STATED, f"the publishers of {name}"
    if any(map(_is_torchvisions, names)):
        stated, who = _STATED | _TORCHVISION, "torchvision"
    start = max((start for start in stated if fnmatch.fnmatchcase(name, start + "*")), key=len, default=None)
    how = Preprocessing() if start is None else stated[start]
    if start == "vit_" and who != "torchvision" and not any(map(_is_head, names)):
        how, who = Preprocessing(crop=0.9), "the authors of self-supervised ViTs"  # DINO, MAE and I-JEPA
    if name.endswith(_SIZES_UNCROPPED) and start != "vit_*_siglip_*":
        how = dataclasses.replace(how, crop=1.0)
    return how, f"no {CONFIG}: as {who} state{'s' * (who == 'torchvision')}"


# Fields that change neither the names nor the meaning of weights, or what is said beside the architecture.
_OTHERWISE_SAID = ("parent", "name", "axis_name", "weight_init", "image_size", "position_resize", "num_classes",
                   "dtype", "remat", "scan", "attention", "dropout", "drop_path")


def _structure(model: ImageModel) -> tuple[Any, ...]:
    """A model but for its size, its classes, and how it is trained and computed."""
    return type(model), {field.name: getattr(model, field.name) for field in dataclasses.fields(model)
                         if field.name not in _OTHERWISE_SAID}


def open_published(source: str | Path, part: str | None = None) -> Published:
    """Weights and what is published beside them.

    source: a file for `read_state_dict`, whose folder may hold `config.json`, or `hf-hub:OWNER/NAME`; either with
    `#PART` at the end instead of the argument. part: see `read_state_dict`. Raises ValueError and OSError for what
    cannot be read.
    """
    name = str(source)
    if part is None and "#" in name and not Path(name).exists():
        name, _, part = name.rpartition("#")
    path = Path(download(name)) if name.startswith(HUB) else Path(name)
    config = path.with_name(CONFIG)
    arrays, place = read_wrapped(path, part)
    notes = read_notes(path) if path.suffix == ".safetensors" else {}
    trained, own = _trained(notes), _noted_resize(notes)
    if not config.is_file():
        return Published(name, arrays, {}, trained, own or position_resize_of(arrays, place), path)
    try:
        content = json.loads(read_text(config))
    except (ValueError, RecursionError, CvjaxError) as error:
        raise ValueError(f"{config} is not JSON: {error}") from None
    if not _is_published(content):  # a file of that name that is about something else: a run's options
        content = {}
    _check_fields(config, content)
    resize = own or ("timm" if content else position_resize_of(arrays, place))
    stated = (content.get("pretrained_cfg") or content).get("input_size")
    return Published(name, arrays, content, trained or (stated and (int(stated[1]), int(stated[2]))), resize,
                     path)


def _trained(notes: Mapping[str, str]) -> tuple[int, int] | None:
    """What `save_weights` notes in a file of the images."""
    if TRAINED not in notes:
        return None
    height, width = map(int, notes[TRAINED].split("x"))
    return height, width


def _noted_resize(notes: Mapping[str, str]) -> PositionResize | None:
    """What `save_weights` notes in a file of its positions; it says nothing where they are resized as by default."""
    said = notes.get(POSITION_RESIZE, "timm" if TRAINED in notes else None)
    return cast(PositionResize, said) if said in get_args(PositionResize) else None


def write_config(path: Path, model: ImageModel, how: Preprocessing, class_names: Sequence[str] = ()) -> None:
    """Write `config.json` beside the weights `path`, as timm reads it.

    Raises ValueError if a file of that name is there that is about something else.
    """
    config = path.with_name(CONFIG)
    if config.exists() and not _is_published(json.loads(read_text(config))):
        raise ValueError(f"{config} is there already, and describes no weights: save them in another folder")
    height, width = as_pair(model.image_size)
    classes = getattr(model, "num_classes", 0)
    stated = {"input_size": [model.in_channels, height, width], "num_classes": classes, "mean": list(how.mean),
              "std": list(how.std), "crop_pct": how.crop, "crop_mode": how.crop_mode,
              "interpolation": how.interpolation}
    if class_names:
        stated["label_names"] = list(class_names)
    content = {"num_classes": classes, "pretrained_cfg": stated}
    name = name_of(model)
    if _structure(create_model(name)) == _structure(model):  # others have no name that a reader could build
        content["architecture"] = name
    write_whole(config, json.dumps(content, indent=2) + "\n")
