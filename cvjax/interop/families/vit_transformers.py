"""The names that `transformers` has for vision transformers: ViT and DeiT, DINOv2 and DINOv3, CLIP and SigLIP."""

from collections.abc import Callable

import numpy as np

from cvjax.interop.families.transformers import transformers
from cvjax.interop.naming import PATCHES, TORCH, Arrays, Layout, Naming, Rule, linear
from cvjax.models.vit import VisionTransformer

Constants = Callable[[VisionTransformer], dict[str, np.ndarray]]

_VECTOR = Layout(lambda array, model: array[0, 0], lambda array, model: array[None, None])  # (1, 1, D) <-> (D,)
_MATRIX = Layout(lambda array, model: array[0], lambda array, model: array[None])  # (1, T, D) <-> (T, D)


_EMBEDDING = (
    Rule("patch_embed/proj/kernel", "embeddings/patch_embeddings/projection/weight", PATCHES),
    Rule("patch_embed/proj/bias", "embeddings/patch_embeddings/projection/bias"),
    Rule("cls_token", "embeddings/cls_token"), Rule("pos_embed", "embeddings/position_embeddings"),
    Rule("dist_token", "embeddings/distillation_token"), Rule("reg_token", "embeddings/register_tokens"))
_ATTENTION = (*linear(r"blocks/(\d+)/attn/qkv", r"encoder/layer/\1/attention/attention/{query,key,value}"),
              *linear(r"blocks/(\d+)/attn/proj", r"encoder/layer/\1/attention/output/dense"))
_LAST = (("norm/", "layernorm/"), ("pre_logits/", "pooler/dense/"))


def _vit(model: VisionTransformer, constants: Constants) -> Naming:
    """ViT's, DeiT's, and those of the encoders of MAE, MSN and I-JEPA."""
    block = r"encoder/layer/\1"
    rules = (*_EMBEDDING, *_ATTENTION,
             *linear(r"blocks/(\d+)/mlp/fc1", f"{block}/intermediate/dense"),
             *linear(r"blocks/(\d+)/mlp/fc2", f"{block}/output/dense"), *TORCH)
    norms = tuple((rf"blocks/(\d+)/norm{i}/", rf"{block}/layernorm_{where}/")
                  for i, where in ((1, "before"), (2, "after")))
    heads = (("head/", "cls_classifier/" if model.distilled else "classifier/"),
             ("head_dist/", "distillation_classifier/"))

    base = "ijepa" if not model.class_token else "deit" if model.distilled else "vit"
    return transformers(base, rules, (*norms, *_LAST, *heads),
                        others=("vit", "deit", "ijepa"), head=r"(cls_|distillation_)?classifier\..+",
                        constants=constants)


def _dinov2(model: VisionTransformer) -> Naming:
    """DINOv2's. The class token has a position there; where it has none here, the token holds the sum of both."""
    tokens, positions = "embeddings.cls_token", "embeddings.position_embeddings"
    gated = model.activation == "swiglu"
    block = r"encoder/layer/\1"
    rules = (*_EMBEDDING, *_ATTENTION,
             *linear(r"blocks/(\d+)/mlp/fc1", f"{block}/mlp/{'weights_in' if gated else 'fc1'}"),
             *linear(r"blocks/(\d+)/mlp/fc2", f"{block}/mlp/{'weights_out' if gated else 'fc2'}"),
             Rule(r"blocks/(\d+)/ls(\d)/gamma", rf"{block}/layer_scale\2/lambda1"), *TORCH)

    def read(arrays: Arrays, model: VisionTransformer) -> Arrays:
        if model.prefix_positions or tokens not in arrays or positions not in arrays:
            return arrays
        placed = arrays[positions]
        if placed.ndim != 3 or arrays[tokens].shape != placed[:, :1].shape:
            return arrays
        return {**arrays, tokens: arrays[tokens] + placed[:, :1], positions: placed[:, 1:]}

    def write(arrays: Arrays, model: VisionTransformer) -> Arrays:
        if model.prefix_positions:
            return arrays
        nowhere = np.zeros_like(arrays[tokens])
        return {**arrays, positions: np.concatenate([nowhere, arrays[positions]], axis=1)}

    base = "dinov2_with_registers" if model.registers else "dinov2"
    norms = ((r"blocks/(\d+)/norm(\d)/", rf"{block}/norm\2/"),)
    return transformers(base, rules, (*norms, *_LAST, ("head/", "classifier/")), others=("dinov2",),
                        head=r"classifier\..+", read=read, write=write)


