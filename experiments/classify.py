"""Labels for someone's pictures.

    python -m experiments.classify cat.jpg dog.png --checkpoint runs/supervised/folder
    python -m experiments.classify cat.jpg --model resnet50 --weights hf-hub:timm/resnet50.a1_in1k
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from cvjax.experiment.config import ConfigError, command, require


@dataclasses.dataclass(frozen=True)
class Config:
    """Pictures, and the classifier to ask: --checkpoint, or --model with --weights."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files (JPEG, PNG, WebP, GIF, BMP)."""
    checkpoint: tuple[Path, ...] = ()
    """The folder of a supervised run; of several, the probabilities are averaged."""
    model: str | None = None
    """A name from list_models()."""
    weights: str | None = None
    """Its weights: a .safetensors or .pth file, or hf-hub:OWNER/NAME."""
    class_names: Path | None = None
    """A text file with the name of one class per line; only with --weights."""
    top: int = 5
    """How many answers per picture."""
    figure: Path | None = None
    """Draw what each answer rests on into this PNG; with a single classifier."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("no images given")
        if bool(self.checkpoint) == bool(self.model or self.weights) or bool(self.model) != bool(self.weights):
            raise ConfigError("give --checkpoint, or --model with --weights")
        require(self.class_names is None or bool(self.weights), "class_names", self.class_names,
                "left out with --checkpoint, which knows its classes")
        require(self.top >= 1, "top", self.top, "at least 1")
        require(self.figure is None or len(self.checkpoint) <= 1, "figure", self.figure, "left out for an ensemble")
        require(self.figure is None or self.figure.parent.is_dir(), "figure", self.figure, "in a folder that exists")


def run(config: Config) -> None:
    """Print the likeliest classes of each picture; unreadable ones are named, and no answer at all is an error."""
    import jax
    import numpy as np

    from cvjax.data import DataError, DecodeError
    from cvjax.experiment.classifier import ensemble, load_classifier
    from cvjax.experiment.inputs import eval_crop

    classifiers = [load_classifier(run) for run in config.checkpoint] or [published(config)]
    names, channels = classifiers[0].class_names, classifiers[0].channels
    crop = eval_crop(max(each.image_size for each in classifiers), channels)
    images, readable, unreadable = [], [], []
    for path in config.images:
        try:
            images.append(crop(path.read_bytes()))
            readable.append(path)
        except (OSError, DecodeError) as error:
            unreadable.append(path)
            print(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
    if not images:
        raise DataError(f"none of the {len(config.images)} images can be read")
    compiled = jax.jit(ensemble(classifiers))
    variables = [each.variables for each in classifiers]
    answers = np.concatenate([np.asarray(compiled(variables, image[None])) for image in images])
    for path, row in zip(readable, answers):
        best = np.argsort(-row, kind="stable")[:config.top]
        print(f"{path}: " + ", ".join(f"{names[k]} {100 * row[k]:.1f} %" for k in best))
    if unreadable:
        print(f"{len(unreadable)} of {len(config.images)} images could not be read")
    if config.figure:
        draw(config.figure, classifiers[0], np.stack(images), answers)


def draw(path: Path, classifier: Any, images: Any, answers: Any) -> None:
    """The heat maps of `cvjax.experiment.report`, over the pictures."""
    import numpy as np

    from cvjax.experiment.inputs import displayable, preprocess
    from cvjax.experiment.report import explanations
    from cvjax.visualize.heatmaps import heatmap_panel

    seen = preprocess(images, classifier.image_size)
    chosen = answers.argmax(axis=1)
    heat = explanations(classifier.model, classifier.variables, seen, chosen)
    if not heat:
        raise ConfigError(f"--figure {path}: this classifier has no maps to explain itself by")
    heatmap_panel(path, np.asarray(displayable(seen)), heat, None, chosen, answers.max(axis=1), classifier.class_names)
    print(f"drawn to {path}")


def published(config: Config) -> Any:
    """The classifier of --model with --weights."""
    import jax

    from cvjax.experiment.classifier import Classifier, create_model_or_fail
    from cvjax.experiment.config import config_errors
    from cvjax.interop import load_weights

    model = create_model_or_fail(config.model)
    try:
        with config_errors():
            variables = load_weights(model, config.weights)
    except OSError as error:
        raise ConfigError(f"--weights {config.weights}: {str(error).splitlines()[0]}") from None
    names = tuple(f"class {i}" for i in range(model.num_classes))
    if config.class_names is not None:
        try:
            names = tuple(config.class_names.read_text().splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--class-names {config.class_names}: {error}") from None
        require(len(names) == model.num_classes, "class_names", config.class_names,
                f"{model.num_classes} lines long, it has {len(names)}")
    return Classifier(model, jax.device_put(variables), model.image_size, model.in_channels, names)


if __name__ == "__main__":
    command(run, "classify", Config, __doc__)
