"""What a linear model finds in the training images, taken away from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from medshield.countermeasures.base import Countermeasure
from medshield.tasks import Segmentation, Task

DEPENDENT = 1e-3
"""A direction this much weaker than the strongest one is rounding: vectors of two classes are
opposite, and span one."""
CURVATURE = 0.5
"""No loss of logits here bends more; softmax reaches it, the sigmoid half of it."""
POWER_STEPS = 20
"""Of the power iteration for the images' largest variance."""


@dataclass(frozen=True)
class Projection(Countermeasure):
    """Orthogonal projection (Sandoval-Segura et al. 2023, What Can We Learn from Unlearnable
    Datasets?).

    A logistic model is trained on the training images, one weight vector a class or finding; the
    images are projected on what is orthogonal to all of them, so that nothing of a pattern that a
    line separates is left. As there, test images stay as they are. Unlike there, the part along
    the vectors is brought to its mean, not to zero, so that training images stay as bright as test
    images; the model is trained by accelerated gradients on all images at once, since 20 epochs of
    a few hundred images are too few steps; and projected images are clipped to the range of
    images, which the paper's own jitter of colours does later.

    Attributes:
        steps: of the linear model's training.
        momentum: of the same.
        task: gives the loss; known once fitted.
    """

    steps: int = 300
    momentum: float = 0.9
    task: Task | None = field(default=None, repr=False, compare=False)
    name = "projection"

    def applies_to(self, task: Task, channels: int) -> bool:
        return not isinstance(task, Segmentation)

    def fitted(self, task: Task, images: Tensor, targets: Tensor) -> Self:
        return replace(self, task=task)

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        flat = images.flatten(1)
        mean = flat.mean(0)
        along = _orthonormal(self._weights(flat, mean, targets))
        found = (flat - mean) @ along.T
        return (flat - found @ along).view_as(images).clamp(0, 1)

    def _weights(self, flat: Tensor, mean: Tensor, targets: Tensor) -> Tensor:
        """One vector for each logit, (outputs, pixels), of a logistic model of `flat - mean`."""
        assert self.task is not None, "a countermeasure is fitted before it is used"  # noqa: S101
        weights = flat.new_zeros(self.task.outputs, flat.shape[1], requires_grad=True)
        bias = flat.new_zeros(self.task.outputs, requires_grad=True)
        length = 1 / (CURVATURE * max(1.0, _largest_variance(flat, mean)))
        optimiser = torch.optim.SGD([weights, bias], length, self.momentum, nesterov=True)
        with torch.enable_grad():
            for _ in range(self.steps):
                logits = flat @ weights.T - weights @ mean + bias
                optimiser.zero_grad()
                self.task.loss(logits, targets).mean().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return weights.detach()


def _largest_variance(flat: Tensor, mean: Tensor) -> float:
    """The variance of (n, pixels) along the direction in which it is largest."""
    direction = flat[0] - mean
    variance = flat.new_zeros(())
    for _ in range(POWER_STEPS):
        direction = direction / direction.norm().clamp(min=1e-12)
        seen = flat @ direction - mean @ direction
        direction = (seen @ flat - seen.sum() * mean) / len(flat)
        variance = direction.norm()
    return float(variance)


def _orthonormal(vectors: Tensor) -> Tensor:
    """Orthonormal rows that span what the rows of `vectors` span."""
    _, strengths, directions = torch.linalg.svd(vectors, full_matrices=False)
    spanned: Tensor = directions[strengths > DEPENDENT * strengths.max()]
    return spanned
