"""The values that `--data` may have: one table for each kind of reader, from which help and errors are made.

A test keeps the lists in docs/guide.md equal to these tables.

A new data set needs its reader and one line here. This file imports no reader: a line names its function in words, and
the function is imported when a data set is opened, so that `--help` needs neither jax nor numpy nor an image library.
"""

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

from cvjax.errors import DataError
from cvjax.spelling import nearest
from cvjax.storage import is_address


@dataclasses.dataclass(frozen=True)
class Form:
    """One way of naming a data set: `NAME` or `NAME:PLACE`.

    Attributes:
        name: the text before the colon.
        place: the text after it, such as PATH; empty if there is only a name.
        description: what the data set is, in a few words.
        reader: `module:function`, a function of the text in the place (if there is one) and of `options`.
        options: names of the keyword arguments that the reader takes.
        place_optional: the name may also be given without a place; the reader then gets "".
        in_memory: the images are arrays in any case, so that caching them changes nothing.
        addresses: the place may be an address, see `cvjax.storage`.
        signs: patterns of what tells a place of this form: of a file's name, or of files and folders right in a folder.
    """

    name: str
    place: str
    description: str
    reader: str
    options: tuple[str, ...] = ()
    place_optional: bool = False
    in_memory: bool = False
    addresses: bool = False
    signs: tuple[str, ...] = ()

    @property
    def spellings(self) -> tuple[str, ...]:
        """How to write it: `digits`, or `folder:PATH`."""
        whole = f"{self.name}:{self.place}" if self.place else self.name
        return (self.name, whole) if self.place_optional else (whole,)

    def suits(self, path: Path) -> bool:
        """Whether a file or a folder on this machine looks like what this form names."""
        if path.is_dir():
            return any(next(path.glob(sign), None) is not None for sign in self.signs)
        return any(path.match(sign) for sign in self.signs)

    def takes(self, spec: str) -> bool:
        """Whether `spec` is written in this form."""
        name, colon, place = spec.partition(":")
        if name != self.name:
            return False
        return bool(self.place and place) if colon else self.place_optional or not self.place


@dataclasses.dataclass(frozen=True)
class Forms:
    """The forms of the data sets of one kind.

    Attributes:
        kind: the kind's name, in words that follow "data set"; empty for plain images.
        forms: the table.
    """

    kind: str
    forms: tuple[Form, ...]

    @property
    def spellings(self) -> tuple[str, ...]:
        """How to write each of the forms."""
        return tuple(spelling for form in self.forms for spelling in form.spellings)

    @property
    def help(self) -> str:
        """All forms with their descriptions, in one line."""
        return " | ".join(f"{' | '.join(form.spellings)} ({form.description})" for form in self.forms)

    def find(self, spec: str) -> Form:
        """The form that `spec` is written in. What it names need not be there.

        Raises:
            DataError: if it is in none of them; the message lists all, and names the one that was meant, if that is
                clear. And for an address that the form does not read.
        """
        kind = f" {self.kind}" if self.kind else ""
        for form in self.forms:
            if form.takes(spec):
                if form.addresses or not is_address(spec.partition(":")[2]):
                    return form
                others = ", ".join(other.spellings[-1] for other in self.forms if other.addresses)
                raise DataError(f"{form.spellings[-1]} is read on this machine only, got {spec!r}; addresses{kind} are "
                                f"for {others or 'none of its forms'}")
        raise DataError(f"unknown data set {spec!r}{kind}; {self._meant(spec)}allowed: {', '.join(self.spellings)}")

    def _meant(self, spec: str) -> str:
        """What may have been meant by a text that is in none of the forms, as the middle of a message; or nothing."""
        name, colon, place = spec.partition(":")
        path = Path(os.path.expanduser(spec))
        if spec and os.path.exists(path):  # False for what can be no name of a file, too
            for table in (self, *(other for other in (IMAGES, BOXES, LABEL_MAPS) if other is not self)):
                for form in table.forms:
                    if form.suits(path):
                        others = f", a data set {table.kind or 'of whole images'}" if table is not self else ""
                        return f"did you mean --data {form.name}:{spec}{others}? "
            folder = next((form for form in self.forms if form.name in ("folder", "voc")), None)
            return f"did you mean --data {folder.name}:{spec}? " if folder and path.is_dir() else ""
        near = nearest(name, [form.name for form in self.forms if form.name != name])
        return f"did you mean --data {near[0]}{colon}{place}? " if near else ""

    def taking(self, option: str) -> str:
        """The spellings of the forms whose readers take this option, for a message."""
        return ", ".join(form.spellings[-1] for form in self.forms if option in form.options)

    def open(self, spec: str, **options: Any) -> Any:
        """The data set that the reader makes of `spec`; the reader gets only the options that it takes.

        Raises:
            DataError: as in `find`, by the reader, and if a library is missing that only this reader needs.
        """
        form = self.find(spec)
        module, function = form.reader.split(":")
        try:
            reader = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            raise DataError(f"{form.spellings[-1]} needs {library}, which is not installed: "
                            f"pip install {library.replace('_', '-')}") from error
        place = [spec.partition(":")[2]] if form.place else []
        return reader(*place, **{name: value for name, value in options.items() if name in form.options})


