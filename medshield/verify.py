"""`medshield verify`: does a release keep models from learning? Trains victims and says so.

The test part is clean, split by patient, and the same for every arm. What a verdict means is
written in docs/evidence.md and decided in `medshield.evidence`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from medshield import duplicates, forecast, models, progress, trials
from medshield.arms import ARMS, CLEAN, arms_for, arms_of
from medshield.budget import Budget
from medshield.compared_images import check_parts, load_both, scan_source, used_labels
from medshield.cost import mean_cost
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.examples import Examples
from medshield.denoising import OtherKeys, unknown_method
from medshield.errors import InputError
from medshield.evidence import CellResult, Verdict, summarise, worst
from medshield.fidelity import fidelity, worst_files
from medshield.generator import asked_backbone
from medshield.manifest import read_release
from medshield.places import GENERATOR, Places
from medshield.pretrained import Weights
from medshield.splits import split_by_group
from medshield.tasks import TASKS, Task
from medshield.text import epsilon_text
from medshield.threats import declared_cells, levels_up_to, parse_cell
from medshield.training import predict
from medshield.trials import Cell, Parts, Schedule, Trial
from medshield.versions import versions
from medshield.weighing import Weighing

SCHEMA_VERSION = 1
IMAGES_SEEN = 8_000
"""Training images a victim sees in all, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 12, 60
WITHOUT_LABELS = "protected without labels (--labels none); victims learned labels found since"
FLATTERED = (
    "the release was made against a backbone of this name (--surrogate-weights), so it is "
    "flattered; measure with another one, too"
)


@dataclass(frozen=True)
class VerifyConfig:
    """What `verify` is asked to do.

    Attributes:
        release: its folder; None for the one release in the current folder.
        source: the clean images; None for those that the private folder records.
        threat: basic, determined or expert.
        cells: run only these, as victim[:training[:countermeasure]]; empty for the level's own.
        seeds: trainings of each arm.
        seed: of the split, the victims and the bootstrap.
        epochs: of every victim; None to choose by the size of the set.
        image_size: side of the victims' input, px; None to choose.
        adversary: radius of adversarial training.
        adversary_steps: its gradient steps.
        annotations: where labels are, if the private folder does not say.
        device: auto, cpu or cuda.
        workers: files read, and on a CPU victims trained, at a time.
        cache: finished trials; None for the private folder.
        weights: files of ImageNet weights, FILE or NAME=FILE; what is missing is downloaded.
        fail_above: the highest upper end of a leakage interval that is good enough; None to go
            by the verdict.
    """

    release: Path | None = None
    source: Path | None = None
    threat: str = "basic"
    cells: tuple[str, ...] = ()
    seeds: int = 3
    seed: int = 0
    epochs: int | None = None
    image_size: int | None = None
    adversary: Fraction = Fraction(4, 255)
    adversary_steps: int = 3
    annotations: AnnotationOptions | None = None
    device: str = "auto"
    workers: int = 2
    cache: Path | None = None
    weights: tuple[Path, ...] = ()
    fail_above: float | None = None

    def victim_seed(self, number: int) -> int:
        """The seed of the number-th training of each arm."""
        return 1000 * self.seed + number