def _dinov3(model: VisionTransformer) -> Naming:
    block = r"layer/\1"
    first = "fc1_x" if model.activation == "swiglu_pair" else "fc1"
    rules = (
        Rule("patch_embed/proj/kernel", "embeddings/patch_embeddings/weight", PATCHES),
        Rule("patch_embed/proj/bias", "embeddings/patch_embeddings/bias"),
        Rule("cls_token", "embeddings/cls_token"), Rule("reg_token", "embeddings/register_tokens"),
        Rule(r"blocks/(\d+)/attn/qkv/([qv])_bias", rf"{block}/attention/\2_proj/bias"),
        *linear(r"blocks/(\d+)/attn/qkv", f"{block}/attention/{{q_proj,k_proj,v_proj}}"),
        *linear(r"blocks/(\d+)/attn/proj", f"{block}/attention/o_proj"),
        *linear(rf"blocks/(\d+)/mlp/{first}", f"{block}/mlp/up_proj"),
        *linear(r"blocks/(\d+)/mlp/fc1_g", f"{block}/mlp/gate_proj"),
        *linear(r"blocks/(\d+)/mlp/fc2", f"{block}/mlp/down_proj"),
        Rule(r"blocks/(\d+)/ls(\d)/gamma", rf"{block}/layer_scale\2/lambda1"), *TORCH)
    norms = ((r"blocks/(\d+)/norm(\d)/", rf"{block}/norm\2/"),)
    return transformers("dinov3_vit", rules, (*norms, ("head/", "classifier/")), head=r"classifier\..+")


def _tower(model: VisionTransformer) -> Naming:
    """The vision towers of CLIP and SigLIP, by themselves or in a file with that of the text.

    The head of CLIP's is the projection to what it shares with the text. It has no bias there.
    """
    block, head = r"encoder/layers/\1", "visual_projection" if model.pre_norm else "classifier"
    pool, projection = "head/attention", f"{head}.bias"
    stacked = {f"head.attention.in_proj_{kind}": [f"head.attention.{which}_proj.{kind}" for which in "qkv"]
               for kind in ("weight", "bias")}
    rules = (
        Rule("patch_embed/proj/kernel", "embeddings/patch_embedding/weight", PATCHES),
        Rule("patch_embed/proj/bias", "embeddings/patch_embedding/bias"),
        Rule("cls_token", "embeddings/class_embedding", _VECTOR),
        Rule("pos_embed", "embeddings/position_embedding/weight", _MATRIX),
        *linear(r"blocks/(\d+)/attn/qkv", f"{block}/self_attn/{{q_proj,k_proj,v_proj}}"),
        *linear(r"blocks/(\d+)/attn/proj", f"{block}/self_attn/out_proj"),
        *linear(r"blocks/(\d+)/mlp/fc(\d)", rf"{block}/mlp/fc\2"),
        Rule("attn_pool/latent", "head/probe"),
        *linear("attn_pool/q", f"{pool}/q_proj"), *linear("attn_pool/kv", f"{pool}/{{k_proj,v_proj}}"),
        *linear("attn_pool/proj", f"{pool}/out_proj"), *linear(r"attn_pool/mlp/fc(\d)", r"head/mlp/fc\1"), *TORCH)
    renames = ((r"blocks/(\d+)/norm(\d)/", rf"{block}/layer_norm\2/"), ("attn_pool/norm/", "head/layernorm/"),
               ("norm_pre/", "pre_layrnorm/"), ("norm/", "post_layernorm/"), (r"head/", f"{head}/"))

    def read(arrays: Arrays, model: VisionTransformer) -> Arrays:
        found = dict(arrays)
        for name, parts in stacked.items():
            if name in found and len(found[name]) % 3 == 0:
                found |= zip(parts, np.split(found.pop(name), 3), strict=True)
        if model.pre_norm and model.num_classes and f"{head}.weight" in found:
            found.setdefault(projection, np.zeros(len(found[f"{head}.weight"]), np.float32))
        return found

    def write(arrays: Arrays, model: VisionTransformer) -> Arrays:
        found = dict(arrays)
        for name, parts in stacked.items():
            if parts[0] in found:
                found[name] = np.concatenate([found.pop(part) for part in parts])
        if model.pre_norm and projection in found and np.any(found.pop(projection)):
            raise ValueError("layout 'transformers' of a CLIP whose head has a bias: theirs has none")
        return found

    return transformers("vision_model", rules, renames, head=rf"{head}\..+", read=read, write=write)


def vit_transformers(model: VisionTransformer, constants: Constants) -> dict[str, Naming]:
    """The namings of the networks there that a model can be; none for one that they do not have.

    constants: fixed positions, as those of an MAE's encoder.
    """
    if model.qk_norm or not model.normed_tokens:
        return {}
    if model.position == "rotary":
        usual = model.class_token and not model.distilled and model.pool != "map" and model.qkv_bias is not True
        return {"transformers": _dinov3(model)} if usual and model.layer_scale is not None else {}
    if model.layer_scale is not None:
        return {"transformers": _dinov2(model)} if model.class_token and not model.distilled else {}
    if model.registers or not model.prefix_positions:
        return {}
    if model.pre_norm or model.pool == "map":
        return {"transformers": _tower(model)}
    if model.class_token:
        return {"transformers": _vit(model, constants)}
    return {"transformers": _tower(model), "transformers_ijepa": _vit(model, constants)}
