"""What every method promises, kept here so that no method can break it.

A method's author writes `_fit` and `_delta`; this class sees to it that the perturbation stays
inside the ball and depends on nothing but the image, its target, its identity and the key.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from medshield import progress as reporting
from medshield.budget import Budget
from medshield.checkpoint import Checkpoint
from medshield.cost import Cost
from medshield.errors import MedshieldError, MethodError
from medshield.keys import Key
from medshield.method_names import plugin_of
from medshield.pretrained import Backbone
from medshield.processes import ALONE, Processes
from medshield.tasks import TASKS, Task

BLOCK = 64
"""Images perturbed at once, always exactly this many: with the shapes fixed, an image's result
does not depend on how many others came with it, down to the last bit."""

Progress = Callable[[float], None]
"""Told the finished share of the work, 0 to 1."""


def untold(_share: float) -> None:
    """The progress that nobody asks for."""


def part(progress: Progress, place: int, count: int) -> Progress:
    """The progress of one of several parts alike, as a share of all of them."""
    return lambda share: progress((place + share) / count)


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
        tasks: names of the tasks for which it protects images at all.
        trains: names of the tasks for which `fit` needs images at all.
        asks_pretrained: names of the tasks where the setting's pretrained backbone is of use to it.
        misleads: names of the tasks where images carry the looks of another class afterwards, so
            that models which were trained on clean ones misread them.
        fitting, applying: what `fit` and `perturb` cost this instance so far.
        stepped: for `_delta` to call with the share of itself that is done, 0 to 1, where it takes
            its time.
    """

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]] = frozenset(TASKS)
    trains: ClassVar[frozenset[str]] = frozenset(TASKS)
    asks_pretrained: ClassVar[frozenset[str]] = frozenset()
    misleads: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.fitting, self.applying = Cost(), Cost()
        self.stepped: Progress = untold

    @final
    def fit(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress = untold,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Learn from images.

        Args:
            images: (n, channels, size, size) in [0, 1].
            targets: the task's targets.
            progress: told how far it is.
            checkpoint: keeps where it is, and may have it go on from there; None to keep nothing.

        Raises:
            MethodError: a method of another package failed.
        """
        device = self.setting.device
        with self.fitting.counting(), blamed(self.name):
            self._fit(images.to(device), targets.to(device), progress, checkpoint or Checkpoint())

    @final
    def perturb(
        self,
        images: Tensor,
        targets: Tensor,
        names: Sequence[str],
        progress: Progress = untold,
    ) -> Tensor:
        """The delta of each image: same shape as `images`, within epsilon, image + delta in [0, 1].

        Args:
            images: (n, channels, size, size) in [0, 1].
            targets: the task's targets.
            names: (n) identities; an image's own randomness comes from its name and the key.
            progress: told how far it is, within a block of images, too.

        Raises:
            MethodError: a method of another package failed, or did not return a delta.
        """
        starts = range(0, len(images), BLOCK)
        deltas = []
        with self.applying.counting():
            for place, start in enumerate(starts):
                rows = slice(start, start + BLOCK)
                with self._telling(part(progress, place, len(starts))):
                    deltas.append(self._block_delta(images[rows], targets[rows], names[rows]))
                progress((place + 1) / len(starts))
        return torch.cat(deltas) if deltas else torch.zeros_like(images)

    @contextmanager
    def _telling(self, progress: Progress) -> Iterator[None]:
        """A block in which `stepped` is somebody's progress."""
        self.stepped = progress
        try:
            yield
        finally:
            self.stepped = untold

    def _block_delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        count = len(images)
        rows = torch.arange(BLOCK) % count
        device = self.setting.device
        block = images[rows].to(device)
        own = [names[row] for row in rows.tolist()]
        with blamed(self.name):  # with copies: what it changes in place is not what is measured
            delta = self._delta(block.clone(), targets[rows].to(device), own)
            problem = _no_delta(delta, block)
        if problem:
            raise MethodError(f"{_said(self.name)} returned {problem}; ask its author to mend it")
        delta = delta.to(block)
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


def _no_delta(delta: object, images: Tensor) -> str:
    """Why something is no delta of these images; empty where it is one of any size."""
    if not isinstance(delta, Tensor):
        return f"{type(delta).__name__} where a tensor is expected"
    if delta.shape != images.shape:
        return f"shape {tuple(delta.shape)} where {tuple(images.shape)} is expected"
    if not delta.is_floating_point():
        return f"{delta.dtype} where floating-point numbers are expected"
    if delta.isnan().any():
        return "values that are no numbers (NaN)"
    return ""


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """A block in which a method's own code runs.

    Raises:
        MethodError: that of another package failed. Its own words may quote anything, and are not
            repeated.
    """
    try:
        yield
    except (MedshieldError, OSError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if plugin_of(name) is None or "DefaultCPUAllocator" in str(error):  # memory that ran out
            raise
        what = type(error).__name__
        reporting.logger.debug("%s\n%s", what, "".join(traceback.format_tb(error.__traceback__)))
        raise MethodError(
            f"{_said(name)} failed ({what}); --verbose shows where: ask its author to mend it, and "
            "go on with --resume"
        ) from error


def _said(name: str) -> str:
    """A method, and the package that it comes from."""
    plugin = plugin_of(name)
    return f"the method {name}" + (f" of {plugin}" if plugin else "")


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
