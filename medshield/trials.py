"""One victim, one arm, one seed: trained, scored after every epoch, and kept on disk.

A finished trial is found again by what went into it, so an interrupted verification goes on
where it was, and arms that several releases share are trained once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medshield import contrastive, models, pretrained, processes
from medshield.budget import Budget
from medshield.cost import Cost
from medshield.countermeasures import COUNTERMEASURES, Countermeasure
from medshield.dataset.examples import Examples
from medshield.errors import InputError
from medshield.models import Headed
from medshield.pools import SECONDS_BETWEEN_LOOKS, Shares, Spawning, new_shares
from medshield.pretrained import SMALLEST_SIDE, Weights
from medshield.private import make_private_folder, private_file, write_private
from medshield.probing import Probe
from medshield.randomness import seeded
from medshield.tasks import Array, Segmentation, Task
from medshield.training import AdversarialTraining, Recipe, predict, train

LAST, BEST, CLEAN_BEST = "last epoch", "best epoch on released data", "best epoch on clean data"
SELECTIONS = (LAST, BEST, CLEAN_BEST)
TRIAL_VERSION = "5"
WEIGHTS_SUFFIX = ".safetensors"
LAST_SHARE = 0.99
"""Of a training whose result is not kept yet."""
Tell = Callable[[Sequence[float]], None]
"""Told how far each of several trials is, 0 to 1."""

ADVERSARIES = {f"adversarial-{radius}": Budget(Fraction(radius, 255)) for radius in (2, 4, 8)}
"""Adversarial training of a given radius; plain "adversarial" takes the schedule's."""
CLEAN_MIX = "clean-mix"
"""Standard training, a fifth of the images clean in every arm."""
DENOISED = "denoised-pairs"
"""Standard training on what a denoiser leaves, which learned from pairs made with other keys."""
FINE_TUNED, PROBE = "fine-tuned", "probe"
LEARNING_RATES = {FINE_TUNED: 3e-4, PROBE: 1e-2}
"""Peaks of the trainings that start from ImageNet; its features would not survive a larger one."""
SELF_SUPERVISED = "self-supervised"
"""SimCLR on the training images without their labels, then a probe."""
TRAININGS = (
    *("standard", "adversarial", *ADVERSARIES, CLEAN_MIX, DENOISED),
    *(*LEARNING_RATES, SELF_SUPERVISED),
)


@dataclass(frozen=True)
class Cell:
    """All trials that share a victim, a way of training and a countermeasure.

    Attributes:
        victim: a name of `models`.
        training: one of TRAININGS.
        countermeasure: a key of COUNTERMEASURES, or "none".
    """

    victim: str
    training: str = "standard"
    countermeasure: str = "none"

    @property
    def name(self) -> str:
        """As in `--cells`: victim:training, and the countermeasure where there is one."""
        parts = [self.victim, self.training]
        return ":".join(parts if self.countermeasure == "none" else [*parts, self.countermeasure])

    @property
    def is_plain(self) -> bool:
        """Whether the trainer does nothing unusual, as the `basic` level has it."""
        return self.training == "standard" and self.countermeasure == "none"

    @property
    def is_pretrained(self) -> bool:
        """Whether the victim starts from ImageNet, for which weights are needed."""
        return self.training in LEARNING_RATES

    @property
    def is_probed(self) -> bool:
        """Whether labels train a linear layer alone."""
        return self.training in (PROBE, SELF_SUPERVISED)

    @property
    def countermeasures(self) -> tuple[Countermeasure, ...]:
        """The countermeasure's object, if any."""
        return () if self.countermeasure == "none" else (COUNTERMEASURES[self.countermeasure],)

    def applies_to(self, task: Task, channels: int) -> bool:
        """Whether such a victim can be trained so, and its countermeasure changes anything."""
        if self.training == SELF_SUPERVISED and isinstance(task, Segmentation):
            return False
        return all(counter.applies_to(task, channels) for counter in self.countermeasures)


