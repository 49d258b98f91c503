"""Victims trained on arms of a study, and their scores as cells of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medshield import models, progress, trials
from medshield.budget import Budget, parse_epsilon
from medshield.evidence import (
    BOOTSTRAP_DRAWS,
    CHANCE_RANKING,
    CONFIDENCE,
    Leakage,
    measure_leakage,
    summarise,
)
from medshield.tasks import Task
from medshield.threats import VICTIMS
from medshield.trials import CLEAN_BEST, LAST, Cell, Job, Parts, Schedule, Trial
from medshield.verify import FEWEST_EPOCHS, IMAGES_SEEN, MOST_EPOCHS
from tests.tools.protection.study import Options, Study

SELECTIONS = (LAST, CLEAN_BEST)
ADVERSARY, ADVERSARY_STEPS = "4/255", 3
CLEAN = "clean"
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
        test = self.parts.test
        return measure_leakage(
            self.task,
            score,
            selection,
            [trial.predictions[selection] for trial in self.trials[CLEAN]],
            [trial.predictions[selection] for trial in self.trials[arm]],
            test.targets.numpy(),
            test.groups,
            self.floor(score),
            np.random.default_rng(self.seed),
        )

    def floor(self, score: str) -> float:
        """What a predictor scores that never looks at the image."""
        train, test = self.parts.train.targets.numpy(), self.parts.test.targets.numpy()
        return self.task.constant_scores(train, test)[score]

    def difference(self, arm: str, other: str, score: str, selection: str) -> str:
        """Leakage of one arm less that of another, with a bootstrap interval.

        Patients and seeds are drawn anew; each draw counts for all three arms alike.
        """
        groups = self.parts.test.groups
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        seeds = len(self.trials[CLEAN])
        rng = np.random.default_rng(self.seed)

        def leaked_more(rows: np.ndarray, numbers: Sequence[int]) -> float:
            clean, one, another = (
                self._mean(name, score, selection, rows, numbers) for name in (CLEAN, arm, other)
            )
            floor = CHANCE_RANKING if score == self.task.ranking else self.floor(score)
            return (one - another) / (clean - floor) if clean > floor else float("nan")

        draws = []
        for _ in range(BOOTSTRAP_DRAWS):
            patients = rng.integers(0, len(members), len(members))
            rows = np.concatenate([members[patient] for patient in patients])
            draws.append(leaked_more(rows, rng.integers(0, seeds, seeds)))
        known = [draw for draw in draws if np.isfinite(draw)]
        estimate = leaked_more(np.arange(len(groups)), range(seeds))
        if not known or not np.isfinite(estimate):
            return UNKNOWN
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(known, [tail, 100 - tail])
        return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"

    def _mean(
        self, arm: str, score: str, selection: str, rows: np.ndarray, numbers: Sequence[int]
    ) -> float:
        """A score's mean over some seeds, on some test examples; of a ranking, however turned."""
        targets = self.parts.test.targets.numpy()[rows]
        predictions = [self.trials[arm][number].predictions[selection] for number in numbers]
        values = [self.task.scores(found[rows], targets)[score] for found in predictions]
        if score == self.task.ranking:
            values = [CHANCE_RANKING + abs(value - CHANCE_RANKING) for value in values]
        return float(np.mean(values))


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
