"""Looking at an image flipped, shifted, resampled and brightened while its delta is made.

At every step another view, and the same for all images, so that an image's delta depends on no
neighbour in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from medshield.augmentation import BRIGHTNESS, CONTRAST, resized
from medshield.methods.base import Setting

REACH = 8
"""Shifts go up to the side divided by this, as a victim's do."""
COARSER = 7 / 8
"""Side of what a resampled image passes through, over its own side; as in a file of that size."""
COARSEST = 0.6
"""The least of it, where the side is drawn: what a trainer may reduce images to."""


@dataclass(frozen=True)
class View:
    """How a batch is looked at.

    Attributes:
        flipped: left to right.
        shift: (down, right), px, around the edges.
        coarser: side of the grid that it passes through, over its own; 1 for none.
        contrast, brightness: factors.
    """

    flipped: bool
    shift: tuple[int, int]
    coarser: float = 1
    contrast: float = 1
    brightness: float = 1

    def of(self, images: Tensor) -> Tensor:
        """(n, channels, side, side), or masks (n, side, side): the same shape."""
        moved = images.roll(self.shift, (-2, -1))
        moved = moved.flip(-1) if self.flipped else moved
        if images.ndim == 3:
            return moved
        if self.coarser < 1:
            moved = resampled(moved, self.coarser)
        mean = moved.mean((1, 2, 3), keepdim=True)
        return ((moved - mean) * self.contrast + mean) * self.brightness


def keyed_views(setting: Setting, method: str, steps: int) -> Iterator[View]:
    """`steps` views drawn by the key, as varied as what a trainer may do to images.

    Args:
        setting: its key draws, and a shift goes up to a share of its side.
        method: each has views of its own.
        steps: how many.
    """
    rng = setting.key.numpy(method, "views")
    reach = setting.size // REACH
    for _ in range(steps):
        down, right = rng.integers(-reach, reach + 1, 2).tolist()
        yield View(
            flipped=bool(rng.integers(2)),
            shift=(down, right),
            coarser=float(rng.uniform(COARSEST, 1)),
            contrast=1 + CONTRAST * float(rng.uniform(-1, 1)),
            brightness=1 + BRIGHTNESS * float(rng.uniform(-1, 1)),
        )


def resampled(images: Tensor, coarser: float = COARSER) -> Tensor:
    """Through a coarser grid and back: what of (n, channels, side, side) survives resizing."""
    side = images.shape[-1]
    through = round(side * coarser)
    return resized(resized(images, through, through), side, side)
