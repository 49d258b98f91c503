"""A frozen backbone and a linear head: features are computed once, and the head learns on them.

Nothing of the backbone changes, batch-norm statistics included, and that is what makes a probe
cheap: the features of an image that is only looked at are the same after every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medshield.checkpoint import Checkpoint
from medshield.models import Headed
from medshield.tasks import Array, Task
from medshield.training import Recipe, predict, train

VIEWS = 4
"""Times that each training image is augmented anew; epochs draw among these."""


@dataclass(frozen=True)
class Probe:
    """A victim whose head alone is trained and used.

    Attributes:
        victim: its backbone stays as it is.
        task: loss and predictions.
        recipe: with its countermeasures fitted.
    """

    victim: Headed
    task: Task
    recipe: Recipe
    _known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def train(
        self, images: Tensor, targets: Tensor, checkpoint: Checkpoint | None = None
    ) -> Iterator[float]:
        """As `training.train`, on the features of VIEWS augmented views of each image."""
        views = [self._view(images, targets) for _ in range(min(VIEWS, self.recipe.epochs))]
        seen, truth = (torch.stack(part) for part in zip(*views, strict=True))

        def drawn(rows: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            view = torch.randint(len(views), (len(rows),)).to(rows.device)
            return seen[view, rows], truth[view, rows]

        rows = torch.arange(len(images), device=images.device)
        head = self.victim.head
        yield from train(head, self.task, rows, targets, self.recipe, drawn, checkpoint)

    def predicted(self, images: Tensor, targets: Tensor) -> Array:
        """The task's predictions for a tensor of images that lives as long as this probe."""
        device = self.victim.head.weight.device
        if id(images) not in self._known:
            seen = images.to(device)
            for countermeasure in self.recipe.countermeasures:
                seen = countermeasure.on_test_images(seen)
            self._known[id(images)] = self._features(seen)
        return predict(self.victim.head, self.task, self._known[id(images)], targets.to(device))

    def _view(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Features and targets of all training images, each augmented once."""
        parts = []
        for batch, truth in zip(torch.split(images, 128), torch.split(targets, 128), strict=True):
            batch, truth = self.recipe.augmented(batch, truth)
            parts.append((self._features(batch), truth))
        seen, truths = zip(*parts, strict=True)
        return torch.cat(seen), torch.cat(truths)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        return self.victim.eval().features(images)