@dataclass(frozen=True)
class Evidence:
    """Everything that a verification found.

    Attributes:
        threat: the level asked for.
        levels: verdict of each level that was run.
        not_run: what a level declares and was not run, by level.
        cells: results.
        facts: how it was run, for the report.
    """

    threat: str
    levels: dict[str, Verdict]
    not_run: dict[str, tuple[str, ...]]
    cells: tuple[CellResult, ...]
    facts: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """Of the level asked for."""
        return self.levels[self.threat]

    @property
    def is_good_enough(self) -> bool | None:
        """Whether it is protected; or, where a limit was set, whether leakage keeps to that.

        None where that can't be told.
        """
        if self.verdict is Verdict.INCONCLUSIVE:
            return None
        limit = self.facts["limit"]
        met: bool | None = self.verdict is Verdict.PROTECTED if limit is None else limit["met"]
        return met

    def to_json(self) -> dict[str, Any]:
        """The whole as plain data; schema in docs/evidence.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": str(self.verdict),
            "levels": {level: str(verdict) for level, verdict in self.levels.items()},
            "not_run": {level: list(names) for level, names in self.not_run.items() if names},
            "cells": [self._cell_to_json(result) for result in self.cells],
            **self.facts,
        }

    def _cell_to_json(self, result: CellResult) -> dict[str, Any]:
        judged = {level: _judgement(result, level) for level in self.levels_with(result)}
        counting, decisive = result.counting(self.threat), result.decisive(self.threat)
        return {
            "cell": result.cell.name,
            "level": result.level,
            **judged[self.threat],
            "judged": judged,
            "fitted": result.fitted,
            "per_class": result.per_class,
            "leakage": [
                {**asdict(one), "counts": one in counting, "decides": one is decisive}
                for one in result.leakages
            ],
            "scores": result.scores,
            "curves": result.curves,
        }

    def levels_with(self, result: CellResult) -> list[str]:
        """The levels that were run and to which a cell belongs: its own and those above."""
        return [level for level in self.levels if result.level in levels_up_to(level)]


def _judgement(result: CellResult, level: str) -> dict[str, Any]:
    """What a cell says of a level, as plain data."""
    verdict, why = result.judged(level)
    return {"verdict": str(verdict), "why": why, "surely_leaks": result.surely_leaks(level)}


def find_release(folder: Path) -> Path:
    """The release in a folder: the folder itself or its one child that is one.

    Raises:
        InputError: there is none, or more than one.
    """
    candidates = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    found = [path for path in candidates if (path / "medshield-manifest.jsonl").is_file()]
    found = [path for path in found if not path.name.endswith(".partial")]
    if folder in found:
        return folder
    if len(found) != 1:
        raise InputError(
            f"{len(found)} releases here; name the one to verify: medshield verify RELEASE"
        )
    return found[0]


def verify(config: VerifyConfig) -> Evidence:
    """Train victims on clean and protected images and weigh what they learned.

    Raises:
        InputError: the release or the source can't be used.
    """
    started = time.monotonic()
    release = config.release or find_release(Path())
    records, summary = read_release(release)
    private = Places(release.resolve()).private
    found = scan_source(config, private, summary)
    assert found.annotations is not None  # noqa: S101 (`scan_source` saw to it)
    task = TASKS[found.annotations.task](found.annotations.classes)
    clean, released = load_both(config, release, found, records)
    notes = [] if used_labels(summary) else [WITHOUT_LABELS]
    split = split_by_group(clean, config.seed, notes)
    check_parts(task, clean, split)
    twins = duplicates.across(clean, split)
    notes += filter(None, [twins.note])
    arms = arms_of(clean, released, split, task, Fraction(summary["epsilon"]), config.seed)
    schedule = _schedule(config, len(split["train"]))
    asked = [parse_cell(text) for text in config.cells]
    declared = declared_cells(config.threat, task.name)
    picked = _applicable(asked or list(declared), task, clean, notes)
    declared = {cell: declared[cell] for cell in _applicable(list(declared), task, clean, [])}
    cache = config.cache or private / "verify" / "trials"
    weights, lacking = trials.weights_of(picked, config.weights, cache, required=bool(asked))
    lacking |= _without_pairs(picked, summary, required=bool(asked))
    picked = [cell for cell in picked if cell not in lacking]
    notes += _flattered(picked, asked_backbone(private / GENERATOR))
    other_keys = OtherKeys(
        method=summary["method"],
        epsilon=Fraction(summary["epsilon"]),
        task=task,
        seed=config.seed,
        device=models.pick_device(config.device),
        cache=cache,
    )
    of_cell = {}
    with progress.bar("preparing cells") as update:  # one may train a denoiser
        for done, cell in enumerate(picked, 1):
            of_cell[cell] = arms_for(cell, arms, config.seed, other_keys)
            update(done, len(picked))
    kept = _trained(task, of_cell, schedule, cache, config, weights)
    weighing = Weighing(task, arms[CLEAN], config.seed, len(picked))
    results = [
        weighing.result(cell, declared.get(cell, config.threat), kept[cell]) for cell in picked
    ]
    not_run = {
        level: tuple(
            f"{cell.name}: {lacking[cell]}" if cell in lacking else cell.name
            for cell in declared
            if declared[cell] == level and cell not in picked
        )
        for level in levels_up_to(config.threat)
    }
    facts = {
        "release": release.name,
        "method": summary["method"],
        "epsilon": summary["epsilon"],
        "task": task.name,
        "threat": config.threat,
        "arms": list(ARMS),
        "examples": {part: len(rows) for part, rows in split.items()},
        "patients": {part: len(np.unique(clean.groups[rows])) for part, rows in split.items()},
        "duplicates": {"same": twins.same, "near": twins.near},
        "notes": notes,
        "weights": {cell.victim: weights[cell].facts() for cell in weights},
        "seeds": config.seeds,
        "image_size": clean.images.shape[-1],
        "epochs": {"standard": schedule.standard, "adversarial": schedule.adversarial},
        "adversary": {"epsilon": epsilon_text(config.adversary), "steps": config.adversary_steps},
        "floor": weighing.floor,
        "use": _use(
            task,
            picked[0],
            schedule,
            of_cell[picked[0]][CLEAN],
            released.rows(split["test"]),
            cache,
            config,
            weights.get(picked[0]),
        ),
        "cost": {cell.name: _training_cost(kept[cell]) for cell in picked},
        "fidelity": fidelity(records, found, release),
        "worst_files": worst_files(records),
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    levels = _level_verdicts(results, not_run)
    facts["limit"] = _limit(results, levels[config.threat], config)
    return Evidence(config.threat, levels, not_run, tuple(results), facts)


def _applicable(cells: Sequence[Cell], task: Task, clean: Examples, notes: list[str]) -> list[Cell]:
    """The cells that make a difference for such images; the others go to the notes.

    Raises:
        InputError: there is no such cell.
    """
    channels = clean.images.shape[1]
    fitting = [cell for cell in cells if cell.applies_to(task, channels)]
    if skipped := [cell.name for cell in cells if cell not in fitting]:
        notes.append(f"not applicable to this data, and not run: {', '.join(skipped)}")
    if not fitting:
        raise InputError(f"--cells: {notes[-1]}; choose another cell")
    return fitting


def _without_pairs(
    cells: Sequence[Cell], summary: dict[str, Any], *, required: bool
) -> dict[Cell, str]:
    """The cells that need pairs made by the release's method, and why there can be none.

    Raises:
        InputError: there can be none, and they are required.
    """
    wanting = [cell for cell in cells if cell.training == trials.DENOISED]
    reason = unknown_method(summary) if wanting else None
    if reason and required:
        raise InputError(f"--cells: {wanting[0].name}: {reason}; leave it out")
    return dict.fromkeys(wanting, reason) if reason else {}


def _flattered(cells: Sequence[Cell], backbone: str | None) -> list[str]:
    """A note on each cell whose victims start from the backbone that shaped the release."""
    alike = [cell.name for cell in cells if cell.is_pretrained and cell.victim == backbone]
    return [f"{name}: {FLATTERED}" for name in alike]


def _trained(
    task: Task,
    of_cell: dict[Cell, dict[str, Parts]],
    schedule: Schedule,
    cache: Path,
    config: VerifyConfig,
    weights: dict[Cell, Weights],
) -> dict[Cell, dict[str, list[Trial]]]:
    """Every trial: cell -> arm -> one per seed."""
    kept: dict[Cell, dict[str, list[Trial]]] = {
        cell: {arm: [] for arm in arms} for cell, arms in of_cell.items()
    }
    order = [
        (cell, arm, number)
        for cell, arms in of_cell.items()
        for arm in arms
        for number in range(config.seeds)
    ]
    jobs = [
        trials.Job(
            task=task,
            cell=cell,
            schedule=schedule,
            parts=of_cell[cell][arm],
            seed=config.victim_seed(number),
            device=models.pick_device(config.device),
            cache=cache,
            keep_model=arm == CLEAN and cell == order[0][0],
            weights=weights.get(cell),
        )
        for cell, arm, number in order
    ]
    _announce(of_cell, jobs, config)
    with progress.bar("training victims") as update:
        results = zip(order, trials.run_all(jobs, config.workers), strict=True)
        for done, ((cell, arm, _), trial) in enumerate(results, 1):
            kept[cell][arm].append(trial)
            update(done, len(jobs))
    return kept


def _announce(of_cell: Iterable[Cell], jobs: Sequence[trials.Job], config: VerifyConfig) -> None:
    """Say what will be trained, and about how long that takes."""
    names = [cell.name for cell in of_cell]
    finished = sum(job.is_finished for job in jobs)
    count = "one cell" if len(names) == 1 else f"{len(names)} cells"
    progress.logger.info("threat level %s, %s: %s", config.threat, count, ", ".join(names))
    progress.logger.info(
        "%d trainings%s, about %s",
        len(jobs),
        f", {finished} of them finished earlier" if finished else "",
        forecast.said(forecast.seconds(jobs, config.workers)),
    )


def _schedule(config: VerifyConfig, training_images: int) -> Schedule:
    epochs = config.epochs or min(
        MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES_SEEN // max(1, training_images))
    )
    return Schedule(
        standard=epochs,
        adversarial=epochs,
        adversary=Budget(config.adversary),
        adversary_steps=config.adversary_steps,
    )


def _level_verdicts(
    results: Sequence[CellResult], not_run: dict[str, tuple[str, ...]]
) -> dict[str, Verdict]:
    """Each level's verdict by its cells and those below; what was not run vouches for nothing."""
    levels = {}
    for level in not_run:
        below = levels_up_to(level)
        verdicts = [result.judged(level)[0] for result in results if result.level in below]
        if any(not_run[name] for name in below):
            verdicts.append(Verdict.INCONCLUSIVE)
        levels[level] = worst(verdicts)
    return levels


