"""`lsp`: linearly separable perturbations, for comparison.

Yu et al. 2022, Availability Attacks Create Shortcuts (KDD): each class is a Gaussian cluster
around a corner of a cube, an image's code is a draw from its class's cluster, and each number of
the code fills a square of 8 x 8 px; no network is trained. The code has a number per square and
channel, and is rescaled so that its largest number is epsilon.

Ours are: the corners hang on the key; a set of findings gets the sum of its findings' codes,
those of absent findings negated; the two parts of a mask get the codes of two classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medshield.methods.base import Setting, UntrainedMethod

CELL = 8
"""Side of a square of the pattern, px of the working grid."""
SPREAD = 0.1
"""Standard deviation of a cluster, in units of half the cube's side."""


class LinearShortcuts(UntrainedMethod):
    """Coarse patches, one code per class with a little noise of each image's own."""

    name = "lsp"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        cells = setting.size // CELL
        shape = (setting.task.condition_channels, setting.channels, cells, cells)
        corners = torch.randint(0, 2, shape, generator=setting.key.torch(self.name, "corners"))
        self.corners = 2 * corners.float() - 1

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        task, size = self.setting.task, self.setting.size
        shares = task.conditions(targets, size)
        if task.name == "multilabel":
            shares = 2 * shares - 1
        codes = torch.stack([self._codes(name) for name in names]).to(images)
        squares = codes.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)
        pattern = (squares * shares[:, :, None]).sum(1)
        largest = pattern.abs().amax((1, 2, 3), keepdim=True)
        return pattern / largest * self.setting.budget.radius

    def _codes(self, name: str) -> Tensor:
        """A draw from every class's cluster, (classes, channels, cells, cells)."""
        generator = self.setting.key.torch(self.name, name)
        return self.corners + SPREAD * torch.randn(self.corners.shape, generator=generator)
