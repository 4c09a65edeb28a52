"""torchvision's VGG, narrow."""

from torch import nn
from torchvision.models.vgg import VGG, make_layers


def small_vgg(depths: tuple[int, ...], batch_norm: bool) -> VGG:
    """Stages of 16, 32, ... channels, then layers of 16, 16 and 5; without dropout."""
    layers = [layer for i, depth in enumerate(depths) for layer in [min(16 * 2**i, 128)] * depth + ["M"]]
    network = VGG(make_layers(layers, batch_norm), init_weights=False, dropout=0.0)
    last = [layer for layer in layers if layer != "M"][-1]
    network.classifier[0], network.classifier[3] = nn.Linear(last * 49, 16), nn.Linear(16, 16)
    network.classifier[6] = nn.Linear(16, 5)
    return network
