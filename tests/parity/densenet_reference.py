"""DenseNets for CIFAR, with and without bottlenecks, in torch; torchvision has only ImageNet's."""

from collections import OrderedDict

import torch
from torch import nn


class CifarLayer(nn.Module):
    """The input with `growth` new channels appended."""

    def __init__(self, before: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        if bottleneck:
            self.norm1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, bottleneck * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(bottleneck * growth)
            self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)
        else:
            self.norm1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.norm1(x).relu())
        return torch.cat([x, self.conv2(self.norm2(y).relu()) if hasattr(self, "conv2") else y], 1)


class CifarDenseNet(nn.Module):
    """A 3x3 convolution, blocks with transitions between them, norm, pooling, classifier."""

    def __init__(self, depths: tuple[int, ...], growth: int, width: int, bottleneck: int, compression: float,
                 num_classes: int) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv0=nn.Conv2d(3, width, 3, padding=1, bias=False))
        for i, depth in enumerate(depths, start=1):
            layers = [CifarLayer(width + j * growth, growth, bottleneck) for j in range(depth)]
            parts[f"denseblock{i}"] = nn.Sequential(
                OrderedDict((f"denselayer{j}", layer) for j, layer in enumerate(layers, start=1)))
            width += depth * growth
            if i < len(depths):
                kept = int(width * compression)
                parts[f"transition{i}"] = nn.Sequential(OrderedDict(
                    norm=nn.BatchNorm2d(width), relu=nn.ReLU(), conv=nn.Conv2d(width, kept, 1, bias=False),
                    pool=nn.AvgPool2d(2)))
                width = kept
        self.features = nn.Sequential(parts | {"norm5": nn.BatchNorm2d(width)})
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).relu().mean((2, 3)))
