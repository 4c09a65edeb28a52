"""FCNs in torch: torchvision's with narrow stages, and the paper's, which torchvision does not have."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.fcn import FCN, FCNHead


class NarrowResNet(ResNet):
    """torchvision's stages, dilated for a stride of 8, one block each, of `width` channels, twice that, and so on."""

    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        for i in range(4):
            depth = 2 if i == 3 else 1  # the second block has the stage's own dilation
            stage = self._make_layer(Bottleneck, width * 2**i, depth, stride=min(i + 1, 2), dilate=i > 1)
            setattr(self, f"layer{i + 1}", stage)


class ChannelsLast(FCN):
    """Logits (B, H, W, K); in training a tuple with the auxiliary head's, whose weight is the recipe's."""

    auxiliary_weight = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        out = {name: y.permute(0, 2, 3, 1) for name, y in super().forward(x).items()}
        return (out["out"], out["aux"]) if self.training else out["out"]


def small_fcn(width: int, num_classes: int) -> FCN:
    """torchvision's network without dropout."""
    backbone = IntermediateLayerGetter(NarrowResNet(width), {"layer4": "out", "layer3": "aux"})
    heads = FCNHead(32 * width, num_classes), FCNHead(16 * width, num_classes)
    for head in heads:
        head[3] = nn.Identity()
    return ChannelsLast(backbone, *heads)


def upsampling(channels: int, stride: int) -> nn.ConvTranspose2d:
    """Bilinear: the kernel written out, and each channel by itself."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride, 3 * stride // 2, bias=False)
    tent = torch.tensor([min(i + 0.5, 2 * stride - i - 0.5) / stride for i in range(2 * stride)])
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = tent[:, None] * tent
    return layer


class TorchFCNVGG(nn.Module):
    """FCN-32s, 16s and 8s by `skips`, with the layers and names of the Caffe code; no dropout."""

    def __init__(self, skips: int, depths: tuple[int, ...] = (2, 2, 3, 3, 3), width: int = 64, fc_width: int = 4096,
                 num_classes: int = 21, scales: tuple[float, ...] = (0.01, 0.0001)) -> None:
        super().__init__()
        self.depths, self.skips, self.scales = depths, skips, scales
        channels, before = [width * min(2**i, 8) for i in range(len(depths))], 3
        for stage, depth in enumerate(depths):
            for i in range(depth):
                setattr(self, f"conv{stage + 1}_{i + 1}", nn.Conv2d(before, channels[stage], 3, 1, 1))
                before = channels[stage]
        self.fc6, self.fc7 = nn.Conv2d(before, fc_width, 7, padding=3), nn.Conv2d(fc_width, fc_width, 1)
        self.score_fr = nn.Conv2d(fc_width, num_classes, 1)
        self.ups, last = [], len(depths)
        for i in range(skips):
            self.ups.append(f"upscore_pool{last - i}" if i else "upscore2")
            setattr(self, self.ups[-1], upsampling(num_classes, 2))
            setattr(self, f"score_pool{last - 1 - i}", nn.Conv2d(channels[last - 2 - i], num_classes, 1))
        stride = 2 ** (last - skips)
        self.final = f"upscore{stride}" if skips else "upscore"
        setattr(self, self.final, upsampling(num_classes, stride).requires_grad_(False))

    def up(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, name)(functional.pad(x, (1, 1, 1, 1), mode="replicate"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        stride = 2 ** len(self.depths)
        x, pools = functional.pad(images, (0, -width % stride, 0, -height % stride)), OrderedDict()
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(1, depth + 1):
                x = getattr(self, f"conv{stage}_{i}")(x).relu()
            x = pools[stage] = functional.max_pool2d(x, 2)
        x = self.score_fr(self.fc7(self.fc6(x).relu()).relu())
        for i, name in enumerate(self.ups):
            stage = len(self.depths) - 1 - i
            x = self.up(name, x) + getattr(self, f"score_pool{stage}")(self.scales[i] * pools[stage])
        return self.up(self.final, x)[:, :, :height, :width].permute(0, 2, 3, 1)
