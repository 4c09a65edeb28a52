"""What tests/parity/make_transformers_names.py stored of `transformers`, and the same small networks here."""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_suffix(".json")
STORED: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}

TOWER = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20, image_size=8,
             patch_size=4)
DINO = {key: value for key, value in TOWER.items() if key != "intermediate_size"}
CONVNEXT = dict(hidden_sizes=[4, 6], depths=[1, 1], num_stages=2)
VIT = dict(width=12, depth=1, heads=3, mlp_ratio=20.5 / 12, patch_size=4)
OUR_CONVNEXT = dict(widths=(4, 6), depths=(1, 1))

# Their class and its configuration; a registered name here, and what makes it as small.
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", TOWER, "vit_tiny_patch16_224", VIT),
    "deit": ("DeiTForImageClassificationWithTeacher", TOWER, "deit_tiny_distilled_patch16_224", VIT),
    "dinov2": ("Dinov2ForImageClassification", DINO, "vit_small_patch14_dinov2", VIT | dict(mlp_ratio=4)),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", DINO, "vit_small_patch14_reg4_dinov2",
                              VIT | dict(mlp_ratio=4)),
    "dinov3_vit": ("DINOv3ViTModel", TOWER | dict(num_register_tokens=4), "vit_small_patch16_dinov3_qkvb",
                   VIT | dict(pool="token")),
    "swin": ("SwinForImageClassification", dict(embed_dim=4, depths=[1, 1], num_heads=[1, 2], window_size=2,
                                                image_size=16), "swin_tiny_patch4_window7_224",
             dict(width=4, depths=(1, 1), heads=(1, 2), window=2)),
    "convnext": ("ConvNextForImageClassification", CONVNEXT, "convnext_tiny", OUR_CONVNEXT),
    "convnextv2": ("ConvNextV2ForImageClassification", CONVNEXT, "convnextv2_atto", OUR_CONVNEXT),
    "resnet": ("ResNetForImageClassification", dict(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 1]),
               "resnet50", dict(depths=(1, 1), width=4)),
    "clip": ("CLIPVisionModelWithProjection", TOWER | dict(projection_dim=5), "vit_base_patch32_clip_quickgelu_224",
             VIT),
    "siglip": ("SiglipVisionModel", TOWER, "vit_base_patch16_siglip_224", VIT),
}
