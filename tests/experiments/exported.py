"""Small networks of every family, as the export takes them, with parameters drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cvjax.tasks  # noqa: F401  # fills the table of detectors
from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
from cvjax.tasks.detection import DETECTORS
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.model import Classifier
from cvjax.workflow.detection.model import TrainedDetector
from cvjax.workflow.export.program import Network
from cvjax.workflow.frozen.encoder import Encoder
from cvjax.workflow.segmentation.model import Segmenter
from tests.models.test_transforms import FAMILIES as FIELDS
from tests.models.test_transforms import SMALL_VIT

NAMES = ("cat", "dog", "other")

# The word for a family in docs/guides/export.md -> the model that stands for it.
FAMILIES = {
    "LeNet": "lenet5", "AlexNet": "alexnet", "VGG": "vgg11_bn", "GoogLeNet": "googlenet", "ResNet": "resnet18",
    "DenseNet": "densenet121", "ResNet-9": "resnet9", "airbench": "airbench94", "ViT": "vit_tiny_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224", "Swin V2": "swinv2_tiny_window8_256", "ConvNeXt": "convnext_tiny",
    "ResNet v2": "resnetv2_50", "linear, MLP": "mlp", "encoder of MAE, DINO": "encoder", "FCN": "fcn",
    "FCN on VGG": "fcn8s_vgg16", "dense probe": "dense_probe", "YOLO": "yolo", "Faster R-CNN": "faster_rcnn",
    "Fast R-CNN": "fast_rcnn"}


def network_of(name: str) -> Network:
    """The network of FAMILIES that this model is; `encoder` is a ViT with class token and patches."""
    fields: dict[str, Any] = dict(image_size=16, in_channels=1 if name == "lenet5" else 3, num_classes=len(NAMES))
    if name == "encoder":
        model = create_model("vit_tiny_patch16_224", **fields | SMALL_VIT | {"num_classes": 0})
    elif name == "dense_probe":
        model = create_model(name, backbone="vit_tiny_patch16_224", backbone_fields=SMALL_VIT, **fields)
    else:
        model = create_model(name, **fields | FIELDS[name])
    size, channels = model.image_size, model.in_channels
    how = Preprocessing.of(channels)
    variables = drawn(model, size, channels)
    if name == "yolo":  # its last layer gives boxes, confidences and classes as they are; around 0 none is found
        variables["params"][model.output_modules[-1]]["bias"] += 0.7
    if name == "encoder":
        return Encoder("dino", model, variables, "token+avg", 1, size, channels, how)
    if name.startswith(("fcn", "dense_probe")):
        return Segmenter(model, variables, NAMES, channels, how)
    if type(model) in DETECTORS:
        detector = DETECTORS[type(model)](model, score_threshold=0.0, max_detections=5)
        return TrainedDetector(model, detector, variables, NAMES, channels, how, None)
    return Classifier(model, variables, size, channels, how, Classification(NAMES))


def drawn(model: Any, size: int, channels: int) -> Any:
    """Variables of about the size that keeps signals as large as they are; statistics and scales are near 1."""
    draw = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)

    def of(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = draw.standard_normal(leaf.shape)
        kind = path[-1].key
        if kind in ("scale", "var"):
            return np.float32(1 + 0.2 * np.tanh(noise))
        return np.float32(noise * (0.1 if leaf.ndim < 2 else (leaf.size / leaf.shape[-1]) ** -0.5))

    return jax.tree_util.tree_map_with_path(of, jax.eval_shape(model.init, jax.random.key(0), image))
