"""Victims trained on arms of a study, and their scores as cells of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medshield import models, trials
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
        """Leakage of one arm less that of another, with a bootstrap interval over both.

        Patients and seeds are drawn anew; each draw counts for all three arms alike.
        """
        targets, groups = self.parts.test.targets.numpy(), self.parts.test.groups
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        ranking = score == self.task.ranking
        floor = CHANCE_RANKING if ranking else self.floor(score)

        def mean(name: str, rows: np.ndarray, seeds: Sequence[int]) -> float:
            found = [
                self.task.scores(
                    self.trials[name][seed].predictions[selection][rows], targets[rows]
                )[score]
                for seed in seeds
            ]
            if ranking:
                found = [CHANCE_RANKING + abs(value - CHANCE_RANKING) for value in found]
            return float(np.mean(found))

        def leaked(rows: np.ndarray, seeds: Sequence[int]) -> float:
            clean = mean(CLEAN, rows, seeds)
            if clean <= floor:
                return float("nan")
            return (mean(arm, rows, seeds) - mean(other, rows, seeds)) / (clean - floor)

        rng = np.random.default_rng(self.seed)
        count = len(self.trials[CLEAN])
        draws = [
            leaked(
                np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]),
                rng.integers(0, count, count),
            )
            for _ in range(BOOTSTRAP_DRAWS)
        ]
        known = [draw for draw in draws if np.isfinite(draw)]
        if not known:
            return UNKNOWN
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(known, [tail, 100 - tail])
        return f"{leaked(np.arange(len(targets)), range(count)):.2f} [{low:.2f}, {high:.2f}]"


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
    for (arm, _), trial in zip(order, trials.run_all(jobs, options.workers), strict=True):
        kept[arm].append(trial)
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
