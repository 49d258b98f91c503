"""Scores of every arm of a cell, of all test patients and of draws of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medshield.intervals import Components, Ratio
from medshield.tasks import Array, Task

BOOTSTRAP_DRAWS = 500
CHANCE_RANKING = 0.5


@dataclass(frozen=True)
class Sample:
    """What a cell's victims scored.

    Attributes:
        arms, names: of the last two axes.
        ranking: the name among them that is of a ranking.
        scores: (trainings, arms, names) of all test patients.
        drawn: (draws, trainings, arms, names) of patients drawn with replacement.
        patients: in the test part.
        grain: variance that draws of few patients miss, see `one_patient`.
    """

    arms: tuple[str, ...]
    names: tuple[str, ...]
    ranking: str
    scores: NDArray[np.float64]
    drawn: NDArray[np.float64]
    patients: int
    grain: float

    @classmethod
    def of(
        cls,
        task: Task,
        arms: Mapping[str, Sequence[Array]],
        targets: Array,
        groups: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Sample:
        """Score predictions.

        Args:
            task: gives the scores: of the model's own decision, and of its ranking.
            arms: predictions on the test examples, one array per training; each arm has as many.
            targets: of the test examples.
            groups: patient numbers of the test examples; drawn as a whole.
            rng: for the draws.
        """
        names = tuple(dict.fromkeys([task.decision, task.ranking]))
        patients, of_patient = np.unique(groups, return_inverse=True)
        count = len(patients)
        drawn = rng.multinomial(count, np.full(count, 1 / count), BOOTSTRAP_DRAWS)
        # The first row is the test part itself; the others say how often each image was drawn.
        weights = np.vstack([np.ones(count), drawn])[:, of_patient]
        found = [
            [task.scores_of_draws(predictions, targets, weights) for predictions in of_all]
            for of_all in zip(*arms.values(), strict=True)
        ]
        scores = np.array([[[each[name] for name in names] for each in row] for row in found])
        return cls(
            arms=tuple(arms),
            names=names,
            ranking=task.ranking,
            scores=scores[..., 0],
            drawn=np.moveaxis(scores[..., 1:], -1, 0),
            patients=count,
            grain=one_patient(targets, groups),
        )

    def leakage(self, name: str, protected: str, clean: str, floor: str | float) -> Ratio:
        """(protected - floor) / (clean - floor) by one score.

        Args:
            name: of the score.
            protected: the arm asked for.
            clean: the arm that it is compared with.
            floor: an arm, or what the constant predictor scores; of a ranking 0.5.
        """
        arms, constant = [protected, clean], None
        if isinstance(floor, str):
            arms.append(floor)
        else:
            constant = floor
        return Ratio(
            self.components(name, arms, constant),
            over=np.array([1.0, 0, -1]),
            under=np.array([0, 1.0, -1]),
            lesser=(
                self.components(name, arms, constant, by_training=False)
                if name == self.ranking
                else None
            ),
        )

    def components(
        self,
        name: str,
        arms: Sequence[str],
        constant: float | None = None,
        *,
        by_training: bool = True,
    ) -> Components:
        """Mean scores of some arms; of a ranking the distance from 0.5 counts.

        A ranking that is wrong as a whole is turned around with one sign.

        Args:
            name: of the score.
            arms: in the order wanted.
            constant: a score that nothing varies, to stand last; of a ranking 0.5 whatever it is.
            by_training: whether the distance of each training counts, which a limited number of
                patients makes look larger than it is; or that of their mean, which is never larger.
        """
        columns, score = [self.arms.index(arm) for arm in arms], self.names.index(name)
        scores, drawn = self.scores[:, columns, score], self.drawn[:, :, columns, score]
        spread = scores
        if name == self.ranking:
            # Means of absolute values; but three values near 0 vary by more than these do, so
            # that their spread is taken with signs, turned as their mean says.
            above = scores - CHANCE_RANKING
            turned = _sign(above.mean(0))
            spread = CHANCE_RANKING + turned * above
            drawn = CHANCE_RANKING + (_sign(above) if by_training else turned) * (
                drawn - CHANCE_RANKING
            )
            scores = CHANCE_RANKING + abs(above) if by_training else spread
            constant = None if constant is None else CHANCE_RANKING
        least = np.full(len(columns), self.grain)
        if constant is not None:
            scores, spread, drawn = (_with_last(each, constant) for each in (scores, spread, drawn))
            least = np.append(least, 0.0)
        return Components.of(scores, drawn, self.patients, least, spread)

    def interval(self, arm: str, name: str, confidence: float) -> tuple[float, float]:
        """Of the mean score of an arm."""
        _, low, high = self._weighted({arm: 1.0}, name, confidence)
        return low, high

    def difference(
        self, arm: str, other: str, name: str, confidence: float
    ) -> tuple[float, float, float]:
        """The mean score of an arm less that of another, and the ends of its interval."""
        return self._weighted({arm: 1.0, other: -1.0}, name, confidence)

    def _weighted(
        self, weights: Mapping[str, float], name: str, confidence: float
    ) -> tuple[float, float, float]:
        """A weighted sum of arms' mean scores, and the ends of its interval."""
        columns, score = [self.arms.index(arm) for arm in weights], self.names.index(name)
        scores, drawn = self.scores[:, columns, score], self.drawn[:, :, columns, score]
        components = Components.of(scores, drawn, self.patients, self.grain)
        each = np.array(list(weights.values()))
        value, margin = float(each @ components.means), components.margin(each, confidence)
        return value, value - margin, value + margin


def _sign(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 or -1."""
    return np.where(values < 0, -1.0, 1.0)


def _with_last(values: NDArray[np.float64], constant: float) -> NDArray[np.float64]:
    """One more along the last axis, the same throughout."""
    return np.concatenate([values, np.full((*values.shape[:-1], 1), constant)], -1)


def one_patient(targets: Array, groups: NDArray[np.int64]) -> float:
    """How far one patient of each class or finding moves a score, as a variance.

    Where all of a few test patients are predicted alike, a bootstrap sees no variance at all.
    With this at the least, n right answers out of n leave about as much doubt as the rule of three
    does (Hanley and Lippman-Hand 1983), and with hundreds of patients it does not matter.

    Args:
        targets: of the test examples, as the task has them: (n,) classes, (n, findings) or masks.
        groups: (n,) patient numbers.
    """
    if targets.ndim == 1:
        strata = [targets == one for one in np.unique(targets)]
    elif targets.ndim == 2:
        strata = [column > 0.5 for column in targets.T if column.any()]
    else:
        strata = [np.ones(len(targets), bool)]
    patients = [len(np.unique(groups[rows])) for rows in strata]
    return float(sum((1 / (len(strata) * count)) ** 2 for count in patients))