def _limit(
    results: Sequence[CellResult], verdict: Verdict, config: VerifyConfig
) -> dict[str, Any] | None:
    """Whether leakage keeps to the limit that was set; `met` is None where that can't be told."""
    if config.fail_above is None:
        return None
    upper = [one.high for result in results for one in result.counting(config.threat)]
    verdicts = [verdict, *(result.judged(config.threat)[0] for result in results)]
    open_ends = Verdict.INCONCLUSIVE in verdicts
    kept = all(high <= config.fail_above for high in upper)  # an undefined one does not keep to it
    return {
        "leakage": config.fail_above,
        "highest": max((high for high in upper if np.isfinite(high)), default=None),
        "met": None if open_ends and (kept or not np.isfinite(upper).all()) else kept,
    }


def _use(
    task: Task,
    cell: Cell,
    schedule: Schedule,
    parts: Parts,
    released_test: Examples,
    cache: Path,
    config: VerifyConfig,
    weights: Weights | None,
) -> dict[str, Any]:
    """Models trained on clean images, scored on clean and on protected test images."""
    scores: dict[str, list[float]] = {"on_clean": [], "on_protected": []}
    for number in range(config.seeds):
        device = models.pick_device(config.device)
        seed = config.victim_seed(number)
        job = trials.Job(task, cell, schedule, parts, seed, device, cache, weights=weights)
        model = job.kept_model()
        for name, part in (("on_clean", parts.test), ("on_protected", released_test)):
            found = predict(model, task, part.images, part.targets)
            scores[name].append(task.scores(found, part.targets.numpy())[task.decision])
    means = {name: summarise(values) for name, values in scores.items()}
    return {"victim": cell.name, "score": task.decision, **means}


def _training_cost(arms: dict[str, list[Trial]]) -> dict[str, float] | None:
    """What training one victim of a cell cost in the mean."""
    found = mean_cost(trial.cost for trials in arms.values() for trial in trials)
    return found.to_json() if found else None
