"""The vision transformers that came after the first ones, by timm's names: fields of `cvjax.models.vit`.

DeiT, distilled (https://arxiv.org/abs/2012.12877), and DeiT III (https://arxiv.org/abs/2204.07118); the image towers of
CLIP (https://arxiv.org/abs/2103.00020) and TinyCLIP (https://arxiv.org/abs/2309.12314); SigLIP
(https://arxiv.org/abs/2303.15343) and SigLIP 2 (https://arxiv.org/abs/2502.14786), whose names with gap have no
attention pooling; DINOv2 (https://arxiv.org/abs/2304.07193), with registers https://arxiv.org/abs/2309.16588; DINOv3
(https://arxiv.org/abs/2508.10104), and those that learnt in its form, EUPE and LingBot-Vision; TIPSv2; I-JEPA
(https://arxiv.org/abs/2301.08243); EVA's ViTs (https://arxiv.org/abs/2211.07636); FlexiViT at its patches of 16 pixels
(https://arxiv.org/abs/2212.08013); and timm's own, with registers, of other shapes.
"""

from typing import Any

from cvjax.models.registry import register
from cvjax.models.vit import BASE, HUGE, LARGE, SMALL, TINY, VisionTransformer

Row = tuple[str, dict[str, Any], int, tuple[int, ...]]
Rows = tuple[Row, ...]

WEE = dict(width=256, depth=14, heads=4, mlp_ratio=5)
XSMALL = dict(width=256, depth=10, heads=4)
LITTLE = dict(width=320, depth=14, heads=5, mlp_ratio=5.6)
MEDIUM = dict(width=512, depth=12, heads=8)
MEDIUMD = MEDIUM | dict(depth=20)
BETWIXT = dict(width=640, depth=12, heads=10)
SO150M = dict(width=896, depth=18, heads=14, mlp_ratio=2.572)
SO150M2 = dict(width=832, depth=21, heads=13, mlp_ratio=34 / 13)
PLUS = dict(width=896, depth=12, heads=14)
SO400M = dict(width=1152, depth=27, heads=16, mlp_ratio=3.7362)
GIANT = dict(width=1408, depth=40, heads=16, mlp_ratio=48 / 11)
GIANT_OPT = dict(width=1536, depth=40, heads=16)
GIGANTIC = dict(width=1664, depth=48, heads=16, mlp_ratio=64 / 13)
GIANT_DINO = dict(width=1536, depth=40, heads=24, mlp_ratio=2.66667 * 2, activation="swiglu")
SMALL_PLUS = SMALL | dict(activation="swiglu_pair")
HUGE_PLUS = HUGE | dict(heads=20, activation="swiglu_pair")
GIANT_LINGBOT = dict(width=1536, depth=40, heads=24, mlp_ratio=8 / 3, activation="swiglu_pair")
SEVEN_BILLION = dict(width=4096, depth=40, heads=32, mlp_ratio=2, activation="swiglu_pair")

CLIP = dict(pre_norm=True, norm_epsilon=1e-5)
SIGLIP = dict(class_token=False, pool="map")
GAP = dict(class_token=False, pool="avg")
UNPLACED = dict(prefix_positions=False)
REGISTERS = GAP | UNPLACED | dict(fc_norm=True, layer_scale=1e-5)  # timm's own
ROTARY = UNPLACED | dict(position="rotary", registers=4, layer_scale=1e-5, norm_epsilon=1e-5)
# The authors read the class token, timm's names the mean of the patches. The names with qkvb have biases of queries and
# values, which are zero in DINOv3's weights and not in EUPE's.
DINOV3 = ROTARY | dict(pool="avg", fc_norm=False)


def named(name: str, fields: dict[str, Any], *rows: Row) -> dict[str, tuple[type[VisionTransformer], dict[str, Any]]]:
    """Variants of one form.

    name: with the places {size}, {patch} and {image}. rows: the size and its dimensions, the side of a patch, and those
    of the images.
    """
    common = dict(fields, weight_init="timm")
    return {name.format(size=size, patch=patch, image=image):
            (VisionTransformer, dict(dims, patch_size=patch, image_size=image) | common)
            for size, dims, patch, images in rows for image in images}


