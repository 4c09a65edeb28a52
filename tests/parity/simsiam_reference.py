"""SimSiam in torch, to compare with: a backbone, the two MLPs, the loss, and steps of its optimizer.

The layers and numbers are those of the authors' code (https://github.com/facebookresearch/simsiam), read for its facts.
"""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def projector(width: int, hidden: int, dim: int) -> nn.Sequential:
    """Three layers, each with a norm; the last norm has no parameters, and the last bias does not learn."""
    last = nn.Linear(hidden, dim)
    last.bias.requires_grad = False
    return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
                         last, nn.BatchNorm1d(dim, affine=False))


def predictor(dim: int, hidden: int) -> nn.Sequential:
    """A bottleneck whose output has neither norm nor ReLU."""
    return nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim))


class TorchSimSiam(nn.Module):
    """views: (V, B, pixels). The backbone is one linear layer and a ReLU."""

    def __init__(self, pixels: int, width: int, projector_hidden: int, dim: int, predictor_hidden: int) -> None:
        super().__init__()
        layer = OrderedDict(layers_0=nn.Linear(pixels, width), relu=nn.ReLU())
        self.backbone = nn.Sequential(layer)
        self.projector = projector(width, projector_hidden, dim)
        self.predictor = predictor(dim, predictor_hidden)

    def forward(self, views: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        z = [self.projector(self.backbone(view)) for view in views]
        return [self.predictor(each) for each in z], z


def loss(p: list[torch.Tensor], z: list[torch.Tensor]) -> torch.Tensor:
    """Half of two negative cosines, with constant targets."""
    first = functional.cosine_similarity(p[0], z[1].detach(), dim=1).mean()
    second = functional.cosine_similarity(p[1], z[0].detach(), dim=1).mean()
    return -(first + second) / 2


def numbers(model: TorchSimSiam, views: np.ndarray, rate: float, steps: int, momentum: float, decay: float
            ) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Outputs, loss and gradients of the first step, and all parameters and statistics after `steps` steps.

    The predictor keeps the rate; the others' falls along half a cosine.
    """
    rest = [p for name, p in model.named_parameters() if not name.startswith("predictor") and p.requires_grad]
    groups = [{"params": rest}, {"params": model.predictor.parameters()}]
    optimizer = torch.optim.SGD(groups, rate, momentum=momentum, weight_decay=decay)
    found: dict[str, np.ndarray] = {}
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate / 2 * (1 + np.cos(np.pi * step / steps))
        p, z = model(torch.from_numpy(views))
        value = loss(p, z)
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            found = {"loss": value.detach().numpy(), "predictions": torch.stack(p, 1).detach().numpy(),
                     "projections": torch.stack(z, 1).detach().numpy()}
            found |= {f"gradient/{name}": p.grad.numpy().copy() for name, p in model.named_parameters()
                      if p.grad is not None}
        optimizer.step()
    return found, {name: x.numpy() for name, x in model.state_dict().items()}
