"""Learning curves as small multiples: where each line lies, for `figures.html.jinja` to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medshield.reports.document import Document, named, number
from medshield.reports.figures import arm_kinds

CURVE_SIDES = (300.0, 120.0)
"""Units of a small multiple's own coordinates; it is stretched to its place."""


@dataclass(frozen=True)
class Curve:
    """The test score of one arm over epochs.

    Attributes:
        kind: class of the arm.
        line: SVG path of the mean over trainings.
        band: SVG path round the lowest and the highest of them; empty for one training.
    """

    kind: str
    line: str
    band: str


@dataclass(frozen=True)
class Curves:
    """A small multiple.

    Attributes:
        label: the cell.
        curves: one per arm.
        epochs: their number.
        floor: in the multiple's units from the top; None for none.
        text: all of it in words.
    """

    label: str
    curves: tuple[Curve, ...]
    epochs: int
    floor: float | None
    text: str


def curves_of(document: Document, cell: Document, score: str) -> Curves | None:
    """The test score over epochs, a curve per arm; None where none was kept."""
    kinds, curves, epochs, said = arm_kinds(document), [], 0, []
    for arm, trainings in cell.get("curves", {}).items():
        runs = [[epoch.get(score) for epoch in training["test"]] for training in trainings]
        steps = [[v for v in step if v is not None] for step in zip(*runs, strict=False)]
        epochs = max(epochs, len(steps))
        means = [sum(step) / len(step) if step else None for step in steps]
        band = _band(steps) if len(runs) > 1 else ""
        curves.append(Curve(kinds[arm], _path(means), band))
        ends = [number(mean) for mean in (means[:1] + means[-1:])]
        said.append(f"{arm} from {ends[0]} to {ends[-1]}" if ends else f"{arm}: nothing")
    if not epochs:
        return None
    floor = next((one["floor"] for one in cell["leakage"] if one["score"] == score), None)
    return Curves(
        label=cell["cell"],
        curves=tuple(curves),
        epochs=epochs,
        floor=None if floor is None else _down(floor),
        text=f"{cell['cell']}, {named(score)} over {epochs} epochs: {', '.join(said)}",
    )


def _down(value: float) -> float:
    return round(CURVE_SIDES[1] * (1 - min(1.0, max(0.0, value))), 1)


def _across(step: int, steps: int) -> float:
    return round(CURVE_SIDES[0] * (step / (steps - 1) if steps > 1 else 0.5), 1)


def _path(values: Sequence[float | None]) -> str:
    """A line through the values, interrupted where there is none; a dash for a lone one."""
    parts, pen_is_down = [], False
    for step, value in enumerate(values):
        if value is not None:
            x, y = _across(step, len(values)), _down(value)
            parts.append(f"{'L' if pen_is_down else 'M'}{x:g} {y:g}")
            if not pen_is_down:
                parts.append("h0.1")  # a point of its own length, as round ends draw it
        pen_is_down = value is not None
    return " ".join(parts)


def _band(steps: Sequence[Sequence[float]]) -> str:
    """Round the lowest and the highest of each step; steps without values are left out."""
    known = [(_across(i, len(steps)), step) for i, step in enumerate(steps) if step]
    there = [f"{x:g} {_down(max(step)):g}" for x, step in known]
    back = [f"{x:g} {_down(min(step)):g}" for x, step in reversed(known)]
    return f"M{' L'.join(there + back)} Z" if len(known) > 1 else ""
