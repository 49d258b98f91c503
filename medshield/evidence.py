"""From trials to a verdict: leakage, its interval, and what a threat level concludes.

Nothing here trains anything; it only reads predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from medshield.arms import ALONE, CLEAN, PROTECTED
from medshield.intervals import Ratio
from medshield.sample import Sample
from medshield.trials import CLEAN_BEST, Cell

PROTECTED_LEAKAGE = 0.15
PARTLY_LEAKAGE = 0.5
FEWEST_SEEDS = 3
CONFIDENCE = 0.95
INTERIM_CONFIDENCE = 0.99
"""Of the interval that must be narrow enough for a cell not to be trained again."""


class Verdict(StrEnum):
    """What may be said of a release, from best to worst."""

    PROTECTED = "protected"
    INCONCLUSIVE = "inconclusive"
    PARTLY = "partly"
    NOT_PROTECTED = "not protected"

    @property
    def severity(self) -> int:
        """A cell that leaks decides before one that could not tell."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Leakage:
    """How much of what clean data teaches the release still teaches, 0 to 1 (and beyond).

    Attributes:
        score: by which it was measured.
        selection: which epoch's model was scored.
        estimate, low, high: mean over seeds, and its 95 % interval over patients and seeds.
        low_all, high_all: the interval that holds together with those of all other leakages of
            the same report (Bonferroni).
        clean, protected, floor: the mean scores behind it.
        clean_low: lower end of the clean score's interval.
        high_interim: upper end of the interval of INTERIM_CONFIDENCE.
    """

    score: str
    selection: str
    estimate: float
    low: float
    high: float
    clean: float
    protected: float
    floor: float
    clean_low: float
    low_all: float = float("nan")
    high_all: float = float("nan")
    high_interim: float = float("nan")

    @property
    def surely_leaks(self) -> bool:
        """Whether this alone breaks the protection, whatever else was looked at."""
        return self.clean_low > self.floor and self.low_all > PROTECTED_LEAKAGE

    @property
    def is_open(self) -> bool:
        """Whether it looks protected, but more trainings may well show that it is not.

        Each time that trainings are added is another chance to be deceived, so that one stops early
        only where a wider interval than usual is narrow enough (Haybittle 1971, Peto et al. 1976).
        """
        looks_protected = self.clean_low > self.floor and self.estimate <= PROTECTED_LEAKAGE
        return looks_protected and self.high_interim > PROTECTED_LEAKAGE

    @property
    def verdict(self) -> Verdict:
        """What this leakage alone says."""
        if not self.clean_low > self.floor:
            return Verdict.INCONCLUSIVE
        if self.high <= PROTECTED_LEAKAGE:
            return Verdict.PROTECTED
        return Verdict.PARTLY if self.high <= PARTLY_LEAKAGE else Verdict.NOT_PROTECTED


def measured(
    sample: Sample,
    floor: Mapping[str, float],
    selection: str,
    *,
    protected: str = PROTECTED,
    comparisons: int = 1,
) -> tuple[Leakage, ...]:
    """Leakage by every score, with intervals over patients and seeds.

    Args:
        sample: has the arms clean and protected, and perhaps that of victims who had only the
            clean images which both hold, too: then their score is the floor.
        floor: score -> what the constant predictor scores.
        selection: which epoch's models made the predictions.
        protected: the arm whose leakage is asked for.
        comparisons: leakages in the same report.
    """
    alone = ALONE in sample.arms
    return tuple(
        _leakage(
            sample.leakage(name, protected, CLEAN, ALONE if alone else floor[name]),
            name,
            selection,
            comparisons,
        )
        for name in sample.names
    )


def _leakage(leakage: Ratio, score: str, selection: str, comparisons: int) -> Leakage:
    protected, clean, floor = (float(mean) for mean in leakage.components.means)
    low, high = leakage.interval(CONFIDENCE)
    low_all, high_all = leakage.interval(1 - (1 - CONFIDENCE) / comparisons)
    return Leakage(
        score=score,
        selection=selection,
        estimate=leakage.estimate,
        low=low,
        high=high,
        clean=clean,
        protected=protected,
        floor=floor,
        clean_low=floor + leakage.under_low(CONFIDENCE),
        low_all=low_all,
        high_all=high_all,
        high_interim=leakage.interval(INTERIM_CONFIDENCE)[1],
    )


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1) and n."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": spread, "n": len(values)}


