"""The base of detectors and segmenters that look at the maps of another network."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict

from cvjax.models.image_model import ImageModel, with_axis_name
from cvjax.models.registry import create_model


class OnBackbone(ImageModel):
    """A model that looks at the named maps of another one; it has fields `image_size`, `in_channels`, `axis_name` and
    `dtype`, and gives the backbone the same values.

    The backbone is its part `network`, which gives the maps: `self.network(images, train=train, maps=names)`.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share.
    """

    backbone: str = "resnet18"
    backbone_fields: Mapping[str, Any] = FrozenDict()

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone_fields", FrozenDict(self.backbone_fields))  # modules are hashed by fields
        super().__post_init__()

    @nn.nowrap
    def make_backbone(self) -> nn.Module:
        """The backbone without a head.

        ValueError if it is unknown, or if `backbone_fields` are unknown or shared with this model.
        """
        own = dict(num_classes=0, image_size=self.image_size, in_channels=self.in_channels, dtype=self.dtype)
        if taken := sorted(self.backbone_fields.keys() & {*own, "axis_name"}):
            raise ValueError(f"backbone_fields {', '.join(taken)}: the backbone has this model's")
        backbone = create_model(self.backbone, **own, **self.backbone_fields)
        return with_axis_name(backbone, self.axis_name)
