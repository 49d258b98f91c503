"""Learning to see without labels: SimCLR.

Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations; as there
for CIFAR-10 (no blur), with the optimiser and the schedule of all victims here, and few epochs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medshield.augmentation import flip_and_shift, jitter_colours
from medshield.countermeasures.sampling import Crop
from medshield.models import Headed
from medshield.tasks import Classification
from medshield.training import Recipe, train

PRETRAINING = 2
"""Epochs without labels for each epoch that the schedule has for victims; two views in each."""
LEARNING_RATE = 1e-3
BATCH = 128
TEMPERATURE = 0.5
"""Best in the paper for batches and schedules of this kind, on CIFAR-10."""
OUTPUTS = 128
CROP = Crop(smallest=0.2)
JITTER = 2.0
"""Times the usual jitter of colours: 0.4, as in the paper for CIFAR-10."""
GREY = 0.2
"""Share of the views that lose their colours."""


class Views(nn.Module):
    """An encoder and the projection that the loss is computed on, thrown away afterwards.

    Takes two views of each image, the second half in the order of the first, and answers for each
    view how like it is to every other one. Whose partner is which is all that there is to learn.
    """

    def __init__(self, encoder: Headed) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.head.in_features
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, OUTPUTS)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(2n, channels, side, side) to logits (2n, 2n); no view is compared with itself."""
        seen = F.normalize(self.projection(self.encoder.features(images)))
        likeness = seen @ seen.T / TEMPERATURE
        itself = torch.eye(len(seen), dtype=torch.bool, device=seen.device)
        return likeness.masked_fill(itself, -torch.inf)


def pretrain(encoder: Headed, images: Tensor, recipe: Recipe) -> None:
    """Train all of an encoder but its head, on images alone.

    Args:
        encoder: on the device of `images`.
        images: (n, channels, side, side) in [0, 1].
        recipe: of the victim, whose epochs count; its countermeasures are not applied to views.
    """
    learning = replace(
        recipe,
        epochs=PRETRAINING * recipe.epochs,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        adversarial=None,
        countermeasures=(),
    )
    model = Views(encoder).to(images.device)
    numbers = torch.arange(len(images), device=images.device)
    for _ in train(model, Classification(()), images, numbers, learning, augment=_two_views):
        pass


def _two_views(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Both views of each image, and in which row the partner of each view is."""
    views = torch.cat([_view(images, numbers), _view(images, numbers)])
    rows = torch.arange(len(views), device=images.device)
    return views, rows.roll(len(images))


def _view(images: Tensor, numbers: Tensor) -> Tensor:
    images, _ = CROP.on_train_batch(*flip_and_shift(images, numbers))
    images = jitter_colours(images, JITTER)
    grey = (torch.rand(len(images), 1, 1, 1) < GREY).to(images.device)
    return torch.where(grey, images.mean(1, keepdim=True), images)
