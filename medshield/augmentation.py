"""The usual augmentation: a horizontal flip and a shift, exact to the pixel and differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8


def flip_and_shift(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Flip half of the images and shift each by up to an eighth of its side, edges reflected.

    Args:
        images: (n, channels, height, width).
        targets: anything per image; (n, height, width) masks move with their image.

    Returns:
        Images and targets of the same shapes.
    """
    n, _, height, width = images.shape
    reach_y, reach_x = max(1, round(height * SHIFT)), max(1, round(width * SHIFT))
    device = images.device
    rows = _reflected(height, torch.randint(-reach_y, reach_y + 1, (n, 1)).to(device))
    columns = _reflected(width, torch.randint(-reach_x, reach_x + 1, (n, 1)).to(device))
    flipped = (torch.rand(n, 1) < 0.5).to(device)
    columns = torch.where(flipped, width - 1 - columns, columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    images = _taken(images, places)
    if targets.ndim == 3:
        targets = _taken(targets[:, None], places)[:, 0]
    return images, targets


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