# SigLIP 2's sizes have the approximate GELU. timm's names of the sizes that SigLIP had have the exact one.
FIRST_SIGLIPS: Rows = (("base", BASE, 16, (224, 256, 384, 512)), ("large", LARGE, 16, (256, 384)))
SECOND_SIGLIPS: Rows = (("base", BASE, 32, (256,)), ("large", LARGE, 16, (512,)),
                        ("so400m", SO400M, 16, (256, 384, 512)), ("giantopt", GIANT_OPT, 16, (256, 384)))
DINOV2: Rows = (("small", SMALL, 14, (518,)), ("base", BASE, 14, (518,)), ("large", LARGE, 14, (518,)),
                ("giant", GIANT_DINO, 14, (518,)))
TANH = dict(activation="gelu_tanh")

register({
    **named("deit_{size}_distilled_patch{patch}_{image}", dict(distilled=True),
            ("tiny", TINY, 16, (224,)), ("small", SMALL, 16, (224,)), ("base", BASE, 16, (224, 384))),
    **named("deit3_{size}_patch{patch}_{image}", UNPLACED | dict(layer_scale=1e-6),
            ("small", SMALL, 16, (224, 384)), ("medium", MEDIUM, 16, (224,)), ("base", BASE, 16, (224, 384)),
            ("large", LARGE, 16, (224, 384)), ("huge", HUGE, 14, (224,))),
    **named("vit_{size}_patch{patch}_clip_{image}", CLIP,
            ("xsmall", XSMALL, 16, (224,)), ("medium", MEDIUM, 16, (224,)), ("medium", MEDIUM, 32, (224,)),
            ("betwixt", BETWIXT, 32, (224,)), ("base", BASE, 16, (224, 384)), ("base", BASE, 32, (224, 256, 384, 448)),
            ("large", LARGE, 14, (224, 336)), ("huge", HUGE, 14, (224, 336, 378)), ("giant", GIANT, 14, (224,)),
            ("gigantic", GIGANTIC, 14, (224, 378))),
    **named("vit_{size}_patch{patch}_plus_clip_{image}", CLIP, ("base", PLUS, 16, (240,))),
    **named("vit_{size}_patch{patch}_clip_quickgelu_{image}", CLIP | dict(activation="quick_gelu"),
            ("base", BASE, 16, (224,)), ("base", BASE, 32, (224,)), ("large", LARGE, 14, (224, 336)),
            ("huge", HUGE, 14, (224, 378)), ("gigantic", GIGANTIC, 14, (224,))),
    **named("vit_{size}_patch{patch}_siglip_{image}", SIGLIP, *FIRST_SIGLIPS, ("so400m", SO400M, 14, (224, 378))),
    **named("vit_{size}_patch{patch}_siglip_{image}", SIGLIP | TANH, *SECOND_SIGLIPS),
    **named("vit_{size}_patch{patch}_siglip_gap_{image}", GAP, *FIRST_SIGLIPS,
            ("so400m", SO400M, 14, (224, 378, 448, 896))),
    **named("vit_{size}_patch{patch}_siglip_gap_{image}", GAP | TANH, *SECOND_SIGLIPS),
    **named("vit_{size}_patch{patch}_dinov2", dict(layer_scale=1e-5), *DINOV2),
    **named("vit_{size}_patch{patch}_reg4_dinov2", dict(layer_scale=1e-5) | UNPLACED | dict(registers=4), *DINOV2),
    **named("vit_{size}_patch{patch}_dinov3", DINOV3 | dict(qkv_bias=False),
            ("small", SMALL, 16, (256,)), ("small_plus", SMALL_PLUS, 16, (256,)), ("base", BASE, 16, (256,)),
            ("large", LARGE, 16, (256,)), ("huge_plus", HUGE_PLUS, 16, (256,)), ("7b", SEVEN_BILLION, 16, (256,))),
    **named("vit_{size}_patch{patch}_dinov3_qkvb", DINOV3 | dict(qkv_bias="qv"), ("tiny", TINY, 16, (256,)),
            ("small", SMALL, 16, (256,)), ("small_plus", SMALL_PLUS, 16, (256,)), ("base", BASE, 16, (256,)),
            ("large", LARGE, 16, (256,)), ("huge_plus", HUGE_PLUS, 16, (256,))),
    **named("vit_{size}_patch{patch}_lingbot", ROTARY | dict(qkv_bias="qv"),
            ("small", SMALL, 16, (512,)), ("base", BASE, 16, (512,)), ("large", LARGE, 16, (512,))),
    **named("vit_{size}_patch{patch}_lingbot", ROTARY | dict(qkv_bias=False), ("giant", GIANT_LINGBOT, 16, (512,))),
    **named("vit_{size}_patch{patch}_reg1_tipsv2", dict(layer_scale=1.0) | UNPLACED | dict(registers=1),
            ("base", BASE, 14, (448,)), ("large", LARGE, 14, (448,)), ("so400m", SO400M, 14, (448,)),
            ("giant", GIANT_DINO, 14, (448,))),
    **named("vit_{size}_patch{patch}_gap_{image}", GAP, ("huge", HUGE, 16, (448,)), ("giant", GIANT, 16, (224,))),
    **named("vit_{size}_patch{patch}_gap_{image}", GAP | dict(qkv_bias=False, layer_scale=1e-6),
            ("medium", MEDIUM, 16, (240, 256, 384))),
    **named("vit_{size}_patch{patch}_{image}_miil", dict(qkv_bias=False), ("base", BASE, 16, (224,))),
    **named("eva_{size}_patch{patch}_{image}", dict(pool="avg"), ("large", LARGE, 14, (196, 336))),
    **named("eva_{size}_patch{patch}_{image}", dict(pool="avg", qkv_bias="qv"), ("giant", GIANT, 14, (224, 336, 560))),
    **named("eva_{size}_patch{patch}_clip_{image}", dict(qkv_bias="qv"), ("giant", GIANT, 14, (224,))),
    **named("flexivit_{size}", UNPLACED,
            ("small", SMALL, 16, (240,)), ("base", BASE, 16, (240,)), ("large", LARGE, 16, (240,))),
    **named("vit_{size}_patch{patch}_reg1_gap_{image}", REGISTERS | dict(registers=1),
            ("wee", WEE, 16, (256,)), ("little", LITTLE, 16, (256,)), ("medium", MEDIUM, 16, (256,)),
            ("betwixt", BETWIXT, 16, (256,))),
    **named("vit_{size}_patch{patch}_reg4_gap_{image}", REGISTERS | dict(registers=4),
            ("little", LITTLE, 16, (256,)), ("medium", MEDIUM, 16, (256,)), ("mediumd", MEDIUMD, 16, (256, 384)),
            ("betwixt", BETWIXT, 16, (256, 384))),
    **named("vit_{size}_patch{patch}_reg4_gap_{image}", GAP | dict(registers=4), ("so150m", SO150M, 16, (256, 384))),
    **named("vit_{size}_patch{patch}_reg1_gap_{image}",
            GAP | dict(registers=1, fc_norm=True, layer_scale=1e-5, qkv_bias=False),
            ("so150m2", SO150M2, 16, (256, 384, 448))),
    # The weights by which timm tests itself: a megabyte and two.
    **named("test_vit", {}, ("", dict(width=64, depth=6, heads=2, mlp_ratio=3), 16, (160,))),
    **named("test_vit2", GAP | dict(registers=1, fc_norm=True, layer_scale=1e-5),
            ("", dict(width=64, depth=8, heads=2, mlp_ratio=3), 16, (160,))),
})
