"""Taking away averages of deltas, and how much of a perturbation is left."""

from dataclasses import replace

import torch
from torch import Tensor

from medshield.dataset.examples import Examples


def without_average(released: Examples, average: Tensor, groups: list[Tensor]) -> Examples:
    """Examples less each group's average delta, (groups, channels, size, size)."""
    images = released.images.clone()
    for rows, pattern in zip(groups, average, strict=True):
        images[rows] -= pattern
    return replace(released, images=images.clamp(0, 1))


def left(cleaned: Examples, clean: Examples, delta: Tensor) -> tuple[float, float]:
    """How much of the delta is still there after cleaning.

    Returns:
        The mean cosine between what now lies between the image and the clean one, and the delta;
        and the mean length of that along the delta, in units of the delta's.
    """
    rest, whole = (cleaned.images - clean.images).flatten(1), delta.flatten(1)
    along = (rest * whole).sum(1) / whole.square().sum(1).clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(rest, whole)
    return float(cosine.mean()), float(along.mean())
