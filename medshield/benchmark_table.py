"""What a comparison found, as CSV rows, Markdown and text: own scores beside the paper's."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from medshield import cost_table, frontier, leakage_table
from medshield.arms import ALONE, CLEAN, NOISE, PROTECTED
from medshield.frontier import Point
from medshield.leakage_table import Leaked
from medshield.paper_figures import CITATION, SOURCE, PaperFigure
from medshield.paper_figures import CLEAN as PAPER_CLEAN
from medshield.reports.document import finite
from medshield.tables import columns
from medshield.text import epsilon_text
from medshield.trials import ADVERSARIES, Cell
from medshield.verify_config import VerifyConfig

HEADER = ("set", "method", "eps", "cell", "arm", "score", "last", "sd", "best", "best sd", "n")
GUESS, PAPER = "constant guess", "paper"
"""Arms that no victim was trained on."""
USUAL_ADVERSARY = VerifyConfig.adversary
TRAINED_AS_IN_PAPER = ("standard", "adversarial", *ADVERSARIES)
UNKNOWN = "unknown"
"""The epsilon of a figure of the paper that does not say it."""
CONSTANT = "constant"


@dataclass(frozen=True)
class BesidePaper:
    """A figure of the paper, beside one cell.

    Attributes:
        cell: its name; trains as the paper did, as far as that is known.
        figure: of the set.
    """

    cell: str
    figure: PaperFigure

    @property
    def images(self) -> str:
        """What the victims were trained on, as a table's line is called."""
        if self.figure.method == PAPER_CLEAN:
            return CLEAN
        return f"{self.figure.method} {self.epsilon}"

    @property
    def epsilon(self) -> str:
        """As a person reads it; empty for clean images."""
        if self.figure.method == PAPER_CLEAN:
            return ""
        return epsilon_text(self.figure.epsilon) if self.figure.epsilon else f"(eps {UNKNOWN})"

    @property
    def text(self) -> str:
        """The value, marked if a constant guess scores it."""
        mark = f" ({CONSTANT})" if self.figure.is_constant else ""
        return f"{self.figure.value:.3f}{mark}"

    def row(self, name: str) -> tuple[Any, ...]:
        """As HEADER has it.

        Args:
            name: of the set.
        """
        figure = self.figure
        method = "" if figure.method == PAPER_CLEAN else figure.method
        epsilon = self.epsilon if figure.epsilon or not method else UNKNOWN
        values = (figure.value, None, None, None, None)
        return (name, method, epsilon, self.cell, PAPER, figure.score, *values)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        values = self.row("")
        return {
            "source": CITATION,
            "cell": self.cell,
            "arm": CLEAN if self.figure.method == PAPER_CLEAN else PROTECTED,
            "method": values[1],
            "eps": values[2],
            "score": self.figure.score,
            "value": self.figure.value,
            "constant": self.figure.is_constant,
        }


def beside(
    figures: Sequence[PaperFigure], cells: Iterable[tuple[Cell, Fraction]]
) -> tuple[BesidePaper, ...]:
    """The figures that belong beside what was run, each once.

    Args:
        figures: of the set.
        cells: that were run, each with each epsilon that it was run at.
    """
    found: dict[tuple[str, str], BesidePaper] = {}
    for cell, epsilon in cells:
        if cell.countermeasure != "none" or cell.training not in TRAINED_AS_IN_PAPER:
            continue
        for figure in figures:
            if figure.adversary == adversary_of(cell) and figure.epsilon in (None, epsilon):
                one = BesidePaper(cell.name, figure)
                found[one.cell, one.images] = one
    return tuple(found.values())


def paper_notes(paper: Sequence[BesidePaper]) -> list[str]:
    """How the paper's figures are to be read; nothing where there are none."""
    if not paper:
        return []
    rebuilt = "; columns of its table were put together again from an extract"
    unknown = ", and of AdvT it is not known which eps is meant"
    constant = (
        f". {CONSTANT}: a guess that never looks at the image scores the same, so the figure may "
        "say nothing of what was learned"
    )
    return [
        f"{SOURCE}: what the paper prints for this set ({CITATION}), with its own victims, "
        "schedule and split"
        + (rebuilt if any(one.figure.score == "accuracy" for one in paper) else "")
        + (unknown if any(UNKNOWN in one.images for one in paper) else "")
        + (constant if any(one.figure.is_constant for one in paper) else "")
    ]


def adversary_of(cell: Cell) -> Fraction | None:
    """The radius of adversarial training of a cell here; None where there is none."""
    if cell.training == "adversarial":
        return USUAL_ADVERSARY
    budget = ADVERSARIES.get(cell.training)
    return budget.epsilon if budget else None


