"""`em`: error-minimizing noise from a generator learned in the min-min game.

Huang et al. 2021, Unlearnable Examples: noise that makes the training loss small before anything
about the image was learned, so that a victim finds nothing left to learn. Liu et al. (Securing
Biomedical Images from Unauthorized Training with Anti-Learning Perturbation) make the noise with
a generator that is learned together with the surrogate; so do we, with three changes, each
because a victim that flips and shifts shrugged off the plain game:

- both levels see augmented images;
- the surrogate starts anew every few hundred steps, and its architecture alternates, so that
  the noise is what *any* young model learns first, not what one old model has got used to;
- the generator starts from the keyed textures of `synthetic`, which it may keep, bend or drop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medshield import models
from medshield.augmentation import flip_and_shift
from medshield.methods.base import Method, Progress, Setting
from medshield.methods.synthetic import Synthetic
from medshield.randomness import seeded

ROUNDS = 6
STEPS_A_ROUND = 150
BATCH = 32
SHADING = 8
"""Side of the squares, px, whose mean the noise may not move: left alone, the game settles for a
tint per class, which young surrogates love and which no grown victim falls for."""


class NoiseGenerator(nn.Module):
    """A small U-Net from (image, condition maps, keyed texture) to a delta in (-1, 1)."""

    def __init__(self, inputs: int, channels: int, width: int = 24) -> None:
        super().__init__()
        self.first = _block(inputs, width)
        self.down = _block(width, 2 * width, stride=2)
        self.deep = _block(2 * width, 2 * width, stride=2)
        self.up = _block(4 * width, width)
        self.last = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, inputs, size, size) to (n, channels, size, size); the last input is the texture."""
        fine = self.first(inputs)
        middle = self.down(fine)
        deep = F.interpolate(self.deep(middle), middle.shape[-2:], mode="bilinear")
        up = F.interpolate(self.up(torch.cat([middle, deep], 1)), fine.shape[-2:], mode="bilinear")
        learned: Tensor = self.last(torch.cat([fine, up], 1))
        return torch.tanh(_without_shading(learned + inputs[:, -1:]))


def _without_shading(images: Tensor) -> Tensor:
    """Images less what varies over more than a few pixels."""
    coarse = F.avg_pool2d(images, SHADING)
    return images - F.interpolate(coarse, images.shape[-2:], mode="bilinear")


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution and group norm: unlike batch norm, no image sees its neighbours."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)
    )


class ErrorMinimizing(Method):
    """The min-min game between a noise generator and a line of young surrogates."""

    name = "em"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.texture = Synthetic(setting)
        inputs = setting.channels + setting.task.condition_channels + 1
        with seeded(setting.key.number("em", "generator")):
            generator = NoiseGenerator(inputs, setting.channels)
        self.generator = generator.to(setting.device).eval()

    def _surrogates(self) -> tuple[str, ...]:
        if self.setting.task.name == "segmentation":
            return ("unet_resnet18", "unet_mobilenet")
        return ("small_convnet", "resnet18")

    def _fit(self, images: Tensor, targets: Tensor, progress: Progress) -> None:
        task, radius = self.setting.task, self.setting.budget.radius
        steps = self.setting.scaled(STEPS_A_ROUND)
        names = self._surrogates()
        self.generator.train()
        generator_step = torch.optim.AdamW(self.generator.parameters(), lr=1e-3, fused=True)
        with seeded(self.setting.key.number("em", "training")):
            for round_number in range(ROUNDS):
                surrogate = models.build(
                    names[round_number % len(names)], self.setting.channels, task.outputs
                ).to(self.setting.device)
                surrogate_step = torch.optim.AdamW(surrogate.parameters(), lr=1e-3, fused=True)
                for step in range(steps):
                    rows = torch.randint(len(images), (BATCH,)).to(images.device)
                    batch, truth = images[rows], targets[rows]
                    marks = [str(mark) for mark in torch.randint(2**62, (BATCH,)).tolist()]
                    delta = radius * self._shape(batch, truth, marks)
                    noisy, moved = flip_and_shift((batch + delta).clamp(0, 1), truth)
                    loss = task.loss(surrogate(noisy), moved).mean()
                    surrogate_step.zero_grad()
                    generator_step.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    surrogate_step.step()
                    generator_step.step()
                    progress((round_number * steps + step + 1) / (ROUNDS * steps))
        self.generator.eval()

    def _shape(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """The delta in units of epsilon."""
        texture = self.texture._delta(images, targets, names)[:, :1] / self.setting.budget.radius
        conditions = self.setting.task.conditions(targets, self.setting.size)
        shape: Tensor = self.generator(torch.cat([images, conditions, texture], 1))
        return shape

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.generator.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.generator.load_state_dict(state)

    @torch.no_grad()
    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        return self.setting.budget.radius * self._shape(images, targets, names)
