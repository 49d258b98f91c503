"""What every method promises, kept here so that no method can break it.

A method's author writes `_fit` and `_delta`; this class sees to it that the perturbation stays
inside the ball and depends on nothing but the image, its target, its identity and the key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medshield.budget import Budget
from medshield.checkpoint import Checkpoint
from medshield.cost import Cost
from medshield.keys import Key
from medshield.pretrained import Backbone
from medshield.processes import ALONE, Processes
from medshield.tasks import TASKS, Task

BLOCK = 64
"""Images perturbed at once, always exactly this many: with the shapes fixed, an image's result
does not depend on how many others came with it, down to the last bit."""

Progress = Callable[[float], None]
"""Told the finished share of the work, 0 to 1."""


@dataclass(frozen=True)
class Setting:
    """What a method works under.

    Attributes:
        task: of the models.
        channels: 1 or 3.
        size: side of the square grid on which perturbations are made, px.
        budget: the ball.
        key: the source of everything random.
        device: where tensors live.
        effort: multiplies the number of training steps; 1 is the default, tests use less.
        pretrained: a backbone that knows ImageNet, for methods that ask one; None for none.
        crew: the processes that fit the method together; this one alone by default.
    """

    task: Task
    channels: int
    size: int
    budget: Budget
    key: Key
    device: torch.device
    effort: float = 1.0
    pretrained: Backbone | None = None
    crew: Processes = ALONE

    def scaled(self, steps: int) -> int:
        """`steps` times the effort, at least one."""
        return max(1, round(steps * self.effort))


class Method(ABC):
    """Learns once from a data set, then perturbs any number of images.

    Attributes:
        name: as in `--method`.
        trains: names of the tasks for which `fit` needs images at all.
        asks_pretrained: names of the tasks where the setting's pretrained backbone is of use to it.
        misleads: names of the tasks where images carry the looks of another class afterwards, so
            that models which were trained on clean ones misread them.
        fitting, applying: what `fit` and `perturb` cost this instance so far.
    """

    name: ClassVar[str]
    trains: ClassVar[frozenset[str]] = frozenset(TASKS)
    asks_pretrained: ClassVar[frozenset[str]] = frozenset()
    misleads: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.fitting, self.applying = Cost(), Cost()

    def fit(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress = lambda _: None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Learn from images.

        Args:
            images: (n, channels, size, size) in [0, 1].
            targets: the task's targets.
            progress: told how far it is.
            checkpoint: keeps where it is, and may have it go on from there; None to keep nothing.
        """
        device = self.setting.device
        with self.fitting.counting():
            self._fit(images.to(device), targets.to(device), progress, checkpoint or Checkpoint())

    def perturb(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """The delta of each image: same shape as `images`, within epsilon, image + delta in [0, 1].

        Args:
            images: (n, channels, size, size) in [0, 1].
            targets: the task's targets.
            names: (n) identities; an image's own randomness comes from its name and the key.
        """
        with self.applying.counting():
            deltas = [
                self._block_delta(
                    images[i : i + BLOCK], targets[i : i + BLOCK], names[i : i + BLOCK]
                )
                for i in range(0, len(images), BLOCK)
            ]
        return torch.cat(deltas) if deltas else torch.zeros_like(images)

    def _block_delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        count = len(images)
        rows = torch.arange(BLOCK) % count
        device = self.setting.device
        block = images[rows].to(device)
        delta = self._delta(block, targets[rows].to(device), [names[row] for row in rows.tolist()])
        return (self.setting.budget.project(block + delta, block) - block)[:count].detach().cpu()

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What `fit` learned, for safetensors; its size does not grow with the data set."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what another instance's `state` returned."""

    @abstractmethod
    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        """Learn; its loops are the checkpoint's, which name all that changes in them."""

    @abstractmethod
    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor: ...


class UntrainedMethod(Method):
    """A method that follows from the key alone."""

    trains = frozenset()

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        pass
