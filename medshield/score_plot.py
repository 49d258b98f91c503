"""Test scores of every method and eps, a panel for each cell: a table's first columns as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from medshield.arms import CLEAN, NOISE, PROTECTED
from medshield.benchmark_table import GUESS, UNKNOWN, BenchmarkTable, BesidePaper
from medshield.frontier import COLOURS, MARKERS, figure_for
from medshield.paper_figures import SOURCE

BLACK, GREY = COLOURS[6], "0.45"
DASHES = ((0, (5, 2)), (0, (6, 1.5, 1, 1.5)), (0, (9, 2, 2, 2)), (0, (2.5, 1)))
"""Of random noise, by eps: told apart where colours are not."""
STEP = 0.17
"""Between points of one method, which lie one apart."""
MOST_IN_A_ROW = 3


def draw(table: BenchmarkTable, target: Path) -> bool:
    """Plot test scores as a PNG: points with their spread over trainings, by method and eps.

    The score is that of the paper where the table holds figures of it, else the models' own
    decision. Clean images, random noise and the constant guess are lines; the paper's figures are
    hollow.

    Args:
        table: what was found.
        target: the file to write.

    Returns:
        Whether it was drawn, see `frontier.figure_for`.
    """
    score = _score(table)
    rows = [row for row in table.rows if row[5] == score]
    cells = list(dict.fromkeys(row[3] for row in rows))
    width = min(MOST_IN_A_ROW, max(1, len(cells)))
    height = max(1, math.ceil(len(cells) / width))
    methods = _methods(table, rows)
    side = max(2.8, 1.0 + 0.62 * len(methods))
    across = max(5.6, 1.4 + width * side)
    figure = figure_for(target, figsize=(across, 1.7 + height * 2.7))
    if figure is None:
        return False
    panels = figure.subplots(height, width, squeeze=False, sharey=True)
    radii = _radii(table, rows)
    for number, axes in enumerate(panels.flat):
        if number >= len(cells):
            axes.set_visible(False)
            continue
        own = [row for row in rows if row[3] == cells[number]]
        theirs = [one for one in table.paper if one.cell == cells[number]]
        _panel(axes, cells[number], own, theirs, methods, radii)
    names = ", ".join(dict.fromkeys(str(row[0]) for row in rows))
    figure.suptitle(names, fontsize=11, fontweight="bold")
    figure.supylabel(f"{_named(score)} on clean test images, last epoch", fontsize=9)
    handles = {
        label: handle
        for axes in panels.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        order = sorted(handles, key=lambda label: _legend_rank(label, radii))
        figure.legend(
            [handles[label] for label in order],
            order,
            loc="outside lower center",
            ncols=max(1, min(4, len(order), int(across / 1.9))),
            frameon=False,
            fontsize=8,
            title="points: mean over trainings; bars and band: their standard deviation",
            title_fontsize=8,
        )
    figure.savefig(target, dpi=150)
    return True


def _score(table: BenchmarkTable) -> str:
    """The paper's, or that of the models' own decision."""
    if table.paper:
        return table.paper[0].figure.score
    for leaked in table.leaked:
        for name, _ in leaked.leakages:
            return name
    return "accuracy"


def _named(score: str) -> str:
    """A score as people write it."""
    known = {"iou": "IoU", "auroc": "AUROC", "map": "mAP"}
    return known.get(score, score.replace("_", " "))


def _methods(table: BenchmarkTable, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Those that were run, and after them those of which the paper alone has figures."""
    own = [row[1] for row in rows if row[4] == PROTECTED]
    theirs = [one.figure.method for one in table.paper if one.images != CLEAN]
    return list(dict.fromkeys([*own, *theirs]))


