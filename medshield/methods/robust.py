"""`robust`: of all that was tried, what leaves a victim least to learn, by the kind of task.

Labels are protected by misdirection, see `adversarial_targeted`; masks by a texture in their
foreground, see `synthetic`. docs/protection.md has what was measured, and what else was tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medshield.checkpoint import Checkpoint
from medshield.methods.adversarial_targeted import MisleadingSeveral
from medshield.methods.base import Method, Progress, Setting
from medshield.methods.synthetic import Synthetic


class Robust(Method):
    """The method of the task, under one name."""

    name = "robust"
    trains = misleads = asks_pretrained = frozenset({"classification", "multilabel"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        kind = Synthetic if setting.task.name == "segmentation" else MisleadingSeveral
        self.chosen: Method = kind(setting)

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        self.chosen._fit(images, targets, progress, checkpoint)

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        self.chosen.stepped = self.stepped
        return self.chosen._delta(images, targets, names)

    def state(self) -> dict[str, Tensor]:
        return self.chosen.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.chosen.load(state)
