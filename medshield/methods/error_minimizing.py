"""`em`: error-minimizing noise from a generator learned in the min-min game.

Huang et al. 2021, Unlearnable Examples: noise that makes the training loss small before anything
about the image was learned, so that a victim finds nothing left to learn. Liu et al. (Securing
Biomedical Images from Unauthorized Training with Anti-Learning Perturbation) make the noise with
a generator that is learned together with the surrogate; so do we, with these changes:

- in the game, the noise speaks of a *foreign* target, drawn at random and evenly, not of the
  image's own. There the image says nothing about the target, so the surrogate can learn nothing
  but the noise. With the image's own target, surrogates learn real features too, and noise that
  pleases them underlines what it should hide;
- the generator starts from the keyed textures of `synthetic`, which it may keep, bend or drop,
  and every few hundred steps the surrogate starts anew, in another architecture;
- the last surrogates, the *readers*, are kept. Each image's noise goes on from the generator's by
  a few projected gradient steps, to where the readers read it most surely;
- everything is looked at flipped, shifted and resampled;
- the game goes on until a fresh victim learns no less from another round (`fresh_victim`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medshield import models, sharing
from medshield.augmentation import Moves
from medshield.checkpoint import Checkpoint, Part
from medshield.methods.base import BLOCK, Method, Progress, Setting
from medshield.methods.fresh_victim import FreshVictim, Parts
from medshield.methods.noise_generator import NoiseGenerator
from medshield.methods.synthetic import Synthetic
from medshield.methods.views import keyed_views, resampled
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import Task

MOST_TURNS = 6
"""Of every architecture."""
STEPS_A_ROUND = 120
BATCH = 32
PATIENCE = 2
"""Looks at a fresh victim without a fall of what it learns, after which the game is over."""
REFINING_STEPS = 10
REFINING_STEP = 1 / 4
"""Of epsilon."""


@dataclass
class Best:
    """The noise that a fresh victim learned least from.

    Attributes:
        learned: by that victim.
        state: of the method then.
        looks: at later ones, none of which learned less.
    """

    learned: float = math.inf
    state: dict[str, Tensor] = field(default_factory=dict)
    looks: int = 0

    def improves(self, learned: float, state: dict[str, Tensor]) -> bool:
        """Take note of another look, and say whether to go on."""
        self.looks += 1
        if learned < self.learned:
            self.learned, self.looks = learned, 0
            self.state = {name: value.clone() for name, value in state.items()}
        return self.looks < PATIENCE

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"learned": self.learned, "state": self.state, "looks": self.looks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.learned, self.state, self.looks = state["learned"], state["state"], state["looks"]


class ErrorMinimizing(Method):
    """The min-min game between a noise generator and a line of young surrogates."""

    name = "em"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.texture = Synthetic(setting)
        inputs = setting.channels + setting.task.condition_channels + 1
        with seeded(setting.key.number("em", "generator")):
            generator = NoiseGenerator(inputs, setting.channels)
            readers = {name: self._surrogate(name) for name in self._architectures()}
        parts = nn.ModuleDict({"generator": generator, **readers})
        self.learned = parts.to(setting.device).eval()

    def _architectures(self) -> tuple[str, ...]:
        if self.setting.task.name == "segmentation":
            return ("unet_resnet18", "unet_mobilenet")
        return ("small_convnet", "resnet18")

    def _surrogate(self, name: str) -> nn.Module:
        setting = self.setting
        return models.build(name, setting.channels, setting.task.outputs).to(setting.device)

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        """Play; when each architecture had its turn, see what a fresh victim learns."""
        parts = Parts.drawn(len(images), self.setting)
        victim = FreshVictim.of(self.setting, images, targets, parts) if len(parts.aside) else None
        own = parts.learned.to(images.device)
        optimiser = torch.optim.AdamW(self.learned["generator"].parameters(), lr=1e-3, fused=True)
        best = Best()
        with seeded(self.setting.key.number("em", "training")):
            kept: dict[str, Part] = {"learned": self.learned, "step": optimiser, "best": best}
            rounds = len(self._architectures())
            for turn in checkpoint.loop(MOST_TURNS, **kept):
                for place in checkpoint.loop(rounds):
                    name = self._architectures()[place]
                    played = self._play(name, optimiser, images[own], targets[own], checkpoint)
                    for share in played:
                        progress((turn + (place + share) / rounds) / (MOST_TURNS + 1))
                goes_on = not victim or best.improves(victim.learns(self._noise), self.state())
                if not sharing.agreed(self.setting.crew, goes_on):
                    break
        if victim:
            self.load(best.state)
        progress(1)

    def _play(
        self,
        name: str,
        generator_step: torch.optim.Optimizer,
        images: Tensor,
        targets: Tensor,
        checkpoint: Checkpoint,
    ) -> Iterator[float]:
        """One round: a new surrogate and the generator make the same loss small.

        Yields how much of it is done, in (0, 1].
        """
        task, radius = self.setting.task, self.setting.budget.radius
        weights = even_weights(task, targets)
        surrogate = self._surrogate(name)
        surrogate_step = torch.optim.AdamW(surrogate.parameters(), lr=1e-3, fused=True)
        self.learned["generator"].train()
        crew = self.setting.crew
        sharing.share_batch_norm(crew, surrogate)
        own = sharing.own_rows(crew, BATCH)
        steps = self.setting.scaled(STEPS_A_ROUND)
        for step in checkpoint.loop(steps, surrogate=surrogate, optimiser=surrogate_step):
            batch = images[torch.randint(len(images), (BATCH,)).to(images.device)]
            foreign = targets[torch.multinomial(weights, BATCH, replacement=True)]
            marks = [str(mark) for mark in torch.randint(2**62, (BATCH,)).tolist()]
            moves = Moves.drawn(BATCH, *batch.shape[2:]).rows(own)
            batch, foreign = batch[own], foreign[own]
            noisy = (batch + radius * self._shape(batch, foreign, marks[own])).clamp(0, 1)
            noisy, moved = moves.of(resampled(noisy) if step % 2 else noisy, foreign)
            loss = task.loss(surrogate(noisy), moved).sum() / BATCH
            surrogate_step.zero_grad()
            generator_step.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sharing.add_gradients(crew, surrogate, self.learned["generator"])
            surrogate_step.step()
            generator_step.step()
            yield (step + 1) / steps
        self.learned["generator"].eval()
        self.learned[name] = surrogate.eval()

    def _shape(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """What the generator draws, in units of epsilon."""
        texture = self.texture._delta(images, targets, names)[:, :1] / self.setting.budget.radius
        conditions = self.setting.task.conditions(targets, self.setting.size)
        shape: Tensor = self.learned["generator"](torch.cat([images, conditions, texture], 1))
        return shape

    def _noise(self, images: Tensor, targets: Tensor) -> Tensor:
        """The delta of images that are only learned from, so that any names do."""
        names = [str(row) for row in range(len(images))]
        own = sharing.own_rows(self.setting.crew, len(images))
        starts = range(own.start, own.stop, BLOCK)
        blocks = [slice(start, min(start + BLOCK, own.stop)) for start in starts]
        deltas = [self._block_delta(images[rows], targets[rows], names[rows]) for rows in blocks]
        found = torch.cat([images[:0], *(delta.to(images.device) for delta in deltas)])
        return sharing.gathered(self.setting.crew, found, len(images))

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.learned.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.learned.load_state_dict(state)

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """The generator's noise, refined: every step sees the images in another, fixed view."""
        task, budget = self.setting.task, self.setting.budget
        readers = [self.learned[name] for name in self._architectures()]
        views = keyed_views(self.setting, self.name, REFINING_STEPS)
        with torch.no_grad():
            start = images + budget.radius * self._shape(images, targets, names)

        def misread(perturbed: Tensor) -> Tensor:
            view = next(views)
            seen, truth = view.of(perturbed), view.of(targets) if targets.ndim == 3 else targets
            return torch.stack([task.loss(reader(seen), truth).sum() for reader in readers]).sum()

        refined = projected_gradient(
            misread,
            images,
            budget,
            steps=REFINING_STEPS,
            step_size=REFINING_STEP * budget.radius,
            start=start,
            progress=self.stepped,
        )
        return refined - images


def even_weights(task: Task, targets: Tensor) -> Tensor:
    """Weights (n,) of targets, such that drawing by them meets all classes about equally often.

    Of findings, an image's rarest counts, and having none is one more; all masks weigh the same.
    """
    if task.name == "segmentation":
        return torch.ones(len(targets))
    shares = task.soft(targets).cpu()
    shares = torch.cat([shares, (shares.sum(1, keepdim=True) == 0).to(shares)], 1)
    return (shares / shares.sum(0).clamp(min=1)).amax(1)
