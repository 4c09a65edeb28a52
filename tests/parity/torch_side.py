"""The references' numbers for a case: outputs, loss, and `gradient/NAME` of every parameter."""

from functools import partial
from typing import Any

import dino_reference
import numpy as np
import torch
import torchvision_operators  # noqa: F401  before timm and torchvision
from airbench_reference import PUBLISHED as AIRBENCH
from airbench_reference import TorchAirbench
from alexnet_reference import GroupedAlexNet, small_alexnet
from cases import CHANNELS, SMALL_INCEPTIONS, ClassifierCase, DinoCase, MaeCase, VitCase
from densenet_reference import CifarDenseNet
from deterministic_weights import fill, fill_role, sketch
from fcn_reference import ChannelsLast, TorchFCNVGG, small_fcn
from googlenet_reference import PaperGoogLeNet, small_googlenet
from lenet_reference import TorchLeNet
from mae_reference import TorchMae
from resnet9_reference import TorchResNet9
from resnet_reference import CifarResNet, NarrowResNet, PreactivationResNet
from timm import create_model, list_models
from timm.layers import (
    BatchNormAct2d,
    BlurPool2d,
    GroupNormAct,
    LayerNorm,
    PatchEmbed,
    StdConv2d,
    SwiGLUPacked,
    create_conv2d,
    resample_abs_pos_embed,
)
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.resnet import BasicBlock as TimmBasic
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torchvision.models import ConvNeXt as TorchvisionConvNeXt
from torchvision.models import SwinTransformer as TorchvisionSwin
from torchvision.models import get_model
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from vgg_reference import small_vgg


def parameter_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _images(inputs: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2)


def _numbers(module: torch.nn.Module, outputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    outputs["loss"].backward()
    gradients = {f"gradient/{name}": p.grad for name, p in module.named_parameters() if p.requires_grad}
    return {name: tensor.detach().numpy() for name, tensor in (outputs | gradients).items()}


def torch_mae(case: MaeCase) -> TorchMae:
    elsewhere = ("name", "normalize", "mask_ratio")
    return TorchMae(**{name: value for name, value in vars(case).items() if name not in elsewhere},
                    in_channels=CHANNELS)


def mae_numbers(case: MaeCase) -> dict[str, np.ndarray]:
    model = torch_mae(case)
    model.load_state_dict(_tensors(fill(parameter_shapes(model))), strict=False)  # positions stay
    inputs = case.inputs()
    noise = torch.from_numpy(inputs["noise"])
    return _numbers(model, model(_images(inputs), noise, case.mask_ratio, case.normalize))


def timm_eva(case: VitCase) -> Eva:
    """timm's other ViT, as its names of DINOv3 make it; its biases are always without those of keys."""
    options = dict(case.options)
    rotary, bias = options.pop("position", "learned") == "rotary", options.pop("qkv_bias")
    assert bias in (False, "qv")
    return Eva(img_size=case.image_size, patch_size=case.patch_size, embed_dim=case.width, depth=case.depth,
               num_heads=case.heads, num_classes=case.num_classes, dynamic_img_size=True, qkv_bias=bool(bias),
               global_pool=options.pop("pool", "token"), class_token=options.pop("class_token", True),
               use_fc_norm=options.pop("fc_norm", None), num_reg_tokens=options.pop("registers", 0),
               init_values=options.pop("layer_scale", None), swiglu_align_to=8,
               swiglu_mlp=options.pop("activation", "gelu") == "swiglu_pair",
               norm_layer=partial(LayerNorm, eps=options.pop("norm_epsilon", 1e-6)), use_abs_pos_emb=not rotary,
               use_rot_pos_emb=rotary, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, **options)


def timm_vit(case: VitCase) -> VisionTransformer | Eva:
    if case.is_eva:
        return timm_eva(case)
    renamed = {"pool": "global_pool", "layer_scale": "init_values", "registers": "reg_tokens",
               "activation": "act_layer"}
    options = {renamed.get(name, name): value for name, value in case.options.items()}
    if not options.get("class_token", True):
        options.setdefault("fc_norm", False)  # before the mean, as in most of timm's networks without a class token
    if options.get("act_layer") == "swiglu":
        options |= {"act_layer": "silu", "mlp_layer": SwiGLUPacked}
    if "norm_epsilon" in options:
        options["norm_layer"] = partial(LayerNorm, eps=options.pop("norm_epsilon"))
    options["no_embed_class"] = not options.pop("prefix_positions", True)
    network = VisionTransformerDistilled if options.pop("distilled", False) else VisionTransformer
    return network(img_size=case.image_size, patch_size=case.patch_size, embed_dim=case.width,
                             depth=case.depth, num_heads=case.heads, num_classes=case.num_classes,
                             dynamic_img_size=True, **options)


def vit_numbers(case: VitCase) -> dict[str, np.ndarray]:
    model = timm_vit(case)
    weights = _tensors(fill(case.weight_shapes(parameter_shapes(model))))
    if "pos_embed" in weights:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], model.patch_embed.grid_size,
                                                      num_prefix_tokens=prefix)
    model.load_state_dict(weights)
    images = _images(case.inputs())
    logits = model(images)
    return _numbers(model, {"tokens": model.forward_features(images), "logits": logits,
                            "loss": logits.square().mean()})


