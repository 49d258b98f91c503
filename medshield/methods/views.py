"""Looking at an image flipped, shifted and resampled while its delta is made.

At every step another view, and the same for all images, so that an image's delta depends on no
neighbour in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from medshield.augmentation import resized
from medshield.methods.base import Setting

REACH = 8
"""Shifts go up to the side divided by this, as a victim's do."""
COARSER = 7 / 8
"""Side of what a resampled image passes through, over its own side."""


@dataclass(frozen=True)
class View:
    """How a batch is looked at.

    Attributes:
        flipped: left to right.
        shift: (down, right), px, around the edges.
        resampled: whether it passes through a coarser grid, as in a file of another size.
    """

    flipped: bool
    shift: tuple[int, int]
    resampled: bool = False

    def of(self, images: Tensor) -> Tensor:
        """(n, channels, side, side), or masks (n, side, side): the same shape."""
        moved = images.roll(self.shift, (-2, -1))
        moved = moved.flip(-1) if self.flipped else moved
        return resampled(moved) if self.resampled and images.ndim == 4 else moved


def keyed_views(
    setting: Setting, method: str, steps: int, *, resampling: bool = False
) -> Iterator[View]:
    """`steps` views drawn by the key.

    Args:
        setting: its key draws, and a shift goes up to a share of its side.
        method: each has views of its own.
        steps: how many.
        resampling: whether two of four views are resampled, too.
    """
    rng = setting.key.numpy(method, "views")
    reach = setting.size // REACH
    for step in range(steps):
        down, right = rng.integers(-reach, reach + 1, 2).tolist()
        flipped = bool(rng.integers(2))
        yield View(flipped, (down, right), resampling and bool(step // 2 % 2))


def resampled(images: Tensor) -> Tensor:
    """Through a coarser grid and back: what of (n, channels, side, side) survives resizing."""
    side = images.shape[-1]
    coarser = round(side * COARSER)
    return resized(resized(images, coarser, coarser), side, side)
