"""Where the marks of each figure lie; `figures.html.jinja` draws them as inline SVG.

Along the axis of values, places are per cent of the figure's width: SVG takes them as they are,
so a figure is as wide as the screen while its marks and words keep their size. Across, they are
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medshield.evidence import PARTLY_LEAKAGE, PROTECTED_LEAKAGE
from medshield.reports.document import (
    Document,
    arms_of,
    decisive,
    ends_of,
    leakage_text,
    named,
    number,
    score_text,
)
from medshield.reports.words import cell_leakage, cells_at
from medshield.trials import LAST

PITCH = 14
"""From one mark to the one below, px."""
WIDEST = (-0.5, 1.5)
"""What is shown of leakage at most; an interval that goes on ends in an arrow."""


@dataclass(frozen=True)
class Axis:
    """A scale of values.

    Attributes:
        low, high: its ends.
        ticks: values that are marked, with their words.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float | None) -> float | None:
        """Per cent of the width, kept within the ends; None for no value."""
        if value is None:
            return None
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def marked(self) -> list[tuple[float, str]]:
        """Place and words of each tick."""
        return [(self.place(value) or 0.0, text) for value, text in self.ticks]


SCORES = Axis(0.0, 1.0, ((0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")))


@dataclass(frozen=True)
class Mark:
    """A value with an interval.

    Attributes:
        kind: of the mark, a class of the style sheet: shape and colour.
        y: px.
        at, low, high: per cent; None where not defined.
        cut_low, cut_high: the interval goes on beyond the axis.
        faint: it does not count.
    """

    kind: str
    y: float
    at: float | None
    low: float | None
    high: float | None
    cut_low: bool = False
    cut_high: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a figure.

    Attributes:
        label, detail: what is written beside it.
        marks: of it.
        floor: per cent; None for none.
        height: px.
        text: all of it in words, for who can't see it.
    """

    label: str
    detail: str
    marks: tuple[Mark, ...]
    floor: float | None
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Rows over one axis.

    Attributes:
        title: what is shown.
        axis: of all rows.
        rows: at least one.
        bands: (from, to, kind) of tinted ranges, per cent.
    """

    title: str
    axis: Axis
    rows: tuple[Row, ...]
    bands: tuple[tuple[float, float, str], ...] = ()


def arm_kinds(document: Document) -> dict[str, str]:
    """Arm -> class of the style sheet, the same in every figure."""
    return {arm: f"arm{number}" for number, arm in enumerate(arms_of(document))}


def own_cells(document: Document, level: str) -> list[Document]:
    """The cells that a level adds to those below it."""
    return [cell for cell in cells_at(document, level) if cell["level"] == level]


def score_names(document: Document) -> list[str]:
    """The scores by which leakage is measured, the model's own decision first."""
    leakages = (one for cell in document["cells"] for one in cell["leakage"])
    return list(dict.fromkeys(one["score"] for one in leakages))


def scores_chart(document: Document, cells: Sequence[Document], score: str) -> Chart:
    """A score of every arm at the last epoch, a row per cell."""
    kinds = arm_kinds(document)
    return Chart(named(score), SCORES, tuple(_scores_row(cell, score, kinds) for cell in cells))


def _scores_row(cell: Document, score: str, kinds: dict[str, str]) -> Row:
    marks, said = [], []
    for line, (arm, selections) in enumerate(cell["scores"].items()):
        found = selections.get(LAST, {}).get(score, {})
        low, high = ends_of(found)
        marks.append(_mark(SCORES, kinds[arm], PITCH * (line + 0.75), found.get("mean"), low, high))
        said.append(f"{arm} {score_text(found)}")
    floor = next((one["floor"] for one in cell["leakage"] if one["score"] == score), None)
    return Row(
        label=cell["cell"],
        detail="",
        marks=tuple(marks),
        floor=SCORES.place(floor),
        height=PITCH * (len(marks) + 0.5),
        text=f"{cell['cell']}, {named(score)}: {', '.join(said)}; floor {number(floor)}",
    )


def leakage_chart(cells: Sequence[Document]) -> Chart:
    """Every leakage of every cell with its interval, against the limits of the verdicts."""
    axis = _leakage_axis(cells)
    first = next((one["score"] for cell in cells for one in cell["leakage"]), "")
    limits = [axis.place(limit) or 0.0 for limit in (PROTECTED_LEAKAGE, PARTLY_LEAKAGE)]
    return Chart(
        title="leakage",
        axis=axis,
        rows=tuple(_leakage_row(cell, axis, first) for cell in cells),
        bands=((0.0, limits[0], "good"), (limits[0], limits[1], "fair")),
    )


def _leakage_axis(cells: Sequence[Document]) -> Axis:
    """From 0 to 1, and further where intervals go, in quarters."""
    known = [
        one[end]
        for cell in cells
        for one in cell["leakage"]
        for end in ("low", "high", "estimate")
        if one.get(end) is not None
    ]
    low = max(WIDEST[0], min(0.0, math.floor(4 * min(known, default=0.0)) / 4))
    high = min(WIDEST[1], max(1.0, math.ceil(4 * max(known, default=1.0)) / 4))
    limits = (PROTECTED_LEAKAGE, PARTLY_LEAKAGE, 0.0, 1.0)
    ends = [end for end in (low, high) if end not in limits]
    return Axis(low, high, tuple((value, f"{value:g}") for value in sorted([*limits, *ends])))


def _leakage_row(cell: Document, axis: Axis, first: str) -> Row:
    deciding = decisive(cell)
    marks = []
    for line, one in enumerate(cell["leakage"]):
        kind = "decision" if one["score"] == first else "ranking"
        faint = not one.get("counts", True)
        kind += " decisive" if one is deciding else ""
        y = PITCH * (line + 0.75)
        ends = (one.get("estimate"), one.get("low"), one.get("high"))
        marks.append(_mark(axis, kind, y, *ends, faint=faint))
    said = [f"{named(m['score'])}, {m['selection']}: {leakage_text(m)}" for m in cell["leakage"]]
    return Row(
        label=cell["cell"],
        detail=f"{cell['verdict']}; {cell_leakage(cell)}" if deciding else cell["verdict"],
        marks=tuple(marks),
        floor=None,
        height=PITCH * (len(marks) + 0.5),
        text=f"{cell['cell']}, leakage: {'; '.join(said)}",
    )


def _mark(
    axis: Axis,
    kind: str,
    y: float,
    at: float | None,
    low: float | None,
    high: float | None,
    *,
    faint: bool = False,
) -> Mark:
    return Mark(
        kind=kind,
        y=y,
        at=None if at is None or not axis.low <= at <= axis.high else axis.place(at),
        low=axis.place(low),
        high=axis.place(high),
        cut_low=low is not None and low < axis.low,
        cut_high=high is not None and high > axis.high,
        faint=faint,
    )


def classes_chart(document: Document, cell: Document) -> Chart | None:
    """Scores of each class, a row per class; None where the document has none."""
    per_class = cell.get("per_class") or {}
    kinds = arm_kinds(document)
    names = dict.fromkeys(name for values in per_class.values() for name in values)
    rows = []
    for name in names:
        found = {arm: _as_score(values.get(name)) for arm, values in per_class.items()}
        marks = [
            _mark(SCORES, kinds[arm], PITCH * (line + 0.75), score.get("mean"), *ends_of(score))
            for line, (arm, score) in enumerate(found.items())
            if arm in kinds
        ]
        said = ", ".join(f"{arm} {score_text(score)}" for arm, score in found.items())
        height = PITCH * (len(marks) + 0.5)
        rows.append(Row(name, "", tuple(marks), None, height, f"{name}: {said}"))
    return Chart(cell["cell"], SCORES, tuple(rows)) if rows else None


def _as_score(value: float | Document | None) -> Document:
    """A class's score, which may be a bare number."""
    if value is None:
        return {}
    return {"mean": value} if isinstance(value, int | float) else value
