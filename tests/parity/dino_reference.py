"""DINO in torch and NumPy, to compare with: the head, views of several sizes, the loss, and what moves the teacher.

The numbers are those of the authors' code (https://github.com/facebookresearch/dino), read for its facts.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Prototypes(nn.Module):
    """Weight normalisation written out, with torch's names for its two parameters; row k is prototype k."""

    def __init__(self, width: int, count: int, learned_lengths: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=learned_lengths)
        self.weight_v = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = self.weight_v.square().sum(1, keepdim=True).sqrt()
        return x @ (self.weight_v / lengths * self.weight_g).T


class Head(nn.Module):
    """An MLP whose layers are numbered with its norms and activations, unit vectors, prototypes."""

    def __init__(self, width: int, *, out_dim: int, layers: int, hidden: int, bottleneck: int, batch_norm: bool,
                 norm_last_layer: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        for _ in range(layers - 1):
            self.mlp.append(nn.Linear(width, hidden))
            if batch_norm:
                self.mlp.append(nn.BatchNorm1d(hidden))
            self.mlp.append(nn.GELU())
            width = hidden
        self.mlp.append(nn.Linear(width, bottleneck))
        self.last_layer = Prototypes(bottleneck, out_dim, not norm_last_layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_layer(functional.normalize(self.mlp(x), dim=1))


class TorchDino(nn.Module):
    """views: each (V, B, C, H, W). What has one size goes through the backbone at once, everything through the head."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        by_size: dict[torch.Size, list[torch.Tensor]] = {}
        for x in views:
            by_size.setdefault(x.shape[2:], []).append(x.flatten(0, 1))
        features = [self.backbone(torch.cat(images)) for images in by_size.values()]
        logits = self.head(torch.cat(features))
        return logits.unflatten(0, (-1, views[0].shape[1]))  # (all V, B, K)


def loss(student: torch.Tensor, teacher: torch.Tensor, center: torch.Tensor, teacher_temperature: float,
         student_temperature: float) -> torch.Tensor:
    """Mean cross-entropy over all pairs of a teacher's view and another view, of logits (V, B, K) and (G, B, K)."""
    terms = []
    for g, seen in enumerate(teacher.detach()):
        answer = ((seen - center) / teacher_temperature).softmax(1)
        for v, given in enumerate(student):
            if v != g:
                terms.append(-(answer * (given / student_temperature).log_softmax(1)).sum(1).mean())
    return torch.stack(terms).mean()


def new_center(center: torch.Tensor, teacher: torch.Tensor, momentum: float) -> torch.Tensor:
    """teacher: its logits (G, B, K)."""
    return center * momentum + teacher.detach().flatten(0, 1).mean(0) * (1 - momentum)


@torch.no_grad()
def move_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Only parameters: running statistics of batch norms are the teacher's own."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.copy_(old * momentum + new * (1 - momentum))


def half_cosine(start: float, end: float, steps: int) -> np.ndarray:
    """The teacher's momentum, or the weight decay, at each of this many steps."""
    turned = np.pi * np.arange(steps) / steps
    return end + (start - end) / 2 * (1 + np.cos(turned))


def temperatures(start: float, end: float, rising_epochs: int, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The teacher's temperature at each step: one for every epoch, rising in equal parts and then staying."""
    by_epoch = np.full(epochs, end)
    by_epoch[:rising_epochs] = np.linspace(start, end, rising_epochs)
    return np.repeat(by_epoch, steps_per_epoch)


@torch.no_grad()
def clip_each(module: nn.Module, limit: float) -> None:
    """Every gradient by itself to a norm of at most `limit`."""
    for p in module.parameters():
        if p.grad is not None:
            p.grad *= min(1.0, limit / (float(p.grad.norm()) + 1e-6))


def forget_last_layer(module: nn.Module) -> None:
    """Without a gradient, torch's optimizers pass a parameter over: no decay, no moments, no count of its steps."""
    for name, p in module.named_parameters():
        if "last_layer" in name.split("."):
            p.grad = None
