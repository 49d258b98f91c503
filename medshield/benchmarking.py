"""`medshield benchmark`: methods x eps x training on one folder, as the paper's table has it.

Protects and verifies as the other commands do. What is finished is found again, so a run that
was interrupted, or one that asks for more, only does what is missing.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from medshield import cost_table, frontier, leakage_table
from medshield.arms import ALONE, CLEAN, NOISE
from medshield.cost_table import Spent
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.evidence import CellResult
from medshield.frontier import Point
from medshield.leakage_table import Leaked
from medshield.method_names import versions_of
from medshield.methods import METHODS
from medshield.pretrained import read_backbone
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig
from medshield.protecting import protect
from medshield.reports.document import finite
from medshield.tables import columns
from medshield.text import epsilon_text
from medshield.threats import parse_cell
from medshield.trials import BEST, LAST, weights_of
from medshield.verify_config import VerifyConfig
from medshield.verifying import verify

HEADER = ("set", "method", "eps", "cell", "arm", "score", "last", "sd", "best", "best sd", "n")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to compare.

    Attributes:
        source: a labelled folder.
        output: where releases, trials and tables are kept; private.
        methods, epsilons, cells: every combination is run.
        seeds, epochs, image_size, adversary_steps: as for `verify`.
        seed: of keys and victims.
        annotations: where labels or masks are.
        device, workers, min_ssim: as for `protect`.
        surrogate_weights: as for `protect`, for the methods that ask a pretrained model.
        weights: as for `verify`.
    """

    source: Path
    output: Path
    methods: tuple[str, ...]
    epsilons: tuple[Fraction, ...]
    cells: tuple[str, ...]
    seeds: int = 3
    epochs: int | None = None
    image_size: int | None = None
    adversary_steps: int = 3
    seed: int = 0
    annotations: AnnotationOptions = field(default_factory=AnnotationOptions)
    device: str = "auto"
    workers: int = 2
    min_ssim: float | None = None
    surrogate_weights: Path | None = None
    weights: tuple[Path, ...] = ()


