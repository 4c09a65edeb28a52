"""LeNet-5 in torch, with 1998's partially connected third layer as one convolution per map."""

import torch
from torch import nn
from torch.nn import functional


class TableI(nn.Module):
    """LeCun et al. 1998, table I, read by rows: an X at (map of S2, map of C3) is a 5x5 kernel of its own."""

    ROWS = ("X...XXX..XXXX.XX", "XX...XXX..XXXX.X", "XXX...XXX..X.XXX", ".XXX..XXXX..X.XX", "..XXX..XXXX.XX.X",
            "...XXX..XXXX.XXX")

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(60, 1, 5, 5))
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps, used = [], 0
        for column in range(16):
            seen = [i for i, row in enumerate(self.ROWS) if row[column] == "X"]
            kernels = self.weight[used:used + len(seen)].transpose(0, 1)
            maps.append(functional.conv2d(x[:, seen], kernels, self.bias[column:column + 1]))
            used += len(seen)
        return torch.cat(maps, 1)


class TorchLeNet(nn.Module):
    """last_map: rows and columns of S4."""

    def __init__(self, in_channels: int, activation: str = "tanh", pooling: str = "avg", partial_c3: bool = False,
                 last_map: tuple[int, int] = (5, 5)) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, 5)
        self.c3 = TableI() if partial_c3 else nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, last_map)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)
        self.squash = getattr(torch, activation)
        self.pool = getattr(functional, f"{pooling}_pool2d")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.squash(self.c1(x)), 2)
        x = self.pool(self.squash(self.c3(x)), 2)
        x = self.squash(self.c5(x)).flatten(1)
        return self.output(self.squash(self.f6(x)))
