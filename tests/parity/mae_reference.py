"""MAE in torch, to compare with: built from timm's patch embedding and blocks, as its authors built theirs.

Sizes need not be square, the masking noise is an argument, and images are (B, C, H, W) as torch has them.
"""

from functools import partial

import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn


def sine_cosine(width: int, rows: int, columns: int) -> torch.Tensor:
    """Position codes (1, 1 + rows * columns, width), place by place; the class token's are zero."""
    quarter = width // 4
    table = torch.zeros(1 + rows * columns, width, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for half, coordinate in enumerate((column, row)):
                angle = coordinate / 10000.0 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
                start = half * 2 * quarter
                table[1 + row * columns + column, start:start + quarter] = angle.sin()
                table[1 + row * columns + column, start + quarter:start + 2 * quarter] = angle.cos()
    return table.float()[None]


class TorchMae(nn.Module):
    """The parameters carry the published names."""

    def __init__(self, *, image_size: tuple[int, int], patch_size: int, width: int, depth: int, heads: int,
                 decoder_width: int, decoder_depth: int, decoder_heads: int, in_channels: int = 3) -> None:
        super().__init__()

        def block(dim: int, count: int) -> Block:
            return Block(dim, count, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))

        def fixed(dim: int) -> nn.Parameter:
            return nn.Parameter(sine_cosine(dim, *self.patch_embed.grid_size), requires_grad=False)

        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = fixed(width)
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = fixed(decoder_width)
        self.decoder_blocks = nn.ModuleList(block(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * in_channels)
        self.patch_size = patch_size

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, L, p*p*C), each patch as row, column, channel."""
        p = self.patch_size
        tiles = images.unfold(2, p, p).unfold(3, p, p)  # (B, C, rows, columns, p, p)
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def forward(self, images: torch.Tensor, noise: torch.Tensor, mask_ratio: float, normalize: bool) -> dict:
        """Latent, mask, prediction and the loss of the batch."""
        batch, length = noise.shape
        visible = int(length * (1 - mask_ratio))
        rows = torch.arange(batch)[:, None]
        order = noise.argsort(dim=1)
        mask = torch.ones(batch, length)
        mask[rows, order[:, :visible]] = 0.0

        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, 1, -1)
        latent = torch.cat([cls, patches[rows, order[:, :visible]]], dim=1)
        for block in self.blocks:
            latent = block(latent)
        latent = self.norm(latent)

        codes = self.decoder_embed(latent)
        canvas = self.mask_token.repeat(batch, length, 1)
        canvas[rows, order[:, :visible]] = codes[:, 1:]
        x = torch.cat([codes[:, :1], canvas], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]

        target = self.patches(images)
        if normalize:
            variance, mean = torch.var_mean(target, dim=2, correction=1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        squared = (prediction - target).square().mean(dim=2)
        loss = squared[mask.bool()].mean()
        return {"latent": latent, "mask": mask, "prediction": prediction, "loss": loss}