@dataclass(frozen=True)
class CellResult:
    """The evidence of one cell.

    Attributes:
        cell: what was run.
        level: the threat level that declares it.
        scores: arm -> selection -> score -> mean, sd, n.
        leakages: one per score and selection.
        decision: the name of the score of the model's own decision.
        floor: what the constant predictor scores by it.
        fitted: what the victims score by it on their protected training data.
        curves: arm -> one set of curves per seed.
        per_class: arm -> class or finding -> score at the last epoch, mean over seeds.
        seeds: trainings of each arm.
    """

    cell: Cell
    level: str
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]]
    leakages: tuple[Leakage, ...]
    decision: str
    floor: float
    fitted: float
    curves: dict[str, list[dict[str, Any]]] = field(repr=False)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    seeds: int = FEWEST_SEEDS

    def counting(self, level: str) -> list[Leakage]:
        """The leakages that a threat level judges by.

        `basic` judges by the model's own decision and an epoch chosen on what was released; the
        levels above also by the ranking and by an epoch chosen on clean validation images.
        """
        return [
            leakage
            for leakage in self.leakages
            if level != "basic"
            or (leakage.score == self.decision and leakage.selection != CLEAN_BEST)
        ]

    def decisive(self, level: str) -> Leakage:
        """The leakage that decides on this cell at a threat level."""
        return max(self.counting(level), key=lambda one: (one.verdict.severity, one.high))

    def surely_leaks(self, level: str) -> bool:
        """Whether a leakage that counts is surely above what may be called protected."""
        return any(leakage.surely_leaks for leakage in self.counting(level))

    def is_open(self, level: str) -> bool:
        """Whether nothing but the width of an interval keeps this cell from being protected."""
        counting = self.counting(level)
        return (
            self.seeds >= FEWEST_SEEDS
            and self.fitted >= self.enough
            and any(one.is_open for one in counting)
            and all(one.is_open or one.verdict is Verdict.PROTECTED for one in counting)
        )

    @property
    def enough(self) -> float:
        """What a victim scores at the least that fitted its protected training data."""
        return (1 + self.floor) / 2

    def judged(self, level: str) -> tuple[Verdict, str]:
        """What this cell says of a threat level, and why."""
        decisive = self.decisive(level)
        score = decisive.score.replace("_", " ")
        if decisive.verdict is Verdict.INCONCLUSIVE:
            return Verdict.INCONCLUSIVE, (
                f"trained on clean images, the victim's {score} does not surely beat its floor; "
                "give it more images, --epochs or --seeds"
            )
        leaks = decisive.verdict is Verdict.NOT_PROTECTED
        if not leaks and self.seeds < FEWEST_SEEDS:
            return Verdict.INCONCLUSIVE, (
                f"{self.seeds} trainings of each arm say too little; give --seeds {FEWEST_SEEDS} "
                "or more"
            )
        if not leaks and self.fitted < self.enough:
            return Verdict.INCONCLUSIVE, (
                f"the victim did not fit its protected training data ({self.fitted:.2f}, "
                f"expected {self.enough:.2f}); raise --epochs"
            )
        return decisive.verdict, (
            f"leakage of {score} {decisive.estimate:.2f} "
            f"[{decisive.low:.2f}, {decisive.high:.2f}] at the {decisive.selection}"
        )


def open_cells(results: Sequence[CellResult], level: str) -> list[CellResult]:
    """The cells that more trainings may show to be protected; none where another one leaks.

    Args:
        results: of the cells of a level.
        level: judged by it.
    """
    undecided = [result for result in results if result.is_open(level)]
    others = [result.judged(level)[0] for result in results if result not in undecided]
    return undecided if all(verdict is Verdict.PROTECTED for verdict in others) else []


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a level: its worst cell decides; no cell at all tells nothing."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.INCONCLUSIVE)
