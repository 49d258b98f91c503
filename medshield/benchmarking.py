"""`medshield benchmark`: methods x eps x training on one folder, as the paper's table has it.

Protects and verifies as the other commands do. What is finished is found again, so a run that
was interrupted, or one that asks for more, only does what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from medshield import cost_table, frontier, limited, progress, score_plot
from medshield.benchmark_table import (
    GUESS,
    BenchmarkTable,
    adversary_of,
    beside,
    paper_notes,
)
from medshield.cost_table import Spent
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.dataset.scanned import Scan
from medshield.errors import InputError
from medshield.evidence import CellResult
from medshield.frontier import Point
from medshield.kept_run import kept_settings
from medshield.leakage_table import Leaked
from medshield.method_names import versions_of
from medshield.methods import METHODS
from medshield.paper_figures import figures_of, set_of
from medshield.places import CONFIGURATION, Places
from medshield.planning import refuse_other_task
from medshield.pretrained import read_backbone
from medshield.private import make_private_folder
from medshield.protect_config import OF_SOFTWARE, ProtectConfig
from medshield.protecting import protect
from medshield.text import epsilon_text
from medshield.threats import VICTIMS, parse_cell, refuse_other_victims
from medshield.trials import ADVERSARIES, BEST, LAST, Cell, weights_of
from medshield.verify_config import VerifyConfig
from medshield.verifying import Evidence, verify


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to compare.

    Attributes:
        source: a labelled folder.
        output: where releases, trials and tables are kept; private.
        methods, epsilons: every combination is run.
        cells: of each release; empty for those of the paper, see `paper_cells`.
        seeds, epochs, image_size, adversary_steps: as for `verify`.
        seed: of keys and victims.
        annotations: where labels or masks are.
        device, workers, min_ssim: as for `protect`.
        surrogate_weights: as for `protect`, for the methods that ask a pretrained model.
        weights: as for `verify`.
        limit: training images of a part to draw, see `limited`; None for the whole folder.
        notes: what a reader must know, beside what is found here.
    """

    source: Path
    output: Path
    methods: tuple[str, ...]
    epsilons: tuple[Fraction, ...]
    cells: tuple[str, ...] = ()
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
    limit: int | None = None
    notes: tuple[str, ...] = ()


def paper_cells(task: str, epsilon: Fraction) -> tuple[str, ...]:
    """Standard and adversarial training of the first victim of a task, as the paper has them.

    It trains adversarially with a radius of half of epsilon: 4/255 at 8/255, 8/255 at 16/255.
    Elsewhere the radius is that of ADVERSARIES which is nearest to half, the smaller of two.

    Args:
        task: classification, multilabel or segmentation.
        epsilon: of the release.
    """
    victim = VICTIMS[task][0]
    half = epsilon / 2
    nearest = min(ADVERSARIES, key=lambda name: abs(ADVERSARIES[name].epsilon - half))
    usual = ADVERSARIES[nearest].epsilon == VerifyConfig.adversary
    return victim, f"{victim}:{'adversarial' if usual else nearest}"


def run(config: BenchmarkConfig) -> BenchmarkTable:
    """Protect and verify every combination, and write tables, pictures and reports.

    Raises:
        InputError: the source or the output can't be used, a method or a victim is not for such
            labels, or the output holds releases that were made with other settings.
    """
    make_private_folder(config.output)
    name = config.source.name or config.source.resolve().name
    figures = figures_of(set_of(config.source))
    asked = [parse_cell(cell) for cell in config.cells]
    weights_of(asked, config.weights, config.output / "trials", required=True)
    config, task = _narrowed(config)
    for method in config.methods:
        refuse_other_task(METHODS[method], task)
    learned = _learned_task(config, task)
    refuse_other_victims(asked, learned)
    found = _Found(name)
    backbone = read_backbone(config.surrogate_weights) if config.surrogate_weights else None
    for epsilon in config.epsilons:
        cells = config.cells or paper_cells(learned, epsilon)
        for named in config.methods:
            method = named
            if backbone and METHODS[named].asks_pretrained:
                method += f"+{backbone.name}"
            radius = epsilon_text(epsilon)
            release = config.output / _release_name(method, radius, config.min_ssim)
            protection = _protect_config(config, named, epsilon, release)
            if release.exists():
                _see_to_same(protection, release)
            else:
                protect(protection)
            evidence = verify(_verify_config(config, release, cells))
            report = json.dumps(evidence.to_json(), default=str)
            (config.output / f"{release.name}.json").write_text(report)
            found.add(method, epsilon, release, evidence)
    paper = beside(figures, found.cells)
    notes = [*config.notes, *found.notes, *_adversary_notes(config, found.cells)]
    table = BenchmarkTable(
        tuple(found.rows.values()),
        tuple(found.verdicts),
        tuple(cost_table.rows(found.spent)),
        tuple(found.points),
        tuple(found.leaked),
        paper,
        tuple(dict.fromkeys([*notes, *paper_notes(paper)])),
    )
    table.write_csv(config.output / "table.csv", name)
    (config.output / "table.md").write_text(table.to_markdown() + "\n")
    frontier.draw(found.points, config.output / "frontier.png")
    score_plot.draw(table, config.output / "scores.png")
    (config.output / "table.json").write_text(json.dumps(table.to_json(), indent=1) + "\n")
    return table


