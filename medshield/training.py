"""The one training loop, for surrogates and victims alike.

Reads from top to bottom. It yields after every epoch, so that a caller who wants to look at the
model (for a learning curve, or to stop) simply looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medshield import sharing
from medshield.augmentation import flip_and_shift, jitter_colours
from medshield.budget import Budget
from medshield.checkpoint import Checkpoint, Part
from medshield.countermeasures import Countermeasure
from medshield.processes import ALONE, Processes
from medshield.projected_gradient import projected_gradient
from medshield.tasks import Array, Task

SMALLEST_BATCH, STEPS_AN_EPOCH = 16, 12
"""Small sets are cut into about this many steps an epoch, so that a model still gets updates."""

EARLY = 0.3
"""Share of the epochs in which the hardest of several copies is trained on, where a countermeasure
asks for it."""


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD adversarial training (Madry et al. 2018).

    Attributes:
        budget: the ball of the attack, such as 4/255.
        steps: gradient steps per batch; each is 2.5 * radius / steps long.
    """

    budget: Budget
    steps: int

    def attack(
        self,
        model: nn.Module,
        task: Task,
        images: Tensor,
        targets: Tensor,
        rows: slice = slice(None),
    ) -> Tensor:
        """Some rows of the images, moved inside the ball to where the model does worse on them.

        Leaves the model in training mode.
        """
        model.eval()
        noise = torch.empty_like(images).uniform_(-self.budget.radius, self.budget.radius)
        images, targets, noise = images[rows], targets[rows], noise[rows]
        attacked = projected_gradient(
            lambda perturbed: -task.loss(model(perturbed), targets).sum(),
            images,
            self.budget,
            steps=self.steps,
            step_size=2.5 * self.budget.radius / self.steps,
            start=images + noise,
        )
        model.train()
        return attacked


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW under a one-cycle schedule, with flips and shifts.

    Attributes:
        epochs: passes over the training part.
        batch_size: images a step at the most; small sets take smaller batches.
        learning_rate: the peak of the cycle.
        weight_decay: of AdamW.
        adversarial: the attack on every batch, or None for standard training.
        colour_jitter: whether brightness and colours vary, too.
        countermeasures: what else the trainer does to images.
        crew: the processes that share each batch; this one alone by default.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    adversarial: AdversarialTraining | None = None
    colour_jitter: bool = False
    countermeasures: tuple[Countermeasure, ...] = ()
    crew: Processes = field(default=ALONE, repr=False)  # by the words, trials are found again

    def batch_of(self, count: int) -> int:
        """Images a step, of a training part of so many."""
        return min(self.batch_size, max(SMALLEST_BATCH, count // STEPS_AN_EPOCH))

    def copies(self, epoch: int) -> int:
        """How many copies of each batch are drawn in an epoch, counted from 0."""
        early = epoch < EARLY * self.epochs
        return max((each.copies for each in self.countermeasures), default=1) if early else 1

    def augmented(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as the model gets it: flipped, shifted, jittered, and under countermeasures."""
        images, targets = flip_and_shift(images, targets)
        if self.colour_jitter:
            images = jitter_colours(images)
        for countermeasure in self.countermeasures:
            images, targets = countermeasure.on_train_batch(images, targets)
        return images, targets


def train(
    model: nn.Module,
    task: Task,
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[float]:
    """Train in place; yields the mean loss of each epoch, of the own rows, as soon as it is over.

    Args:
        model: on the device of `images`.
        task: gives the loss.
        images: (n, channels, side, side) in [0, 1].
        targets: as the task has them.
        recipe: how to train.
        augment: makes what the model takes, and its targets, of each batch; None for the recipe's.
        checkpoint: keeps where it is, and may begin at a later epoch; None to keep nothing.
    """
    augment, checkpoint = augment or recipe.augmented, checkpoint or Checkpoint()
    batch_size = recipe.batch_of(len(images))
    steps = max(1, len(images) // batch_size)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    sharing.share_batch_norm(recipe.crew, model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps
    )
    parts: dict[str, Part] = {"model": model, "optimiser": optimiser, "schedule": schedule}
    for epoch in checkpoint.loop(recipe.epochs, **parts):
        model.train()
        order = torch.randperm(len(images))
        total = 0.0
        for step in range(steps):
            rows = order[step * batch_size :][:batch_size].to(images.device)
            drawn = [augment(images[rows], targets[rows]) for _ in range(recipe.copies(epoch))]
            batch, truth = drawn[0] if len(drawn) == 1 else hardest(model, task, drawn)
            own = sharing.own_rows(recipe.crew, len(truth))
            if recipe.adversarial:
                seen = recipe.adversarial.attack(model, task, batch, truth, own)
            else:
                seen = batch[own]
            loss = task.loss(model(seen), truth[own]).sum() / len(truth)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sharing.add_gradients(recipe.crew, model)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        yield total / steps


@torch.no_grad()
def hardest(
    model: nn.Module, task: Task, drawn: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Of several draws of a batch, for each image the one that the model does worst on."""
    losses = torch.stack([task.loss(model(batch), truth) for batch, truth in drawn])
    worst, rows = losses.argmax(0), torch.arange(losses.shape[1], device=losses.device)
    batches, truths = (torch.stack(part) for part in zip(*drawn, strict=True))
    return batches[worst, rows], truths[worst, rows]


@torch.no_grad()
def predict(
    model: nn.Module,
    task: Task,
    images: Tensor,
    targets: Tensor,
    countermeasures: tuple[Countermeasure, ...] = (),
) -> Array:
    """The task's predictions for every image, with the model in evaluation mode."""
    model.eval()
    rows = []
    for batch, truth in zip(torch.split(images, 128), torch.split(targets, 128), strict=True):
        for countermeasure in countermeasures:
            batch = countermeasure.on_test_images(batch)
        rows.append(task.predictions(model(batch), truth).cpu())
    return torch.cat(rows).numpy()