@dataclass(frozen=True)
class BenchmarkTable:
    """All scores, long form, and the verdict of each release under each cell.

    Attributes:
        rows: one per set, method, eps, cell, arm and score; see HEADER.
        verdicts: (method, eps, cell, verdict, why).
        costs: one per method and eps, and first that of training one victim; see `cost_table`.
        points: how visible each release is, and what it leaks.
        leaked: what it leaks under each cell, by every score and choice of epoch.
    """

    rows: tuple[tuple[Any, ...], ...]
    verdicts: tuple[tuple[str, str, str, str, str], ...]
    costs: tuple[tuple[Any, ...], ...] = ()
    points: tuple[Point, ...] = ()
    leaked: tuple[Leaked, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as plain data."""
        names = ("method", "eps", "cell", "verdict", "why")
        document: dict[str, Any] = {
            "rows": [dict(zip(HEADER, row, strict=True)) for row in self.rows],
            "verdicts": [dict(zip(names, row, strict=True)) for row in self.verdicts],
            "cost": [dict(zip(cost_table.HEADER, row, strict=True)) for row in self.costs],
            "frontier": [point.to_json() for point in self.points],
            "leakage": [leaked.to_json() for leaked in self.leaked],
        }
        return finite(document)  # type: ignore[no-any-return]

    def to_markdown(self) -> str:
        """Every score (best epoch on released data in brackets); leakage; cost; visibility."""
        return "\n\n".join(_markdown(lines) for lines in self._tables())

    def to_text(self) -> str:
        """The same, aligned for a terminal."""
        return "\n\n".join(columns(lines) for lines in self._tables())

    def _tables(self) -> list[list[list[str]]]:
        return [
            self._score_lines(),
            leakage_table.lines(self.leaked),
            cost_table.lines(self.costs),
            frontier.lines(self.points),
        ]

    def _score_lines(self) -> list[list[str]]:
        scores = list(dict.fromkeys(row[5] for row in self.rows))
        table: dict[tuple[str, ...], dict[str, str]] = {}
        for _, method, eps, cell, arm, score, last, spread, best, _, _ in self.rows:
            value = f"{last:.3f}" + (f" ±{spread:.3f}" if spread is not None else "")
            table.setdefault(_line(method, eps, cell, arm), {})[score] = f"{value} ({best:.3f})"
        for method, eps, cell, verdict, why in self.verdicts:
            table[(cell, f"{method} {eps}")]["verdict"] = f"{verdict}: {why}"
        header = ["cell", "images", *scores, "verdict"]
        order = sorted(table, key=lambda key: (key[0], _rank(key[1])))
        rows = [[*key, *(table[key].get(score, "") for score in header[2:])] for key in order]
        return [header, *rows]


def _markdown(lines: list[list[str]]) -> str:
    header, *rows = lines
    table = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def _line(method: str, eps: str, cell: str, arm: str) -> tuple[str, str]:
    """Clean images are the same for all; noise for all of one eps."""
    if arm in (CLEAN, ALONE):
        return cell, arm
    return cell, f"{NOISE} {eps}" if arm == NOISE else f"{method} {eps}"


def _rank(name: str) -> tuple[int, str]:
    return (0 if name in (CLEAN, ALONE) else 1 if name.startswith(NOISE) else 2, name)


def run(config: BenchmarkConfig) -> BenchmarkTable:
    """Protect and verify every combination, and write tables, frontier.png and reports.

    Raises:
        InputError: the source or the output can't be used.
    """
    make_private_folder(config.output)
    cells = [parse_cell(cell) for cell in config.cells]
    weights_of(cells, config.weights, config.output / "trials", required=True)
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    verdicts = []
    spent: list[Spent] = []
    points, leaked = [], []
    backbone = read_backbone(config.surrogate_weights) if config.surrogate_weights else None
    for epsilon in config.epsilons:
        radius = epsilon_text(epsilon)
        for name in config.methods:
            method = name
            if backbone and METHODS[name].asks_pretrained:
                method += f"+{backbone.name}"
            release = config.output / _release_name(method, radius, config.min_ssim)
            if not release.exists():
                protect(_protect_config(config, name, epsilon, release))
            evidence = verify(_verify_config(config, release))
            report = json.dumps(evidence.to_json(), default=str)
            (config.output / f"{release.name}.json").write_text(report)
            spent.append(Spent.on(method, radius, release, evidence))
            points.append(Point.of(method, radius, evidence))
            for result in evidence.cells:
                verdict, why = result.judged(result.level)
                leaked.append(Leaked.under(method, radius, result))
                verdicts.append((method, radius, result.cell.name, str(verdict), why))
                for row in _rows(config.source.name, method, radius, result):
                    rows[row[:6]] = row
    table = BenchmarkTable(
        tuple(rows.values()),
        tuple(verdicts),
        tuple(cost_table.rows(spent)),
        tuple(points),
        tuple(leaked),
    )
    with (config.output / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(table.rows)
    (config.output / "table.md").write_text(table.to_markdown() + "\n")
    frontier.draw(points, config.output / "frontier.png")
    (config.output / "table.json").write_text(json.dumps(table.to_json(), indent=1) + "\n")
    return table


def _release_name(method: str, radius: str, min_ssim: float | None) -> str:
    """Of a folder that is found again only by a run that would make the same."""
    bound = "" if min_ssim is None else f"-ssim-{min_ssim:g}"
    method = "-".join([method, *versions_of(method.partition("+")[0]).values()])
    return f"{method}-{radius.replace('/', '-')}{bound}"


def _rows(name: str, method: str, epsilon: str, result: CellResult) -> list[tuple[Any, ...]]:
    found = []
    for arm, selections in result.scores.items():
        for score, last in selections[LAST].items():
            best = selections[BEST][score]
            what = (name, method, epsilon, result.cell.name, arm, score)
            values = (last["mean"], last["sd"], best["mean"], best["sd"], last["n"])
            found.append((*what, *values))
    return found


def _protect_config(
    config: BenchmarkConfig, method: str, epsilon: Fraction, release: Path
) -> ProtectConfig:
    return ProtectConfig(
        source=config.source,
        target=release,
        method=method,
        epsilon=epsilon,
        annotations=config.annotations,
        image_size=config.image_size,
        seed=config.seed,
        device=config.device,
        workers=config.workers,
        resume=True,
        min_ssim=config.min_ssim,
        surrogate_weights=config.surrogate_weights if METHODS[method].asks_pretrained else None,
    )


def _verify_config(config: BenchmarkConfig, release: Path) -> VerifyConfig:
    return VerifyConfig(
        release=release,
        threat="determined",  # where victims see as many pixels as the grid has
        cells=config.cells,
        seeds=config.seeds,
        most_seeds=config.seeds,  # every row of a table as often
        seed=config.seed,
        epochs=config.epochs,
        image_size=config.image_size,
        adversary_steps=config.adversary_steps,
        device=config.device,
        workers=config.workers,
        cache=config.output / "trials",
        weights=config.weights,
    )