@dataclass(frozen=True)
class Schedule:
    """How long victims train.

    Attributes:
        standard, adversarial: epochs.
        adversary: the attack of adversarial training whose cell names no radius.
        adversary_steps: its gradient steps.
    """

    standard: int
    adversarial: int
    adversary: Budget
    adversary_steps: int

    def recipe(self, cell: Cell) -> Recipe:
        """The recipe of one cell."""
        usual = Recipe(self.standard, colour_jitter=True, countermeasures=cell.countermeasures)
        if cell.training in ("standard", CLEAN_MIX, DENOISED):
            return usual
        if cell.is_probed:
            return replace(usual, learning_rate=LEARNING_RATES[PROBE])
        if cell.training == FINE_TUNED:
            return replace(usual, learning_rate=LEARNING_RATES[FINE_TUNED])
        adversary = ADVERSARIES.get(cell.training, self.adversary)
        return replace(
            usual,
            epochs=self.adversarial,
            adversarial=AdversarialTraining(adversary, self.adversary_steps),
        )


@dataclass(frozen=True)
class Parts:
    """One arm's data: what a victim trains on and chooses its epoch by, and the clean test part.

    Attributes:
        train, validation: as this arm releases them.
        clean_validation: the same validation examples, clean.
        test: clean, the same for every arm.
    """

    train: Examples
    validation: Examples
    clean_validation: Examples
    test: Examples


@dataclass(frozen=True)
class Trial:
    """What came of one training.

    Attributes:
        losses: mean training loss of each epoch.
        validation_scores, clean_validation_scores, test_scores: by name, of each epoch.
        train_scores: of the last epoch's model, on what it was trained on.
        predictions: on the clean test part, by selection.
        cost: of the training alone; None if it was not counted.
    """

    losses: list[float]
    validation_scores: list[dict[str, float]]
    clean_validation_scores: list[dict[str, float]]
    test_scores: list[dict[str, float]]
    train_scores: dict[str, float]
    predictions: dict[str, Array]
    cost: Cost | None = None

    def curves(self) -> dict[str, Any]:
        """Everything that is drawn over epochs."""
        return {
            "loss": self.losses,
            "validation": self.validation_scores,
            "clean_validation": self.clean_validation_scores,
            "test": self.test_scores,
        }