class _Found:
    """What the releases of one set gave.

    Attributes:
        rows: by all that HEADER has before the values.
        cells: that were run, each with its epsilon.
        verdicts, spent, points, leaked, notes: see `BenchmarkTable`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.cells: dict[tuple[Cell, Fraction], None] = {}
        self.verdicts: list[tuple[str, str, str, str, str]] = []
        self.spent: list[Spent] = []
        self.points: list[Point] = []
        self.leaked: list[Leaked] = []
        self.notes: list[str] = []

    def add(self, method: str, epsilon: Fraction, release: Path, evidence: Evidence) -> None:
        """Take what one verification found."""
        radius = epsilon_text(epsilon)
        self.spent.append(Spent.on(method, radius, release, evidence))
        self.points.append(Point.of(method, radius, evidence))
        self.notes += evidence.facts["notes"]
        for result in evidence.cells:
            verdict, why = result.judged(result.level)
            self.cells[result.cell, epsilon] = None
            self.leaked.append(Leaked.under(method, radius, result))
            self.verdicts.append((method, radius, result.cell.name, str(verdict), why))
            for row in _rows(self._name, method, radius, result):
                self.rows[row[:6]] = row
            for score, value in evidence.facts["floor"].items():
                what = (self._name, "", "", result.cell.name, GUESS, score)
                self.rows[what] = (*what, value, None, None, None, None)


def _narrowed(config: BenchmarkConfig) -> tuple[BenchmarkConfig, str]:
    """The same on the part that `limit` asks for, and the task of its labels or masks.

    Raises:
        InputError: the source has no labels, or can't be used.
    """
    if config.limit is None:
        found = _scanned(config)
        assert found.annotations is not None  # noqa: S101 (`_scanned` saw to it)
        return config, found.annotations.task
    target = config.output / f"drawn-{config.limit}-seed-{config.seed}"
    part = limited.kept_part(config.source, config.annotations, target)
    if part is None:
        labelled = replace(config.annotations, no_labels=False)
        found = _scanned(replace(config, annotations=labelled))
        part = limited.draw_part(
            found, config.annotations, target, limit=config.limit, seed=config.seed
        )
    progress.logger.info("%s", part.note)
    drawn = replace(
        config,
        source=part.folder,
        annotations=part.annotations,
        notes=(*config.notes, part.note),
    )
    return drawn, part.task


def _learned_task(config: BenchmarkConfig, task: str) -> str:
    """What victims learn: as releases do, or, where those use no labels, by what there is.

    Args:
        config: of the folder, or of the part of it that was drawn.
        task: of the releases.

    Raises:
        InputError: releases use no labels, and there are none for victims.
    """
    if not config.annotations.no_labels:
        return task
    as_verified = AnnotationOptions(masks=config.annotations.masks)
    found = _scanned(replace(config, annotations=as_verified))
    assert found.annotations is not None  # noqa: S101 (`_scanned` saw to it)
    return found.annotations.task


def _scanned(config: BenchmarkConfig) -> Scan:
    with progress.bar("reading") as update:
        found = scan(config.source, config.annotations, workers=config.workers, progress=update)
    if found.problem:
        raise InputError(f"{config.source}: {found.problem}")
    return found


def _adversary_notes(config: BenchmarkConfig, cells: Iterable[tuple[Cell, Fraction]]) -> list[str]:
    """Which radius adversarial training had at which epsilon."""
    radii: dict[str, Fraction] = {}
    at: dict[str, list[str]] = {}
    for cell, epsilon in cells:
        if radius := adversary_of(cell):
            radii[cell.training] = radius
            at.setdefault(cell.training, []).append(epsilon_text(epsilon))
    chosen = "" if config.cells else ": half of eps, as in the paper, or what is nearest to that"
    return [
        f"{training}: adversarial training with a radius of {epsilon_text(radius)} "
        f"({config.adversary_steps} steps), at eps {', '.join(dict.fromkeys(at[training]))}{chosen}"
        for training, radius in radii.items()
    ]


def _see_to_same(config: ProtectConfig, release: Path) -> None:
    """See to it that a release that is found again is what would be made.

    Raises:
        InputError: it was made with other settings.
    """
    private = Places(release.resolve()).private
    if not (private / CONFIGURATION).is_file():
        return
    earlier, wanted = kept_settings(private), config.fingerprint()
    known = [name for name in wanted if name in earlier and name not in OF_SOFTWARE]
    if other := sorted(name for name in known if earlier[name] != wanted[name]):
        raise InputError(
            f"{release}: was made with other settings ({', '.join(other)}); choose another -o, or "
            f"remove it and {private.name} to make it again"
        )


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


def _verify_config(config: BenchmarkConfig, release: Path, cells: tuple[str, ...]) -> VerifyConfig:
    return VerifyConfig(
        release=release,
        threat="determined",  # where victims see as many pixels as the grid has
        cells=cells,
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
