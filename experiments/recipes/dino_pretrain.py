"""What DINO's authors state: https://arxiv.org/abs/2104.14294, and their code, https://github.com/facebookresearch/dino."""

from typing import Any

from experiments.recipes import Recipe

_CODE = "https://github.com/facebookresearch/dino"

# The defaults of main_dino.py, on 8 GPUs of 64 images each as the README calls it.
_VANILLA: dict[str, Any] = dict(
    data="tfds:imagenet2012", model="vit_small_patch16_224", model_fields=("weight_init=timm",), image_size=224,
    batch_size=512, epochs=100,
    optimizer="adamw", base_learning_rate=5e-4, schedule="dino", final_rate=1e-6 / 1e-3, warmup=10 / 100,
    weight_decay=0.04, weight_decay_end=0.4, decay="no_bias_or_norm", clip_each=3.0, drop_path=0.1,
    crop_scale=(0.4, 1.0), flip=True, out_dim=65536, head_layers=3, head_hidden=2048, head_bottleneck=256,
    head_batch_norm=False, norm_last_layer=True, freeze_last_layer=1.0, teacher_momentum=0.996,
    teacher_temperature=0.04, warmup_teacher_temperature=0.04, warmup_teacher_epochs=0, student_temperature=0.1,
    center_momentum=0.9, centering=True, local_crops=8, local_size=96, local_scale=(0.05, 0.4), squeeze=False,
    color_jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=(1.0, 0.1, 0.5), blur_sigma=(0.1, 2.0), solarize=0.2)

_LACKS = (
    "Each epoch of the authors ends with its last whole batch, so the rest of the images is left out of it.",
    "They compute in float16 with a scaled loss; here --dtype bfloat16 needs no scaling.",
    "Their images are decoded whole and resized by Pillow; here a JPEG may be decoded at a half, a quarter or an "
    "eighth of its size, which is at least twice the crop's.",
)

RECIPES: dict[str, Recipe] = {
    "vit_small_patch16": Recipe(
        source=f"{_CODE}, README, \"Vanilla DINO training\", and the defaults of main_dino.py",
        states=_VANILLA, lacks=_LACKS, reached="kNN 69.3 %, linear 74.0 % of ImageNet's validation images"),
    "vit_small_patch16_boosted": Recipe(
        source=f"{_CODE}, README, table of pretrained models, the args of ViT-S/16: 800 epochs on 16 GPUs",
        states=_VANILLA | dict(
            batch_size=1024, epochs=800, warmup=10 / 800, final_rate=1e-5 / 2e-3, teacher_temperature=0.07,
            warmup_teacher_epochs=30, norm_last_layer=False, clip_each=None, crop_scale=(0.25, 1.0),
            local_scale=(0.05, 0.25), local_crops=10),
        lacks=(*_LACKS[:1], "The authors compute in float32; --dtype float32 does.", *_LACKS[2:]),
        reached="kNN 74.5 %, linear 77.0 % of ImageNet's validation images"),
    "resnet50": Recipe(
        source=f"{_CODE}, README, \"ResNet-50 and other convnets trainings\"",
        states=_VANILLA | dict(
            model="resnet50", model_fields=(), optimizer="momentum", momentum=0.9, base_learning_rate=0.03,
            final_rate=1e-6 / 0.06, weight_decay=1e-4, weight_decay_end=1e-4, drop_path=None, crop_scale=(0.14, 1.0),
            local_scale=(0.05, 0.14)),
        lacks=_LACKS, reached="not stated for these 100 epochs"),
}
