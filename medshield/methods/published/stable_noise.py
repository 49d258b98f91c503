"""`sem`: stable error-minimizing noise, for comparison.

Liu et al. 2024, Stable Unlearnable Example (AAAI): the robust noise of REM (Fu et al. 2022,
Robust Unlearnable Examples, ICLR) with its inner attack replaced by uniform noise. Every step
makes the noise of one batch anew, by 10 signed gradient steps of epsilon / 5 (1.6/255 at
8/255), each averaged over 5 draws of augmentation and disturbance, and then trains the surrogate
on the batch, augmented and disturbed. The disturbance is uniform, half of epsilon wide (4/255 at
8/255). The final noise is made in the same way against the final surrogate.

Scaled: the papers take 5,000 steps of 128 on 50,000 images, each image being seen 12.8 times, and
51 passes of the surrogate each time. That many steps would take hours whatever the size of the
set, so here too every image is seen 12.8 times, in batches of 32, so that small sets still give
their surrogate some hundred updates, and in no fewer than 100 steps, nor more than 5,000. The
learning rate falls tenfold after two and four fifths of the steps. Flips and shifts are the
augmentation. Noise is made with the surrogate in evaluation mode, since no image may see its
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medshield import sharing
from medshield.checkpoint import Checkpoint, Part
from medshield.methods.base import Progress
from medshield.methods.published.surrogate import SurrogateMethod, viewed_alike
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded

BATCH = 32
TIMES_SEEN = 12.8
FEWEST_STEPS, MOST_STEPS = 100, 5_000
NOISE_STEPS = 10
STEP_SHARE = 0.2
"""Length of a noise step, in epsilons."""
DRAWS = 5
"""Of augmentation and disturbance, over which each gradient is averaged."""
DISTURBANCE = 0.5
"""Half-width of the uniform noise, in epsilons."""


class StableNoise(SurrogateMethod):
    """The min-min game under random disturbance."""

    name = "sem"

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        wanted = round(TIMES_SEEN * len(images) / BATCH)
        steps = self.setting.scaled(min(MOST_STEPS, max(FEWEST_STEPS, wanted)))
        optimiser = self._optimiser(BATCH)
        own = sharing.own_rows(self.setting.crew, BATCH)
        falls = [2 * steps // 5, 4 * steps // 5]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, falls, gamma=0.1)
        with seeded(self.setting.key.number(self.name, "training")):
            parts: dict[str, Part] = {"surrogate": self.surrogate, "optimiser": optimiser}
            for step in checkpoint.loop(steps, schedule=schedule, **parts):
                rows = torch.randint(len(images), (BATCH,))[own].to(images.device)
                batch, truth = images[rows], targets[rows]
                seen = self._disturbed(self._noisy(batch, truth), truth)
                self._update(optimiser, *seen, BATCH)
                schedule.step()
                progress((step + 1) / steps)

    def _disturbed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One draw of augmentation and noise, the same for all images."""
        images, targets = viewed_alike(images, targets)
        width = DISTURBANCE * self.setting.budget.radius
        noise = torch.empty(images.shape[1:]).uniform_(-width, width).to(images.device)
        return (images + noise).clamp(0, 1), targets

    def _noisy(self, images: Tensor, targets: Tensor) -> Tensor:
        """Images moved to where the surrogate's loss is small, whatever the disturbance."""

        def mean_loss(perturbed: Tensor) -> Tensor:
            views = [self._disturbed(perturbed, targets) for _ in range(DRAWS)]
            losses = [self.setting.task.loss(self.surrogate(view), truth) for view, truth in views]
            return torch.stack(losses).sum() / DRAWS

        return projected_gradient(
            mean_loss,
            images,
            self.setting.budget,
            steps=NOISE_STEPS,
            step_size=STEP_SHARE * self.setting.budget.radius,
            progress=self.stepped,
        )

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        with seeded(self.setting.key.number(self.name, "disturbance")):
            return self._noisy(images, targets) - images
