"""`medshield verify`: does a release keep models from learning? Trains victims and says so.

The test part is clean, split by patient, and the same for every arm. What a verdict means is
written in docs/evidence.md and decided in `medshield.evidence`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield import models, progress, trials
from medshield.budget import Budget
from medshield.dataset import examples
from medshield.dataset.annotations import AnnotationOptions
from medshield.dataset.examples import Examples
from medshield.dataset.scan import Scan, scan
from medshield.errors import InputError, RefusedFile
from medshield.evidence import Leakage, Verdict, measure_leakage, summarise, worst
from medshield.formats import IntensityRange
from medshield.keys import Key
from medshield.manifest import Record, read_release
from medshield.methods import METHODS, Setting
from medshield.places import CONFIGURATION, Places
from medshield.private import make_private_folder
from medshield.splits import split_by_group
from medshield.tasks import TASKS, Array, Task
from medshield.training import predict
from medshield.trials import BEST, CLEAN_BEST, LAST, Cell, Parts, Schedule, Trial
from medshield.versions import versions

ARMS = ("clean", "protected", "random noise")
SCHEMA_VERSION = 1
IMAGES_SEEN = 24_000
"""Training images a victim sees in all, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 12, 60

VICTIMS = {
    "classification": ("resnet18", "densenet121", "convnext_atto"),
    "multilabel": ("resnet18", "densenet121", "convnext_atto"),
    "segmentation": ("unet_resnet18", "unet_mobilenet"),
}
NOT_YET = {
    "basic": (),
    "determined": (
        "pretrained backbones, fine-tuned and as frozen probes",
        "resize and crop",
        "denoising filters",
        "Fourier-peak removal",
        "cutout",
        "mixup",
    ),
    "expert": (
        "purification",
        "orthogonal projection",
        "strong augmentation search",
        "self-supervised pretraining",
        "a denoiser trained on pairs made with another key",
        "clean data mixed in",
    ),
}
LEVELS = tuple(NOT_YET)


def cells_of(level: str, task: str) -> tuple[Cell, ...]:
    """The declared cells that a threat level adds to those below it."""
    first = VICTIMS[task][0]
    if level == "basic":
        return tuple(Cell(victim) for victim in VICTIMS[task])
    if level == "determined":
        filters = tuple(Cell(first, "standard", name) for name in ("grey", "blur", "jpeg10"))
        return (Cell(first, "adversarial"), *filters)
    return ()


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
        workers: files read at a time.
        cache: finished trials; None for the private folder.
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

    def victim_seed(self, number: int) -> int:
        """The seed of the number-th training of each arm."""
        return 1000 * self.seed + number


@dataclass(frozen=True)
class CellResult:
    """The evidence of one cell.

    Attributes:
        cell: what was run.
        level: the threat level that declares it.
        verdict: what it says of the level asked for.
        why: one sentence on the verdict.
        scores: arm -> selection -> score -> mean, sd, n.
        leakages: one per score and selection that count.
        curves: arm -> one set of curves per seed.
    """

    cell: Cell
    level: str
    verdict: Verdict
    why: str
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]]
    leakages: tuple[Leakage, ...]
    curves: dict[str, list[dict[str, Any]]] = field(repr=False)

    @property
    def worst_leakage(self) -> Leakage:
        """The one with the highest upper end."""
        return max(self.leakages, key=lambda leakage: np.nan_to_num(leakage.high, nan=np.inf))


