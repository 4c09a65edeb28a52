"""GoogLeNet in torch: torchvision's with other modules, and the paper's form, which torchvision does not have."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNet, Inception, InceptionAux

Sizes = tuple[int, int, int, int, int, int]  # a row of table 1 from "#1x1" to "pool proj"
TABLE: dict[str, Sizes] = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}


def with_modules(model: nn.Module, inception: type, head: type, table: dict[str, Sizes], num_classes: int) -> nn.Module:
    """The model with the modules of `table` in place of its own, and with heads that fit them."""
    before = 192
    for name in TABLE:
        module = nn.Identity()
        if name in table:
            sizes = table[name]
            module, before = inception(before, *sizes), sizes[0] + sizes[2] + sizes[4] + sizes[5]
        setattr(model, f"inception{name}", module)
        if name in ("4a", "4d"):
            setattr(model, "aux1" if name == "4a" else "aux2", head(before, num_classes, dropout=0.0))
    model.fc = nn.Linear(before, num_classes)
    return model


def small_googlenet(table: dict[str, Sizes], num_classes: int) -> nn.Module:
    """torchvision's network without dropout."""
    model = GoogLeNet(num_classes, aux_logits=True, init_weights=False, dropout=0.0)
    return with_modules(model, Inception, InceptionAux, table, num_classes)


def unit(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride, size // 2)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU()))


class PaperInception(nn.Module):
    """Figure 2b."""

    def __init__(self, before: int, *sizes: int) -> None:
        super().__init__()
        self.branch1 = unit(before, sizes[0], 1)
        self.branch2 = nn.Sequential(unit(before, sizes[1], 1), unit(sizes[1], sizes[2], 3))
        self.branch3 = nn.Sequential(unit(before, sizes[3], 1), unit(sizes[3], sizes[4], 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(before, sizes[5], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class PaperHead(nn.Module):
    """An auxiliary classifier."""

    def __init__(self, before: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = unit(before, 128, 1), nn.Linear(2048, 1024), nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(functional.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(self.fc1(x).relu()))


class PaperGoogLeNet(nn.Module):
    """Table 1; returns `(logits, aux1, aux2)` in training. Dropout is left out."""

    def __init__(self, num_classes: int, table: dict[str, Sizes] = TABLE) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = unit(3, 64, 7, 2), unit(64, 64, 1), unit(64, 192, 3)
        with_modules(self, PaperInception, PaperHead, table, num_classes)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self.norm(self.pool(self.conv1(x)))
        x = self.pool(self.norm(self.conv3(self.conv2(x))))
        x = self.pool(self.inception3b(self.inception3a(x)))
        fourth = self.inception4a(x)
        seventh = self.inception4d(self.inception4c(self.inception4b(fourth)))
        x = self.pool(self.inception4e(seventh))
        logits = self.fc(self.inception5b(self.inception5a(x)).mean((2, 3)))
        return (logits, self.aux1(fourth), self.aux2(seventh)) if self.training else logits
