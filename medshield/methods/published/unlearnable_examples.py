"""`huang-em`: sample-wise error-minimizing noise, for comparison.

Huang et al. 2021, Unlearnable Examples: Making Personal Data Unexploitable (ICLR). Surrogate and
noise minimise the same loss in turn: the surrogate trains for 10 batches on the perturbed images,
then the noise of every image takes 20 signed gradient steps of epsilon / 10; the game ends when
the surrogate errs on less than 1 % of the perturbed images. No augmentation.

The paper's noise is what these passes accumulated for each training image. Here a delta may not
hang on a table of training images, so it is made anew: one last pass of 20 steps from the clean
image against the final surrogate, which is how REM (Fu et al. 2022) and SEM (Liu et al. 2024) end.
A cap on the rounds is ours; it is for sets on which the stop rule is never met.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medshield import sharing
from medshield.checkpoint import Checkpoint, Part
from medshield.methods.base import Progress
from medshield.methods.published.surrogate import SurrogateMethod
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import Classification

BATCH = 128
BATCHES_A_ROUND = 10
NOISE_STEPS = 20
STEP_SHARE = 0.1
"""Length of a noise step, in epsilons."""
ENOUGH_ERROR = 0.01
MOST_ROUNDS = 30


class UnlearnableExamples(SurrogateMethod):
    """The min-min game of one surrogate and one delta per training image."""

    name = "huang-em"

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        rounds, crew = self.setting.scaled(MOST_ROUNDS), self.setting.crew
        optimiser = self._optimiser(BATCH)
        everything = torch.arange(len(images), device=images.device)
        perturbed = images.clone()
        with seeded(self.setting.key.number(self.name, "training")):
            parts: dict[str, Part] = {"surrogate": self.surrogate, "optimiser": optimiser}
            for finished in checkpoint.loop(rounds, perturbed=perturbed, **parts):
                for _ in range(BATCHES_A_ROUND):
                    rows = torch.randperm(len(images))[:BATCH].to(images.device)
                    own = rows[sharing.own_rows(crew, len(rows))]
                    self._update(optimiser, perturbed[own], targets[own], len(rows))
                errors = []
                for rows in torch.split(everything, BATCH):
                    own = rows[sharing.own_rows(crew, len(rows))]
                    moved = self._less_loss(images[own], targets[own], perturbed[own])
                    perturbed[rows] = sharing.gathered(crew, moved, len(rows))
                    errors.append(self._errors(perturbed[rows], targets[rows]))
                progress((finished + 1) / rounds)
                few = float(torch.cat(errors).mean()) < ENOUGH_ERROR
                if sharing.agreed(crew, few):
                    break
        progress(1.0)

    def _less_loss(self, images: Tensor, targets: Tensor, start: Tensor) -> Tensor:
        """One pass of the noise: the images moved to where the surrogate's loss is small."""
        return projected_gradient(
            lambda perturbed: self.setting.task.loss(self.surrogate(perturbed), targets).sum(),
            images,
            self.setting.budget,
            steps=NOISE_STEPS,
            step_size=STEP_SHARE * self.setting.budget.radius,
            start=start,
            progress=self.stepped,
        )

    @torch.no_grad()
    def _errors(self, images: Tensor, targets: Tensor) -> Tensor:
        """Share of wrong decisions per image: of its class, its findings or its pixels; (n,)."""
        logits: Tensor = self.surrogate(images)
        if isinstance(self.setting.task, Classification):
            wrong = (logits.argmax(1) != targets)[:, None]
        else:
            wrong = (logits.reshape(targets.shape) > 0) != (targets > 0)
        return wrong.float().flatten(1).mean(1)

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        return self._less_loss(images, targets, images) - images
