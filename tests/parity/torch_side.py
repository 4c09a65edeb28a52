"""The references' numbers for a case: outputs, loss, and `gradient/NAME` of every parameter."""

import numpy as np
import torch
import torchvision_operators  # noqa: F401  before timm
from cases import CHANNELS, MaeCase, VitCase
from deterministic_weights import fill
from mae_reference import TorchMae
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer


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


def timm_vit(case: VitCase) -> VisionTransformer:
    renamed = {"pool": "global_pool", "layer_scale": "init_values"}
    options = {renamed.get(name, name): value for name, value in case.options.items()}
    return VisionTransformer(img_size=case.image_size, patch_size=case.patch_size, embed_dim=case.width,
                             depth=case.depth, num_heads=case.heads, num_classes=case.num_classes,
                             dynamic_img_size=True, **options)


def vit_numbers(case: VitCase) -> dict[str, np.ndarray]:
    model = timm_vit(case)
    weights = _tensors(fill(case.weight_shapes(parameter_shapes(model))))
    weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], model.patch_embed.grid_size)
    model.load_state_dict(weights)
    images = _images(case.inputs())
    logits = model(images)
    return _numbers(model, {"tokens": model.forward_features(images), "logits": logits,
                            "loss": logits.square().mean()})
