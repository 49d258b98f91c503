"""Noise that protects nothing: the arm that every method is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medshield.methods.base import UntrainedMethod


class RandomNoise(UntrainedMethod):
    """A random sign per pixel, epsilon strong, the same for all channels."""

    name = "random-noise"

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        size = self.setting.size
        signs = [
            torch.randint(0, 2, (1, size, size), generator=self.setting.key.torch("random", name))
            for name in names
        ]
        signed = (torch.stack(signs).float() * 2 - 1).to(images)
        return (signed * self.setting.budget.radius).expand_as(images)