def state_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameters and running statistics."""
    wanted = parameter_shapes(module)
    return {name: tuple(value.shape) for name, value in module.state_dict().items()
            if name in wanted or name.endswith(("running_mean", "running_var"))}


SMALL_SWIN = dict(embed_dim=12, depths=(2, 2), num_heads=(2, 3), num_classes=5, drop_path_rate=0.0)

# Case name -> the reference with the case's fields.
CLASSIFIERS = {
    "lenet": lambda: TorchLeNet(CHANNELS),
    "lenet_1998": lambda: TorchLeNet(CHANNELS, partial_c3=True),
    "lenet_modern": lambda: TorchLeNet(CHANNELS, "relu", "max", last_map=(3, 4)),
    "alexnet": small_alexnet,
    "alexnet_grouped": lambda: GroupedAlexNet((16, 24, 32, 32, 24), 16, num_classes=5),
    "vgg": lambda: small_vgg((1, 1, 2, 2, 2), batch_norm=False),
    "vgg_bn": lambda: small_vgg((1, 2, 1), batch_norm=True),
    "resnet_basic": lambda: ResNet(BasicBlock, [1, 2, 1, 1], num_classes=5),
    "resnet_bottleneck": lambda: NarrowResNet(Bottleneck, 8, num_classes=5),
    "resnext_bottleneck": lambda: NarrowResNet(Bottleneck, 8, num_classes=5, groups=8, width_per_group=16),
    "resnet_cifar": lambda: CifarResNet((1, 2, 1), num_classes=10),
    "resnet9": lambda: TorchResNet9((8, 12, 16, 24)),
    "airbench94": lambda: TorchAirbench((8, 16, 24)),
    "airbench96": lambda: TorchAirbench((8, 16, 24), 3, 0.9),
    "resnet_preactivation": lambda: PreactivationResNet((1, 2, 1), width=8, num_classes=5),
    "googlenet": lambda: small_googlenet(SMALL_INCEPTIONS, num_classes=5),
    "googlenet_lrn": lambda: PaperGoogLeNet(5, SMALL_INCEPTIONS),
    "densenet": lambda: DenseNet(16, (2, 2), 32, num_classes=5),
    "densenet_cifar": lambda: CifarDenseNet((2, 1), 8, 16, 0, 1.0, num_classes=10),
    "fcn_resnet": lambda: small_fcn(4, num_classes=3),
    "fcn_vgg": lambda: TorchFCNVGG(2, (1, 2, 1, 1), 8, 16, num_classes=3, scales=(0.5, 0.25)),
    "swin": lambda: SwinTransformer(
        (64, 32), embed_dim=12, depths=(2, 2), num_heads=(2, 3), window_size=4, num_classes=5, drop_path_rate=0.0),
    "swin_small_maps": lambda: SwinTransformer(
        (24, 64), embed_dim=12, depths=(2, 2), num_heads=(2, 3), window_size=8, num_classes=5, drop_path_rate=0.0,
        strict_img_size=False, embed_layer=partial(PatchEmbed, dynamic_img_pad=True)),
    "swin_v2": lambda: SwinTransformerV2((64, 32), window_size=4, **SMALL_SWIN),
    "resnet_v2_bit": lambda: _timm_resnet_v2((2, 1), 32, stem_type="fixed", norm_layer=GroupNormAct,
                                             conv_layer=partial(StdConv2d, eps=1e-8)),
    "swin_padded": lambda: TorchvisionSwin(
        [4, 4], 12, [2, 1, 2], [2, 3, 4], [4, 4], num_classes=5, stochastic_depth_prob=0.0),
    "convnext": lambda: ConvNeXt(dims=(8, 12, 16, 20), depths=(1, 2, 1, 1), num_classes=5),
    "convnext_two_stages": lambda: TorchvisionConvNeXt(
        [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=5),
}


def _timm_resnet(block: type[TimmBasic | TimmBottleneck], width: int = 8, **options: Any) -> TimmResNet:
    options = dict(stem_type="deep", stem_width=4) | options
    return TimmResNet(block, (1, 1, 1, 1), num_classes=5, channels=(width, 2 * width, 4 * width, 8 * width), **options)


def _timm_resnet_v2(layers: tuple[int, ...] = (1, 1, 1, 1), width: int = 8, **options: Any) -> ResNetV2:
    """Of bottlenecks, as wide as the `width` of cvjax's says, unless it is `basic`."""
    basic = options.get("basic", False)
    options = dict(conv_layer=create_conv2d, norm_layer=BatchNormAct2d, bottle_ratio=1.0 if basic else 0.25,
                   stem_chs=width) | options
    channels = tuple((1 if basic else 4) * width * 2**i for i in range(len(layers)))
    return ResNetV2(layers, channels, num_classes=5, **options)


