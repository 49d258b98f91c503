"""Intervals of a ratio of scores that vary over patients and over seeds.

Leakage is (protected - floor) / (clean - floor), each a mean over a few trainings on many
patients. Patients are many, so a bootstrap says how much the means vary with them; trainings are
few, so what they add is estimated as a component of variance, with Student's t for their number;
both margins are added in quadrature (as MOVER does, Zou and Donner 2008). The ratio's interval is
Fieller's (1954): all values that the data do not contradict. How often such intervals contain the
truth is measured in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

Array = NDArray[np.float64]
FARTHEST = 1e3
"""An end of an interval beyond this is infinite."""
STEP = 0.05
"""How far from the estimate an end is looked for first."""


@dataclass(frozen=True)
class Components:
    """Means of k scores and where their uncertainty comes from.

    Patients and trainings are crossed: every training is scored on every patient. By the random
    effects of such a layout (Searle, Casella and McCulloch 1992, chapter 5) the covariance of the
    means is what patients cause, plus what trainings cause, less what both together cause and
    both contain.

    Attributes:
        means: (k,) over trainings, of all patients.
        patients: (k, k) covariance of the means over the draws of patients.
        trainings: (k, k) covariance between trainings, divided by their number.
        both: (k, k) the part of it that comes of patients whom single trainings take differently.
        training_count, patient_count: behind the estimates.
    """

    means: Array
    patients: Array
    trainings: Array
    both: Array
    training_count: int
    patient_count: int

    @classmethod
    def of(
        cls,
        scores: Array,
        drawn: Array,
        patient_count: int,
        least: Array | float = 0.0,
        spread: Array | None = None,
    ) -> Components:
        """The components of scores.

        Args:
            scores: (trainings, k) of all patients.
            drawn: (draws, trainings, k) of patients drawn with replacement; rows that are not
                finite are left out.
            patient_count: patients.
            least: (k,) variance that patients cause at the least, where draws may miss some.
            spread: (trainings, k) what trainings vary by, where it is not the scores themselves.
        """
        k = scores.shape[1]
        kept = drawn[np.isfinite(drawn).all((1, 2))]
        if len(kept) < 2:
            undefined = np.full((k, k), np.nan)
            return cls(scores.mean(0), undefined, undefined, undefined, len(scores), patient_count)
        patients = np.atleast_2d(np.cov(kept.mean(1), rowvar=False))
        trainings, both = np.zeros((k, k)), np.zeros((k, k))
        if len(scores) > 1:
            single = np.mean(
                [np.atleast_2d(np.cov(kept[:, i], rowvar=False)) for i in range(len(scores))], 0
            )
            spread = scores if spread is None else spread
            trainings = np.atleast_2d(np.cov(spread, rowvar=False)) / len(scores)
            both = (single - patients) / (len(scores) - 1)
        missed = np.maximum(0.0, np.broadcast_to(least, k) - np.diag(patients))
        patients = patients + np.diag(missed)
        return cls(scores.mean(0), patients, trainings, both, len(scores), patient_count)

    def margin(self, weights: Array, confidence: float) -> float:
        """Half the width of the interval of a weighted sum of the means.

        Args:
            weights: (k,).
            confidence: such as 0.95.
        """
        by_patients = float(weights @ self.patients @ weights)
        by_trainings = float(weights @ self.trainings @ weights)
        by_both = max(0.0, float(weights @ self.both @ weights))
        squared = by_patients * _quantile(confidence, self.patient_count) ** 2
        if self.training_count > 1:
            further = max(0.0, by_trainings - by_both)
            squared += further * _quantile(confidence, self.training_count) ** 2
        return float(squared**0.5) if squared >= 0 else float("nan")


@lru_cache(maxsize=64)
def _quantile(confidence: float, count: int) -> float:
    """Student's, for a mean of so many."""
    return float(student.ppf((1 + confidence) / 2, max(1, count - 1)))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two weighted sums of the same means, such as leakage.

    Attributes:
        components: of the means.
        over, under: (k,) weights of the sum above the line and of the one below.
        lesser: other estimates of the same means, whose truth is never above that of `components`
            and is not above 0 by chance alone: the lower end is no higher than theirs.
    """

    components: Components
    over: Array
    under: Array
    lesser: Components | None = None

    @property
    def estimate(self) -> float:
        """The ratio; NaN if what is below the line is not above 0."""
        under = float(self.under @ self.components.means)
        return float(self.over @ self.components.means) / under if under > 0 else float("nan")

    def interval(self, confidence: float) -> tuple[float, float]:
        """Both ends; infinite where what is below the line is not surely above 0, or NaN."""
        estimate, under_low = self.estimate, self.under_low(confidence)
        if not np.isfinite([estimate, under_low]).all():
            return float("nan"), float("nan")
        if under_low <= 0:
            return -float("inf"), float("inf")

        low, high = (self._end(self.components, confidence, side) for side in (-1, 1))
        if self.lesser is not None:
            low = min(low, self._end(self.lesser, confidence, -1))
        return low, high

    def _end(self, components: Components, confidence: float, direction: int) -> float:
        """The last ratio that the data do not contradict, going from the estimate to one side."""

        def excess(ratio: float) -> float:
            """Above 0 for a ratio that the data contradict."""
            weights = self.over - ratio * self.under
            distance = abs(float(weights @ components.means))
            return distance - components.margin(weights, confidence)

        means = components.means
        start = float(self.over @ means) / float(self.under @ means)
        return _end(excess, start, direction)

    def under_low(self, confidence: float) -> float:
        """Lower end of the interval of what is below the line."""
        under = float(self.under @ self.components.means)
        return under - self.components.margin(self.under, confidence)


def _end(excess: Callable[[float], float], start: float, direction: int) -> float:
    """Where `excess` first rises above 0, going from `start` in one direction."""
    inside, step = start, STEP
    while step < FARTHEST:
        outside = start + direction * step
        if excess(outside) > 0:
            return float(brentq(excess, inside, outside)) if excess(inside) < 0 else inside
        inside, step = outside, 1.25 * step
    return direction * float("inf")
