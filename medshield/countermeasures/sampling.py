"""Another grid of pixels: resizing and cropping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medshield.countermeasures.base import Countermeasure

INTERPOLATIONS = ("bilinear", "bicubic", "area", "nearest-exact")


class Resize(Countermeasure):
    """Down to half the side and back, by an interpolation drawn for each batch."""

    name = "resize"

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        drawn = int(torch.randint(len(INTERPOLATIONS), ()))
        return _halved(images, INTERPOLATIONS[drawn]), targets

    def on_test_images(self, images: Tensor) -> Tensor:
        return _halved(images, INTERPOLATIONS[0])


def _halved(images: Tensor, interpolation: str) -> Tensor:
    height, width = images.shape[-2:]
    smooth = interpolation in ("bilinear", "bicubic")
    small = F.interpolate(images, (height // 2, width // 2), mode=interpolation, antialias=smooth)
    return F.interpolate(small, (height, width), mode=interpolation).clamp(0, 1)


@dataclass(frozen=True)
class Crop(Countermeasure):
    """A random part of the image at full size (Szegedy et al. 2015), masks along with it.

    Attributes:
        smallest: share of the area at the least.
        stretch: ratio of the sides at the most.
    """

    smallest: float = 0.5
    stretch: float = 4 / 3
    name = "crop"

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        grid = self._grid(images)
        cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        if targets.ndim == 3:
            masks = targets[:, None].to(images.dtype)
            masks = F.grid_sample(
                masks, grid, mode="nearest", padding_mode="border", align_corners=False
            )
            targets = masks[:, 0].to(targets.dtype)
        return cropped.clamp(0, 1), targets

    def _grid(self, images: Tensor) -> Tensor:
        """Where the pixels come from, (n, height, width, 2), sides from -1 to 1."""
        n = len(images)
        area = self.smallest + (1 - self.smallest) * torch.rand(n)
        ratio = torch.exp(math.log(self.stretch) * (2 * torch.rand(n) - 1))
        sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
        centres = (1 - sides) * (2 * torch.rand(n, 2) - 1)
        moves = torch.cat([torch.diag_embed(sides), centres[:, :, None]], 2)
        moves = moves.to(images.device, images.dtype)
        return F.affine_grid(moves, list(images.shape), align_corners=False)