def _radii(table: BenchmarkTable, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Every eps, the smallest first, and last the one that the paper does not say."""
    known = {row[2] for row in rows if row[4] == PROTECTED}
    known |= {one.epsilon for one in table.paper if one.images != CLEAN and one.figure.epsilon}
    return [*sorted(known, key=Fraction), UNKNOWN]


def _once(rows: Sequence[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """Rows without what releases have in common, such as clean images, more than once."""
    shared = (CLEAN, GUESS, NOISE)
    return {
        (row[4], row[2] if row[4] == NOISE else "") if row[4] in shared else row: row
        for row in rows
    }.values()


def _panel(
    axes: Any,
    cell: str,
    rows: Sequence[tuple[Any, ...]],
    theirs: Sequence[BesidePaper],
    methods: Sequence[str],
    radii: Sequence[str],
) -> None:
    axes.set_title(cell, fontsize=10)
    places = _places(rows, theirs, methods, radii)
    for row in _once(rows):
        if row[4] == CLEAN:
            axes.axhline(row[6], color=BLACK, linewidth=1.4, label="clean images")
            if row[7] is not None:
                low, high = row[6] - row[7], row[6] + row[7]
                axes.axhspan(low, high, color=BLACK, alpha=0.12, linewidth=0)
        elif row[4] == GUESS:
            axes.axhline(row[6], color=GREY, linewidth=1.2, linestyle=":", label=GUESS)
        elif row[4] == NOISE:
            number = radii.index(row[2])
            axes.axhline(
                row[6],
                color=COLOURS[number % 6],
                linewidth=1.1,
                linestyle=DASHES[number % len(DASHES)],
                label=f"{NOISE} {row[2]}",
            )
        elif row[4] == PROTECTED:
            number = radii.index(row[2])
            axes.errorbar(
                places[row[1], row[2], False],
                row[6],
                yerr=row[7] or 0.0,
                color=COLOURS[number % 6],
                marker=MARKERS[number % len(MARKERS)],
                markersize=6.5,
                linewidth=0,
                elinewidth=1.2,
                capsize=3,
                zorder=3,
                label=f"protected, {row[2]}",
            )
    for one in theirs:
        _hollow(axes, one, radii, places)
    axes.set_xticks(range(len(methods)), methods, rotation=25, ha="right", fontsize=9)
    axes.set_xlabel("method", fontsize=9)
    axes.set_xlim(-0.6, len(methods) - 0.4)
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", alpha=0.25)


def _places(
    rows: Sequence[tuple[Any, ...]],
    theirs: Sequence[BesidePaper],
    methods: Sequence[str],
    radii: Sequence[str],
) -> dict[tuple[str, str, bool], float]:
    """Where each point stands: of one method side by side, by eps, own points before the paper's.

    Returns:
        x by method, eps, and whether it is the paper's.
    """
    points = {(row[1], row[2], False) for row in rows if row[4] == PROTECTED}
    points |= {(one.figure.method, _radius(one), True) for one in theirs if one.images != CLEAN}
    places = {}
    for number, method in enumerate(methods):
        own = [point for point in points if point[0] == method]
        own.sort(key=lambda point: (radii.index(point[1]), point[2]))
        for place, point in enumerate(own):
            places[point] = number + STEP * (place - (len(own) - 1) / 2)
    return places


def _radius(one: BesidePaper) -> str:
    return one.epsilon if one.figure.epsilon else UNKNOWN


def _hollow(
    axes: Any,
    one: BesidePaper,
    radii: Sequence[str],
    places: Mapping[tuple[str, str, bool], float],
) -> None:
    """A figure of the paper; of clean images at the left edge."""
    if one.images == CLEAN:
        place, colour, marker, name = -0.5, BLACK, ">", "clean images"
    else:
        radius = _radius(one)
        number = radii.index(radius)
        place = places[one.figure.method, radius, True]
        known = radius != UNKNOWN
        colour = COLOURS[number % 6] if known else GREY
        marker = MARKERS[number % len(MARKERS)] if known else "*"
        name = radius if known else f"eps {UNKNOWN}"
    axes.plot(
        place,
        one.figure.value,
        marker,
        color=colour,
        markerfacecolor="white",
        markeredgewidth=1.3,
        markersize=6.5,
        zorder=3,
        clip_on=False,
        label=f"{SOURCE}, {name}",
    )
    if one.figure.is_constant:
        axes.plot(
            place,
            one.figure.value,
            "x",
            color=BLACK,
            markersize=3.5,
            linewidth=0,
            zorder=4,
            clip_on=False,
            label=f"{SOURCE}, as a {GUESS}",
        )


def _legend_rank(label: str, radii: Sequence[str]) -> tuple[int, int]:
    """Lines, then points, then the paper; each by eps."""
    kinds = ("clean", GUESS, NOISE, "protected", f"{SOURCE}, clean", SOURCE)
    kind = next(number for number, kind in enumerate(kinds) if label.startswith(kind))
    ends = (number for number, radius in enumerate(radii) if label.endswith(f" {radius}"))
    return kind, next(ends, len(radii))
