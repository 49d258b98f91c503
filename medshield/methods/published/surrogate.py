"""What the published methods that train a network share: one surrogate, which is all they keep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medshield import models, sharing
from medshield.augmentation import flip_and_shift
from medshield.methods.base import Method, Setting
from medshield.randomness import seeded

CLASSIFIER, SEGMENTER = "resnet18", "unet_resnet18"
LEARNING_RATE, LEARNING_RATE_BATCH = 0.1, 128
"""The usual rate for ResNets on small images, and the batch size that it belongs to; smaller
batches take proportionally smaller steps."""


class SurrogateMethod(Method):
    """A method whose state is one network, with weights drawn from the key."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        architecture = SEGMENTER if setting.task.name == "segmentation" else CLASSIFIER
        with seeded(setting.key.number(self.name, "surrogate")):
            model = models.build(architecture, setting.channels, setting.task.outputs)
        self.surrogate: nn.Module = model.to(setting.device).eval()

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.surrogate.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.surrogate.load_state_dict(state)

    def _optimiser(self, batch: int) -> torch.optim.SGD:
        """Gradient descent with momentum, as all of these papers train."""
        rate = LEARNING_RATE * batch / LEARNING_RATE_BATCH
        return torch.optim.SGD(
            self.surrogate.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
        )

    def _update(
        self, optimiser: torch.optim.Optimizer, images: Tensor, targets: Tensor, count: int
    ) -> None:
        """One training step; leaves the surrogate in evaluation mode, in which noise is made.

        Args:
            optimiser: of the surrogate.
            images: the rows of the batch that are this process's.
            targets: of these.
            count: of the whole batch.
        """
        sharing.share_batch_norm(self.setting.crew, self.surrogate)
        self.surrogate.train()
        loss = self.setting.task.loss(self.surrogate(images), targets).sum() / count
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sharing.add_gradients(self.setting.crew, self.surrogate)
        optimiser.step()
        self.surrogate.eval()


def viewed_alike(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """One random flip and shift for all images, so that none depends on its place in the batch.

    Args:
        images: (n, channels, height, width).
        targets: anything per image; (n, height, width) masks move with the images.
    """
    count = images.shape[0] * images.shape[1]
    planes = images.flatten(0, 1)
    if targets.ndim == 3:
        planes = torch.cat([planes, targets.to(planes)])
    moved = flip_and_shift(planes[None], torch.zeros(1))[0][0]
    if targets.ndim == 3:
        targets = moved[count:].to(targets)
    return moved[:count].view_as(images), targets
