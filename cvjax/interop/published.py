"""What is published beside weights: the statistics and the crop of their images, their classes, their architecture.

timm writes it into `config.json` (https://huggingface.co/docs/timm, `save_for_hf`). What transformers writes is turned
into timm's terms (`cvjax.interop.transformers_config`). A bare file has no such companion; then what its family's
publishers state holds.
"""

import contextlib
import dataclasses
import fnmatch
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

import numpy as np

from cvjax.data.preprocessing import CLIP_MEAN, CLIP_STD, HALF, Preprocessing
from cvjax.errors import CvjaxError
from cvjax.interop.hub import CONFIG, HUB, beside, download, in_folder
from cvjax.interop.state_dict import read_notes, read_wrapped
from cvjax.interop.timm_arguments import stated_fields
from cvjax.interop.transformers_config import (
    described,
    differences,
    is_transformers,
    names_by_number,
    own_fields,
    registered_name,
    stated_images,
    stated_licence,
    whole_patches,
)
from cvjax.models import create_model, list_models
from cvjax.models.described import fields_of, rebuilt
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.registry import name_of
from cvjax.ops.position import PositionResize, sincos_2d
from cvjax.text import printable, read_text

# Among a file's own notes: HEIGHTxWIDTH, and how learned positions were resized.
TRAINED, POSITION_RESIZE = "image_size", "position_resize"
# Where transformers states what images become; of networks that also read text, under a key of the second.
_IMAGES, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_README = "README.md"

# In config.json: a network that was saved here, in our own words (see `cvjax.models.described`); others pass over it.
OWN = "cvjax"

