"""ResNet-9 in torch, from its author's description: maxima before norms, the largest value of each channel last."""

from collections import OrderedDict

import torch
from torch import nn


def _conv(before: int, after: int, pool: bool = False) -> nn.Sequential:
    layers = [("conv", nn.Conv2d(before, after, 3, padding=1, bias=False))]
    layers += [("pool", nn.MaxPool2d(2))] if pool else []
    return nn.Sequential(OrderedDict([*layers, ("bn", nn.BatchNorm2d(after)), ("relu", nn.ReLU())]))


class _Layer(nn.Module):
    def __init__(self, before: int, after: int, residual: bool) -> None:
        super().__init__()
        self.down = _conv(before, after, pool=True)
        self.residual = residual
        if residual:
            self.res1, self.res2 = _conv(after, after), _conv(after, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return self.res2(self.res1(x)) + x if self.residual else x


class TorchResNet9(nn.Module):
    def __init__(self, channels: tuple[int, int, int, int] = (64, 128, 256, 512), num_classes: int = 10) -> None:
        super().__init__()
        a, b, c, d = channels
        self.prep = _conv(3, a)
        self.layer1, self.layer2, self.layer3 = _Layer(a, b, True), _Layer(b, c, False), _Layer(c, d, True)
        self.fc = nn.Linear(d, num_classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.fc(x.flatten(2).amax(2)) / 8
