"""ResNets in torch: torchvision's with narrow stages; CIFAR's with option A and the pre-activation one, which neither
timm nor torchvision has.
"""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class NarrowResNet(ResNet):
    """torchvision's stages of one block each, of `width` channels, twice that, and so on.

    Of its own 64 channels, too many feed a ReLU that rounding can switch: some gradient always hangs on one.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], width: int, num_classes: int, groups: int = 1,
                 width_per_group: int = 64) -> None:
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation = nn.BatchNorm2d, width, 1
        self.groups, self.base_width = groups, width_per_group
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        for i in range(4):
            setattr(self, f"layer{i + 1}", self._make_layer(block, width * 2**i, 1, stride=min(i + 1, 2)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(self.inplanes, num_classes)


class CifarBlock(nn.Module):
    """He et al. 2016a, sec. 4.2: two 3x3 convolutions; a shortcut to a new shape subsamples and pads zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.new = stride, after - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.new:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride],
                               (0, 0, 0, 0, self.new // 2, self.new // 2))
        return (x + y).relu()


class CifarResNet(nn.Module):
    """Stages of 16, 32 and 64 channels."""

    def __init__(self, layers: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for i, depth in enumerate(layers):
            blocks = []
            for j in range(depth):
                blocks.append(CifarBlock(before, 16 * 2**i, 2 if i and not j else 1))
                before = 16 * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.depth = len(layers)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


class PreactivationBottleneck(nn.Module):
    """He et al. 2016b, figure 4e, in bottleneck form."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, width, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), nn.Conv2d(width, 4 * width, 1, bias=False)
        if stride != 1 or before != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(before, 4 * width, 1, stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(x).relu()
        shortcut = self.downsample(y) if hasattr(self, "downsample") else x
        y = self.conv2(self.bn2(self.conv1(y)).relu())
        return shortcut + self.conv3(self.bn3(y).relu())


class PreactivationResNet(nn.Module):
    """ImageNet's stem without its norm, stages of pre-activation bottlenecks, and the norm that ends them."""

    def __init__(self, layers: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        before = width
        for i, depth in enumerate(layers):
            blocks = []
            for j in range(depth):
                blocks.append(PreactivationBottleneck(before, width * 2**i, 2 if i and not j else 1))
                before = 4 * width * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.depth = len(layers)
        self.norm = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.norm(x).relu().mean((2, 3)))
