"""A countermeasure: images in, images out, in training and in testing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Countermeasure(ABC):
    """Something done to every image of a training batch and, by default, of the test part.

    Attributes:
        name: as in `verify --cells`.
    """

    name: ClassVar[str]

    @abstractmethod
    def on_train_batch(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) in [0, 1] to the same shape and range."""

    def on_test_images(self, images: Tensor) -> Tensor:
        """What is done to images the model is used on; the same as in training unless said."""
        return self.on_train_batch(images)
