"""What a model is asked to do: its loss, its predictions, and how they are scored.

Predictions are kept in one small array per example, from which every score and every bootstrap
draw is computed: probabilities for classification and multi-label, and for segmentation the
number of background and foreground pixels in each of 64 bins of predicted probability.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medshield import metrics

PROBABILITY_BINS = 64

Array = NDArray[Any]


class Task(ABC):
    """One kind of supervised learning.

    Attributes:
        name: as in `--task`.
        decision: the score of the model's own decision, which the `basic` level judges by.
        ranking: the threshold-free score, which counts from `determined` on.
    """

    name: ClassVar[str]
    decision: ClassVar[str]
    ranking: ClassVar[str]

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels of a model's output."""

    @property
    @abstractmethod
    def condition_channels(self) -> int:
        """Channels of `conditions`."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss per example, (n,)."""

    def soft(self, targets: Tensor) -> Tensor:
        """Targets that may be averaged, in [0, 1]; `loss` takes them, too."""
        return targets.float()

    @abstractmethod
    def conditions(self, targets: Tensor, size: int) -> Tensor:
        """Targets as maps, (n, condition channels, size, size) in {0, 1}, for a noise generator."""

    @abstractmethod
    def predictions(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What is kept of a model's output, one row per example."""

    @abstractmethod
    def scores(self, predictions: Array, targets: Array) -> dict[str, float]:
        """Every score by name; larger is better."""

    @abstractmethod
    def scores_of_draws(
        self, predictions: Array, targets: Array, weights: Array
    ) -> dict[str, Array]:
        """The decision's and the ranking's score of many samples drawn from the same examples.

        Args:
            predictions: one row per example.
            targets: as the task has them.
            weights: (draws, n) how often each example was drawn.

        Returns:
            Of each score (draws,), what `scores` says of the drawn rows.
        """

    def per_class(self, predictions: Array, targets: Array) -> dict[str, float]:
        """A score for each class or finding that occurs among the targets, by its name."""
        return {}

    @abstractmethod
    def constant_scores(self, train_targets: Array, test_targets: Array) -> dict[str, float]:
        """What a predictor that never looks at the image scores on the test part."""


class Classification(Task):
    """One class per image: targets are (n,) indices."""

    name = "classification"
    decision = "balanced_accuracy"
    ranking = "auroc"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def condition_channels(self) -> int:
        return len(self.classes)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def soft(self, targets: Tensor) -> Tensor:
        return F.one_hot(targets, len(self.classes)).float()

    def conditions(self, targets: Tensor, size: int) -> Tensor:
        one_hot = F.one_hot(targets, len(self.classes)).float()
        return one_hot[:, :, None, None].expand(-1, -1, size, size)

    def predictions(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.softmax(1)

    def scores(self, predictions: Array, targets: Array) -> dict[str, float]:
        decided = predictions.argmax(1)
        return {
            "accuracy": float((decided == targets).mean()),
            "balanced_accuracy": metrics.balanced_accuracy(decided, targets),
            "auroc": metrics.macro_auroc(predictions, np.eye(len(self.classes))[targets]),
        }

    def scores_of_draws(
        self, predictions: Array, targets: Array, weights: Array
    ) -> dict[str, Array]:
        first = 1 if len(self.classes) == 2 else 0  # of two classes both have the same AUROC
        each = [
            metrics.auroc_of_draws(predictions[:, k], targets == k, weights)
            for k in range(first, len(self.classes))
        ]
        return {
            "balanced_accuracy": metrics.balanced_accuracy_of_draws(
                predictions.argmax(1), targets, weights
            ),
            "auroc": metrics.nanmean(np.stack(each)),
        }

    def per_class(self, predictions: Array, targets: Array) -> dict[str, float]:
        """Recall."""
        right = predictions.argmax(1) == targets
        return {self.classes[k]: float(right[targets == k].mean()) for k in np.unique(targets)}

    def constant_scores(self, train_targets: Array, test_targets: Array) -> dict[str, float]:
        shares = np.bincount(train_targets, minlength=len(self.classes)) / len(train_targets)
        return self.scores(np.tile(shares, (len(test_targets), 1)), test_targets)


class MultiLabel(Task):
    """Any number of findings per image: targets are (n, findings) in {0, 1}."""

    name = "multilabel"
    decision = "auroc"
    ranking = "auroc"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def condition_channels(self) -> int:
        return len(self.classes)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(1)

    def conditions(self, targets: Tensor, size: int) -> Tensor:
        return targets.float()[:, :, None, None].expand(-1, -1, size, size)

    def predictions(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.sigmoid()

    def scores(self, predictions: Array, targets: Array) -> dict[str, float]:
        return {
            "accuracy": float(((predictions > 0.5) == (targets > 0.5)).mean()),
            "map": metrics.mean_average_precision(predictions, targets),
            "auroc": metrics.macro_auroc(predictions, targets),
        }

    def scores_of_draws(
        self, predictions: Array, targets: Array, weights: Array
    ) -> dict[str, Array]:
        each = [
            metrics.auroc_of_draws(predictions[:, k], targets[:, k], weights)
            for k in range(len(self.classes))
        ]
        return {"auroc": metrics.nanmean(np.stack(each))}

    def per_class(self, predictions: Array, targets: Array) -> dict[str, float]:
        """AUROC."""
        found = {
            name: metrics.auroc(predictions[:, k], targets[:, k])
            for k, name in enumerate(self.classes)
        }
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def constant_scores(self, train_targets: Array, test_targets: Array) -> dict[str, float]:
        return self.scores(np.tile(train_targets.mean(0), (len(test_targets), 1)), test_targets)


class Segmentation(Task):
    """Foreground against background: targets are (n, height, width) in {0, 1}."""

    name = "segmentation"
    decision = "iou"
    ranking = "pixel_auroc"

    @property
    def outputs(self) -> int:
        return 1

    @property
    def condition_channels(self) -> int:
        return 2

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Dice plus cross-entropy."""
        truth = targets.to(logits.dtype)
        cross_entropy = F.binary_cross_entropy_with_logits(
            logits[:, 0], truth, reduction="none"
        ).mean((1, 2))
        foreground = logits[:, 0].sigmoid()
        overlap = (foreground * truth).sum((1, 2))
        total = foreground.sum((1, 2)) + truth.sum((1, 2))
        return cross_entropy + 1 - (2 * overlap + 1) / (total + 1)

    def conditions(self, targets: Tensor, size: int) -> Tensor:
        foreground = targets.float()
        return torch.stack([1 - foreground, foreground], 1)

    def predictions(self, logits: Tensor, targets: Tensor) -> Tensor:
        bins = (logits[:, 0].sigmoid() * PROBABILITY_BINS).long().clamp(max=PROBABILITY_BINS - 1)
        cells = (bins + PROBABILITY_BINS * targets.long()).flatten(1)
        counts = torch.zeros(len(cells), 2 * PROBABILITY_BINS)
        counts.scatter_add_(1, cells.cpu(), torch.ones(cells.shape))
        return counts.view(-1, 2, PROBABILITY_BINS)

    def scores(self, predictions: Array, targets: Array) -> dict[str, float]:
        background, foreground = predictions.sum(0)
        positive = slice(PROBABILITY_BINS // 2, None)
        found, false = foreground[positive].sum(), background[positive].sum()
        iou = found / max(foreground.sum() + false, 1)
        return {
            "iou": float(iou),
            "dice": float(2 * iou / (1 + iou)),
            "pixel_auroc": float(metrics.auroc_from_counts(background, foreground)),
            "predicted_foreground": float((found + false) / max(predictions.sum(), 1)),
        }

    def scores_of_draws(
        self, predictions: Array, targets: Array, weights: Array
    ) -> dict[str, Array]:
        counts = weights @ predictions.reshape(len(predictions), -1).astype(np.float64)
        background, foreground = np.split(counts, 2, 1)
        positive = slice(PROBABILITY_BINS // 2, None)
        found, false = foreground[:, positive].sum(1), background[:, positive].sum(1)
        return {
            "iou": found / np.maximum(foreground.sum(1) + false, 1),
            "pixel_auroc": metrics.auroc_from_counts(background, foreground),
        }

    def constant_scores(self, train_targets: Array, test_targets: Array) -> dict[str, float]:
        """All foreground: the best that a constant can do for IoU."""
        counts = np.zeros((len(test_targets), 2, PROBABILITY_BINS))
        counts[:, 1, -1] = test_targets.sum((1, 2))
        counts[:, 0, -1] = (1 - test_targets).sum((1, 2))
        return self.scores(counts, test_targets)


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, MultiLabel, Segmentation)
}
