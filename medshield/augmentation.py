"""The usual augmentation: a flip and a shift, exact to the pixel, and colour jitter.

All of it is differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.2, 0.2
"""Each is multiplied by up to this much more or less than 1."""
HUE = math.radians(10)
"""How far colours turn about grey at the most."""


def flip_and_shift(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Flip half of the images and shift each by up to an eighth of its side, edges reflected.

    Args:
        images: (n, channels, height, width).
        targets: anything per image; (n, height, width) masks move with their image.

    Returns:
        Images and targets of the same shapes.
    """
    count, _, height, width = images.shape
    return Moves.drawn(count, height, width).of(images, targets)


@dataclass(frozen=True)
class Moves:
    """How each image of a batch is flipped and shifted.

    Attributes:
        down, right: (n, 1), px.
        flipped: (n, 1), left to right.
    """

    down: Tensor
    right: Tensor
    flipped: Tensor

    @classmethod
    def drawn(cls, count: int, height: int, width: int) -> Moves:
        """For so many images of this size, px."""
        reach_y, reach_x = max(1, round(height * SHIFT)), max(1, round(width * SHIFT))
        down = torch.randint(-reach_y, reach_y + 1, (count, 1))
        right = torch.randint(-reach_x, reach_x + 1, (count, 1))
        return cls(down, right, torch.rand(count, 1) < 0.5)

    def rows(self, rows: slice) -> Moves:
        """Those of some images."""
        return Moves(self.down[rows], self.right[rows], self.flipped[rows])

    def of(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `flip_and_shift`."""
        height, width = images.shape[2:]
        device = images.device
        rows = _reflected(height, self.down.to(device))
        columns = _reflected(width, self.right.to(device))
        columns = torch.where(self.flipped.to(device), width - 1 - columns, columns)
        places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
        images = _taken(images, places)
        if targets.ndim == 3:
            targets = _taken(targets[:, None], places)[:, 0]
        return images, targets


def jitter_colours(images: Tensor, times: float = 1.0) -> Tensor:
    """Change each image's brightness and contrast, and of colour images saturation and hue, a bit.

    Args:
        images: (n, channels, height, width) in [0, 1]; three channels are red, green and blue.
        times: how much more than a bit.
    """
    n, channels = images.shape[:2]

    def around_one(strength: float) -> Tensor:
        return 1 + times * strength * (2 * torch.rand(n, 1, 1) - 1)

    brightness, contrast = around_one(BRIGHTNESS), around_one(CONTRAST)
    change = torch.eye(channels).expand(n, -1, -1)
    if channels == 3:
        change = _turned_about_grey(
            around_one(SATURATION), times * HUE * (2 * torch.rand(n, 1, 1) - 1)
        )
    change = (brightness * contrast * change).to(images.device, images.dtype)
    offset = (brightness * (1 - contrast)).to(images.device, images.dtype)
    pixels = images.flatten(2)
    means = pixels.mean((1, 2), keepdim=True)
    return torch.baddbmm(offset * means, change, pixels).clamp(0, 1).view_as(images)


def _turned_about_grey(saturation: Tensor, angle: Tensor) -> Tensor:
    """(n, 3, 3) matrices that turn and stretch colours about the axis of greys, which stays.

    Args:
        saturation: (n, 1, 1) factors of the distance from the axis.
        angle: (n, 1, 1), radians.
    """
    grey = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = angle.cos() * (torch.eye(3) - grey) + angle.sin() * across
    return grey + saturation * turned


def _reflected(length: int, shift: Tensor) -> Tensor:
    """Indices 0..length-1 moved by each shift and mirrored at the ends, (n, length)."""
    index = torch.arange(length, device=shift.device)[None] + shift
    index = index.abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index)


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """Pixels of each image at flat `places` (n, height*width)."""
    n, channels, height, width = images.shape
    index = places[:, None].expand(n, channels, height * width)
    return images.flatten(2).gather(2, index).view(n, channels, height, width)


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of (n, channels, h, w) with antialiasing, as a trainer's loader does it."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