@dataclass(frozen=True)
class Job:
    """One trial to be run.

    Attributes:
        task: loss and scores.
        cell: victim, training, countermeasure.
        schedule: epochs and attack.
        parts: this arm's data.
        seed: of weights, order and augmentation.
        device: where to train.
        cache: folder of finished trials.
        keep_model: keep the last epoch's weights, too.
        weights: that the victim starts from, where the cell is a pretrained one.
    """

    task: Task
    cell: Cell
    schedule: Schedule
    parts: Parts
    seed: int
    device: torch.device
    cache: Path
    keep_model: bool = False
    weights: Weights | None = None

    @cached_property
    def place(self) -> Path:
        """The file of the finished trial, named by all that it depends on; all data are read."""
        digest = hashlib.blake2b(digest_size=16)
        words = [TRIAL_VERSION, torch.__version__, self.task.name, str(self.task.classes)]
        words += [str(self.seed), self.cell.name, str(self.schedule.recipe(self.cell))]
        words += [self.weights.sha256, str(SMALLEST_SIDE)] if self.weights else []
        digest.update("\0".join(words).encode())
        parts = self.parts
        for part in (parts.train, parts.validation, parts.clean_validation, parts.test):
            digest.update(part.images.contiguous().numpy().data)
            digest.update(part.targets.contiguous().numpy().data)
        return self.cache / f"{digest.hexdigest()}.npz"

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run left all that is asked for."""
        kept = self.place.with_suffix(WEIGHTS_SUFFIX)
        return self.place.is_file() and (kept.is_file() or not self.keep_model)

    def run(self, progress: Callable[[float], None] = lambda _: None) -> Trial:
        """Train the victim, or take the result from an earlier run.

        Args:
            progress: told how far the training is, below 1, after each epoch.
        """
        path = self.place
        if self.is_finished:
            return _load(path)
        trial, model = _train(self, progress)
        make_private_folder(self.cache)
        if self.keep_model:
            state = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
            write_private(path.with_suffix(WEIGHTS_SUFFIX), save(state))
        _save(trial, path)
        return trial

    def kept_model(self) -> nn.Module:
        """The model of a finished trial that was run with `keep_model`, on the CPU."""
        model = fresh_victim(replace(self, weights=None, device=torch.device("cpu")))
        model.load_state_dict(load_file(self.place.with_suffix(WEIGHTS_SUFFIX)))
        return model


def weights_of(
    cells: Sequence[Cell],
    given: Sequence[Path],
    folder: Path,
    *,
    required: bool,
    fetch: bool = True,
) -> tuple[dict[Cell, Weights], dict[Cell, str]]:
    """ImageNet weights of the cells that start from them, and why the others can't be run.

    Args:
        cells: of any kind.
        given: files, as in `--weights`.
        folder: keeps what was downloaded.
        required: whether to raise where there are none.
        fetch: whether to download what is not there.

    Raises:
        InputError: a file can't be used, or there are no weights and they are required.
    """
    wanting = [cell for cell in cells if cell.is_pretrained]
    victims = {cell.victim for cell in wanting}
    found, lacking = pretrained.find_weights(victims, given, folder, fetch=fetch)
    if required and lacking:
        raise InputError("; ".join(lacking.values()))
    return (
        {cell: found[cell.victim] for cell in wanting if cell.victim in found},
        {cell: lacking[cell.victim] for cell in wanting if cell.victim in lacking},
    )


def run_all(jobs: Sequence[Job], workers: int, tell: Tell = lambda _: None) -> Iterator[Trial]:
    """Run trials, several at a time on a CPU; yields in the order of `jobs`.

    Small models on small images use two processes of one thread much better than two threads.

    Args:
        jobs: of any kind.
        workers: how many run at a time on a CPU.
        tell: told how far each of them is, 0 to 1, which is 1 for those that are finished.
    """
    shares = new_shares([float(job.is_finished) for job in jobs])
    workers = min(workers, sum(share < 1 for share in shares))
    if workers <= 1 or jobs[0].device.type != "cpu":
        for place, job in enumerate(jobs):

            def progress(share: float, place: int = place) -> None:
                shares[place] = share
                tell(list(shares))

            trial = job.run(progress)
            progress(1)
            yield trial
        return
    threads = max(1, torch.get_num_threads() // workers)
    with Spawning().Pool(workers, _start_worker, (threads, shares)) as pool:
        found = pool.imap(_run_at, enumerate(jobs))
        left = len(jobs)
        while left:
            try:
                trial = found.next(SECONDS_BETWEEN_LOOKS)
            except multiprocessing.TimeoutError:
                tell(list(shares))
                continue
            left -= 1
            tell(list(shares))
            yield trial


def run_together(jobs: Sequence[Job], workers: int, progress: Callable[[int, int], None]) -> None:
    """Run this process's share of trials, and wait until the others have run theirs.

    Args:
        jobs: the same in all processes, and in the same order.
        workers: of this process.
        progress: told how many trials are finished, and their number.
    """
    finished = processes.agreed([job.is_finished for job in jobs])
    todo = [job for job, known in zip(jobs, finished, strict=True) if not known]

    def all_are_there() -> bool:
        missing = sum(not job.is_finished for job in todo)
        progress(len(jobs) - missing, len(jobs))
        return not missing

    for _ in run_all(processes.current().share(todo), workers):
        all_are_there()
    processes.wait_for(all_are_there)


_shares: Shares
"""How far every trial is, as all processes see it."""


def _start_worker(threads: int, shares: Shares) -> None:
    """Leave Ctrl-C to the parent, which ends its workers."""
    global _shares
    _shares = shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _run_at(numbered: tuple[int, Job]) -> Trial:
    place, job = numbered

    def progress(share: float) -> None:
        _shares[place] = share

    trial = job.run(progress)
    progress(1)
    return trial


def _prepared(
    task: Task, recipe: Recipe, released: Examples, device: torch.device
) -> tuple[Recipe, Examples]:
    """The recipe with its countermeasures fitted, and the training part as they leave it."""
    images, targets = released.images.to(device), released.targets.to(device)
    fitted = tuple(each.fitted(task, images, targets) for each in recipe.countermeasures)
    for countermeasure in fitted:
        images = countermeasure.on_training_set(images, targets)
    return replace(recipe, countermeasures=fitted), replace(released, images=images.cpu())


def fresh_victim(job: Job) -> nn.Module:
    """Untrained, or as it comes from ImageNet; where it trains.

    A CPU convolves a fifth faster where an image's channels lie side by side in memory.
    """
    model = _built(job)
    if job.device.type == "cpu":
        return model.to(memory_format=torch.channels_last)
    return model.to(job.device)


def _built(job: Job) -> nn.Module:
    if job.cell.is_pretrained:
        return pretrained.build(job.cell.victim, job.task.outputs, job.weights)
    build = models.build_headed if job.cell.training == SELF_SUPERVISED else models.build
    return build(job.cell.victim, job.parts.train.images.shape[1], job.task.outputs)


def _train(job: Job, progress: Callable[[float], None]) -> tuple[Trial, nn.Module]:
    task, parts, device = job.task, job.parts, job.device
    with seeded(job.seed):
        recipe, training_part = _prepared(task, job.schedule.recipe(job.cell), parts.train, device)
    images, targets = training_part.images.to(device), training_part.targets.to(device)

    def predicted(part: Examples) -> Array:
        if probe:
            return probe.predicted(part.images, part.targets)
        return predict(
            model, task, part.images.to(device), part.targets.to(device), recipe.countermeasures
        )

    def scored(part: Examples) -> dict[str, float]:
        return task.scores(predicted(part), part.targets.numpy())

    cost = Cost()
    losses, validation, clean_validation, test, predictions = [], [], [], [], []
    with seeded(job.seed):
        model = fresh_victim(job)
        probe = None
        if isinstance(model, Headed) and job.cell.is_probed:
            probe = Probe(model, task, recipe)
            pretraining = job.cell.training == SELF_SUPERVISED
            epochs = _probed(probe, images, targets, pretraining=pretraining)
        else:
            epochs = train(model, task, images, targets, recipe)
        for loss in cost.over(epochs):
            losses.append(loss)
            validation.append(scored(parts.validation))
            same = parts.clean_validation is parts.validation
            clean_validation.append(validation[-1] if same else scored(parts.clean_validation))
            predictions.append(predicted(parts.test))
            test.append(task.scores(predictions[-1], parts.test.targets.numpy()))
            progress(min(LAST_SHARE, len(losses) / recipe.epochs))
        train_scores = scored(training_part)
    chosen = {
        LAST: len(losses) - 1,
        BEST: _best(validation, task.decision),
        CLEAN_BEST: _best(clean_validation, task.decision),
    }
    trial = Trial(
        losses=losses,
        validation_scores=validation,
        clean_validation_scores=clean_validation,
        test_scores=test,
        train_scores=train_scores,
        predictions={name: predictions[epoch] for name, epoch in chosen.items()},
        cost=cost,
    )
    return trial, model


def _probed(probe: Probe, images: Tensor, targets: Tensor, *, pretraining: bool) -> Iterator[float]:
    """The epochs of a probe; the first one includes the pretraining without labels."""
    if pretraining:
        contrastive.pretrain(probe.victim, images, probe.recipe)
    yield from probe.train(images, targets)


def _best(scores: list[dict[str, float]], name: str) -> int:
    """The first epoch with the highest score; undefined scores never win."""
    values = [row[name] if np.isfinite(row[name]) else -np.inf for row in scores]
    return int(np.argmax(values))


def _save(trial: Trial, path: Path) -> None:
    facts: dict[str, Any] = {"curves": trial.curves(), "train": trial.train_scores}
    if trial.cost:
        facts["cost"] = asdict(trial.cost)
    kept: dict[str, Any] = {f"predictions {name}": p for name, p in trial.predictions.items()}
    with private_file(path) as file:
        np.savez_compressed(
            file,
            facts=np.array(json.dumps(facts)),
            **kept,
        )


def _load(path: Path) -> Trial:
    with np.load(path, allow_pickle=False) as kept:
        facts = json.loads(str(kept["facts"]))
        curves = facts["curves"]
        return Trial(
            losses=curves["loss"],
            validation_scores=curves["validation"],
            clean_validation_scores=curves["clean_validation"],
            test_scores=curves["test"],
            train_scores=facts["train"],
            predictions={name: kept[f"predictions {name}"] for name in SELECTIONS},
            cost=Cost(**facts["cost"]) if "cost" in facts else None,
        )