_SCENES = "painted digits: how many scenes to train on, how many to test with, pixels of a side"

IMAGES = Forms("", (
    Form("digits", "", "scikit-learn's handwritten digits, which need no download",
         "cvjax.data.sources.digits:open_digits", in_memory=True),
    Form("folder", "PATH", "images in a folder for each class, or without classes; PATH may be at s3://, gs://",
         "cvjax.data.sources.folder:open_folder", ("seed", "cache"), addresses=True),
    Form("tar", "PATH", "tar files of images, as WebDataset has them, here or at s3://, gs://, https://; "
         "PATH/train-{000..099}.tar names several; with PATH#label=FIELD by FIELD of .json files",
         "cvjax.data.sources.tar:open_tar", ("seed", "cache"), addresses=True, signs=("*.tar",)),
    Form("packed", "DIR", "a folder of images in few large files, as experiments.pack writes it",
         "cvjax.data.sources.packed:open_packed", ("seed", "cache"), signs=("*.array_record",)),
    Form("labels", "PATH", "images that labels.csv lists, with any number of labels each or with numbers to predict",
         "cvjax.data.sources.labels:open_labels", ("seed", "cache"),
         signs=("labels.csv", "labels-*.csv", "*/labels.csv")),
    Form("tfds", "NAME", "a data set of TensorFlow Datasets, prepared as ArrayRecord",
         "cvjax.data.sources.tfds:open_tfds"),
    Form("hf", "OWNER/NAME[:SPLIT]", "a data set of the Hugging Face Hub, or hf:PATH, a folder that save_to_disk wrote",
         "cvjax.data.sources.hf:open_hf", ("seed", "cache"), signs=("dataset_dict.json", "state.json")),
    Form("npz", "FILE", "arrays train_images, train_labels, test_images, test_labels; floats with FILE#range=LOW,HIGH",
         "cvjax.data.sources.npz:open_npz", ("seed",), in_memory=True, signs=("*.npz",)),
    Form("blank", "RECORDS,SIDE,CLASSES", "grey pictures, for timing",
         "cvjax.data.sources.blank:open_blank"),
))

BOXES = Forms("for detection", (
    Form("scenes", "TRAIN,TEST,SIDE", _SCENES, "cvjax.data.boxes.scenes:open_boxed_scenes", place_optional=True),
    Form("voc", "PATH", "PASCAL VOC's folders Annotations, JPEGImages and ImageSets/Main; PATH+PATH joins several",
         "cvjax.data.boxes.voc:open_voc", ("seed", "validation", "max_bad"), signs=("Annotations",)),
    Form("coco", "PATH", "COCO's files instances_*.json and folders of images",
         "cvjax.data.boxes.coco:open_coco", ("seed",), signs=("annotations/instances_*.json", "instances_*.json")),
    Form("tfds", "NAME", "a data set of TensorFlow Datasets with objects, prepared as ArrayRecord",
         "cvjax.data.boxes.tfds:open_tfds_boxes"),
))

LABEL_MAPS = Forms("with label maps", (
    Form("scenes", "TRAIN,TEST,SIDE", _SCENES, "cvjax.data.label_maps.scenes:open_label_map_scenes",
         ("seed", "ignore_label", "mask_values"), place_optional=True),
    Form("folder", "PATH", "CamVid's folders train, trainannot, ..., or images and labels",
         "cvjax.data.label_maps.folder:open_label_map_folder", ("seed", "ignore_label", "mask_values"),
         signs=("*annot", "labels/*.png")),
    Form("voc", "PATH", "PASCAL VOC's folders JPEGImages, SegmentationClass and ImageSets/Segmentation",
         "cvjax.data.label_maps.voc:open_voc_label_maps", ("seed", "ignore_label", "mask_values"),
         signs=("SegmentationClass",)),
    Form("tfds", "NAME", "a data set of TensorFlow Datasets with label maps, prepared as ArrayRecord",
         "cvjax.data.label_maps.tfds:open_tfds_label_maps", ("ignore_label", "mask_values")),
))
