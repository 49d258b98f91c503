"""A countermeasure: images in, images out, in training and in testing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor

from medshield.tasks import Task


class Countermeasure(ABC):
    """Something that a trainer does to images; randomness comes from PyTorch's global state.

    Training calls `fitted` once, then `on_training_set` once, then `on_train_batch` on every
    batch after flips and shifts. Each leaves alone what it is given unless a subclass says
    otherwise. The text of a countermeasure names a finished trial: it is the same in every run
    and differs between settings.

    Attributes:
        copies: how often a batch is drawn in early epochs, to train on the draw of each image with
            the largest loss.
    """

    copies: int = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """As in `verify --cells`."""

    def __repr__(self) -> str:
        return self.name

    def applies_to(self, task: Task, channels: int) -> bool:
        """Whether it changes anything for images of so many channels and such targets."""
        return True

    def fitted(self, task: Task, images: Tensor, targets: Tensor) -> Self:
        """The same countermeasure, knowing the training set that the trainer holds.

        Args:
            task: what is learned.
            images: (n, channels, height, width) in [0, 1].
            targets: as the task has them.
        """
        return self

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        """The whole training set, once and before any augmentation; same shape and range."""
        return images

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A batch in training: the same shape and range, with targets that the loss takes."""
        return images, targets

    def on_test_images(self, images: Tensor) -> Tensor:
        """Images that the model is used on; the same shape and range."""
        return images


class Filter(Countermeasure):
    """What is done to every image, whatever it shows, in training and in testing."""

    @abstractmethod
    def filtered(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) in [0, 1] to the same shape and range."""

    def on_train_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.filtered(images), targets

    def on_test_images(self, images: Tensor) -> Tensor:
        return self.filtered(images)