SMALL_CONVNEXT = dict(dims=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_classes=5)
CLASSIFIERS |= {
    "resnet_tiered_stem_average": lambda: _timm_resnet(TimmBasic, stem_type="deep_tiered", avg_down=True),
    "resnet_deep_stem": lambda: _timm_resnet(TimmBottleneck),
    "resnet_wide_stem": lambda: _timm_resnet(TimmBottleneck, stem_width=8),
    "resnet_se": lambda: _timm_resnet(TimmBottleneck, stem_type="deep_tiered", avg_down=True,
                                      block_args=dict(attn_layer="se")),
    "resnet_se_basic": lambda: _timm_resnet(TimmBasic, block_args=dict(attn_layer="se")),
    "resnet_eca": lambda: _timm_resnet(TimmBottleneck, avg_down=True, block_args=dict(attn_layer="eca")),
    "resnet_blur": lambda: _timm_resnet(TimmBottleneck, avg_down=True, aa_layer=BlurPool2d),
    "resnet_blur_basic": lambda: _timm_resnet(TimmBasic, aa_layer=BlurPool2d),
    "resnet_means": lambda: _timm_resnet(TimmBottleneck, avg_down=True, aa_layer=torch.nn.AvgPool2d),
    "resnet_groups": lambda: _timm_resnet(TimmBottleneck, 32, stem_width=32, norm_layer="groupnorm"),
    "resnet_v2_basic": lambda: _timm_resnet_v2(basic=True),
    "resnet_v2_bottleneck": _timm_resnet_v2,
    "resnet_v2_average": lambda: _timm_resnet_v2(stem_type="tiered", avg_down=True),
    "resnet_v2_dilated": lambda: _timm_resnet_v2(stem_type="deep", avg_down=True, basic=True, output_stride=8),
    "resnet_v2_groups": lambda: _timm_resnet_v2((1, 1), 32, stem_type="deep", stem_chs=64, avg_down=True,
                                                norm_layer=GroupNormAct),
    "swin_window_of_each_stage": lambda: SwinTransformer(
        32, window_size=(2, 4, 1), **SMALL_SWIN | dict(depths=(2, 1, 1), num_heads=(2, 3, 4))),
    "swin_v2_larger_windows": lambda: SwinTransformerV2(48, window_size=6, pretrained_window_sizes=(4, 2),
                                                        **SMALL_SWIN),
    "convnext_overlapping_stem": lambda: ConvNeXt(**SMALL_CONVNEXT, stem_type="overlap_tiered", conv_mlp=True),
    "convnext_norm_first": lambda: ConvNeXt(**SMALL_CONVNEXT, head_norm_first=True, conv_mlp=True),
    "convnext_representation": lambda: ConvNeXt(**SMALL_CONVNEXT, head_hidden_size=12),
    "convnext_norm_epsilon": lambda: ConvNeXt(**SMALL_CONVNEXT, norm_eps=1e-5),
    "convnextv2": lambda: ConvNeXt(**SMALL_CONVNEXT, use_grn=True, ls_init_value=None),
    "convnextv2_convolutions": lambda: ConvNeXt(**SMALL_CONVNEXT, use_grn=True, ls_init_value=None, conv_mlp=True),
}