@dataclass(frozen=True)
class BenchmarkTable:
    """All scores, long form, and the verdict of each release under each cell.

    Attributes:
        rows: one per set, method, eps, cell, arm and score; see HEADER.
        verdicts: (method, eps, cell, verdict, why).
        costs: one per method and eps, and first that of training one victim; see `cost_table`.
        points: how visible each release is, and what it leaks.
        leaked: what it leaks under each cell, by every score and choice of epoch.
        paper: figures of the paper, beside cells.
        notes: what a reader must know to read the figures.
    """

    rows: tuple[tuple[Any, ...], ...]
    verdicts: tuple[tuple[str, str, str, str, str], ...]
    costs: tuple[tuple[Any, ...], ...] = ()
    points: tuple[Point, ...] = ()
    leaked: tuple[Leaked, ...] = ()
    paper: tuple[BesidePaper, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as plain data."""
        names = ("method", "eps", "cell", "verdict", "why")
        document: dict[str, Any] = {
            "rows": [dict(zip(HEADER, row, strict=True)) for row in self.rows],
            "verdicts": [dict(zip(names, row, strict=True)) for row in self.verdicts],
            "cost": [dict(zip(cost_table.HEADER, row, strict=True)) for row in self.costs],
            "frontier": [point.to_json() for point in self.points],
            "leakage": [leaked.to_json() for leaked in self.leaked],
            "paper": [one.to_json() for one in self.paper],
            "notes": list(self.notes),
        }
        return finite(document)  # type: ignore[no-any-return]

    def to_markdown(self) -> str:
        """Every score (best epoch on released data in brackets); why; leakage; cost; visibility."""
        notes = [f"- {note}" for note in self.notes]
        return "\n\n".join([*map(_markdown, self._tables()), "\n".join(notes)]).rstrip()

    def to_text(self) -> str:
        """The same, aligned for a terminal."""
        return "\n\n".join([*map(columns, self._tables()), "\n".join(self.notes)]).rstrip()

    def write_csv(self, target: Path, name: str) -> None:
        """Write the rows, and those of the paper as rows of an arm of their own.

        Args:
            target: the file.
            name: of the set.
        """
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(self.rows)
            writer.writerows(one.row(name) for one in self.paper)

    def _tables(self) -> list[list[list[str]]]:
        return [
            self._score_lines(),
            self._verdict_lines(),
            leakage_table.lines(self.leaked),
            cost_table.lines(self.costs),
            frontier.lines(self.points),
        ]

    def _score_lines(self) -> list[list[str]]:
        scores = list(dict.fromkeys(row[5] for row in self.rows))
        table: dict[tuple[str, str], dict[str, str]] = {}
        for _, method, eps, cell, arm, score, last, spread, best, _, _ in self.rows:
            value = f"{last:.3f}" + (f" ±{spread:.3f}" if spread is not None else "")
            value += "" if best is None else f" ({best:.3f})"
            table.setdefault(line_of(method, eps, cell, arm), {})[score] = value
        for method, eps, cell, verdict, _ in self.verdicts:
            table[(cell, f"{method} {eps}")]["verdict"] = verdict
        theirs = []
        for one in self.paper:
            theirs = [f"{SOURCE}, {one.figure.score}"]
            table.setdefault((one.cell, one.images), {})[theirs[0]] = one.text
        header = ["cell", "images", *scores, *theirs, "verdict"]
        order = sorted(table, key=lambda key: (key[0], _rank(key[1])))
        rows = [[*key, *(table[key].get(score, "") for score in header[2:])] for key in order]
        return [header, *rows]

    def _verdict_lines(self) -> list[list[str]]:
        """Why each verdict came about; one line for all images that have the same of a cell."""
        images: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for method, eps, cell, verdict, why in self.verdicts:
            images[cell, verdict, why].append(f"{method} {eps}")
        rows = [
            [cell, verdict, ", ".join(sorted(names)), why]
            for (cell, verdict, why), names in sorted(images.items())
        ]
        return [["cell", "verdict", "images", "why"], *rows]


def _markdown(lines: list[list[str]]) -> str:
    header, *rows = lines
    table = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def line_of(method: str, eps: str, cell: str, arm: str) -> tuple[str, str]:
    """The line of a row: clean images are the same for all, noise for all of one eps."""
    if arm in (CLEAN, ALONE, GUESS):
        return cell, arm
    return cell, f"{NOISE} {eps}" if arm == NOISE else f"{method} {eps}"


def _rank(name: str) -> tuple[int, str]:
    """Clean images, the guess and noise before all methods."""
    known = {CLEAN: 0, ALONE: 0, GUESS: 1}
    return known.get(name, 2 if name.startswith(NOISE) else 3), name