@dataclass(frozen=True)
class Evidence:
    """Everything that a verification found.

    Attributes:
        verdict: of the level asked for.
        levels: verdict of each level that was run.
        not_run: what a level declares and this version does not have, by level.
        cells: results.
        facts: how it was run, for the report.
    """

    verdict: Verdict
    levels: dict[str, Verdict]
    not_run: dict[str, tuple[str, ...]]
    cells: tuple[CellResult, ...]
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The whole as plain data; schema in docs/evidence.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": str(self.verdict),
            "levels": {level: str(verdict) for level, verdict in self.levels.items()},
            "not_run": {level: list(names) for level, names in self.not_run.items() if names},
            "cells": [
                {
                    "cell": result.cell.name,
                    "level": result.level,
                    "verdict": str(result.verdict),
                    "why": result.why,
                    "leakage": [asdict(leakage) for leakage in result.leakages],
                    "scores": result.scores,
                    "curves": result.curves,
                }
                for result in self.cells
            ],
            **self.facts,
        }


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
    found = _scan_source(config, private, summary)
    task = TASKS[summary["task"]](found.annotations.classes if found.annotations else ())
    clean, released = _load_both(config, release, found, records)
    notes: list[str] = []
    split = split_by_group(clean, config.seed, notes)
    _check_parts(task, clean, split)
    epsilon = Fraction(summary["epsilon"])
    arms = {
        "clean": _parts(clean, clean, split),
        "protected": _parts(released, clean, split),
        "random noise": _parts(_with_noise(clean, task, epsilon, config), clean, split),
    }
    schedule = _schedule(config, len(split["train"]))
    declared = _declared_cells(config, task.name)
    cache = config.cache or private / "verify" / "trials"
    device = models.pick_device(config.device)
    results = []
    total = len(declared) * len(ARMS) * config.seeds
    with progress.bar("training victims") as update:
        done = 0
        for level, cell in declared:
            kept: dict[str, list[Trial]] = {arm: [] for arm in ARMS}
            for arm in ARMS:
                for number in range(config.seeds):
                    kept[arm].append(
                        trials.run(
                            task,
                            cell,
                            schedule,
                            arms[arm],
                            config.victim_seed(number),
                            device,
                            cache,
                            keep_model=arm == "clean" and cell == declared[0][1],
                        )
                    )
                    done += 1
                    update(done, total)
            results.append(_weigh(task, level, cell, kept, arms["clean"], config))
    levels = _level_verdicts(config, results)
    facts = {
        "release": release.name,
        "method": summary["method"],
        "epsilon": summary["epsilon"],
        "task": task.name,
        "threat": config.threat,
        "arms": list(ARMS),
        "examples": {part: len(rows) for part, rows in split.items()},
        "patients": {part: len(np.unique(clean.groups[rows])) for part, rows in split.items()},
        "notes": notes,
        "seeds": config.seeds,
        "image_size": clean.images.shape[-1],
        "epochs": {"standard": schedule.standard, "adversarial": schedule.adversarial},
        "adversary": {"epsilon": str(config.adversary), "steps": config.adversary_steps},
        "floor": task.constant_scores(
            clean.targets.numpy()[split["train"]], clean.targets.numpy()[split["test"]]
        ),
        "use": _use(
            task,
            declared[0][1],
            schedule,
            arms["clean"],
            released.rows(split["test"]),
            cache,
            config,
        ),
        "fidelity": _fidelity(records),
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    not_run = {level: NOT_YET[level] for level in LEVELS[: LEVELS.index(config.threat) + 1]}
    return Evidence(levels[config.threat], levels, not_run, tuple(results), facts)


def _scan_source(config: VerifyConfig, private: Path, summary: dict[str, Any]) -> Scan:
    """The clean images with their labels, under the ranges that the release declares."""
    try:
        kept = json.loads((private / CONFIGURATION).read_text())
    except FileNotFoundError:
        kept = {}
    source = config.source or (Path(kept["source"]) if kept else None)
    if source is None:
        raise InputError(
            "the clean images are not known here (no private folder beside the release); "
            "give --source SOURCE"
        )
    options = config.annotations or _kept_options(kept)
    ranges = {kind: IntensityRange(**values) for kind, values in summary["intensity"].items()}
    with progress.bar("reading the source") as update:
        found = scan(
            source,
            replace(options, task=summary["task"]),
            epsilon=Fraction(summary["epsilon"]),
            known_ranges=ranges,
            workers=config.workers,
            progress=update,
        )
    if found.problem:
        raise InputError(found.problem)
    return found


def _kept_options(kept: dict[str, Any]) -> AnnotationOptions:
    values = dict(kept.get("annotations", {}))
    for name in ("labels", "masks"):
        if values.get(name):
            values[name] = Path(values[name])
    return AnnotationOptions(**values)


def _load_both(
    config: VerifyConfig, release: Path, found: Scan, records: Sequence[Record]
) -> tuple[Examples, Examples]:
    """The protected files twice: as they were, and as they are released."""
    protected = {record.path for record in records if record.status == "protected"}
    files = [file for file in found.with_action("protect") if file.path in protected]
    if len(files) < len(protected):
        raise InputError(
            f"{found.source}: {len(protected) - len(files)} of {len(protected)} protected files "
            "have no labelled original there; give the --source that the release was made from"
        )
    shape = {
        "channels": found.channels,
        "size": examples.auto_size(files, config.image_size),
    }
    try:
        with progress.bar("loading") as update:
            clean = examples.load(found, files, **shape, progress=update)
            released = examples.load(found, files, **shape, root=release, progress=update)
    except (RefusedFile, OSError) as error:
        raise InputError(f"{error}; run `medshield check` on the release") from error
    return clean, released


def _check_parts(task: Task, clean: Examples, split: dict[str, NDArray[np.int64]]) -> None:
    """Too little to say anything is an error, not an inconclusive verdict after an hour."""
    for part in ("train", "val", "test"):
        if not len(split[part]):
            raise InputError(f"the {part} part is empty; check the split column or add patients")
    if task.name == "classification":
        targets = clean.targets.numpy()
        missing = set(targets[split["test"]]) - set(targets[split["train"]])
        if missing or len(set(targets[split["test"]])) < 2:
            raise InputError(
                "a class is missing from the training or the test part; add images or patients"
            )


def _parts(arm: Examples, clean: Examples, split: dict[str, NDArray[np.int64]]) -> Parts:
    validation = arm.rows(split["val"])
    return Parts(
        train=arm.rows(split["train"]),
        validation=validation,
        clean_validation=validation if arm is clean else clean.rows(split["val"]),
        test=clean.rows(split["test"]),
    )


def _with_noise(clean: Examples, task: Task, epsilon: Fraction, config: VerifyConfig) -> Examples:
    """Random noise of the same epsilon on every image."""
    noise = METHODS["random-noise"](
        Setting(
            task=task,
            channels=clean.images.shape[1],
            size=clean.images.shape[-1],
            budget=Budget(epsilon),
            key=Key.from_seed(config.seed),
            device=models.pick_device("cpu"),
        )
    )
    return replace(
        clean, images=clean.images + noise.perturb(clean.images, clean.targets, clean.names)
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


def parse_cell(text: str) -> Cell:
    """Read victim[:training[:countermeasure]].

    Raises:
        InputError: a part is unknown.
    """
    parts = text.split(":")
    known = (
        {*models.CLASSIFIERS, *models.SEGMENTERS},
        {"standard", "adversarial"},
        {"none", *trials.COUNTERMEASURES},
    )
    for part, choices in zip(parts, known, strict=False):
        if part not in choices:
            raise InputError(f"--cells: {part!r} is none of {', '.join(sorted(choices))}")
    if len(parts) > len(known):
        raise InputError(f"--cells: {text!r} is not victim[:training[:countermeasure]]")
    return Cell(*parts)


def _declared_cells(config: VerifyConfig, task: str) -> list[tuple[str, Cell]]:
    """The cells to run, each with the level that declares it."""
    asked = LEVELS[: LEVELS.index(config.threat) + 1]
    declared = [(level, cell) for level in asked for cell in cells_of(level, task)]
    if not config.cells:
        return declared
    levels = {cell: level for level, cell in declared}
    picked = [parse_cell(text) for text in config.cells]
    return [(levels.get(cell, config.threat), cell) for cell in picked]


def _weigh(
    task: Task,
    level: str,
    cell: Cell,
    kept: dict[str, list[Trial]],
    parts: Parts,
    config: VerifyConfig,
) -> CellResult:
    """What the trials of one cell say."""
    basic = config.threat == "basic"
    targets, groups = parts.test.targets.numpy(), parts.test.groups
    floor = task.constant_scores(parts.train.targets.numpy(), targets)
    names = [task.decision] if basic else list(dict.fromkeys([task.decision, task.ranking]))
    selections = [LAST, BEST] if basic else [LAST, BEST, CLEAN_BEST]
    rng = np.random.default_rng(config.seed)
    leakages = tuple(
        measure_leakage(
            task,
            name,
            selection,
            [trial.predictions[selection] for trial in kept["clean"]],
            [trial.predictions[selection] for trial in kept["protected"]],
            targets,
            groups,
            floor[name],
            rng,
        )
        for name in names
        for selection in selections
    )
    verdict, why = _cell_verdict(task, kept, leakages, floor[task.decision])
    return CellResult(
        cell=cell,
        level=level,
        verdict=verdict,
        why=why,
        scores={
            arm: {name: _mean_scores(task, kept[arm], name, targets) for name in trials.SELECTIONS}
            for arm in ARMS
        },
        leakages=leakages,
        curves={arm: [trial.curves() for trial in kept[arm]] for arm in ARMS},
    )


def _mean_scores(
    task: Task, arm: list[Trial], selection: str, targets: Array
) -> dict[str, dict[str, Any]]:
    rows = [task.scores(trial.predictions[selection], targets) for trial in arm]
    return {name: summarise([row[name] for row in rows]) for name in rows[0]}


def _cell_verdict(
    task: Task, kept: dict[str, list[Trial]], leakages: Sequence[Leakage], floor: float
) -> tuple[Verdict, str]:
    """The worst leakage decides, if the victims did their work."""
    worst_leakage = max(leakages, key=lambda one: (one.verdict.severity, one.high))
    verdict = worst_leakage.verdict
    score = worst_leakage.score.replace("_", " ")
    if verdict is Verdict.INCONCLUSIVE:
        return verdict, f"trained on clean images, the victim's {score} does not beat its floor"
    if verdict is Verdict.PROTECTED:
        enough = floor + 0.5 * (1 - floor)
        fitted = np.mean([trial.train_scores[task.decision] for trial in kept["protected"]])
        if fitted < enough:
            return Verdict.INCONCLUSIVE, (
                f"the victim did not fit its protected training data ({fitted:.2f}, "
                f"expected {enough:.2f}); give --epochs"
            )
    return verdict, (
        f"leakage of {score} {worst_leakage.estimate:.2f} "
        f"[{worst_leakage.low:.2f}, {worst_leakage.high:.2f}], {worst_leakage.selection}"
    )


def _level_verdicts(config: VerifyConfig, results: list[CellResult]) -> dict[str, Verdict]:
    """Each level's verdict: its own cells and those below; what was not run can't be vouched for."""
    levels = {}
    asked = LEVELS[: LEVELS.index(config.threat) + 1]
    for number, level in enumerate(asked):
        below = asked[: number + 1]
        verdicts = [result.verdict for result in results if result.level in below]
        if any(NOT_YET[name] for name in below):
            verdicts.append(Verdict.INCONCLUSIVE)
        levels[level] = worst(verdicts)
    return levels


def _use(
    task: Task,
    cell: Cell,
    schedule: Schedule,
    parts: Parts,
    released_test: Examples,
    cache: Path,
    config: VerifyConfig,
) -> dict[str, Any]:
    """Models trained on clean images, scored on clean and on protected test images."""
    scores: dict[str, list[float]] = {"on_clean": [], "on_protected": []}
    for number in range(config.seeds):
        model = trials.kept_model(task, cell, schedule, parts, config.victim_seed(number), cache)
        for name, part in (("on_clean", parts.test), ("on_protected", released_test)):
            found = predict(model, task, part.images, part.targets)
            scores[name].append(task.scores(found, part.targets.numpy())[task.decision])
    means = {name: summarise(values) for name, values in scores.items()}
    return {"victim": cell.name, "score": task.decision, **means}


def _fidelity(records: Sequence[Record]) -> dict[str, Any]:
    """PSNR and SSIM over the protected files."""
    facts: dict[str, Any] = {}
    for name in ("psnr", "ssim"):
        values = [getattr(record, name) for record in records if record.status == "protected"]
        known = [value for value in values if value is not None]
        if known:
            facts[name] = {"median": float(np.median(known)), "worst": float(min(known))}
    return facts


def write_report(evidence: Evidence, folder: Path) -> Path:
    """Write `report.json` (and the curves in it) to a private folder; returns its path."""
    make_private_folder(folder)
    path = folder / "report.json"
    path.write_text(json.dumps(_finite(evidence.to_json()), indent=1) + "\n")
    return path


def _finite(value: Any) -> Any:
    """The same data with null for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


