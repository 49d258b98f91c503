"""The network of `em`: a small U-Net that draws noise for an image and what it shall say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHADING = 8
"""Side of the squares, px, whose mean the noise may not move: left alone, the game settles for a
tint per class, which young surrogates love and which no grown victim falls for."""


class NoiseGenerator(nn.Module):
    """A small U-Net from (image, condition maps, keyed texture) to a delta in (-1, 1)."""

    def __init__(self, inputs: int, channels: int, width: int = 24) -> None:
        super().__init__()
        self.first = _block(inputs, width)
        self.down = _block(width, 2 * width, stride=2)
        self.deep = _block(2 * width, 2 * width, stride=2)
        self.up = _block(4 * width, width)
        self.last = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, inputs, size, size) to (n, channels, size, size); the last input is the texture."""
        fine = self.first(inputs)
        middle = self.down(fine)
        deep = F.interpolate(self.deep(middle), middle.shape[-2:], mode="bilinear")
        up = F.interpolate(self.up(torch.cat([middle, deep], 1)), fine.shape[-2:], mode="bilinear")
        learned: Tensor = self.last(torch.cat([fine, up], 1))
        return torch.tanh(_without_shading(learned + inputs[:, -1:]))


def _without_shading(images: Tensor) -> Tensor:
    """Images less what varies over more than a few pixels."""
    coarse = F.avg_pool2d(images, SHADING)
    return images - F.interpolate(coarse, images.shape[-2:], mode="bilinear")


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution and group norm: unlike batch norm, no image sees its neighbours."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)
    )