def classifier(case: ClassifierCase) -> torch.nn.Module:
    """The reference with its deterministic weights."""
    model = CLASSIFIERS[case.name]()
    model.load_state_dict(_tensors(fill(state_shapes(model))), strict=False)  # counters of batches stay
    return model


def classifier_numbers(case: ClassifierCase) -> dict[str, np.ndarray]:
    """In float64, see `jax_side.classifier_numbers`."""
    model, images = classifier(case).double(), _images(case.inputs()).double()
    shapes = {f"shape/{name}": np.array(shape, np.int32) for name, shape in state_shapes(model).items()}
    with torch.no_grad():
        logits = model.eval()(images)
    outputs = model.train()(images)
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    weight = getattr(model, "auxiliary_weight", 0.3)
    loss = main.square().mean() + sum(weight * head.square().mean() for head in auxiliary)
    loss.backward()
    numbers = {"eval/logits": logits, "train/logits": main, "train/loss": loss}
    numbers |= {f"gradient/{name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    numbers |= {f"statistics/{name}": buffer for name, buffer in model.named_buffers() if "running" in name}
    return shapes | {name: sketch(name, tensor.detach().numpy()) for name, tensor in numbers.items()}


def _without_head(network: torch.nn.Module) -> torch.nn.Module:
    network.fc = torch.nn.Identity()
    return network


def _dino_vit() -> VisionTransformer:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=0)


# Case name -> the width of the features and the reference's backbone.
DINO_BACKBONES = {
    "dino_vit": (8, _dino_vit),
    "dino_checkpoint": (8, _dino_vit),
    "dino_resnet": (32, lambda: _without_head(CifarResNet((1, 1), num_classes=10))),
}


def torch_dino(case: DinoCase, role: str = "student") -> dino_reference.TorchDino:
    """The student, or a teacher of other weights, as it is in training."""
    width, backbone = DINO_BACKBONES[case.name]
    model = dino_reference.TorchDino(backbone(), dino_reference.Head(width, **case.head()))
    model.load_state_dict(_tensors(fill_role(state_shapes(model), role)), strict=False)
    return model.train()


