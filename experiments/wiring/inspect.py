"""The work of `python -m experiments.inspect`; its options are in experiments/inspect.py."""

import math
import textwrap

import jax

from cvjax.errors import ConfigError
from cvjax.interop.coverage import coverage
from cvjax.layers.conv import Conv
from cvjax.models import create_model, list_models
from cvjax.models.images import as_pair
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.resnet import ResNet
from cvjax.models.summary import summarize, table
from cvjax.ops.receptive_field import ReceptiveField
from cvjax.timm_weights import timm_version
from cvjax.workflow.classification.model import check_model, parse_fields
from cvjax.workflow.config import config_errors
from experiments.inspect import Config


def run(config: Config) -> None:
    """Print the table or the calculations that the options ask for."""
    if config.arithmetic:
        print(arithmetic())
        return
    if config.coverage:
        print_coverage()
        return
    given = {name: getattr(config, name) for name in ("image_size", "in_channels", "num_classes")}
    given = {name: value for name, value in given.items() if value is not None} | parse_fields(config.model_fields)
    with config_errors():
        if config.all:
            print(f"{'model':36}{'parameters':>14}{'MACs':>18}  image")
            for name in (name for name in list_models() if not name.startswith("mae_")):
                model = create_model(name, **given)
                height, width = as_pair(model.image_size)
                check_model(model, name, (height, width, model.in_channels))
                summary = summarize(model, (height, width, model.in_channels))
                print(f"{name:36}{summary.parameters:14,}{summary.macs:18,}  {height}x{width}x{model.in_channels}",
                      flush=True)
            return
        assert config.name is not None  # checked with the options
        model = create_model(config.name, **given)
        if isinstance(model, MaskedAutoencoder):
            raise ConfigError(f"{config.name} takes a mask besides the image: inspect its encoder, "
                              f"such as {config.name.removeprefix('mae_')}_224")
        shape = (*as_pair(model.image_size), model.in_channels)
        check_model(model, config.name, shape)
        summary = summarize(model, shape)
    print(f"{config.name}: {type(model).__name__} on {'x'.join(map(str, as_pair(model.image_size)))}"
          f"x{model.in_channels}\n")
    print(table(summary))


def print_coverage() -> None:
    """A row for each file of timm of which something is here, as it is compared, and what is missing in them."""
    print(f"{'timm ' + timm_version():28}{'weights':>9}{'load here':>11}")
    here, notes, others, every = 0, [], [], 0
    for found in coverage():
        every, here = every + found.weights, here + found.loading
        if not found.loading and not found.differing:
            others.append(found)
            continue
        print(f"{found.file:28}{found.weights:9,}{found.loading:11,}", flush=True)
        for what, names in (("is not here", found.missing), ("HAS OTHER PARAMETERS", found.differing)):
            notes += [textwrap.fill(f"{found.file}, what {what}: {', '.join(names)}", 120)] if names else []
    print(f"{f'{len(others)} other files':28}{sum(found.weights for found in others):9,}{0:11,}")
    print(f"{'all':28}{every:9,}{here:11,}", *notes, sep="\n\n")


def arithmetic() -> str:
    """The calculations of the lectures, each from a model's own parameters and receptive fields."""
    def kernels(name: str) -> list[tuple[str, tuple[int, ...]]]:
        model = create_model(name)
        size = model.image_size
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), "float32"))
        layers = [layer for layer in summarize(model, (size, size, 3)).layers if layer.parameters]
        by_path = {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf.shape for path, leaf in
                   jax.tree_util.tree_leaves_with_path(shapes["params"]) if path[-1].key == "kernel"}
        return [(layer.path, by_path[layer.path]) for layer in layers]

    lines = ["AlexNet (2012), weights without biases:"]
    rows = kernels("alexnet_grouped")
    lines += [f"  {path:16}{' x '.join(map(str, shape)):22}{math.prod(shape):>12,}" for path, shape in rows]
    before, after = (side * side * 256 * 4096 for side in (13, 6))
    lines += ["  The lecture's column 35k 307k 884k 663k 442k 177M 16M 4M counts the sixth layer on the 13 x 13 x 256",
              f"  map before the last pooling, {before:,}; after it the map is 6 x 6, and the network has",
              f"  6 * 6 * 256 * 4096 = {after:,}.", ""]

    def parameters(*convolutions: tuple[int, int, int]) -> int:
        total = 0
        for before, after, size in convolutions:
            conv = Conv(after, size, use_bias=False)
            shapes = jax.eval_shape(conv.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 9, 9, before), "float32"))
            total += sum(leaf.size for leaf in jax.tree.leaves(shapes))
        return total

    two = ReceptiveField().through(3).through(3)
    one = ReceptiveField().through(5)
    c = 64
    lines += ["Two 3x3 convolutions see what one 5x5 sees, with fewer weights (VGG, sec. 2.3):",
              f"  receptive field {two.size} and {one.size}; with {c} channels "
              f"{parameters((c, c, 3), (c, c, 3)):,} and {parameters((c, c, 5)):,} weights (18 C^2 and 25 C^2)", "",
              "A 1x1 convolution in front narrows the input of the expensive ones:",
              f"  GoogLeNet 3a, 5x5 branch on 192 channels: {parameters((192, 16, 1), (16, 32, 5)):,} weights, "
              f"{parameters((192, 32, 5)):,} without its 1x1",
              f"  ResNet bottleneck on 256 channels: {parameters((256, 64, 1), (64, 64, 3), (64, 256, 1)):,} weights, "
              f"{parameters((256, 256, 3), (256, 256, 3)):,} for two 3x3 convolutions", ""]
    shallow, deep = (summarize(ResNet(block=block, depths=(3, 4, 6, 3)), (224, 224, 3)) for block in
                     ("basic", "bottleneck"))
    lines += [f"ResNet-34 has {shallow.macs / 1e9:.2f} billion multiply-accumulates, ResNet-50 with bottlenecks "
              f"{deep.macs / 1e9:.2f} billion"]
    return "\n".join(lines)
