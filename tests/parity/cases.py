"""What is compared with the references: models by their fields, and inputs that follow from the name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from deterministic_weights import random

CHANNELS = 3
BATCH = 2


def _patches(size: tuple[int, int], patch_size: int) -> int:
    return (size[0] // patch_size) * (size[1] // patch_size)


@dataclass(frozen=True)
class MaeCase:
    """A masked autoencoder and its loss; `normalize` is for the target."""

    name: str
    normalize: bool = True
    mask_ratio: float = 0.75
    image_size: tuple[int, int] = (16, 16)
    patch_size: int = 4
    width: int = 16
    depth: int = 2
    heads: int = 2
    decoder_width: int = 8
    decoder_depth: int = 1
    decoder_heads: int = 2

    def inputs(self) -> dict[str, np.ndarray]:
        noise = random(f"{self.name} noise").random((BATCH, _patches(self.image_size, self.patch_size)))
        return {"images": _images(self.name, self.image_size), "noise": noise.astype(np.float32)}


@dataclass(frozen=True)
class VitCase:
    """A classifier and the mean square of its logits.

    input_size: the images', `image_size` unless given. weights_size: what the loaded positions were made for.
    options: fields of VisionTransformer that only some cases have.
    """

    name: str
    image_size: tuple[int, int] = (16, 16)
    input_size: tuple[int, int] | None = None
    weights_size: tuple[int, int] | None = None
    patch_size: int = 4
    width: int = 12
    depth: int = 2
    heads: int = 2
    num_classes: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> dict[str, np.ndarray]:
        return {"images": _images(self.name, self.input_size or self.image_size)}

    @property
    def is_eva(self) -> bool:
        """Whether timm has it in its class `Eva` alone."""
        return not {("position", "rotary"), ("qkv_bias", "qv"), ("activation", "swiglu_pair")}.isdisjoint(
            self.options.items())

    def weight_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shapes of a model's parameters with those of the positions that are loaded."""
        if self.options.get("position") == "rotary":
            return dict(shapes)
        tokens = self.options.get("class_token", True), self.options.get("distilled", False)
        prefix = sum(tokens) + self.options.get("registers", 0) if self.options.get("prefix_positions", True) else 0
        length = prefix + _patches(self.weights_size or self.image_size, self.patch_size)
        return {**shapes, "pos_embed": (1, length, self.width)}


@dataclass(frozen=True)
class ClassifierCase:
    """A family's classifier in evaluation and in training mode, without dropout.

    The loss is the mean square of the logits, and of every auxiliary head's, weighted as the model says.
    model, fields: what `create_model` takes; `torch_side.CLASSIFIERS[name]` makes the reference.
    layout: whose names the reference has, where they are not the family's first.
    """

    name: str
    model: str
    fields: Mapping[str, Any]
    input_size: tuple[int, int] = (32, 32)
    batch: int = 4
    layout: str | None = None

    def inputs(self) -> dict[str, np.ndarray]:
        return {"images": _images(self.name, self.input_size, self.batch)}


@dataclass(frozen=True)
class DinoCase:
    """Steps of DINO: loss, gradients, statistics, centre and teacher after the first; both networks after all of them.

    model, fields: the backbone, `torch_side.DINO_BACKBONES[name]` makes the reference's. views: how many of which side;
    the first are the global ones.
    draw: which images. Where a ReLU's input is zero to rounding, its gradient is a matter of chance, and one such
    unit moves the others' gradients by percents; make_goldens refuses images on which the reference itself does not
    give the same gradients in float32, in float64 and with roundings of other processors.
    The rates are exact in float32, so that both sides can do the same operations. The optimizer's epsilon is larger
    than the usual one: a gradient that is zero but for rounding then moves nothing far.
    """

    name: str
    model: str
    fields: Mapping[str, Any]
    views: tuple[tuple[int, int], ...]
    batch_norm: bool
    norm_last_layer: bool
    steps: int = 1
    batch: int = 4
    out_dim: int = 24
    layers: int = 3
    hidden: int = 16
    bottleneck: int = 8
    draw: int = 0

    student_temperature = 0.125
    teacher_temperature = (0.0625, 0.125, 2)  # from, to, epochs of one step
    center_momentum = 0.75
    teacher_momentum = (0.875, 1.0)
    learning_rate = (2**-6, 2**-8)
    weight_decay = (0.25, 1.0)
    clip_each = 0.05
    eps = 1e-3
    held_steps = 1
    total_steps = 4

    def inputs(self, step: int = 0) -> list[np.ndarray]:
        """The views by size, float32 (V, B, H, W, C)."""
        return [random(f"{self.name} {self.draw} {step} {i} views").standard_normal(
            (count, self.batch, side, side, CHANNELS)).astype(np.float32) for i, (count, side) in enumerate(self.views)]

    def center(self) -> np.ndarray:
        return (0.1 * random(f"{self.name} center").standard_normal(self.out_dim)).astype(np.float32)

    def head(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in
                ("out_dim", "layers", "hidden", "bottleneck", "batch_norm", "norm_last_layer")}


