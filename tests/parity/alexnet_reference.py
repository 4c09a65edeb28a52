"""AlexNet of 2012 in torch, which no library has, and torchvision's with small layers after its convolutions."""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.alexnet import AlexNet


class GroupedAlexNet(nn.Module):
    """Krizhevsky et al. 2012, figure 2, the maps averaged to 6x6; without dropout."""

    def __init__(self, widths: tuple[int, ...], hidden: int, num_classes: int) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.conv1 = nn.Conv2d(3, a, 11, 4)
        self.conv2 = nn.Conv2d(a, b, 5, 1, 2, groups=2)
        self.conv3 = nn.Conv2d(b, c, 3, 1, 1)
        self.conv4 = nn.Conv2d(c, d, 3, 1, 1, groups=2)
        self.conv5 = nn.Conv2d(d, e, 3, 1, 1, groups=2)
        self.fc6 = nn.Linear(e * 36, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2):
            # torch's alpha multiplies the mean of the five squares, the paper's their sum.
            x = functional.local_response_norm(conv(x).relu(), 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
            x = functional.max_pool2d(x, 3, 2)
        x = self.conv5(self.conv4(self.conv3(x).relu()).relu()).relu()
        x = functional.adaptive_avg_pool2d(functional.max_pool2d(x, 3, 2), 6).flatten(1)
        return self.fc8(self.fc7(self.fc6(x).relu()).relu())


def small_alexnet() -> AlexNet:
    """torchvision's convolutions, then layers of 16, 16 and 5; without dropout."""
    network = AlexNet(dropout=0.0)
    network.classifier[1], network.classifier[4] = nn.Linear(256 * 36, 16), nn.Linear(16, 16)
    network.classifier[6] = nn.Linear(16, 5)
    return network
