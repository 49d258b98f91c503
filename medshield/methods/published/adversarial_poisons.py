"""`tap`: targeted adversarial poisoning, for comparison.

Fowl et al. 2021, Adversarial Examples Make Strong Poisons (NeurIPS). A ResNet-18 is trained on
clean images; each image is then moved for 250 projected-gradient steps, seen through
differentiable augmentation, until that network takes it for the next class, (y + 1) mod C.

The number of steps is the paper's. Ours are: the length of a step (2.5 epsilons over all steps),
the recipe of the clean training (this project's for surrogates, 40 epochs), flips and shifts as
augmentation; and, of which the paper does not speak, the opposite of every finding and the
inverted mask as targets.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medshield.checkpoint import Checkpoint
from medshield.methods.base import Progress
from medshield.methods.published.surrogate import SurrogateMethod, viewed_alike
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import TASKS, Classification
from medshield.training import Recipe, train

EPOCHS = 40
ATTACK_STEPS = 250
REACH = 2.5
"""How far the steps of an attack could go together, in epsilons."""


class AdversarialPoisons(SurrogateMethod):
    """Targets the next class by number, with no key in the choice."""

    name = "tap"
    misleads = frozenset(TASKS)

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        recipe = Recipe(self.setting.scaled(EPOCHS), crew=self.setting.crew)
        with seeded(self.setting.key.number(self.name, "training")):
            model, task = self.surrogate, self.setting.task
            losses = train(model, task, images, targets, recipe, checkpoint=checkpoint)
            for epoch, _ in enumerate(losses, 1):
                progress(epoch / recipe.epochs)
        self.surrogate.eval()

    def _wrong(self, targets: Tensor) -> Tensor:
        task = self.setting.task
        if isinstance(task, Classification):
            return (targets + 1) % len(task.classes)
        return 1 - targets

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        wrong = self._wrong(targets)

        def towards_wrong_class(perturbed: Tensor) -> Tensor:
            view, truth = viewed_alike(perturbed, wrong)
            return self.setting.task.loss(self.surrogate(view), truth).sum()

        with seeded(self.setting.key.number(self.name, "views")):
            attacked = projected_gradient(
                towards_wrong_class,
                images,
                self.setting.budget,
                steps=ATTACK_STEPS,
                step_size=REACH * self.setting.budget.radius / ATTACK_STEPS,
                progress=self.stepped,
            )
        return attacked - images
