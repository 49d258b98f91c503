"""What a model that had no part in the game still learns: the judge of when `em` may stop.

A surrogate's training error says little: it falls to nothing on a few hundred images after one
round, and the noise protects nothing. So a fresh model is trained on perturbed images as a victim
would, and scored on clean ones that no part of the game has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medshield import models
from medshield.methods.base import Setting
from medshield.randomness import seeded
from medshield.training import Recipe, predict, train

ASIDE = 0.2
FEWEST_ASIDE, MOST_ASIDE = 40, 2_000
"""Images kept aside: fewer tell nothing, more tell nothing new."""
MOST_TRAINED_ON = 500
IMAGES_SEEN = 12_000
"""In training, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 24


@dataclass(frozen=True)
class Parts:
    """Row numbers of the images that the game is learned from, and of those kept aside."""

    learned: Tensor
    aside: Tensor

    @classmethod
    def drawn(cls, count: int, setting: Setting) -> Parts:
        """By the key; nothing is kept aside of a set that is too small for it."""
        order = torch.from_numpy(setting.key.numpy("em", "aside").permutation(count))
        wanted = min(MOST_ASIDE, max(FEWEST_ASIDE, round(ASIDE * count)))
        aside = wanted if count >= 2 * FEWEST_ASIDE else 0
        return cls(order[aside:].sort().values, order[:aside].sort().values)


@dataclass(frozen=True)
class FreshVictim:
    """A small model, new at every look, and the images to train and to score it on.

    Attributes:
        setting: its task, key, device and effort.
        images, targets: perturbed for training, (n, channels, side, side) in [0, 1].
        clean, truth: what it is scored on.
    """

    setting: Setting
    images: Tensor
    targets: Tensor
    clean: Tensor
    truth: Tensor

    @classmethod
    def of(cls, setting: Setting, images: Tensor, targets: Tensor, parts: Parts) -> FreshVictim:
        """Trained on at most `MOST_TRAINED_ON` of the images that the game is learned from."""
        trained_on = parts.learned[:MOST_TRAINED_ON].to(images.device)
        learned, aside = (
            (images[rows], targets[rows]) for rows in (trained_on, parts.aside.to(images.device))
        )
        return cls(setting, *learned, *aside)

    def learns(self, perturb: Callable[[Tensor, Tensor], Tensor]) -> float:
        """How well it does on clean images, 0.5 at chance with two classes, 1 at best.

        The mean over the later half of its epochs, since one epoch's score jumps about, and over
        its decisions and its ranking; a ranking turned around counts as much as the right one.

        Args:
            perturb: the noise of (images, targets).
        """
        setting = self.setting
        perturbed = (self.images + perturb(self.images, self.targets)).clamp(0, 1)
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // len(self.images)))
        epochs = setting.scaled(epochs)
        scores = []
        with seeded(setting.key.number("em", "fresh victim")):
            name = "unet_mobilenet" if setting.task.name == "segmentation" else "small_convnet"
            model = models.build(name, setting.channels, setting.task.outputs).to(setting.device)
            recipe = Recipe(epochs, colour_jitter=True, crew=setting.crew)
            for epoch, _ in enumerate(train(model, setting.task, perturbed, self.targets, recipe)):
                if epoch >= epochs // 2:
                    scores.append(self._score(model))
        return float(np.mean(scores))

    def _score(self, model: torch.nn.Module) -> float:
        task = self.setting.task
        predicted = predict(model, task, self.clean, self.truth)
        scores = task.scores(predicted, self.truth.cpu().numpy())
        ranking = scores[task.ranking]  # not a number where the part aside has one class only
        distance = 0.0 if math.isnan(ranking) else abs(ranking - 0.5)
        return (scores[task.decision] + 0.5 + distance) / 2