# By the start of a model's name, a shell pattern, longest first: what its publishers state where no config.json does.
# torchvision, https://pytorch.org/vision/stable/models.html: bilinear, 256 to 224; its GoogLeNet turns ImageNet's
# statistics into 0.5 inside the network (`transform_input`). timm, https://github.com/huggingface/pytorch-image-models,
# `_cfg` of vision_transformer.py, deit.py, swin_transformer.py, convnext.py: bicubic; the default weights'. Its
# resnetv2.py has the statistics of BiT's authors (https://github.com/google-research/big_transfer).
_STATED: dict[str, Preprocessing] = {
    "googlenet": Preprocessing(HALF, HALF, interpolation="bilinear"),
    "resnext101_64x4d": Preprocessing(crop=224 / 232, interpolation="bilinear"),
    "vit_": Preprocessing(HALF, HALF, crop=0.9),
    "vit_*_gap_256": Preprocessing(HALF, HALF, crop=0.95),
    "vit_*_siglip_*": Preprocessing(HALF, HALF, crop=0.9),
    "vit_*_siglip_gap_448": Preprocessing(HALF, HALF, crop=1.0),
    "vit_*_siglip_gap_896": Preprocessing(HALF, HALF, crop=1.0),
    "vit_medium_patch16_gap_240": Preprocessing(HALF, HALF, crop=0.95),
    "vit_medium_patch16_gap_384": Preprocessing(HALF, HALF, crop=0.95, crop_mode="squash"),
    "vit_so150m2_patch16_reg1_gap_256": Preprocessing(HALF, HALF, crop=1.0),
    "vit_so150m2_patch16_reg1_gap_448": Preprocessing(HALF, HALF, crop=1.0, crop_mode="squash"),
    "vit_*_clip_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0),
    "vit_*_dinov2": Preprocessing(crop=1.0), "vit_*_dinov3": Preprocessing(crop=1.0),
    "vit_*_lingbot": Preprocessing(crop=1.0, crop_mode="squash", interpolation="bilinear"),
    "test_vit": Preprocessing(HALF, HALF, crop=0.95),
    "vit_*_tipsv2": Preprocessing((0,), (1,), crop=1.0),
    "vit_*_miil": Preprocessing((0,), (1,), interpolation="bilinear"),
    "eva_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0),
    "eva_large_patch14_336": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0, crop_mode="squash"),
    "eva_giant_": Preprocessing(CLIP_MEAN, CLIP_STD, crop=0.9),
    "eva_giant_patch14_336": Preprocessing(CLIP_MEAN, CLIP_STD, crop=1.0, crop_mode="squash"),
    "eva_giant_patch14_560": Preprocessing(crop=1.0, crop_mode="squash"),
    "flexivit_": Preprocessing(HALF, HALF, crop=0.95),
    "deit_": Preprocessing(crop=0.9), "deit3_": Preprocessing(crop=0.9),
    "swin_": Preprocessing(crop=0.9),
    "swinv2_": Preprocessing(crop=0.9), "swinv2_*to384": Preprocessing(crop=1.0),
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
    **{name: Preprocessing(HALF, HALF) for name in ("resnetv2_", "resnetv2_50x1_bit", "resnetv2_152x2_bit")},
    **{name: Preprocessing(HALF, HALF, crop=0.9) for name in ("resnetv2_18", "resnetv2_34")},
    **{name: Preprocessing(HALF, HALF, crop=0.95) for name in ("resnetv2_50", "resnetv2_101", "resnetv2_50d_gn")},
    "resnetv2_*_bit": Preprocessing(HALF, HALF, crop=1.0, interpolation="bilinear"),
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

    source: the file, or its name on the hub. arrays: name -> array. config: the content of `config.json`, in timm's
    terms, empty where there is none. trained: height and width of the images that the weights learnt from, None where
    nobody states it. position_resize: how their publisher's code resizes learned positions, see `position_resize_of`.
    path: the file on this machine. network: the one that a configuration of transformers states, None without one.
    images: the file that states what images become.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained: tuple[int, int] | None = None
    position_resize: PositionResize = "timm"
    path: Path | None = None
    network: ImageModel | None = None
    images: str = CONFIG

    @property
    def _named(self) -> Any:
        """What the configuration calls their network, None where it has no name for it."""
        return (self.config.get("architecture") or self._stated.get("architecture")
                or self.config.get(OWN, {}).get("name"))

    @property
    def licence(self) -> str:
        """The licence that their publisher states, "" where nobody does."""
        return str(self._stated.get("license") or "")

    @property
    def name(self) -> str:
        """The registered name of their network; ValueError where nobody states one, or where it has none here."""
        given = str(self._named or "").split(".")[0]
        if given in list_models():
            return given
        if self.network is not None:
            near = name_of(self.network)
            raise ValueError(f"{CONFIG} of {self.source} is of a network that has no name here; beside {near}: "
                             f"{differences(self.network, create_model(near, **self.fields(near)))}")
        raise ValueError(f"{CONFIG} of {self.source} names {given}, which is no model here" if given else
                         f"{self.source} has no {CONFIG} that names its architecture: give the model's name")

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
        found = self.config.get("num_classes")  # this one first, as in timm: the other may be of an earlier network
        found = self._stated.get("num_classes") if found is None else found
        return None if found is None else int(found)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of their classes, () where nobody states them."""
        names = self.config.get("label_names") or self._stated.get("label_names") or ()
        count = len(names) if self.num_classes is None else self.num_classes
        numbered = names if isinstance(names, Mapping) else dict(enumerate(names))
        return names_by_number(numbered, count, f"{CONFIG} of {self.source}")

    def fields(self, name: str) -> dict[str, Any]:
        """The fields in which their network differs from the registered model `name`; {} where nobody states it."""
        if self.network is not None:
            return own_fields(self.network)
        own = self.config.get(OWN)
        if own is not None:
            return fields_of(own) if own["name"] == name else {}
        try:
            return stated_fields(create_model(name), self.config.get("model_args") or {})
        except ValueError as error:
            raise ValueError(f"{CONFIG} of {self.source}: model_args has {error}") from None

    def preprocessing(self, name: str) -> tuple[Preprocessing, str]:
        """What their images become, and who says so. name: the registered name of their model."""
        stated = self._stated
        if "mean" not in stated or "std" not in stated:
            return _of_family(name, self.arrays, self.images)
        crop = stated.get("crop_pct")
        if stated.get("test_input_size"):
            crop = stated.get("test_crop_pct") or crop
        try:
            how = Preprocessing(tuple(stated["mean"]), tuple(stated["std"]), **{
                field: value for field, value in (("crop", crop), ("crop_mode", stated.get("crop_mode")),
                                                  ("interpolation", stated.get("interpolation"))) if value})
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self.images} of {self.source}: {str(error)[:200]}") from None
        return how, f"{self.images} of {self.source}"

    def check_architecture(self, name: str, fields: Mapping[str, Any] = MappingProxyType({}), *, own: bool = True
                           ) -> str:
        """Raise ValueError unless the weights are of the registered model `name`, at any size and number of classes.

        fields: of the model, with which it may be the network that a configuration of transformers states. own: whether
        the model also gets `self.fields(name)`.
        Returns a line that says what was compared.
        """
        if self.network is not None:
            return self._check_network(name, fields, own)
        given, written = self._named, self.config.get(OWN)
        if given is None:
            return f"{self.source} has no {CONFIG} that names its architecture: only names and shapes were compared"
        given = str(given).split(".")[0]
        if written is not None and given == written["name"] != name:
            return self._check_written(rebuilt(written), name, fields)
        known = given in list_models() and structure(create_model(given)) in (
            structure(create_model(name)), structure(create_model(name.replace(*QUICK_GELU))))
        if given != name and not known:
            raise ValueError(f"{CONFIG} of {self.source} says that the weights are of {given}, not of {name}")
        if own:
            self.fields(name)  # says which of them cannot be
        return f"{self.source} is of {given}, says its {CONFIG}{self._licensed}"

    @property
    def _licensed(self) -> str:
        return f"; licence: {printable(self.licence, 60)}" if self.licence else ""

    def _check_written(self, network: ImageModel, name: str, fields: Mapping[str, Any]) -> str:
        """The same for weights that were saved here under another name."""
        parts = [network] + ([network.vit()] if isinstance(network, MaskedAutoencoder) else [])
        usual, asked = (structure(create_model(name, **given).clone(in_channels=network.in_channels))
                        for given in ({}, fields))  # weights of other channels are adapted
        given = name_of(network)
        if asked in map(structure, parts):
            return f"{self.source} is of {name} with the given fields, says its {CONFIG}"
        if asked == usual or not any(type(part) is asked[0] for part in parts):
            raise ValueError(f"{CONFIG} of {self.source} says that the weights are of {given}, not of {name}")
        return f"{self.source} is of {given} with fields of its own: only names and shapes were compared"

    def _check_network(self, name: str, fields: Mapping[str, Any], own: bool) -> str:
        assert self.network is not None
        alike = isinstance(create_model(name), type(self.network))
        base = self.fields(name) if own and alike else {}
        # Other fields than those of the name are a user's own change, unless only they make it the same network.
        different, also = (differences(self.network, create_model(name, **base | each))
                           for each in ({}, dict(fields) if alike else {}))
        given = self.config.get("architecture")
        if different and also:
            known = f"; it is of {given}" if given and given != name else ""
            raise ValueError(f"{CONFIG} of {self.source} says that the weights are not of {name}: "
                             f"{min(different, also, key=len)}{known}")
        return f"{self.source} is of {name if not given or not different else given}, says its {CONFIG}{self._licensed}"


def is_published(content: Any) -> bool:
    """Whether a `config.json` is about weights, not a file of that name with something else."""
    return isinstance(content, Mapping) and not content.keys().isdisjoint(("architecture", "pretrained_cfg"))


def _check_fields(config: Path, content: Mapping[str, Any]) -> None:
    """ValueError for fields of another form than timm writes."""
    stated = content.get("pretrained_cfg") or content
    if not isinstance(stated, Mapping):
        raise ValueError(f"{config}: pretrained_cfg must be an object, got a {type(stated).__name__}")
    for field, value in (*content.items(), *stated.items()):
        if field == OWN:
            fits = _is_description(value)
        elif field in ("input_size", "test_input_size") and value is not None:
            fits = isinstance(value, list) and len(value) == 3 and _is_size(value)
        elif field == "num_classes":
            fits = value is None or type(value) is int and 0 <= value < 2**24
        elif field == "label_names":
            fits = value is None or isinstance(value, list) or isinstance(value, Mapping) and all(
                key.isdecimal() and len(key) <= 8 for key in value)
        elif field == "model_args":
            fits = value is None or isinstance(value, Mapping) and all(map(_is_field, value.values())) and (
                value.get("img_size") is None or _is_size(value["img_size"]))
        else:
            continue
        if not fits:
            raise ValueError(f"{config}: {field} is {str(value)[:40]!r}, which cannot be")


def _is_description(value: Any) -> bool:
    """Whether `described` can have written this, of a network that can be built: a file from outside says it."""
    return (isinstance(value, Mapping) and value.keys() == {"name", "fields"} and isinstance(value["name"], str)
            and isinstance(value["fields"], Mapping) and value["fields"].keys().isdisjoint(OTHERWISE_SAID)
            and all(map(_is_field, value["fields"].values())))


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) in (2, 3) else [value]
    return all(type(n) is int and 0 < n < 2**16 for n in sides)


def _is_field(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) < 100 and all(map(_is_field, value))
    if isinstance(value, Mapping):
        return len(value) < 100 and all(map(_is_field, value.values()))
    return value is None or isinstance(value, bool | str) or isinstance(value, int | float) and abs(value) < 2**16


def _is_head(name: str) -> bool:
    return name.split(".")[-2:-1] in (["head"], ["fc"], ["classifier"])


def _is_torchvisions(name: str) -> bool:
    return name.startswith(("conv_proj.", "features."))


def position_resize_of(arrays: Mapping[str, Any], place: str = "") -> PositionResize:
    """How the code of a ViT's publisher resizes its learned positions, by a file without `config.json`.

    arrays: name -> array. place: the name under which they lay in the file. torchvision's are known by their names;
    those of DeiT and MAE, also fine-tuned, by the place `model`, MAE's also by its decoder or its fixed positions.
    transformers' are resized as DeiT's, but for those with registers.
    Other files with a class token, without registers and without a classifier are DINO's or DINOv2's. The rest is
    timm's, whose way is also that of DINOv2's authors where there are registers.
    """
    names = [name.removeprefix("backbone.") for name in arrays]
    positions = next((arrays[name] for name in arrays if name.split(".")[-1] == "pos_embed"), None)
    if any(map(_is_torchvisions, names)):
        return "torchvision"
    if any(".position_embedding" in f".{name}" for name in names):
        return "timm" if any(name.endswith("register_tokens") for name in names) else "deit"
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


def _of_family(name: str, arrays: Iterable[str], missing: str = CONFIG) -> tuple[Preprocessing, str]:
    names, stated, who = tuple(arrays), _STATED, f"the publishers of {name}"
    if any(map(_is_torchvisions, names)):
        stated, who = _STATED | _TORCHVISION, "torchvision"
    start = max((start for start in stated if fnmatch.fnmatchcase(name, start + "*")), key=len, default=None)
    how = Preprocessing() if start is None else stated[start]
    if start == "vit_" and who != "torchvision" and not any(map(_is_head, names)):
        how, who = Preprocessing(crop=0.9), "the authors of self-supervised ViTs"  # DINO, MAE and I-JEPA
    if name.endswith(_SIZES_UNCROPPED) and start not in ("vit_*_siglip_*", name):
        how = dataclasses.replace(how, crop=1.0)
    return how, f"no {missing}: as {who} state{'s' * (who == 'torchvision')}"


# Fields that change neither the names nor the meaning of weights, or what is said beside the architecture.
OTHERWISE_SAID = ("parent", "name", "axis_name", "weight_init", "zero_init_last", "image_size", "position_resize",
                  "num_classes", "dtype", "remat", "scan", "attention", "dropout", "drop_path")


def structure(model: ImageModel) -> tuple[Any, ...]:
    """A model but for its size, its classes, and how it is trained and computed."""
    return type(model), {field.name: getattr(model, field.name) for field in dataclasses.fields(model)
                         if field.name not in OTHERWISE_SAID}


def open_published(source: str | Path, part: str | None = None) -> Published:
    """Weights and what is published beside them.

    source: a file for `read_state_dict`, whose folder may hold `config.json`, such a folder, or `hf-hub:OWNER/NAME`;
    each with `#PART` at the end instead of the argument. part: see `read_state_dict`. Raises ValueError and OSError for
    what cannot be read.
    """
    name = str(source)
    if part is None and "#" in name and not Path(name).exists():
        name, _, part = name.rpartition("#")
    path = Path(download(name)) if name.startswith(HUB) else Path(name)
    path = in_folder(path) if path.is_dir() else path
    config = path.with_name(CONFIG)
    arrays, place = read_wrapped(path, part)
    notes = read_notes(path) if path.suffix == ".safetensors" else {}
    trained, own = _trained(notes), _noted_resize(notes)
    if not config.is_file():
        return Published(name, arrays, {}, trained, own or position_resize_of(arrays, place), path)
    content = _read_json(config)
    if is_transformers(content) and not is_published(content):
        return _of_transformers(name, path, content, arrays, trained, own)
    if not is_published(content):  # a file of that name that is about something else: a run's options
        content = {}
    _check_fields(config, content)
    content = _of_its_size(content)
    resize = own or ("timm" if content else position_resize_of(arrays, place))
    stated = (content.get("pretrained_cfg") or content).get("input_size")
    return Published(name, arrays, content, trained or (stated and (int(stated[1]), int(stated[2]))), resize,
                     path)


def _of_its_size(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What timm wrote, with the size that the network was made for in the place of that of the weights it started from.
    """
    size = (content.get("model_args") or {}).get("img_size")
    if size is None or not isinstance(content.get("pretrained_cfg"), Mapping):
        return content
    stated = dict(content["pretrained_cfg"])
    stated["input_size"] = [(stated.get("input_size") or [3])[0], *(size if isinstance(size, list) else (size, size))]
    stated.pop("test_input_size", None)
    return {**content, "pretrained_cfg": stated}


