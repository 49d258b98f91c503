"""What each method cost to fit and apply, next to the cost of training one victim, in one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medshield.cost import Cost, mean_cost
from medshield.places import Places
from medshield.release_run import COST
from medshield.threats import parse_cell
from medshield.verifying import Evidence

HEADER = (
    *("what", "eps", "images", "epochs", "fit seconds", "apply seconds", "fit passes"),
    *("apply passes", "seconds / victim's", "passes / victim's"),
)
"""A victim's training stands under "fit". A pass is one image going through a surrogate forward
and back; forward alone is a third. Seconds are wall time without reading and writing files. The
ratios are to a victim that trains on as many images as were protected."""


@dataclass(frozen=True)
class Spent:
    """What one release cost, and the victims that judged it.

    Attributes:
        method: its name.
        epsilon: its radius, as a person reads it.
        images: protected.
        fit, apply: None where it was not seen from beginning to end: a run that was resumed.
        victim: name of the cell.
        training: the mean cost of training it once; None if it was never counted.
        training_images, epochs: of one training.
    """

    method: str
    epsilon: str
    images: int
    fit: Cost | None
    apply: Cost | None
    victim: str
    training: Cost | None
    training_images: int
    epochs: int

    @classmethod
    def on(cls, method: str, epsilon: str, release: Path, evidence: Evidence) -> Spent:
        """Of a release and its verification; the victim is the first that trains plainly."""
        names = list(evidence.facts["cost"])
        victim = next((name for name in names if parse_cell(name).is_plain), names[0])
        training = parse_cell(victim).training
        epochs = evidence.facts["epochs"]
        try:
            kept = json.loads((Places(release.resolve()).private / COST).read_text())
        except FileNotFoundError:
            kept = {"fit": None, "apply": None}
        return cls(
            method=method,
            epsilon=epsilon,
            images=sum(evidence.facts["examples"].values()),
            fit=_cost(kept["fit"]),
            apply=_cost(kept["apply"]),
            victim=victim,
            training=_cost(evidence.facts["cost"][victim]),
            training_images=evidence.facts["examples"]["train"],
            epochs=epochs["standard" if training == "standard" else "adversarial"],
        )


def _cost(kept: dict[str, float] | None) -> Cost | None:
    return Cost(**kept) if kept else None


def rows(spent: Sequence[Spent]) -> list[tuple[Any, ...]]:
    """The victim's row and one per release, as HEADER has it; None where nothing is known."""
    if not spent:
        return []
    training = mean_cost(each.training for each in spent)
    first = spent[0]
    victim = (f"one {first.victim}", None, first.training_images, first.epochs)
    costs = (_seconds(training), None, _passes(training), None, None, None)
    return [(*victim, *costs), *(_row(each, training) for each in spent)]


def _row(spent: Spent, training: Cost | None) -> tuple[Any, ...]:
    fit, apply = spent.fit, spent.apply
    whole = Cost(fit.seconds + apply.seconds, fit.passes + apply.passes) if fit and apply else None
    return (
        *(spent.method, spent.epsilon, spent.images, None),
        *(_seconds(fit), _seconds(apply), _passes(fit), _passes(apply)),
        *_shares(whole, spent.images, training, spent.training_images),
    )


def _shares(
    whole: Cost | None, images: int, training: Cost | None, training_images: int
) -> tuple[float | None, float | None]:
    """Seconds and passes of protecting an image, in those that training on it takes."""
    if not whole or not training:
        return None, None
    more = images / training_images
    return (
        _ratio(whole.seconds, training.seconds * more),
        _ratio(whole.passes, training.passes * more),
    )


def _seconds(cost: Cost | None) -> float | None:
    return round(cost.seconds, 1) if cost else None


def _passes(cost: Cost | None) -> int | None:
    return round(cost.passes) if cost else None


def _ratio(value: float, unit: float) -> float | None:
    return round(value / unit, 2) if unit else None


def lines(table: Sequence[tuple[Any, ...]]) -> list[list[str]]:
    """The header and the rows as text."""
    shown = [["" if value is None else f"{value}" for value in row] for row in table]
    return [list(HEADER), *shown]