def dino_numbers(case: DinoCase, dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    student, teacher = torch_dino(case).to(dtype), torch_dino(case, "teacher").to(dtype)
    teacher.requires_grad_(False)
    numbers = {f"shape/{name}": torch.tensor(shape) for name, shape in state_shapes(student).items()}
    center = torch.from_numpy(case.center()).to(dtype)
    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    decays = {name: p.ndim > 1 and not name.endswith(("pos_embed", "cls_token")) for name, p in parameters.items()}
    groups = [{"params": [p for name, p in parameters.items() if decays[name] == chosen]} for chosen in (True, False)]
    optimizer = torch.optim.AdamW(groups, eps=case.eps, weight_decay=0.0)
    temperatures = dino_reference.temperatures(*case.teacher_temperature, case.total_steps, 1)
    momenta, rates, decay = (dino_reference.half_cosine(*ends, case.total_steps) for ends in (
        case.teacher_momentum, case.learning_rate, case.weight_decay))
    for step in range(case.steps):
        views = [torch.from_numpy(x).permute(0, 1, 4, 2, 3).to(dtype) for x in case.inputs(step)]
        teacher_logits, logits = teacher(views[:1]), student(views)
        loss = dino_reference.loss(logits, teacher_logits, center, temperatures[step], case.student_temperature)
        center = dino_reference.new_center(center, teacher_logits, case.center_momentum)
        optimizer.zero_grad()
        loss.backward()
        numbers[f"loss/{step}"] = loss.detach()
        if step == 0:
            numbers["center"] = center
            numbers |= {f"gradient/{name}": p.grad.clone() for name, p in parameters.items()}
            for role, network in (("student", student), ("teacher", teacher)):
                numbers |= {f"statistics/{role}/{name}": buffer.clone() for name, buffer in network.named_buffers()
                            if "running" in name}
            # What the teacher would become next to this very student: no rounding of a step comes in between.
            still = torch_dino(case, "teacher").to(dtype)
            dino_reference.move_teacher(still, student, case.teacher_momentum[0])
            numbers |= {f"average/{name}": p.detach() for name, p in still.named_parameters()}
        if case.steps > 1:
            dino_reference.clip_each(student, case.clip_each)
            if step < case.held_steps:
                dino_reference.forget_last_layer(student)
            optimizer.param_groups[0]["weight_decay"] = decay[step]
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            optimizer.step()
            dino_reference.move_teacher(teacher, student, momenta[step])
    if case.steps > 1:
        numbers["after/center"] = center
        for role, network in (("student", student), ("teacher", teacher)):
            numbers |= {f"after/{role}/{name}": p.detach() for name, p in network.named_parameters()}
    return {name: sketch(name, value.numpy()) for name, value in numbers.items()}


def published(name: str) -> torch.nn.Module:
    """The reference of a registered name at its full size, with 1000 classes (CIFAR's: 10)."""
    if name in CIFAR_RESNETS:
        return CifarResNet((CIFAR_RESNETS[name],) * 3, num_classes=10)
    if name in GOOGLENETS_AND_CIFAR_DENSENETS:
        return GOOGLENETS_AND_CIFAR_DENSENETS[name]()
    if name.endswith("s_vgg16"):
        return TorchFCNVGG({"32": 0, "16": 1, "8": 2}[name[3:-7]])
    if name.startswith("fcn_resnet"):
        model = get_model(name, weights=None, weights_backbone=None, aux_loss=True)
        model.__class__ = ChannelsLast
        return model
    if name == "resnet9":
        return TorchResNet9()
    if name in AIRBENCH:
        return TorchAirbench(**AIRBENCH[name])
    if name == "alexnet_grouped":
        return GroupedAlexNet((96, 256, 384, 384, 256), 4096, num_classes=1000)
    if name in list_models():
        return create_model(name, num_classes=1000)
    return get_model(name)


GOOGLENETS_AND_CIFAR_DENSENETS = {
    "googlenet": lambda: get_model("googlenet", aux_logits=True, init_weights=False),
    "googlenet_lrn": lambda: PaperGoogLeNet(num_classes=1000),
    "densenet40_k12": lambda: CifarDenseNet((12, 12, 12), 12, 16, 0, 1.0, num_classes=10),
    "densenet_bc100_k12": lambda: CifarDenseNet((16, 16, 16), 12, 24, 4, 0.5, num_classes=10),
}
CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
