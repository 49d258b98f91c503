"""What methods share that lead a model astray: wrong targets, and views of an image in turn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medshield.methods.base import Setting
from medshield.tasks import Classification


def wrong_targets(setting: Setting, targets: Tensor, method: str) -> Tensor:
    """The next class of a keyed cycle; the opposite of every finding; the inverted mask.

    Args:
        setting: its key orders the cycle.
        targets: as the task has them.
        method: each has a cycle of its own.
    """
    if not isinstance(setting.task, Classification):
        return 1 - targets
    count = len(setting.task.classes)
    cycle = torch.from_numpy(setting.key.numpy(method, "classes").permutation(count))
    following = torch.empty(count, dtype=torch.long)
    following[cycle] = cycle.roll(-1)
    return following.to(targets.device)[targets]


class Views:
    """Images flipped and shifted, in another way at every step and in the same way for all.

    What an image becomes then depends on no neighbour in its batch.

    Args:
        setting: its key draws the shifts, of up to an eighth of the side.
        method: each has views of its own.
        steps: how many.
    """

    def __init__(self, setting: Setting, method: str, steps: int) -> None:
        rng = setting.key.numpy(method, "views")
        reach = setting.size // 8
        self._views: Iterator[tuple[bool, tuple[int, ...]]] = iter(
            [(bool(i % 2), tuple(rng.integers(-reach, reach + 1, 2))) for i in range(steps)]
        )

    def next(self, images: Tensor, *targets: Tensor) -> list[Tensor]:
        """The images in the next view, and targets, of which masks move with their image."""
        flipped, shift = next(self._views)
        moved = (_viewed(each, flipped, shift) if each.ndim == 3 else each for each in targets)
        return [_viewed(images, flipped, shift), *moved]


def _viewed(images: Tensor, flipped: bool, shift: tuple[int, ...]) -> Tensor:
    rolled = images.roll(shift, (-2, -1))
    return rolled.flip(-1) if flipped else rolled