def _images(name: str, size: tuple[int, int], batch: int = BATCH) -> np.ndarray:
    return random(f"{name} images").standard_normal((batch, *size, CHANNELS)).astype(np.float32)


MAE_CASES = (
    MaeCase("mae_normalised"),
    MaeCase("mae_plain_half", normalize=False, mask_ratio=0.5),
    MaeCase("mae_wide_image", mask_ratio=0.6, image_size=(8, 24)),
)
VIT_CASES = (
    VitCase("vit_token"),
    VitCase("vit_qk_norm_layer_scale", options=dict(qk_norm=True, layer_scale=0.1)),
    VitCase("vit_average_larger_input", input_size=(24, 20), options=dict(pool="avg")),
    VitCase("vit_resized_weights", image_size=(12, 28), weights_size=(16, 16)),
    VitCase("vit_without_class_token", image_size=(12, 28), weights_size=(16, 16),
            options=dict(class_token=False, pool="avg")),
    VitCase("vit_clip_registers", input_size=(24, 20), options=dict(
        registers=2, prefix_positions=False, pre_norm=True, norm_epsilon=1e-5, activation="quick_gelu")),
    VitCase("vit_attention_pool", options=dict(class_token=False, pool="map", activation="gelu_tanh")),
    VitCase("vit_dinov3", input_size=(24, 20), width=16, options=dict(
        position="rotary", registers=2, qkv_bias="qv", activation="swiglu_pair", layer_scale=0.1, pool="avg",
        fc_norm=False, norm_epsilon=1e-5)),
)
# Compared live alone.
VIT_FORMS = (
    VitCase("vit_registers", options=dict(registers=2)),
    VitCase("vit_no_position_of_the_class_token", weights_size=(12, 12),
            options=dict(prefix_positions=False, layer_scale=0.1)),
    VitCase("vit_pre_norm", options=dict(pre_norm=True)),
    VitCase("vit_large_epsilon", options=dict(norm_epsilon=1e-2, qk_norm=True)),
    VitCase("vit_quick_gelu", options=dict(activation="quick_gelu")),
    VitCase("vit_gelu_tanh", options=dict(activation="gelu_tanh")),
    VitCase("vit_swiglu", options=dict(activation="swiglu")),
    VitCase("vit_no_qkv_bias", options=dict(qkv_bias=False)),
    VitCase("vit_norm_after_the_mean", options=dict(class_token=False, pool="avg", fc_norm=True, registers=1)),
    VitCase("vit_norm_after_the_class_token", options=dict(fc_norm=True)),
    VitCase("vit_norm_before_the_mean", options=dict(pool="avg", fc_norm=False)),
    VitCase("vit_attention_pool_registers", input_size=(24, 20),
            options=dict(class_token=False, pool="map", registers=2, pre_norm=True)),
    VitCase("vit_distilled", input_size=(24, 20), options=dict(distilled=True)),
    VitCase("vit_rotary", width=24, options=dict(position="rotary", qkv_bias=False)),
    VitCase("vit_rotary_larger_input", input_size=(24, 44), width=24,
            options=dict(position="rotary", qkv_bias=False, class_token=False, pool="avg", fc_norm=False)),
    VitCase("vit_biases_of_queries_and_values", weights_size=(12, 12), options=dict(qkv_bias="qv", pool="avg")),
    VitCase("vit_swiglu_pair", width=16, options=dict(activation="swiglu_pair", position="rotary", qkv_bias=False)),
)
SWIN = "swin_tiny_patch4_window7_224"
SWIN_V2 = "swinv2_tiny_window8_256"
SMALL_SWIN = dict(width=12, depths=(2, 2), heads=(2, 3), num_classes=5)
SMALL_INCEPTIONS = {"4a": (8, 6, 8, 4, 8, 4), "4d": (6, 4, 8, 6, 4, 6), "5a": (8, 4, 8, 4, 8, 8)}
CLASSIFIER_CASES = (
    ClassifierCase("lenet", "lenet5", dict(in_channels=CHANNELS)),
    ClassifierCase("lenet_1998", "lenet5", dict(in_channels=CHANNELS, partial_c3=True)),
    ClassifierCase("lenet_modern", "lenet5", dict(in_channels=CHANNELS, activation="relu", pooling="max",
                                                  image_size=(24, 28)), (24, 28)),
    ClassifierCase("alexnet", "alexnet", dict(fc_width=16, num_classes=5, dropout=0.0), (95, 79)),
    ClassifierCase("alexnet_grouped", "alexnet_grouped", dict(widths=(16, 24, 32, 32, 24), fc_width=16, num_classes=5,
                                                              dropout=0.0), (131, 99)),
    ClassifierCase("vgg", "vgg11", dict(width=16, fc_width=16, num_classes=5, dropout=0.0), (64, 48)),
    ClassifierCase("vgg_bn", "vgg13_bn", dict(depths=(1, 2, 1), width=16, fc_width=16, num_classes=5, dropout=0.0)),
    ClassifierCase("resnet_basic", "resnet18", dict(depths=(1, 2, 1, 1), num_classes=5), (48, 32)),
    ClassifierCase("resnet_bottleneck", "resnet50", dict(depths=(1, 1, 1, 1), width=8, num_classes=5), (48, 48)),
    ClassifierCase("resnext_bottleneck", "resnext50_32x4d", dict(depths=(1, 1, 1, 1), width=8, groups=8,
                                                                 num_classes=5), (48, 48)),
    ClassifierCase("resnet_cifar", "resnet20", dict(depths=(1, 2, 1)), (16, 16)),
    ClassifierCase("resnet9", "resnet9", dict(channels=(8, 12, 16, 24)), (16, 16), batch=8),
    ClassifierCase("airbench94", "airbench94", dict(widths=(8, 16, 24)), (32, 32), batch=8),
    ClassifierCase("airbench96", "airbench96", dict(widths=(8, 16, 24)), (20, 24), batch=8),
    ClassifierCase("resnet_preactivation", "resnet50",
                   dict(depths=(1, 2, 1), width=8, num_classes=5, preactivation=True), (64, 64)),
    ClassifierCase("googlenet", "googlenet", dict(inceptions=tuple(SMALL_INCEPTIONS.items()), num_classes=5,
                                                  dropout=0.0, auxiliary_dropout=0.0), (48, 48), batch=8),
    ClassifierCase("googlenet_lrn", "googlenet_lrn", dict(inceptions=tuple(SMALL_INCEPTIONS.items()), num_classes=5,
                                                          dropout=0.0, auxiliary_dropout=0.0)),
    ClassifierCase("densenet", "densenet121", dict(depths=(2, 2), growth_rate=16, stem_width=32, num_classes=5)),
    ClassifierCase("densenet_cifar", "densenet40_k12", dict(depths=(2, 1), growth_rate=8), (16, 16)),
    ClassifierCase("fcn_resnet", "fcn_resnet50", dict(
        backbone_fields=dict(depths=(1, 1, 1, 2), width=4, output_stride=8), num_classes=3, dropout=0.0), (42, 52)),
    ClassifierCase("fcn_vgg", "fcn8s_vgg16", dict(
        skip_scales=(0.5, 0.25), depths=(1, 2, 1, 1), width=8, fc_width=16, num_classes=3, dropout=0.0), (28, 33)),
    # Maps of 16x8 and 8x4 in windows of 4: shifted in both directions, then in one.
    ClassifierCase("swin", SWIN, dict(SMALL_SWIN, image_size=(64, 32), window=4), (64, 32)),
    # Patches filled up to a map of 6x16, then 3x8; windows of 8 become 6x8 and 3x8.
    ClassifierCase("swin_small_maps", SWIN, dict(SMALL_SWIN, image_size=(24, 64), window=8), (22, 62)),
    # Maps of 11x15, 6x8 and 3x4 padded to windows of 4: by less than the shift, by as much, and to a single window.
    ClassifierCase("swin_padded", SWIN, dict(SMALL_SWIN, depths=(2, 1, 2), heads=(2, 3, 4), window=4), (44, 60),
                   layout="torchvision"),
    ClassifierCase("swin_v2", SWIN_V2, dict(SMALL_SWIN, image_size=(64, 32), window=4), (64, 32)),
    # Maps of 11x9 and 6x5.
    ClassifierCase("resnet_v2_bit", "resnetv2_50x1_bit", dict(depths=(2, 1), width=32, num_classes=5), (44, 34)),
    # Maps of 18x11, 9x5, 4x2 and 2x1: rows and columns that no 2x2 window holds.
    ClassifierCase("convnext", "convnext_tiny", dict(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1), num_classes=5),
                   (75, 44)),
    ClassifierCase("convnext_two_stages", "convnext_tiny", dict(widths=(8, 16), depths=(2, 1), num_classes=5),
                   (24, 28), layout="torchvision"),
)
# Compared live only: one of each field in which timm's networks differ.
SMALL_RESNET = dict(depths=(1, 1, 1, 1), width=8, num_classes=5)
SMALL_CONVNEXT = dict(widths=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_classes=5)
TIMM_CASES = (
    # Maps of 11x9, 6x5, 3x3 and 2x2: means of fewer pixels at the edges.
    ClassifierCase("resnet_tiered_stem_average", "resnet10t", dict(SMALL_RESNET, stem_widths=(3, 4, 8)), (44, 34)),
    ClassifierCase("resnet_deep_stem", "resnet50c", dict(SMALL_RESNET, stem_widths=(4, 4, 8))),
    ClassifierCase("resnet_wide_stem", "resnet50s", dict(SMALL_RESNET, stem_widths=(8, 8, 16))),
    ClassifierCase("resnet_se", "seresnet50t", dict(SMALL_RESNET, stem_widths=(3, 4, 8))),
    ClassifierCase("resnet_se_basic", "seresnet18", dict(SMALL_RESNET, stem="deep", stem_widths=(4, 4, 8))),
    ClassifierCase("resnet_eca", "ecaresnet50d", dict(SMALL_RESNET, stem_widths=(4, 4, 8))),
    ClassifierCase("resnet_blur", "resnetblur50d", dict(SMALL_RESNET, stem_widths=(4, 4, 8)), (44, 34)),
    ClassifierCase("resnet_blur_basic", "resnetblur18", dict(SMALL_RESNET, stem="deep", stem_widths=(4, 4, 8))),
    ClassifierCase("resnet_means", "resnetaa50d", dict(SMALL_RESNET, stem_widths=(4, 4, 8)), (64, 32)),
    ClassifierCase("resnet_groups", "resnet50_gn", dict(SMALL_RESNET, width=32, stem="deep")),
    ClassifierCase("resnet_v2_basic", "resnetv2_18", SMALL_RESNET, (44, 34)),
    ClassifierCase("resnet_v2_bottleneck", "resnetv2_50", SMALL_RESNET),
    ClassifierCase("resnet_v2_average", "resnetv2_50t", dict(SMALL_RESNET, stem_widths=(3, 4, 8)), (44, 34)),
    ClassifierCase("resnet_v2_dilated", "resnetv2_34d", dict(SMALL_RESNET, stem_widths=(4, 4, 8), output_stride=8)),
    ClassifierCase("resnet_v2_groups", "resnetv2_50d_gn", dict(depths=(1, 1), width=32, num_classes=5)),
    ClassifierCase("swin_window_of_each_stage", "swin_s3_tiny_224", dict(
        SMALL_SWIN, depths=(2, 1, 1), heads=(2, 3, 4), image_size=32, window=(2, 4, 1))),
    # Beyond the training's windows of 4 and 2: maps of 12x12 and 6x6 in windows of 6.
    ClassifierCase("swin_v2_larger_windows", SWIN_V2, dict(SMALL_SWIN, image_size=48, window=6,
                                                           pretrained_windows=(4, 2)), (48, 48)),
    ClassifierCase("convnext_overlapping_stem", "convnext_atto_ols", dict(SMALL_CONVNEXT, stem_width=8), (43, 38)),
    ClassifierCase("convnext_norm_first", "convnext_tiny_hnf", SMALL_CONVNEXT),
    ClassifierCase("convnext_representation", "convnext_large_mlp", dict(SMALL_CONVNEXT, representation_size=12)),
    ClassifierCase("convnext_norm_epsilon", "convnext_xxlarge", SMALL_CONVNEXT),
    ClassifierCase("convnextv2", "convnextv2_tiny", SMALL_CONVNEXT),
    ClassifierCase("convnextv2_convolutions", "convnextv2_atto", SMALL_CONVNEXT),
)
DINO_CASES = (
    # Two lists of views of one size: the authors interpolate positions in another way, so there is one resolution.
    DinoCase("dino_vit", "vit_tiny_patch16_224", dict(image_size=8, patch_size=4, width=8, depth=1, heads=2),
             ((2, 8), (2, 8)), batch_norm=False, norm_last_layer=False, steps=3),
    DinoCase("dino_resnet", "resnet20", dict(depths=(1, 1)), ((2, 8), (3, 6)), batch_norm=True, norm_last_layer=True),
)
# Whose checkpoint make_goldens writes as the authors' script does.
DINO_CHECKPOINT = DinoCase("dino_checkpoint", "vit_tiny_patch16_224",
                           dict(image_size=8, patch_size=4, width=8, depth=1, heads=2), ((2, 8),), batch_norm=True,
                           norm_last_layer=True, layers=2, out_dim=6, hidden=8, bottleneck=4)
