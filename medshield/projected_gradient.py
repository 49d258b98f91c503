"""The one projected-gradient loop (Madry et al. 2018): for crafting, and for training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medshield.budget import Budget

SMALLEST = 1e-12
"""Mean size of a gradient below which it counts as none."""


def projected_gradient(
    objective: Callable[[Tensor], Tensor],
    original: Tensor,
    budget: Budget,
    *,
    steps: int,
    step_size: float,
    momentum: float = 0,
    start: Tensor | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """Descend `objective` by signed gradient steps inside the ball around `original`.

    Args:
        objective: maps perturbed images to a scalar that should become small; it should sum
            over images, so that each image's steps do not depend on its neighbours.
        original: (n, channels, height, width) in [0, 1].
        budget: the ball.
        steps: gradient steps.
        step_size: in the units of the images.
        momentum: share of the earlier gradients that a step goes by as well, each divided by its
            own mean size (Dong et al. 2018): what several models or views agree on adds up.
        start: where to begin; the original when None. It is projected first.
        progress: told the share of the steps that are done, 0 to 1, after each.

    Returns:
        The last iterate: same shape, inside the ball and [0, 1], detached.
    """
    perturbed = budget.project(original if start is None else start, original).detach()
    direction = torch.zeros_like(perturbed)
    for step in range(steps):
        perturbed.requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(perturbed), perturbed)
        if momentum:
            gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST)
        direction = momentum * direction + gradient
        perturbed = budget.project(perturbed.detach() - step_size * direction.sign(), original)
        progress((step + 1) / steps)
    return perturbed.detach()
