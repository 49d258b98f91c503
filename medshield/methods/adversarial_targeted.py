"""`advt`: class-targeted adversarial noise from a model trained on clean data.

Fowl et al. 2021, Adversarial Examples Make Strong Poisons ("TAP"): each image is moved until a
cleanly trained model sees the features of another, fixed class in it. A victim then learns the
features of that class under the wrong name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medshield import models
from medshield.methods.base import Method, Progress, Setting
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import Classification
from medshield.training import Recipe, train

ATTACK_STEPS = 30
IMAGES_SEEN = 12_000
"""Images that the surrogate is trained on, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 8, 40


class AdversarialTargeted(Method):
    """Targets the next class of a keyed cycle; the opposite of every finding; the inverted mask."""

    name = "advt"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        architecture = "unet_resnet18" if setting.task.name == "segmentation" else "resnet18"
        with seeded(setting.key.number("advt", "surrogate")):
            model = models.build(architecture, setting.channels, setting.task.outputs)
        self.surrogate: nn.Module = model.to(setting.device).eval()

    def _fit(self, images: Tensor, targets: Tensor, progress: Progress) -> None:
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // len(images)))
        recipe = Recipe(epochs=self.setting.scaled(epochs))
        with seeded(self.setting.key.number("advt", "training")):
            losses = train(self.surrogate, self.setting.task, images, targets, recipe)
            for epoch, _ in enumerate(losses, 1):
                progress(epoch / recipe.epochs)
        self.surrogate.eval()

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.surrogate.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.surrogate.load_state_dict(state)

    def _wrong(self, targets: Tensor) -> Tensor:
        if not isinstance(self.setting.task, Classification):
            return 1 - targets
        count = len(self.setting.task.classes)
        cycle = torch.from_numpy(self.setting.key.numpy("advt", "classes").permutation(count))
        following = torch.empty(count, dtype=torch.long)
        following[cycle] = cycle.roll(-1)
        return following.to(targets.device)[targets]

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """Every step looks at the images flipped and shifted in another, fixed way."""
        wrong = self._wrong(targets)
        rng = self.setting.key.numpy("advt", "views")
        reach = self.setting.size // 8
        views = iter(
            [(bool(i % 2), tuple(rng.integers(-reach, reach + 1, 2))) for i in range(ATTACK_STEPS)]
        )

        def towards_wrong_class(perturbed: Tensor) -> Tensor:
            flipped, shift = next(views)
            view, truth = _viewed(perturbed, flipped, shift), wrong
            if wrong.ndim == 3:
                truth = _viewed(wrong, flipped, shift)
            return self.setting.task.loss(self.surrogate(view), truth).sum()

        radius = self.setting.budget.radius
        attacked = projected_gradient(
            towards_wrong_class,
            images,
            self.setting.budget,
            steps=ATTACK_STEPS,
            step_size=2.5 * radius / ATTACK_STEPS,
        )
        return attacked - images


def _viewed(images: Tensor, flipped: bool, shift: tuple[int, ...]) -> Tensor:
    rolled = images.roll(shift, (-2, -1))
    return rolled.flip(-1) if flipped else rolled
