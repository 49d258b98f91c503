"""Images with holes, and images of two: cutout, mixup, CutMix. Only in training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from medshield.countermeasures.base import Countermeasure
from medshield.tasks import Task

FILL = 0.5
"""What a hole shows; models see it as zero."""


@dataclass(frozen=True)
class Cutout(Countermeasure):
    """A square hole anywhere, cut off at the edges (DeVries and Taylor 2017).

    Attributes:
        side: of the hole, as a share of the image's.
    """

    side: float = 0.5
    name = "cutout"

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return images.masked_fill(
            _boxes(images, torch.full((len(images),), self.side)), FILL
        ), targets


@dataclass(frozen=True)
class Mixing(Countermeasure):
    """Every image mixed with another of its batch, and their targets in the same shares.

    Attributes:
        task: makes targets that may be averaged; known once fitted.
    """

    task: Task | None = field(default=None, repr=False)

    def fitted(self, task: Task, images: Tensor, targets: Tensor) -> Self:
        return replace(self, task=task)

    def soft(self, targets: Tensor) -> Tensor:
        """Targets that may be averaged."""
        assert self.task is not None, "a countermeasure is fitted before it is used"  # noqa: S101
        return self.task.soft(targets)


class Mixup(Mixing):
    """Weighted means, the weights uniform (Zhang et al. 2018, alpha 1)."""

    name = "mixup"

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        partners, share = torch.randperm(len(images)).to(images.device), torch.rand(len(images))
        truth = self.soft(targets)
        return _mean(images, images[partners], share), _mean(truth, truth[partners], share)


class CutMix(Mixing):
    """A box of another image, its area uniform (Yun et al. 2019); masks are cut alike."""

    name = "cutmix"

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        partners, area = torch.randperm(len(images)).to(images.device), torch.rand(len(images))
        boxes, truth = _boxes(images, area.sqrt()), self.soft(targets)
        mixed = torch.where(boxes, images[partners], images)
        if truth.ndim == 3:
            return mixed, torch.where(boxes[:, 0], truth[partners], truth)
        covered = boxes.to(images.dtype).mean((1, 2, 3))
        return mixed, _mean(truth, truth[partners], 1 - covered)


def _mean(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`share` (n,) of the first, and the rest of the second."""
    share = share.to(first.device, first.dtype).view(-1, *[1] * (first.ndim - 1))
    return share * first + (1 - share) * second


def _boxes(images: Tensor, sides: Tensor) -> Tensor:
    """Boxes with centres anywhere, (n, 1, height, width), true inside.

    Args:
        images: gives the shape and the device.
        sides: (n,) of each box, as a share of the image's.
    """
    n, _, height, width = images.shape
    inside = []
    for length, shape in ((height, (n, 1, height, 1)), (width, (n, 1, 1, width))):
        places = (torch.arange(length) + 0.5) / length
        apart = (places - torch.rand(n, 1)).abs()
        inside.append((apart < sides[:, None] / 2).view(shape).to(images.device))
    return inside[0] & inside[1]
