"""Strong augmentation: two operations drawn for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medshield.countermeasures.base import Countermeasure
from medshield.tasks import Segmentation, Task


@dataclass(frozen=True)
class Strong(Countermeasure):
    """RandAugment (Cubuk et al. 2020), which moves, distorts and recolours.

    Attributes:
        operations: for each image.
        magnitude: of each, of 30.
    """

    operations: int = 2
    magnitude: int = 9
    name = "strong"

    def applies_to(self, task: Task, channels: int) -> bool:
        return not isinstance(task, Segmentation)  # masks would have to move along

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision.transforms.v2 import RandAugment  # loads much; `protect` needs none of it

        augment = RandAugment(self.operations, self.magnitude)
        return torch.stack([augment(image) for image in images]).clamp(0, 1), targets
