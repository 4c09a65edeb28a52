"""The network whose maps a detector or a segmenter looks at, from its fields."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict


class OnBackbone(nn.Module):
    """A model that looks at the named maps of another one; it has fields `image_size`, `in_channels`, `axis_name` and
    `dtype`, which both share.

    backbone, backbone_fields: a model of `create_model` that names its maps, and fields of it other than those that are
    this model's, too.
    """

    backbone: str = "resnet18"
    backbone_fields: Mapping[str, Any] = FrozenDict()

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone_fields", FrozenDict(self.backbone_fields))  # modules are hashed by fields
        super().__post_init__()

    @nn.nowrap
    def make_backbone(self) -> nn.Module:
        """The backbone by itself, without a head; ValueError for one that cannot be."""
        from cvjax.models.registry import create_model  # which knows this file

        own = dict(num_classes=0, image_size=self.image_size, in_channels=self.in_channels, dtype=self.dtype)
        if taken := sorted(self.backbone_fields.keys() & {*own, "axis_name"}):
            raise ValueError(f"backbone_fields {', '.join(taken)}: the backbone has this model's")
        backbone = create_model(self.backbone, **own, **self.backbone_fields)
        return backbone.clone(axis_name=self.axis_name) if hasattr(backbone, "axis_name") else backbone
