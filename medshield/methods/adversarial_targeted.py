"""`advt` and `robust`: class-targeted adversarial noise from models trained on clean data.

Fowl et al. 2021, Adversarial Examples Make Strong Poisons ("TAP"): each image is moved until a
cleanly trained model sees the features of another, fixed class in it. A victim then learns the
features of that class under the wrong name.

`advt` is that, with one surrogate. What it leads astray is a trainer of much the same model: a
network of another family, or one that is trained adversarially, looks at features which the
surrogate never used. So `robust` asks several surrogates at once, of unlike families, half of them
trained adversarially (Madry et al. 2018): what an adversarially trained network reads are the
features that survive a perturbation of its radius, and nothing less than moving those misleads a
victim of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from medshield import models
from medshield.budget import Budget
from medshield.methods.base import Method, Progress, Setting
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import Classification
from medshield.training import AdversarialTraining, Recipe, train

ATTACK_STEPS = 30
REACH = 2.5
"""How far the steps of an attack could go together, in epsilons."""
IMAGES_SEEN = 12_000
"""Images that a surrogate is trained on, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 8, 40
ADVERSARY_RADIUS = Fraction(1, 2)
"""Of a surrogate's adversarial training, in epsilons: with more, features could not be moved."""
ADVERSARY_STEPS = 2


@dataclass(frozen=True)
class Surrogate:
    """One of the models that a delta has to mislead.

    Attributes:
        classifier, segmenter: its architecture, by the name that `models` knows, for either kind
            of task.
        adversarial: whether it is trained adversarially.
    """

    classifier: str
    segmenter: str
    adversarial: bool = False

    def built(self, setting: Setting) -> nn.Module:
        """With fresh weights, in evaluation mode."""
        name = self.segmenter if setting.task.name == "segmentation" else self.classifier
        model = models.build(name, setting.channels, setting.task.outputs)
        return model.to(setting.device).eval()

    def recipe(self, setting: Setting, images: int) -> Recipe:
        """How it is trained on a set of so many images."""
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // images))
        radius = setting.budget.epsilon * ADVERSARY_RADIUS
        attack = AdversarialTraining(Budget(radius), ADVERSARY_STEPS) if self.adversarial else None
        return Recipe(epochs=setting.scaled(epochs), adversarial=attack)


class AdversarialTargeted(Method):
    """Targets the next class of a keyed cycle; the opposite of every finding; the inverted mask."""

    name = "advt"
    lineup: ClassVar[tuple[Surrogate, ...]] = (Surrogate("resnet18", "unet_resnet18"),)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        with seeded(setting.key.number(self.name, "surrogates")):
            self.surrogates = nn.ModuleList(each.built(setting) for each in self.lineup)

    def _fit(self, images: Tensor, targets: Tensor, progress: Progress) -> None:
        for number, (surrogate, model) in enumerate(zip(self.lineup, self.surrogates, strict=True)):
            recipe = surrogate.recipe(self.setting, len(images))
            with seeded(self.setting.key.number(self.name, "training", str(number))):
                losses = train(model, self.setting.task, images, targets, recipe)
                for epoch, _ in enumerate(losses, 1):
                    progress((number + epoch / recipe.epochs) / len(self.lineup))
            model.eval()

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.surrogates.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.surrogates.load_state_dict(state)

    def _wrong(self, targets: Tensor) -> Tensor:
        if not isinstance(self.setting.task, Classification):
            return 1 - targets
        count = len(self.setting.task.classes)
        cycle = torch.from_numpy(self.setting.key.numpy(self.name, "classes").permutation(count))
        following = torch.empty(count, dtype=torch.long)
        following[cycle] = cycle.roll(-1)
        return following.to(targets.device)[targets]

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """Every step looks at the images flipped and shifted in another, fixed way."""
        wrong = self._wrong(targets)
        views = iter(self._views())

        def towards_wrong_class(perturbed: Tensor) -> Tensor:
            view = next(views)
            truth = view(wrong) if wrong.ndim == 3 else wrong
            seen = view(perturbed)
            losses = [self.setting.task.loss(model(seen), truth) for model in self.surrogates]
            return torch.stack(losses).sum()

        attacked = projected_gradient(
            towards_wrong_class,
            images,
            self.setting.budget,
            steps=ATTACK_STEPS,
            step_size=REACH * self.setting.budget.radius / ATTACK_STEPS,
        )
        return attacked - images

    def _views(self) -> list[Callable[[Tensor], Tensor]]:
        rng = self.setting.key.numpy(self.name, "views")
        reach = self.setting.size // 8
        shifts = rng.integers(-reach, reach + 1, (ATTACK_STEPS, 2)).tolist()
        return [_view(number % 2 == 1, shift) for number, shift in enumerate(shifts)]


class Robust(AdversarialTargeted):
    """The same against surrogates of unlike families, trained plainly and adversarially."""

    name = "robust"
    lineup = (
        Surrogate("resnet18", "unet_resnet18"),
        Surrogate("resnet18", "unet_resnet18", adversarial=True),
        Surrogate("convnext_atto", "unet_mobilenet"),
        Surrogate("convnext_atto", "unet_mobilenet", adversarial=True),
    )


def _view(flipped: bool, shift: Sequence[int]) -> Callable[[Tensor], Tensor]:
    def view(images: Tensor) -> Tensor:
        rolled = images.roll(tuple(shift), (-2, -1))
        return rolled.flip(-1) if flipped else rolled

    return view
