"""torch's side: the same steps in plain torch, with the settings that make it fast.

This is the only file that imports torch, and only worker processes import it (`benchmarks.steps.worker_processes`).
Classifiers and backbones are torchvision's, or timm's if torchvision has none. MAE (He et al. 2022,
https://arxiv.org/abs/2111.06377) and DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294) are written here. On
CUDA, cuDNN chooses convolutions by trial (`cudnn.benchmark`), and float32 products use TF32 as JAX's do, unless JAX's
environment asks for more precision.
"""

# pyright: reportMissingImports=false
# torch is not among the requirements.

import contextlib
import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.steps import workload as settings
from benchmarks.steps.workload import Workload, synthetic_batch

UNDECAYED = ("cls_token", "mask_token", "pos_embed", "relative_position_bias_table")


class Block(nn.Module):
    """A pre-norm transformer block on `(B, T, D)`; torch's fused kernels compute its attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class MaskedAutoencoder(nn.Module):
    """From normalised images `(B, C, H, W)` to the loss on the hidden patches; `features` sees whole images."""

    positions: torch.Tensor
    decoder_positions: torch.Tensor

    def __init__(self, image_size: int, channels: int, *, patch_size: int, width: int, depth: int, heads: int,
                 decoder_width: int, decoder_depth: int, decoder_heads: int) -> None:
        super().__init__()
        grid, pixels = image_size // patch_size, patch_size**2 * channels
        self.patch_size, self.visible = patch_size, int(grid**2 * (1 - settings.MASK_RATIO))
        self.embed, self.cls_token = nn.Linear(pixels, width), nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_blocks = nn.Sequential(*(Block(decoder_width, decoder_heads) for _ in range(decoder_depth)))
        self.decoder_norm, self.pred = nn.LayerNorm(decoder_width, eps=1e-6), nn.Linear(decoder_width, pixels)
        self.register_buffer("positions", _sines_and_cosines(width, grid))
        self.register_buffer("decoder_positions", _sines_and_cosines(decoder_width, grid))

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, L, p*p*C)`."""
        p = self.patch_size
        return images.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def encode(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.embed(patches) + positions
        return self.norm(self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.encode(self.patches(images), self.positions)[:, 0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patches(images)
        batch, length, _ = patches.shape
        order = torch.rand(batch, length, device=images.device).argsort(1)
        keep, restore = order[:, :self.visible], order.argsort(1)
        latent = self.encode(_picked(patches, keep), self.positions[0][keep])

        codes = self.decoder_embed(latent)
        hidden = self.mask_token.to(codes.dtype).expand(batch, length - self.visible, -1)
        canvas = _picked(torch.cat([codes[:, 1:], hidden], 1), restore) + self.decoder_positions
        decoded = self.decoder_blocks(torch.cat([codes[:, :1], canvas], 1))
        prediction = self.pred(self.decoder_norm(decoded))[:, 1:].float()

        variance, mean = torch.var_mean(patches, 2, keepdim=True)
        target = (patches - mean) / (variance + 1e-6).sqrt()
        error = (prediction - target).square().mean(2)
        masked = (restore >= self.visible).float()
        return (error * masked).sum() / masked.sum()


class Student(nn.Module):
    """From views `(B, V, C, h, w)`, one tensor for each size, to logits float32 `(B, all V, K)`."""

    def __init__(self, backbone: nn.Module, width: int, prototypes: int) -> None:
        super().__init__()
        hidden, bottleneck = settings.HEAD_HIDDEN, settings.HEAD_BOTTLENECK
        self.backbone = backbone
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                                 nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        features = [self.backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in views]
        x = functional.normalize(self.mlp(torch.cat(features, 1)).float(), dim=2)
        return functional.linear(x, functional.normalize(self.prototypes.weight, dim=1)).float()


def dino_loss(student: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits `(B, V, K)` against the answers `(B, G, K)` to every other global view."""
    log_p = (student / settings.STUDENT_TEMPERATURE).log_softmax(2)
    pairs = -torch.einsum("bgk,bvk->gv", answers, log_p)
    globals_, views = pairs.shape
    return (pairs.sum() - pairs.diagonal().sum()) / (len(student) * globals_ * (views - 1))


class TorchSteps:
    """torch's `benchmarks.steps.worker_processes.Steps`.

    variant: "eager" or "compile" (`torch.compile` of everything from pixels to the loss); "+channels-last" may follow.
    device: "cpu" or "cuda"; None for CUDA if there is any.

    Raises:
        ValueError: torch has no such device, or torchvision and timm have no such model.
    """

    def __init__(self, workload: Workload, variant: str, device: str | None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.device not in ("cpu", "cuda") or self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"JAX runs on {self.device}, this torch cannot")
        self.precision = _match_precision(self.device)
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        torch.manual_seed(0)
        self._workload = workload
        self._format = torch.channels_last if "channels-last" in variant else torch.contiguous_format
        self._last_loss: torch.Tensor | None = None
        self.device_kind = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        self._batch = {name: self._tensor(name, array) for name, array in synthetic_batch(workload).items()}
        self._mean, self._deviation = (torch.tensor(x, device=self.device).view(-1, 1, 1)
                                       for x in (workload.mean, workload.deviation))
        network = _network(workload)
        if "channels-last" in variant:
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: not declared
        self._network: Any = network.to(self.device).train(workload.training)
        self.parameters = sum(p.numel() for p in self._network.parameters())
        forward = {"supervised": self._supervised, "mae": self._mae, "dino": self._dino}[workload.task]
        if not workload.training:
            forward = self._infer
        else:
            self._optimizer = _optimizer(workload, self._network)
            self._teacher: Any = copy.deepcopy(self._network).requires_grad_(False) if workload.task == "dino" else None
            self._center = torch.zeros(workload.prototypes, device=self.device)
        # All shapes are known, and programs for unknown ones would be slower.
        self._forward = torch.compile(forward, dynamic=False) if variant.startswith("compile") else forward

    def start(self) -> dict[str, float]:
        """Run the first step, which compiles in the variants that compile."""
        self.run(1)
        return {}

    def run(self, count: int) -> None:
        """Run `count` steps and wait for the last one."""
        step = self._train if self._workload.training else self._inference
        for _ in range(count):
            step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    @property
    def loss(self) -> float | None:
        """Loss of the last training step; None for inference."""
        return None if self._last_loss is None else float(self._last_loss)

    def peak_memory(self) -> int | None:
        """The most bytes of the device's memory that were in use; None if the device uses the host's memory."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def product(self, side: int) -> Callable[[], None]:
        """A function that multiplies two square matrices of the workload's type, and waits for the result."""
        matrix = torch.randn(side, side, device=self.device).to(getattr(torch, self._workload.dtype))
        output = torch.empty_like(matrix)

        def multiply() -> None:
            torch.mm(matrix, matrix, out=output)
            if self.device == "cuda":
                torch.cuda.synchronize()

        return multiply

    def _train(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        if self._teacher is None:
            loss = self._forward(self._batch)
            loss.backward()
            self._optimizer.step()
        else:
            loss, batch_center = self._forward(self._batch)
            loss.backward()
            self._optimizer.step()
            with torch.no_grad():
                self._center.lerp_(batch_center, 1 - settings.CENTER_MOMENTUM)
                torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]: one kernel for all parameters
                    list(self._teacher.parameters()), list(self._network.parameters()), 1 - settings.TEACHER_MOMENTUM)
        self._last_loss = loss.detach()

    def _inference(self) -> None:
        with torch.inference_mode():
            self._forward(self._batch)

    def _tensor(self, name: str, array: np.ndarray) -> torch.Tensor:
        """An array of the batch on the device; pixels have their channels where torch expects them."""
        tensor = torch.from_numpy(array).to(self.device)
        if array.ndim == 4:
            return tensor.permute(0, 3, 1, 2).contiguous(memory_format=self._format)
        if array.ndim == 5:  # views (B, V, h, w, C); their first two axes become one later
            flat = tensor.flatten(0, 1).permute(0, 3, 1, 2).contiguous(memory_format=self._format)
            return flat.unflatten(0, array.shape[:2])
        return tensor.long()

    def _autocast(self) -> Any:
        if self._workload.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, getattr(torch, self._workload.dtype))

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - self._mean) / self._deviation

    def _flipped(self, images: torch.Tensor) -> torch.Tensor:
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return self._normalized(torch.where(mirrored, images.flip(3), images))

    def _infer(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        network = self._network.features if self._workload.task == "mae" else self._network
        with self._autocast():
            return network(self._normalized(batch["image"]))

    def _supervised(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._autocast():
            outputs = self._network(self._flipped(batch["image"]))
        heads = outputs if isinstance(outputs, tuple) else (outputs,)  # GoogLeNet has auxiliary heads
        losses = [functional.cross_entropy(logits.float(), batch["label"]) for logits in heads]
        return losses[0] + sum(0.3 * loss for loss in losses[1:])

    def _mae(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._autocast():
            return self._network(self._flipped(batch["image"]))

    def _dino(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        views = [self._normalized(batch[name]) for name in ("globals", "locals") if name in batch]
        with self._autocast():
            with torch.no_grad():
                seen = self._teacher(views[:1])
            logits = self._network(views)
        answers = ((seen - self._center) / settings.TEACHER_TEMPERATURE).softmax(2)
        return dino_loss(logits, answers), seen.mean((0, 1))


def _network(workload: Workload) -> nn.Module:
    if workload.task == "mae":
        network = MaskedAutoencoder(workload.image_size, workload.channels, **workload.fields)
        if not workload.training:  # the decoder is no part of it
            for name in ("decoder_embed", "decoder_blocks", "decoder_norm", "pred", "mask_token"):
                delattr(network, name)
        return network
    if workload.task == "supervised":
        return library_model(workload.model, workload.image_size, workload.num_classes)
    backbone = library_model(workload.model, workload.image_size, 0)
    if not workload.training:
        return backbone
    with torch.no_grad():
        width = backbone.eval()(torch.zeros(1, workload.channels, workload.image_size, workload.image_size)).shape[1]
    return Student(backbone, width, workload.prototypes)


def library_model(name: str, image_size: int, num_classes: int) -> nn.Module:
    """torchvision's network of this name, or timm's. num_classes: 0 for features.

    Raises:
        ValueError: neither library has one, or the head of torchvision's cannot be removed here.
    """
    _declare_operators()  # it has to come before the imports
    import torchvision

    options: dict[str, Any]
    if name in torchvision.models.list_models():
        options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        network = torchvision.models.get_model(name, num_classes=num_classes or 1000, **options)
        if not num_classes:
            last = {"fc", "classifier"} & set(dict(network.named_children()))
            if len(last) != 1 or not name.startswith(("res", "wide", "densenet")):
                raise ValueError(f"torchvision's {name} without its head is not known here")
            setattr(network, last.pop(), nn.Identity())
        return network
    import timm  # torchvision's models do not need it

    if name not in timm.list_models():
        raise ValueError(f"neither torchvision nor timm has a {name}")
    # A ViT must be told to interpolate its positions for local crops; other networks take any size.
    options = {"dynamic_img_size": True} if not num_classes and name.startswith(("vit_", "deit_")) else {}
    return timm.create_model(name, num_classes=num_classes, img_size=image_size, **options)


def _optimizer(workload: Workload, network: nn.Module) -> torch.optim.Optimizer:
    """The workload's optimizer, which updates all parameters in one fused kernel."""
    rate, decay = settings.RATES[workload.optimizer], settings.DECAYS[workload.optimizer]
    if workload.optimizer == "momentum":
        return torch.optim.SGD(network.parameters(), rate, settings.SGD_MOMENTUM, weight_decay=decay, fused=True)
    matrices, others = [], []
    for name, parameter in network.named_parameters():
        shrinks = parameter.ndim > 1 and name.split(".")[-1] not in UNDECAYED
        (matrices if shrinks else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, fused=True)


def _match_precision(device: str) -> str:
    """Let float32 products on CUDA use what JAX uses: TF32, unless its environment asks for more. Says what was set."""
    if device != "cuda":
        return "float32 products in float32"
    exact = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION", "default") in ("highest", "float32")
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = True
    return f"float32 products in {'float32' if exact else 'TF32'}"


def _declare_operators() -> None:
    """Let torchvision be imported even if its compiled operators do not load: no classifier calls them."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ValueError("torchvision is not installed")
    try:
        torch.ops.load_library(next(Path(found.origin).parent.glob("_C*")))
    except (OSError, StopIteration):
        global _library  # its declarations live as long as it
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _sines_and_cosines(width: int, grid: int) -> torch.Tensor:
    """Fixed positions `(1, grid * grid, width)`: half of the channels for the column, half for the row."""
    frequencies = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * frequencies
    one = torch.cat([angles.sin(), angles.cos()], 1)  # (grid, width / 2)
    columns, rows = one.repeat(grid, 1), one.repeat_interleave(grid, 0)
    return torch.cat([columns, rows], 1)[None]


def _picked(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The tokens of `(B, L, D)` at places `(B, K)`: `(B, K, D)`."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
