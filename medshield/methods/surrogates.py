"""The models that a delta has to mislead: fresh ones, or a backbone that knows ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor, nn

from medshield import models, pretrained
from medshield.budget import Budget
from medshield.checkpoint import Checkpoint
from medshield.methods.base import Setting
from medshield.pretrained import Backbone, Pretrained
from medshield.probing import Probe
from medshield.tasks import Task
from medshield.training import AdversarialTraining, Recipe, train

IMAGES_SEEN = 12_000
"""Images that a surrogate is trained on, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 8, 40
ADVERSARY_RADIUS = Fraction(1, 2)
"""Of a surrogate's adversarial training, in epsilons, which leaves as much to move features by."""
ADVERSARY_STEPS = 2
HEAD_LEARNING_RATE = 1e-2
"""Of the linear layer on a backbone, whose features are computed once and cost an epoch nothing."""

Data = tuple[Tensor, Tensor]
"""Images and targets."""


class Surrogate(Protocol):
    """What the methods need of either kind."""

    def built(self, setting: Setting) -> nn.Module:
        """The untrained model on the setting's device, in evaluation mode."""

    def recipe(self, setting: Setting, images: int) -> Recipe:
        """How it is trained on a set of so many images."""

    def trained(
        self, model: nn.Module, task: Task, data: Data, recipe: Recipe, checkpoint: Checkpoint
    ) -> Iterator[float]:
        """As `training.train`, of what `built` gave."""


@dataclass(frozen=True)
class FreshSurrogate:
    """A model that knows nothing but the images to protect.

    Attributes:
        classifier, segmenter: its architecture, by the name that `models` knows, for either kind
            of task.
        adversarial: whether it is trained adversarially.
    """

    classifier: str
    segmenter: str
    adversarial: bool = False

    def built(self, setting: Setting) -> nn.Module:
        """With fresh weights."""
        name = self.segmenter if setting.task.name == "segmentation" else self.classifier
        model = models.build(name, setting.channels, setting.task.outputs)
        return model.to(setting.device).eval()

    def recipe(self, setting: Setting, images: int) -> Recipe:
        """The smaller the set, the more epochs."""
        radius = setting.budget.epsilon * ADVERSARY_RADIUS
        attack = AdversarialTraining(Budget(radius), ADVERSARY_STEPS) if self.adversarial else None
        epochs = _epochs(setting, images)
        return Recipe(epochs, adversarial=attack, colour_jitter=True, crew=setting.crew)

    def trained(
        self, model: nn.Module, task: Task, data: Data, recipe: Recipe, checkpoint: Checkpoint
    ) -> Iterator[float]:
        """All of its layers."""
        return train(model, task, *data, recipe, checkpoint=checkpoint)


@dataclass(frozen=True)
class PretrainedSurrogate:
    """A backbone as it comes from ImageNet, and a linear layer that learns on its features.

    Attributes:
        backbone: stays as it is, batch-norm statistics included.
    """

    backbone: Backbone

    def built(self, setting: Setting) -> nn.Module:
        """With a fresh linear layer."""
        name, weights = self.backbone.name, self.backbone.weights
        return pretrained.build(name, setting.task.outputs, weights).to(setting.device).eval()

    def recipe(self, setting: Setting, images: int) -> Recipe:
        """Of the linear layer."""
        epochs = _epochs(setting, images)
        rate = HEAD_LEARNING_RATE
        return Recipe(epochs, learning_rate=rate, colour_jitter=True, crew=setting.crew)

    def trained(
        self, model: nn.Module, task: Task, data: Data, recipe: Recipe, checkpoint: Checkpoint
    ) -> Iterator[float]:
        """The linear layer alone."""
        assert isinstance(model, Pretrained)  # noqa: S101 (what `built` gave)
        return Probe(model, task, recipe).train(*data, checkpoint)


def _epochs(setting: Setting, images: int) -> int:
    return setting.scaled(min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // images)))
