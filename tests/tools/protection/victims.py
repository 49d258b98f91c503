"""Victims trained on arms of a study, and their scores as cells of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medshield import models, progress, trials
from medshield.arms import CLEAN
from medshield.budget import Budget, parse_epsilon
from medshield.evidence import CONFIDENCE, Leakage, measured, summarise
from medshield.intervals import Ratio
from medshield.preparation import FEWEST_EPOCHS, IMAGES_SEEN, MOST_EPOCHS
from medshield.sample import Sample
from medshield.tasks import Task
from medshield.threats import VICTIMS
from medshield.trials import CLEAN_BEST, LAST, Cell, Job, Parts, Schedule, Trial
from tests.tools.protection.study import Options, Study

SELECTIONS = (LAST, CLEAN_BEST)
ADVERSARY, ADVERSARY_STEPS = "4/255", 3
UNKNOWN = "unknown"
"""Leakage where the clean victim is at its floor: nothing could leak."""


@dataclass(frozen=True)
class Trained:
    """The victims of every arm.

    Attributes:
        task: that they were trained for.
        parts: the clean arm's data, whose test part all arms are scored on.
        trials: by arm, one per seed.
        seed: of the bootstrap.
    """

    task: Task
    parts: Parts
    trials: dict[str, list[Trial]]
    seed: int

    @property
    def scores(self) -> tuple[str, ...]:
        """Of the model's own decision, and of its ranking where that is another."""
        return tuple(dict.fromkeys([self.task.decision, self.task.ranking]))

    def values(self, arm: str, score: str, selection: str) -> list[float]:
        """A score of each seed's victim."""
        targets = self.parts.test.targets.numpy()
        return [
            self.task.scores(trial.predictions[selection], targets)[score]
            for trial in self.trials[arm]
        ]

    def header(self) -> list[str]:
        """Of the columns that `cells` fills."""
        words = [f"{score.replace('_', ' ')}, " for score in self.scores]
        columns = [word + short(selection) for selection in SELECTIONS for word in words]
        return [*columns, f"leakage of {self.task.decision.replace('_', ' ')}, {short(LAST)}"]

    def cells(self, arm: str) -> list[str]:
        """Mean and standard deviation of each score, and leakage with its interval."""
        found = [
            spread(self.values(arm, score, selection))
            for selection in SELECTIONS
            for score in self.scores
        ]
        return [*found, "" if arm == CLEAN else interval(self.leakage(arm))]

    def leakage(self, arm: str, score: str = "", selection: str = LAST) -> Leakage:
        """Of one arm, by the model's own decision unless said."""
        score = score or self.task.decision
        sample = self.sample([CLEAN, arm], selection)
        floor = {name: self.floor(name) for name in sample.names}
        found = measured(sample, floor, selection, protected=arm)
        return next(leakage for leakage in found if leakage.score == score)

    def sample(self, arms: Sequence[str], selection: str) -> Sample:
        """Scores of some arms."""
        test = self.parts.test
        predictions = {
            arm: [trial.predictions[selection] for trial in self.trials[arm]] for arm in arms
        }
        rng = np.random.default_rng(self.seed)
        return Sample.of(self.task, predictions, test.targets.numpy(), test.groups, rng)

    def floor(self, score: str) -> float:
        """What a predictor scores that never looks at the image."""
        train, test = self.parts.train.targets.numpy(), self.parts.test.targets.numpy()
        return self.task.constant_scores(train, test)[score]

    def difference(self, arm: str, other: str, score: str, selection: str) -> str:
        """Leakage of one arm less that of another, with its interval."""
        sample = self.sample([arm, other, CLEAN], selection)
        components = sample.components(score, sample.arms, self.floor(score))
        ratio = Ratio(components, np.array([1.0, -1, 0, 0]), np.array([0, 0, 1.0, -1]))
        low, high = ratio.interval(CONFIDENCE)
        if not np.isfinite([low, high]).all():
            return UNKNOWN
        return f"{ratio.estimate:.2f} [{low:.2f}, {high:.2f}]"


def train(study: Study, arms: Mapping[str, Parts], options: Options, seeds: int) -> Trained:
    """Train the victims of every arm; one arm is called CLEAN."""
    cell = options.cell or Cell(VICTIMS[study.task.name][0])
    epochs = epochs_for(options, len(arms[CLEAN].train))
    schedule = Schedule(
        standard=epochs,
        adversarial=epochs,
        adversary=Budget(parse_epsilon(ADVERSARY)),
        adversary_steps=ADVERSARY_STEPS,
    )
    order = [(arm, number) for arm in arms for number in range(seeds)]
    jobs = [
        Job(
            task=study.task,
            cell=cell,
            schedule=schedule,
            parts=arms[arm],
            seed=1000 * options.seed + number,
            device=models.pick_device("auto"),
            cache=options.cache,
        )
        for arm, number in order
    ]
    kept: dict[str, list[Trial]] = {arm: [] for arm in arms}
    with progress.bar("training victims") as update:
        results = zip(order, trials.run_all(jobs, options.workers), strict=True)
        for done, ((arm, _), trial) in enumerate(results, 1):
            kept[arm].append(trial)
            update(done, len(jobs))
    return Trained(study.task, arms[CLEAN], kept, options.seed)


def epochs_for(options: Options, training_images: int) -> int:
    """As asked for, or as `verify` chooses them."""
    chosen = max(FEWEST_EPOCHS, IMAGES_SEEN // max(1, training_images))
    return options.epochs or min(MOST_EPOCHS, chosen)


def how(study: Study, options: Options, training_images: int, seeds: int) -> str:
    """A sentence on what the victims of a table are."""
    cell = options.cell or Cell(VICTIMS[study.task.name][0])
    epochs = epochs_for(options, training_images)
    return (
        f"{study.name}, {study.train.images.shape[-1]} px, epsilon {options.epsilon}; victims: "
        f"{cell.name}, {training_images} training, {len(study.validation)} validation and "
        f"{len(study.test)} test images, {epochs} epochs, {seeds} seeds; clean-picked is the "
        "epoch that is best on clean validation images."
    )


def short(selection: str) -> str:
    """An epoch's choice in a word or two."""
    return {LAST: "last", CLEAN_BEST: "clean-picked"}[selection]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    found = summarise(values)
    return f"{found['mean']:.3f}" + (f" ± {found['sd']:.3f}" if found["sd"] is not None else "")


def interval(leakage: Leakage) -> str:
    """Leakage and its interval."""
    if not np.isfinite(leakage.estimate):
        return UNKNOWN
    return f"{leakage.estimate:.2f} [{leakage.low:.2f}, {leakage.high:.2f}]"
