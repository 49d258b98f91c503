"""Strong augmentation, searched for what the model does worst on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from medshield.countermeasures.base import Countermeasure
from medshield.tasks import Segmentation, Task


@dataclass(frozen=True)
class UEraser(Countermeasure):
    """UEraser (Qin et al. 2023, Learning the Unlearnable).

    Brightness and contrast along maps of plasma, channels in another order, and TrivialAugment
    (Mueller and Hutter 2021), in the strengths of its published code. Of several copies of an image
    training takes the one with the largest loss; as there, in the first 30 % of epochs, and one
    copy afterwards. Unlike there, flips, shifts and jitter are drawn anew for each copy, too. Where
    masks are learned, TrivialAugment is left out: it moves pixels.

    Attributes:
        copies: of each image.
        chance: of brightness, of contrast and of the order of channels.
        roughest, smoothest: factor from each level of a plasma to the next finer one.
        weakest, strongest: of the change of brightness.
        moves: whether TrivialAugment is used; known once fitted.
    """

    copies: int = 5
    chance: float = 0.5
    smoothest: float = 0.3
    roughest: float = 0.7
    weakest: float = 0.5
    strongest: float = 1.0
    moves: bool = field(default=True, repr=False, compare=False)
    name = "ueraser"

    def fitted(self, task: Task, images: Tensor, targets: Tensor) -> Self:
        return replace(self, moves=not isinstance(task, Segmentation))

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        strength = _between(self.weakest, self.strongest, images)
        brighter = (images + strength * (2 * self._plasma(images) - 1)).clamp(0, 1)
        images = torch.where(self._chosen(images), brighter, images)
        contrasted = ((images - 0.5) * 4 * self._plasma(images) + 0.5).clamp(0, 1)
        images = torch.where(self._chosen(images), contrasted, images)
        images = torch.where(self._chosen(images), _shuffled(images), images)
        if self.moves:
            from torchvision.transforms.v2 import TrivialAugmentWide  # loads much

            augment = TrivialAugmentWide()
            images = torch.stack([augment(image) for image in images]).clamp(0, 1)
        return images, targets

    def _chosen(self, images: Tensor) -> Tensor:
        return (torch.rand(len(images), 1, 1, 1) < self.chance).to(images.device)

    def _plasma(self, images: Tensor) -> Tensor:
        roughness = _between(self.smoothest, self.roughest, images).cpu()
        return plasma(images.shape, roughness).to(images.device, images.dtype)


def plasma(shape: torch.Size, roughness: Tensor) -> Tensor:
    """Fractal maps by midpoint displacement, from 0 to 1 each.

    Args:
        shape: (n, channels, height, width).
        roughness: (n, 1, 1, 1), of what is added at one level, as a share of the level above.
    """
    count, channels, height, width = shape
    maps = torch.rand(count, channels, 3, 3)
    added = torch.ones_like(roughness)
    for _ in range(math.ceil(math.log2(max(height, width) - 1)) - 1):
        side = 2 * maps.shape[-1] - 1
        maps = F.interpolate(maps, (side, side), mode="bilinear", align_corners=True)
        added = added * roughness
        noise = added * (torch.rand_like(maps) - 0.5)
        noise[..., ::2, ::2] = 0  # points of the level above keep their heights
        maps = maps + noise
    maps = maps[..., :height, :width]
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-6)


def _between(low: float, high: float, images: Tensor) -> Tensor:
    """A number for each image, (n, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(images), 1, 1, 1)).to(images.device)


def _shuffled(images: Tensor) -> Tensor:
    """Channels in an order drawn for each image."""
    order = torch.rand(images.shape[:2]).argsort(1).to(images.device)
    return images.gather(1, order[:, :, None, None].expand_as(images))
