"""FCN's names: torchvision's, Caffe's for the paper's networks, and those of a backbone's own files.

A classifier's file fills the backbone, and fc6 and fc7 too if the backbone is VGG-16. The score layers start fresh.
"""

import flax.linen as nn
import jax
import numpy as np

from cvjax.interop.families.registry import family_of, register
from cvjax.interop.families.vgg import vgg
from cvjax.interop.naming import TORCH, Composite, Family, Layout, Rule, as_they_are
from cvjax.models.fcn import FCN, FCNVGG, bilinear_kernel


def _convolved(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    return kernel[::-1, ::-1].transpose(2, 3, 0, 1)


# Kernels of a transposed convolution, which torch and Caffe do not flip: (kh, kw, in, out) <-> (in, out, kh, kw)
_TRANSPOSED = Layout(_convolved, lambda array, model: array.transpose(2, 3, 0, 1)[::-1, ::-1])
# A 7x7 convolution, stored as the linear layer that it was in the classifier: (7, 7, in, out) <-> (out, in * 49)
_FLATTENED = Layout(lambda kernel, model: kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[3], -1),
                    lambda array, model: array.reshape(len(array), -1, 7, 7).transpose(2, 3, 1, 0))
_FLAT = Layout(lambda kernel, model: kernel[0, 0].T, lambda array, model: array.T[None, None])


def fcn(model: FCN) -> Family:
    """The table of an FCN: every publisher's names from the backbone's table, `family_of(backbone)`."""
    backbone = model.make_backbone()
    family = family_of(backbone)
    namings = {}
    for end, prefix in (("", "backbone."), ("_backbone", "")):
        for publisher, naming in family.namings.items():
            if naming.read is not as_they_are and prefix:
                continue  # a file of transformers holds a backbone alone
            constants = {prefix + name: array for name, array in naming.constants(backbone).items()}
            namings[publisher + end] = Composite(TORCH, constants=lambda model, made=constants: made,
                                                 read=lambda arrays, model, read=naming.read: read(arrays, backbone),
                                                 backbone=backbone, inner=naming, prefix=prefix)
    heads = r"((aux_)?classifier|score_\w+)\..+"
    return Family(namings=namings, fresh=heads, ignored=rf"{heads}|(backbone\.)?({family.ignored})|head\..+")


def fcn_vgg(model: FCNVGG) -> Family:
    """The table: Caffe's names in torch's layouts, with the fixed kernel of the last upsampling, or VGG's files."""
    stride = 2 ** (len(model.depths) - model.skips)
    any_key = jax.random.key(0)  # an initialiser takes one; this one draws nothing
    kernel = bilinear_kernel(any_key, (2 * stride, 2 * stride, model.num_classes, model.num_classes))
    last = {f"upscore{stride if model.skips else ''}.weight": _TRANSPOSED.to_theirs(np.asarray(kernel), model)}
    up = Rule(r"(upscore.+)/kernel", r"\1/weight", _TRANSPOSED)
    backbone = model.make_backbone()
    namings = {"caffe": Composite((up, *TORCH), constants=lambda model: last, backbone=backbone, prefix="")}
    for publisher, naming in vgg(backbone).namings.items():
        paths = {layer: naming.lookup(f"{layer}/kernel")[0][0].removesuffix(".weight").replace(".", "/")
                 for layer in ("fc6", "fc7")}
        layouts = {"fc6": _FLATTENED, "fc7": _FLAT} if publisher == "torchvision" else {}  # timm has convolutions, too
        rules = [Rule(f"{paths[layer]}/kernel", f"{paths[layer]}/weight", layout) for layer, layout in layouts.items()]
        renames = tuple((f"{layer}/", f"{path}/") for layer, path in paths.items())
        namings[publisher] = Composite((*rules, up, *TORCH), renames, backbone=backbone, inner=naming, prefix="")
    head = r"(classifier\.6|head\.fc)\..+"
    return Family(namings=namings, fresh=r"(score_|upscore).+", ignored=head)


register(FCN, fcn)
register(FCNVGG, fcn_vgg)
