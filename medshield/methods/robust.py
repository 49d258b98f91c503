"""`robust`: a keyed texture, bent per image until unlike models learn it first and nothing else.

Two games in one delta, started from the textures of `synthetic`:

- *shortcut*: models that were trained on images with such textures read the class from them. Each
  delta is moved to where they do so most surely, flipped and shifted: error minimization (Huang et
  al. 2021) against surrogates that already know the code, so that a victim finds it at once;
- *misdirection*: models that were trained on clean images are led to another class (Fowl et al.
  2021), so that what a victim still learns of the real features contradicts what they mean.

The shortcut alone leaves the ranking of real features intact; the misdirection alone turns it
around, which a trainer can turn back. Both together leave little of either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medshield import models
from medshield.methods.base import BLOCK, Method, Progress, Setting
from medshield.methods.misdirection import Views, wrong_targets
from medshield.methods.synthetic import Synthetic
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.training import Recipe, train

STEPS = 15
STEP_SHARE = 1 / 6
"""Of epsilon: far enough to leave the start in a few steps."""
MISDIRECTION = 1.0
"""Weight of the second game against the first."""
IMAGES_SEEN = 10_000
"""Images that each surrogate is trained on, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 6, 40


class Robust(Method):
    """Projected gradient from a keyed texture, against two kinds of surrogates."""

    name = "robust"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.texture = Synthetic(setting)
        with seeded(setting.key.number("robust", "surrogates")):
            self.code, self.clean = (
                nn.ModuleList(
                    models.build(name, setting.channels, setting.task.outputs)
                    for name in _architectures(setting)
                )
                .to(setting.device)
                .eval()
                for _ in range(2)
            )

    def _fit(self, images: Tensor, targets: Tensor, progress: Progress) -> None:
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // len(images)))
        recipe = Recipe(epochs=self.setting.scaled(epochs))
        textured = (images + self._textures(images, targets)).clamp(0, 1)
        games = [(model, textured) for model in self.code]
        games += [(model, images) for model in self.clean]
        with seeded(self.setting.key.number("robust", "training")):
            for number, (model, seen) in enumerate(games):
                losses = train(model, self.setting.task, seen, targets, recipe)
                for epoch, _ in enumerate(losses, 1):
                    progress((number + epoch / recipe.epochs) / len(games))
                model.eval()

    def _textures(self, images: Tensor, targets: Tensor) -> Tensor:
        """The start of each image's delta; as good as any other for fitting, so names are made."""
        parts = [
            self.texture._delta(
                images[start : start + BLOCK],
                targets[start : start + BLOCK],
                [f"fit {row}" for row in range(start, min(start + BLOCK, len(images)))],
            )
            for start in range(0, len(images), BLOCK)
        ]
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": value.cpu()
            for kind, surrogates in (("code", self.code), ("clean", self.clean))
            for name, value in surrogates.state_dict().items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        for kind, surrogates in (("code", self.code), ("clean", self.clean)):
            start = f"{kind}."
            surrogates.load_state_dict(
                {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            )

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        task, budget = self.setting.task, self.setting.budget
        wrong = wrong_targets(self.setting, targets, self.name)
        views = Views(self.setting, self.name, STEPS)

        def both_games(perturbed: Tensor) -> Tensor:
            view, truth, other = views.next(perturbed, targets, wrong)
            loss = torch.stack([task.loss(model(view), truth).sum() for model in self.code]).sum()
            astray = torch.stack([task.loss(model(view), other).sum() for model in self.clean])
            return loss + MISDIRECTION * astray.sum()

        start = images + self.texture._delta(images, targets, names)
        moved = projected_gradient(
            both_games,
            images,
            budget,
            steps=STEPS,
            step_size=STEP_SHARE * budget.radius,
            start=start,
        )
        return moved - images


def _architectures(setting: Setting) -> tuple[str, ...]:
    if setting.task.name == "segmentation":
        return ("unet_resnet18", "unet_mobilenet")
    return ("small_convnet", "resnet18")