def _of_transformers(name: str, path: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
                     trained: tuple[int, int] | None, own: PositionResize | None) -> Published:
    """Weights beside a configuration of transformers, which is turned into timm's terms."""
    found = described(content, arrays, str(path.with_name(CONFIG)))
    network: Any = found.network
    size = as_pair(network.image_size)
    stated: dict[str, Any] = {"num_classes": found.num_classes, "label_names": list(found.class_names),
                              "input_size": [network.in_channels, *size]}
    images = beside(name, path, _IMAGES) or beside(name, path, _PROCESSOR)
    if images is not None:
        said = _read_json(images)
        said = said.get("image_processor", said) if isinstance(said, Mapping) else None
        if not isinstance(said, Mapping):
            raise ValueError(f"{images}: it holds no object")
        stated |= stated_images(said, str(images))
        side = whole_patches(found.network, stated.pop("size"))
        stated["test_input_size"] = [stated["input_size"][0], side, side]
    readme = beside(name, path, _README)
    if readme is not None:
        with contextlib.suppress(OSError, CvjaxError):
            stated["license"] = stated_licence(read_text(readme))
    config = {"architecture": registered_name(found.network, found.kind), "pretrained_cfg": stated}
    return Published(name, arrays, config, trained or size, own or cast(PositionResize, found.position_resize),
                     path, found.network, _IMAGES if images is None else images.name)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError, CvjaxError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _trained(notes: Mapping[str, str]) -> tuple[int, int] | None:
    """What `save_weights` notes in a file of the images."""
    noted = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", notes.get(TRAINED, ""))  # others note other things
    return None if noted is None else (int(noted[1]), int(noted[2]))


def _noted_resize(notes: Mapping[str, str]) -> PositionResize | None:
    """What `save_weights` notes in a file of its positions; it says nothing where they are resized as by default."""
    said = notes.get(POSITION_RESIZE, "timm" if TRAINED in notes else None)
    return cast(PositionResize, said) if said in get_args(PositionResize) else None
