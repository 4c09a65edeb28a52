"""Airbench's networks in torch, from the paper and its code: maxima before norms, norms without scale, GELU."""

import torch
from torch import nn
from torch.nn import functional


class _Norm(nn.Module):
    """Batch norm with a bias but no scale, which `nn.BatchNorm2d` does not offer."""

    def __init__(self, channels: int, keep: float) -> None:
        super().__init__()
        self.bias, self.keep = nn.Parameter(torch.zeros(channels)), keep
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, None, self.bias, self.training,
                                     1 - self.keep, 1e-12)


class _Layer(nn.Module):
    def __init__(self, before: int, after: int, keep: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding="same", bias=False)
        self.bn = _Norm(after, keep)


class _Group(nn.Module):
    def __init__(self, before: int, after: int, convs: int, keep: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Layer(before, after, keep), _Layer(after, after, keep)
        if convs == 3:
            self.conv3 = _Layer(after, after, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gelu = functional.gelu
        x = gelu(self.conv1.bn(functional.max_pool2d(self.conv1.conv(x), 2)))
        y = self.conv2.bn(self.conv2.conv(x))
        if hasattr(self, "conv3"):
            y = x + self.conv3.bn(self.conv3.conv(gelu(y)))
        return gelu(y)


class TorchAirbench(nn.Module):
    def __init__(self, widths: tuple[int, int, int] = (64, 256, 256), convs: int = 2, keep: float = 0.6) -> None:
        super().__init__()
        a, b, c = widths
        self.whiten = nn.Conv2d(3, 24, 2)
        self.group1, self.group2, self.group3 = (
            _Group(before, after, convs, keep) for before, after in ((24, a), (a, b), (b, c)))
        self.fc = nn.Linear(c, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group3(self.group2(self.group1(functional.gelu(self.whiten(x)))))
        return self.fc(x.flatten(2).amax(2)) / 9


PUBLISHED = {"airbench94": dict(), "airbench96": dict(widths=(128, 384, 512), convs=3, keep=0.9)}
