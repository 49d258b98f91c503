"""Class-targeted adversarial noise from models trained on clean data: `advt`, and more.

Fowl et al. 2021, Adversarial Examples Make Strong Poisons ("TAP"): each image is moved until a
cleanly trained model sees the features of another, fixed class in it. A victim then learns the
features of that class under the wrong name. Which class it is for which is tried out beforehand
(`wrong_classes`).

`advt` is that, with one surrogate. What it leads astray is a trainer of much the same model: one
who trains adversarially (Madry et al. 2018) looks at features that the surrogate never used. So
`MisleadingSeveral`, which is `robust` for images with labels, asks a second surrogate of another
architecture, itself trained adversarially at half of epsilon: what it reads are the features that
survive a perturbation of that radius, and a victim of its kind is misled by nothing less than
moving those. Where the setting brings a backbone that knows ImageNet, it asks that, too, for
trainers who start from such weights. The steps of the attack ask the surrogates in turn, so that
one more costs no more steps.

Both go by momentum, over views that are flipped, shifted, resampled, brighter and darker: what a
victim sees has been through a file, a trainer's resizing and a trainer's augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import ClassVar

import torch
from torch import Tensor, nn

from medshield import sharing
from medshield.checkpoint import Checkpoint
from medshield.methods.base import BLOCK, Method, Progress, Setting, untold
from medshield.methods.surrogates import FreshSurrogate, PretrainedSurrogate, Surrogate
from medshield.methods.views import keyed_views
from medshield.methods.wrong_classes import MOST_CLASSES, least_taught, sample
from medshield.projected_gradient import projected_gradient
from medshield.randomness import seeded
from medshield.tasks import TASKS, Classification

ATTACK_STEPS = 40
TRIAL_STEPS = 20
"""Of the attacks from which the wrong classes are chosen."""
MOMENTUM = 0.9
REACH = 2.5
"""How far the steps of an attack could go together, in epsilons."""
WRONG_CLASSES = "wrong_classes"
"""Of a saved state."""


class AdversarialTargeted(Method):
    """Targets another class for each; the opposite of every finding; the inverted mask."""

    name = "advt"
    misleads = frozenset(TASKS)
    lineup: ClassVar[tuple[Surrogate, ...]] = (FreshSurrogate("resnet18", "unet_resnet18"),)
    """Asked in any setting."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.asked = self.lineup
        if setting.pretrained:
            self.asked += (PretrainedSurrogate(setting.pretrained),)
        with seeded(setting.key.number(self.name, "surrogates")):
            self.surrogates = nn.ModuleList(each.built(setting) for each in self.asked)
        self.wrong_classes = self._next_of_a_cycle()

    def _fit(
        self, images: Tensor, targets: Tensor, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        parts = len(self.asked) + 1
        for number in checkpoint.loop(len(self.asked), surrogates=self.surrogates):
            surrogate, model = self.asked[number], self.surrogates[number]
            recipe = surrogate.recipe(self.setting, len(images))
            with seeded(self.setting.key.number(self.name, "training", str(number))):
                data = images, targets
                losses = surrogate.trained(model, self.setting.task, data, recipe, checkpoint)
                for epoch, _ in enumerate(losses, 1):
                    progress((number + epoch / recipe.epochs) / parts)
            model.eval()
        if 2 < len(self.wrong_classes) <= MOST_CLASSES and targets.min() < targets.max():
            reached = len(self.asked) / parts
            self.wrong_classes = self._least_taught(
                images, targets, lambda done: progress(reached + done / parts)
            )
        progress(1)

    def _next_of_a_cycle(self) -> Tensor:
        """The wrong class of each before any was tried: the next of a keyed cycle; (classes,)."""
        if not isinstance(self.setting.task, Classification):
            return torch.empty(0, dtype=torch.long)
        count = len(self.setting.task.classes)
        order = torch.from_numpy(self.setting.key.numpy(self.name, "classes").permutation(count))
        following = torch.empty(count, dtype=torch.long)
        following[order] = order.roll(-1)
        return following

    def _least_taught(self, images: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        rows = sample(targets, self.setting.key.numpy(self.name, "trials")).to(images.device)
        count, finished = len(self.wrong_classes), 0

        def move(images: Tensor, wrong: Tensor) -> Tensor:
            nonlocal finished
            crew, steps = self.setting.crew, self.setting.scaled(TRIAL_STEPS)
            own = sharing.own_rows(crew, len(images))
            parts = torch.split(images[own], BLOCK), torch.split(wrong[own], BLOCK)
            moved = []
            for batch, aim in zip(*parts, strict=True):
                moved.append(self._moved(batch, aim, steps))
                finished += 1
                progress(finished / (len(parts[0]) * count))  # the last part: classifiers
            return sharing.gathered(crew, torch.cat(moved), len(images))

        chosen = least_taught(move, self.surrogates, images[rows], targets[rows], count)
        return torch.tensor(chosen)

    def state(self) -> dict[str, Tensor]:
        weights = {name: value.cpu() for name, value in self.surrogates.state_dict().items()}
        return {**weights, WRONG_CLASSES: self.wrong_classes}

    def load(self, state: dict[str, Tensor]) -> None:
        self.wrong_classes = state[WRONG_CLASSES]
        weights = {name: value for name, value in state.items() if name != WRONG_CLASSES}
        self.surrogates.load_state_dict(weights)

    def _wrong(self, targets: Tensor) -> Tensor:
        if len(self.wrong_classes):
            return self.wrong_classes.to(targets.device)[targets]
        return 1 - targets

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        wrong = self._wrong(targets)
        return self._moved(images, wrong, ATTACK_STEPS, self.stepped) - images

    def _moved(
        self, images: Tensor, wrong: Tensor, count: int, progress: Progress = untold
    ) -> Tensor:
        """Every one of `count` steps asks the next surrogate, about images seen in another way."""
        steps = zip(
            cycle(self.surrogates), keyed_views(self.setting, self.name, count), strict=False
        )

        def towards_wrong_class(perturbed: Tensor) -> Tensor:
            surrogate, view = next(steps)
            seen, truth = view.of(perturbed), view.of(wrong) if wrong.ndim == 3 else wrong
            return self.setting.task.loss(surrogate(seen), truth).sum()

        return projected_gradient(
            towards_wrong_class,
            images,
            self.setting.budget,
            steps=count,
            step_size=REACH * self.setting.budget.radius / count,
            momentum=MOMENTUM,
            progress=progress,
        )


class MisleadingSeveral(AdversarialTargeted):
    """The same against surrogates of unlike architecture, one of them trained adversarially."""

    name = "robust"
    lineup = (
        FreshSurrogate("resnet18", "unet_resnet18"),
        FreshSurrogate("small_convnet", "unet_mobilenet", adversarial=True),
    )
