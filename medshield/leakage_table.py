"""What each release leaks under each cell, with intervals: the table that aims are set by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

from medshield.evidence import CellResult, Leakage
from medshield.trials import CLEAN_BEST, LAST

SELECTIONS = {LAST: "last epoch", CLEAN_BEST: "clean-picked epoch"}


@dataclass(frozen=True)
class Leaked:
    """One release under one cell.

    Attributes:
        method, epsilon: as given to `protect`.
        cell: its name.
        leakages: score and selection -> the leakage, decision before ranking.
    """

    method: str
    epsilon: str
    cell: str
    leakages: dict[tuple[str, str], Leakage]

    @classmethod
    def under(cls, method: str, epsilon: str, result: CellResult) -> Leaked:
        """From the evidence of one cell."""
        known = {(each.score, each.selection): each for each in result.leakages}
        scores = dict.fromkeys([result.decision, *(each.score for each in result.leakages)])
        order = [(score, selection) for score in scores for selection in SELECTIONS]
        return cls(
            method, epsilon, result.cell.name, {key: known[key] for key in order if key in known}
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        values = [
            {
                "score": score,
                "selection": selection,
                "estimate": leakage.estimate,
                "low": leakage.low,
                "high": leakage.high,
            }
            for (score, selection), leakage in self.leakages.items()
        ]
        return {
            "method": self.method,
            "eps": self.epsilon,
            "cell": self.cell,
            "leakages": values,
        }


def lines(table: Sequence[Leaked]) -> list[list[str]]:
    """The header and a row per cell, method and eps: leakage [95 % interval], 1 is all of it."""
    keys = list(dict.fromkeys(key for leaked in table for key in leaked.leakages))
    header = ["cell", "images", *(_column(*key) for key in keys)]
    order = sorted(table, key=lambda leaked: (leaked.cell, leaked.epsilon, leaked.method))
    rows = [
        [
            leaked.cell,
            f"{leaked.method} {leaked.epsilon}",
            *(_interval(leaked.leakages.get(key)) for key in keys),
        ]
        for leaked in order
    ]
    return [header, *rows]


def _column(score: str, selection: str) -> str:
    return f"{score.replace('_', ' ')}, {SELECTIONS[selection]}"


def _interval(leakage: Leakage | None) -> str:
    if leakage is None:
        return ""
    if isnan(leakage.estimate):
        return "unknown"
    if not isfinite(leakage.high - leakage.low):  # clean images may teach nothing
        return f"{leakage.estimate:.2f} [no bounds]"
    return f"{leakage.estimate:.2f} [{leakage.low:.2f}, {leakage.high:.2f}]"
