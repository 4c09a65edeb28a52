"""The network whose maps a detector or a segmenter looks at, from its fields."""

import flax.linen as nn


def make_backbone(model: nn.Module) -> nn.Module:
    """The model of `create_model` that another one's fields `backbone` and `backbone_fields` say, without a head.

    It sees the other one's images. ValueError for one that cannot be.
    """
    from cvjax.models.registry import create_model  # which knows this file

    own = dict(num_classes=0, image_size=model.image_size, in_channels=model.in_channels, dtype=model.dtype)
    if taken := sorted(model.backbone_fields.keys() & {*own, "axis_name"}):
        raise ValueError(f"backbone_fields {', '.join(taken)}: the backbone has this model's")
    backbone = create_model(model.backbone, **own, **model.backbone_fields)
    return backbone.clone(axis_name=model.axis_name) if hasattr(backbone, "axis_name") else backbone
