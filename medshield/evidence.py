"""From trials to a verdict: leakage, its interval, and what a threat level concludes.

Nothing here trains anything; it only reads predictions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield.tasks import Array, Task
from medshield.trials import CLEAN_BEST, Cell

PROTECTED_LEAKAGE = 0.15
PARTLY_LEAKAGE = 0.5
BOOTSTRAP_DRAWS = 500
CONFIDENCE = 0.95
CHANCE_RANKING = 0.5


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
        estimate, low, high: mean over seeds, and its bootstrap interval over patients and seeds.
        clean, protected, floor: the mean scores behind it.
        clean_low: lower end of the clean score's interval.
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

    @property
    def verdict(self) -> Verdict:
        """What this leakage alone says."""
        if not self.clean_low > self.floor:
            return Verdict.INCONCLUSIVE
        if self.high <= PROTECTED_LEAKAGE:
            return Verdict.PROTECTED
        return Verdict.PARTLY if self.high <= PARTLY_LEAKAGE else Verdict.NOT_PROTECTED


def measure_leakage(
    task: Task,
    score: str,
    selection: str,
    clean: Sequence[Array],
    protected: Sequence[Array],
    targets: Array,
    groups: NDArray[np.int64],
    floor: float,
    rng: np.random.Generator,
    alone: Sequence[Array] = (),
) -> Leakage:
    """Leakage with a bootstrap interval over patients and seeds.

    Args:
        task: scores the predictions.
        score: name of the score; for a ranking score the distance from 0.5 counts, since a
            ranking that is wrong as a whole is turned around with one sign.
        selection: named in the result.
        clean: predictions of the clean arm on the test examples, one array per seed.
        protected: predictions of the protected arm on the same examples, paired by seed.
        targets: of the test examples.
        groups: patient numbers of the test examples; drawn as a whole.
        floor: what the constant predictor scores.
        rng: for the draws.
        alone: predictions of victims that had only the clean images which both other arms hold,
            too; if any, their mean score is the floor.
    """
    ranking = score == task.ranking
    floor = CHANCE_RANKING if ranking else floor

    def scored(predictions: Array, rows: NDArray[np.int64] | slice) -> float:
        value = task.scores(predictions[rows], targets[rows])[score]
        return CHANCE_RANKING + abs(value - CHANCE_RANKING) if ranking else value

    def mean_scored(
        arm: Sequence[Array], rows: NDArray[np.int64] | slice, seeds: Iterable[int]
    ) -> float:
        return float(np.mean([scored(arm[seed], rows) for seed in seeds]))

    def floor_of(rows: NDArray[np.int64] | slice, seeds: Iterable[int]) -> float:
        return mean_scored(alone, rows, seeds) if alone else floor

    everything, every_seed = slice(None), range(len(clean))
    clean_mean = mean_scored(clean, everything, every_seed)
    protected_mean = mean_scored(protected, everything, every_seed)
    floor_mean = floor_of(everything, every_seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    leakages, clean_draws = [], []
    for _ in range(BOOTSTRAP_DRAWS):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[i] for i in drawn])
        seeds = rng.integers(0, len(clean), len(clean))
        clean_draw, floor_draw = mean_scored(clean, rows, seeds), floor_of(rows, seeds)
        clean_draws.append(clean_draw - floor_draw + floor_mean)
        leakages.append(_ratio(mean_scored(protected, rows, seeds), clean_draw, floor_draw))
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no draw at all had a ratio: NaN says so
        low, high = np.nanpercentile(leakages, [tail, 100 - tail])
    return Leakage(
        score=score,
        selection=selection,
        estimate=_ratio(protected_mean, clean_mean, floor_mean),
        low=float(low),
        high=float(high),
        clean=clean_mean,
        protected=protected_mean,
        floor=floor_mean,
        clean_low=float(np.nanpercentile(clean_draws, tail)),
    )


def _ratio(protected: float, clean: float, floor: float) -> float:
    """Leakage; a clean arm at its floor leaks nothing and proves nothing."""
    return (protected - floor) / (clean - floor) if clean > floor else float("nan")


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
    """

    cell: Cell
    level: str
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]]
    leakages: tuple[Leakage, ...]
    decision: str
    floor: float
    fitted: float
    curves: dict[str, list[dict[str, Any]]] = field(repr=False)

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

    def judged(self, level: str) -> tuple[Verdict, str]:
        """What this cell says of a threat level, and why."""
        decisive = max(self.counting(level), key=lambda one: (one.verdict.severity, one.high))
        score = decisive.score.replace("_", " ")
        if decisive.verdict is Verdict.INCONCLUSIVE:
            why = f"trained on clean images, the victim's {score} does not surely beat its floor"
            return Verdict.INCONCLUSIVE, why
        enough = (1 + self.floor) / 2
        if decisive.verdict is not Verdict.NOT_PROTECTED and self.fitted < enough:
            return Verdict.INCONCLUSIVE, (
                f"the victim did not fit its protected training data ({self.fitted:.2f}, "
                f"expected {enough:.2f}); raise --epochs"
            )
        return decisive.verdict, (
            f"leakage of {score} {decisive.estimate:.2f} "
            f"[{decisive.low:.2f}, {decisive.high:.2f}] at the {decisive.selection}"
        )


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a level: its worst cell decides; no cell at all tells nothing."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.INCONCLUSIVE)
