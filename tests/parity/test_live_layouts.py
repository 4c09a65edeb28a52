"""torchvision's ViT and Swin in and out, and what timm does to tables of another size: `pytest -m parity`."""

from types import ModuleType
from typing import Any

import jax
import jax_side
import numpy as np
import pytest
from deterministic_weights import fill

from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model
from cvjax.models.swin import SwinTransformer
from cvjax.models.vit import VisionTransformer

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs(torch: ModuleType) -> ModuleType:
    """The module torch_side, which needs torch, torchvision and timm."""
    import torch_side

    return torch_side


def filled(model: Any, theirs: ModuleType, torch: ModuleType) -> Any:
    """The reference with its deterministic weights."""
    weights = fill(theirs.state_shapes(model))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    return model.eval()


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_torchvisions_state_dict_in_and_out(family: str, theirs: ModuleType, torch: ModuleType) -> None:
    """The whole state dict, buffers included; and `strict=True` on the way back."""
    import torchvision

    if family == "vit":
        make = lambda: torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 48, num_classes=5)  # noqa: E731
        model = VisionTransformer(image_size=16, patch_size=4, width=12, depth=2, heads=2, num_classes=5)
    else:
        make = lambda: torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [2, 3], [2, 2], num_classes=5)  # noqa: E731
        model = SwinTransformer(image_size=16, width=12, depths=(2, 2), heads=(2, 3), window=2, num_classes=5)
    reference = filled(make(), theirs, torch)
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    variables = load_weights(model, state)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    jax_side.assert_same({"logits": logits}, {"logits": expected})

    back = {name: torch.from_numpy(np.array(array))
            for name, array in to_state_dict(variables, model, layout="torchvision").items()}
    other = make()
    other.load_state_dict(back, strict=True)
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == reference.state_dict()[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), state[name])

    if family == "vit":  # torchvision itself still reads the names from before its 0.14
        old = to_state_dict(variables, model, layout="torchvision-0.13")
        make().load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in old.items()}, strict=True)
        again = load_weights(model, old)
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))


@pytest.mark.parametrize("layout", ["timm", "official"])
@pytest.mark.parametrize("window, image_size", [(6, (96, 96)), (3, (48, 48)), (8, (24, 40))])
def test_swins_tables_are_resized_as_timm_does(window: int, image_size: tuple[int, int], layout: str,
                                               theirs: ModuleType) -> None:
    """To larger and smaller windows, and to ones that are not square; the authors' file has its buffers."""
    from timm.models.swin_transformer import SwinTransformer as TimmSwin
    from timm.models.swin_transformer import checkpoint_filter_fn

    torch = theirs.torch
    small = dict(width=12, depths=(2, 1), heads=(2, 3), num_classes=5)
    source = SwinTransformer(image_size=64, window=4, **small)
    same = dict(embed_dim=12, depths=(2, 1), num_heads=(2, 3), num_classes=5)
    shapes = theirs.state_shapes(TimmSwin(64, window_size=4, **same))
    weights = to_state_dict(load_weights(source, fill(shapes)), source, layout)
    if layout == "official":
        weights |= {"layers.0.blocks.1.attn_mask": np.zeros((16, 16, 16), np.float32),
                    "layers.0.blocks.1.attn.relative_position_index": np.zeros((16, 16), np.int64)}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    expected = checkpoint_filter_fn(tensors, TimmSwin(image_size, window_size=window, **same))

    model = SwinTransformer(image_size=image_size, window=window, **small)
    ours = to_state_dict(load_weights(model, weights), model)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("image_size", [(24, 24), (8, 28)])
def test_learned_positions_are_resized_as_their_publisher_does(image_size: tuple[int, int],
                                                               theirs: ModuleType) -> None:
    """timm's as timm does, in any layout if the model's field says so; torchvision's, squares only, as it does."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    source = VisionTransformer(image_size=16, patch_size=4, width=12, depth=1, heads=2, num_classes=5)
    shapes = theirs.parameter_shapes(theirs.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=1, num_heads=2, num_classes=5))
    weights = fill(shapes)
    grid = [size // 4 for size in image_size]
    expected = theirs.resample_abs_pos_embed(theirs.torch.from_numpy(weights["pos_embed"]), grid).numpy()
    model = source.clone(image_size=image_size)
    there = to_state_dict(load_weights(source, weights), source, "torchvision")
    for reader, content in ((model, weights), (model.clone(position_resize="timm"), there)):
        loaded = load_weights(reader, content)["params"]["pos_embed"]
        np.testing.assert_allclose(loaded, expected, rtol=0, atol=1e-5)
    if grid[0] == grid[1]:
        name = "encoder.pos_embedding"
        tensors = {name: theirs.torch.from_numpy(np.array(there[name]))}
        resized = interpolate_embeddings(image_size[0], 4, tensors)[name].numpy()
        loaded = load_weights(model, there)["params"]["pos_embed"]
        np.testing.assert_allclose(loaded, resized, rtol=0, atol=1e-5)
        assert np.abs(resized - expected).max() > 1e-2


@pytest.mark.parametrize("block, output_stride, blurs", [
    ("basic", 8, False), ("basic", 16, False), ("bottleneck", 8, False), ("bottleneck", 16, False), ("basic", 8, True),
    ("bottleneck", 16, True)])
def test_dilated_resnets_are_timms(block: str, output_stride: int, blurs: bool, theirs: ModuleType, torch: ModuleType
                                   ) -> None:
    """torchvision dilates only one of the two kinds of blocks, the bottleneck. blurs: with averaged shortcuts."""
    from timm.layers import BlurPool2d
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    kind = BasicBlock if block == "basic" else Bottleneck
    fields = dict(num_classes=5, output_stride=output_stride)
    theirs_only, ours_only = (dict(avg_down=True, aa_layer=BlurPool2d), dict(shortcut="average", antialias="blur")
                              ) if blurs else ({}, {})
    reference = filled(ResNet(kind, [1, 1, 2, 2], **fields, **theirs_only), theirs, torch)
    model = create_model("resnet18", block=block, depths=(1, 1, 2, 2), **fields, **ours_only)
    images = np.random.default_rng(0).standard_normal((2, 50, 73, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    variables = load_weights(model, {name: tensor.numpy() for name, tensor in reference.state_dict().items()})
    jax_side.assert_same({"logits": np.asarray(jax.jit(model.apply)(variables, images))}, {"logits": expected})
