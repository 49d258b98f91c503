"""Everything that `verify` settles before it trains: data, cells, and about what they will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield import duplicates, forecast, models, processes, progress
from medshield.arms import CLEAN, arms_for, arms_of, trainings
from medshield.budget import Budget
from medshield.chosen_cells import ChosenCells, choose_cells
from medshield.compared_images import check_parts, load_both, scan_source, used_labels
from medshield.dataset.examples import Examples
from medshield.dataset.scanned import Scan
from medshield.denoising import OtherKeys
from medshield.duplicates import Duplicates
from medshield.manifest import Record, find_release, read_release
from medshield.places import Places
from medshield.splits import split_by_group
from medshield.tasks import TASKS, Task
from medshield.text import duration
from medshield.threats import parse_cell
from medshield.trials import DENOISED, Cell, Job, Parts, Schedule
from medshield.verify_config import VerifyConfig

IMAGES_SEEN = 8_000
"""Training images a victim sees in all, counting repeats, within the limits below."""
FEWEST_EPOCHS, MOST_EPOCHS = 12, 60
WITHOUT_LABELS = "protected without labels (--labels none); victims learned labels found since"
Jobs = dict[str, list[Job]]
"""Of one cell: arm -> its trainings."""


@dataclass(frozen=True)
class Plan:
    """What will be trained, and about how long that takes.

    Attributes:
        threat: the level asked for.
        cells: names of those that are run.
        image_size: side of the victims' input, px.
        trainings: victims in all.
        most_trainings: the same if every cell has to be trained as often as may be.
        finished: how many of them an earlier run has trained.
        seconds: about how long the others take.
    """

    threat: str
    cells: tuple[str, ...]
    image_size: int
    trainings: int
    most_trainings: int
    finished: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "cells": list(self.cells), "seconds": round(self.seconds, 1)}

    @property
    def lines(self) -> tuple[str, str]:
        """As it is said to people."""
        count = "one cell" if len(self.cells) == 1 else f"{len(self.cells)} cells"
        earlier = f", {self.finished} of them finished earlier" if self.finished else ""
        further = (
            f"; up to {self.most_trainings} if nothing leaks and intervals are wide"
            if self.most_trainings > self.trainings
            else ""
        )
        return (
            f"threat level {self.threat}, {count}: {', '.join(self.cells)}",
            f"{self.trainings} trainings at {self.image_size} px{earlier}, about "
            f"{duration(self.seconds)}{further}",
        )


@dataclass(frozen=True)
class Preparation:
    """What is settled.

    Attributes:
        config: what is asked for.
        release, cache: folders of the release and of finished trials.
        records, summary: of the release.
        found: the source.
        task: what is learned.
        clean, released: the same examples, as they were and as they are released.
        split: row numbers of "train", "val" and "test".
        split_notes: how it was split.
        twins: images that lie in two parts.
        cells: that are run.
    """

    config: VerifyConfig
    release: Path
    cache: Path
    records: Sequence[Record]
    summary: dict[str, Any]
    found: Scan
    task: Task
    clean: Examples
    released: Examples
    split: dict[str, NDArray[np.int64]]
    split_notes: tuple[str, ...]
    twins: Duplicates
    cells: ChosenCells

    @property
    def notes(self) -> list[str]:
        """For the report."""
        unlabelled = [] if used_labels(self.summary) else [WITHOUT_LABELS]
        twins = [self.twins.note] if self.twins.note else []
        return [*unlabelled, *self.split_notes, *twins, *self.cells.notes]

    @property
    def schedule(self) -> Schedule:
        """How long victims train."""
        chosen = IMAGES_SEEN // max(1, len(self.split["train"]))
        epochs = self.config.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, chosen))
        return Schedule(
            standard=epochs,
            adversarial=epochs,
            adversary=Budget(self.config.adversary),
            adversary_steps=self.config.adversary_steps,
        )

    @cached_property
    def arms(self) -> dict[str, Parts]:
        """Of the cells that change nothing about them."""
        epsilon = Fraction(self.summary["epsilon"])
        return arms_of(self.clean, self.released, self.split, self.task, epsilon, self.config.seed)

    @cached_property
    def speeds(self) -> forecast.Speeds:
        """Of the victims that were timed so far."""
        return {}

    @cached_property
    def plan(self) -> Plan:
        """What will be trained; a denoiser that is still to be made is left out."""
        arms = [found for cell in self.cells.run for found in self._jobs_ahead(cell).items()]
        jobs = [job for _, found in arms for job in found]
        return Plan(
            threat=self.config.threat,
            cells=tuple(cell.name for cell in self.cells.run),
            image_size=self.clean.images.shape[-1],
            trainings=len(jobs),
            most_trainings=sum(trainings(arm, self.config.counts[-1]) for arm, _ in arms),
            finished=sum(job.is_finished for job in jobs),
            seconds=forecast.seconds(jobs, self.config.workers, self.speeds),
        )

    def jobs(self) -> dict[Cell, Jobs]:
        """Every training of the first round; may train a denoiser first."""
        ready = {}
        with progress.bar("preparing cells") as update:
            for done, cell in enumerate(self.cells.run, 1):
                ready[cell] = self._quick_jobs.get(cell) or self._jobs(cell, self._arms_of(cell))
                update(done, len(self.cells.run))
        return ready

    def _jobs_ahead(self, cell: Cell) -> Jobs:
        """As many jobs of a cell as there will be, on images that are perhaps not yet denoised."""
        return self._quick_jobs.get(cell) or self._jobs(cell, self.arms)

    @cached_property
    def _quick_jobs(self) -> dict[Cell, Jobs]:
        """Of the cells whose arms take no time to make."""
        return {
            cell: self._jobs(cell, self._arms_of(cell))
            for cell in self.cells.run
            if cell.training != DENOISED
        }

    def _arms_of(self, cell: Cell) -> dict[str, Parts]:
        other_keys = OtherKeys(
            method=self.summary["method"],
            epsilon=Fraction(self.summary["epsilon"]),
            task=self.task,
            seed=self.config.seed,
            device=models.pick_device(self.config.device),
            cache=self.cache,
        )
        return arms_for(cell, self.arms, self.config.seed, other_keys)

    def _jobs(self, cell: Cell, arms: dict[str, Parts]) -> Jobs:
        """The trainings of a cell; clean models are kept where they are used once more."""
        return {
            arm: [
                Job(
                    task=self.task,
                    cell=cell,
                    schedule=self.schedule,
                    parts=parts,
                    seed=self.config.victim_seed(number),
                    device=models.pick_device(self.config.device),
                    cache=self.cache,
                    keep_model=arm == CLEAN and cell == self.cells.of_use,
                    weights=self.cells.weights.get(cell),
                )
                for number in range(trainings(arm, self.config.seeds))
            ]
            for arm, parts in arms.items()
        }


def prepare(config: VerifyConfig, *, fetch: bool = True) -> Preparation:
    """Read both folders, split them, and choose the cells.

    Args:
        config: what is asked for.
        fetch: whether to download ImageNet weights that are not there; needed for training.

    Raises:
        InputError: the release or the source can't be used, or a cell can't be run.
    """
    for cell in config.cells:
        parse_cell(cell)  # before anything is read, which may take long
    release = config.release or find_release(Path())
    records, summary = read_release(release)
    private = Places(release.resolve()).private
    found = scan_source(config, private, summary)
    assert found.annotations is not None  # noqa: S101 (`scan_source` saw to it)
    task = TASKS[found.annotations.task](found.annotations.classes)
    clean, released = load_both(config, release, found, records)
    split_notes: list[str] = []
    split = split_by_group(clean, config.seed, split_notes)
    check_parts(task, clean, split)
    cache = config.cache or private / "verify" / "trials"
    channels = clean.images.shape[1]
    return Preparation(
        config=config,
        release=release,
        cache=cache,
        records=records,
        summary=summary,
        found=found,
        task=task,
        clean=clean,
        released=released,
        split=split,
        split_notes=tuple(split_notes),
        twins=duplicates.across(clean, split),
        cells=processes.in_turn(
            lambda: choose_cells(config, task, channels, summary, private, cache, fetch=fetch)
        ),
    )
