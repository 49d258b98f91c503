"""Taking a perturbation away with pairs of clean and protected images: averages, a denoiser."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from medshield.augmentation import flip_and_shift
from medshield.dataset.examples import Examples
from medshield.models import pick_device
from medshield.randomness import seeded

WIDTH = 32
DILATIONS = (1, 2, 3, 4, 3, 2, 1)
IMAGES_SEEN = 20_000
BATCH = 32
CLEAN_SHARE = 4
"""One in so many images of a batch is clean, so that a denoiser leaves clean images alone."""


class Denoiser(nn.Module):
    """A residual network that sees 33 px around a pixel (Zhang et al. 2017, IRCNN).

    Unlike there, the norm is over one image's channels: batches here are small, and of two kinds.
    """

    def __init__(self, channels: int, radius: float) -> None:
        super().__init__()
        self.radius = radius
        layers: list[nn.Module] = []
        inputs = channels
        for dilation in DILATIONS[:-1]:
            layers += [
                nn.Conv2d(inputs, WIDTH, 3, padding=dilation, dilation=dilation),
                nn.GroupNorm(4, WIDTH),
                nn.ReLU(inplace=True),
            ]
            inputs = WIDTH
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1))

    def delta(self, images: Tensor) -> Tensor:
        """What it takes for the perturbation, in units of epsilon."""
        found: Tensor = self.layers((images - 0.5) / 0.25)
        return found

    @torch.no_grad()
    def cleaned(self, some: Examples) -> Examples:
        """The examples without it."""
        self.eval()
        device = next(self.parameters()).device
        batches = [
            (batch - self.radius * self.delta(batch.to(device)).cpu()).clamp(0, 1)
            for batch in torch.split(some.images, 128)
        ]
        return replace(some, images=torch.cat(batches))


@dataclass(frozen=True)
class Pairs:
    """Clean images and their deltas, from which a denoiser learns.

    Attributes:
        clean, deltas: (n, channels, size, size).
        radius: epsilon.
        seed: of weights and order.
        effort: multiplies the number of steps.
    """

    clean: Tensor
    deltas: Tensor
    radius: float
    seed: int
    effort: float


def fit_denoiser(pairs: Pairs) -> Denoiser:
    """Train to find the delta of protected images, and none in clean ones."""
    device = pick_device("auto")
    clean, deltas = pairs.clean.to(device), pairs.deltas.to(device)
    steps = max(1, round(pairs.effort * IMAGES_SEEN / BATCH))
    with seeded(pairs.seed):
        model = Denoiser(clean.shape[1], pairs.radius).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(clean), (BATCH,)).to(device)
            delta = deltas[rows]
            delta[::CLEAN_SHARE] = 0
            both, _ = flip_and_shift(torch.cat([clean[rows], delta], 1), rows)
            image, delta = both.chunk(2, 1)
            loss = (model.delta(image + delta) - delta / pairs.radius).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.cpu()


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
