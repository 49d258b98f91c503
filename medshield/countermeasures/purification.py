"""Training images drawn anew by a model that may not remember much of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medshield.augmentation import flip_and_shift
from medshield.countermeasures.base import Countermeasure

WIDTH = 64
AT_ONCE = 128
"""Images that are drawn anew at a time."""
LARGEST_GRADIENT = 1.0
"""Norm above which a step is shortened."""


class Autoencoder(nn.Module):
    """Maps an image to a normal distribution for every 4 x 4 px, and draws it from there."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, WIDTH // 2, 4, 2, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(WIDTH // 2, WIDTH, 4, 2, 1),
            Residual(WIDTH),
            Residual(WIDTH),
            nn.Conv2d(WIDTH, 2 * latent, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, WIDTH, 3, padding=1),
            Residual(WIDTH),
            Residual(WIDTH),
            nn.Conv2d(WIDTH, 4 * WIDTH // 2, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(inplace=True),
            nn.Conv2d(WIDTH // 2, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def coded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances, (n, latent, height / 4, width / 4) each."""
        mean, log_variance = self.encoder((images - 0.5) / 0.25).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)

    def drawn(self, code: Tensor) -> Tensor:
        """Images of codes."""
        found: Tensor = 0.5 + 0.25 * self.decoder(code)
        return found


class Residual(nn.Module):
    """Two convolutions beside an identity, the norm over one image's channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        changed: Tensor = images + self.layers(images)
        return changed


@dataclass(frozen=True)
class Purified(Countermeasure):
    """A rate-constrained variational autoencoder (Yu et al. 2024, Purify Unlearnable Examples via
    Rate-Constrained Variational Autoencoders).

    It is trained on the training images themselves, and these are replaced by what it makes of
    them. What its code may tell of an image is held to a target rate, as there, by a loss of the
    Kullback-Leibler divergence above it: a faint pattern is then not worth its nats. Test images
    stay as they are. Simplified: the paper's D-VAE also has a decoder that draws the perturbation
    of each class from a learned embedding, and purifies twice, first at 1 nat; here one plain
    autoencoder does it once. It is much smaller than theirs, and is trained for about as long as a
    victim, not for 60 epochs of 50,000 images. Codes are taken at their means.

    Attributes:
        rate: nats for every 4 x 4 px, all channels together.
        weight: of what is above the rate, beside the mean squared error.
        latent: numbers of the code for every 4 x 4 px.
        images_seen: in training, counting repeats.
        passes: over the training images at the most.
        batch: images a step.
        learning_rate: the peak of the cycle.
    """

    rate: float = 2.5
    weight: float = 0.5
    latent: int = 16
    images_seen: int = 10_000
    passes: int = 60
    batch: int = 32
    learning_rate: float = 2e-3
    name = "purified"

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            model = self.trained(images)
        parts = []
        with torch.no_grad():
            for part in torch.split(images, AT_ONCE):
                mean, _ = model.coded(part)
                parts.append(model.drawn(mean).clamp(0, 1))
        return torch.cat(parts)

    def trained(self, images: Tensor) -> Autoencoder:
        """An autoencoder of these images, flipped and shifted."""
        model = Autoencoder(images.shape[1], self.latent).to(images.device)
        seen = min(self.images_seen, self.passes * len(images))
        steps = max(1, seen // self.batch)
        optimiser = torch.optim.AdamW(model.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=steps
        )
        for _ in range(steps):
            rows = torch.randint(len(images), (self.batch,)).to(images.device)
            batch, _ = flip_and_shift(images[rows], rows)
            optimiser.zero_grad()
            self.loss(model, batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
            optimiser.step()
            schedule.step()
        return model

    def loss(self, model: Autoencoder, images: Tensor) -> Tensor:
        """Mean squared error, and the weighted rate above the target."""
        mean, log_variance = model.coded(images)
        code = mean + (log_variance / 2).exp() * torch.randn(mean.shape).to(mean.device)
        error = F.mse_loss(model.drawn(code), images)
        excess = (rate(mean, log_variance) - self.rate).clamp(min=0)
        return error + self.weight * excess


def rate(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Nats between the coded distributions and a standard normal one, mean over places."""
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.sum(1).mean()
