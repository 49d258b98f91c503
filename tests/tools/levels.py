"""How long `verify` takes for a level, as it says beforehand and as measured.

    python -m tests.tools.levels --images 1000 --side 64 --threat basic --run
    python -m tests.tools.levels --images 500 --threat expert --sample

Images are generated (discs or squares, bright or faint, on noise: what they show does not matter)
and released with random noise. Without --run nothing is trained, and only what `verify --dry-run`
says is printed.

A level that takes longer than a night is measured in part: with --sample every cell is trained for
one epoch, in a process of one thread as `verify` does it, and the processor time of an epoch is
multiplied by the number of epochs and of trainings. What happens once a training (a countermeasure
is fitted) or once a cell (a denoiser learns) happens in full and is counted as often. Cells are
printed, too, and the levels below whose victims see images of the same size. Processor time hardly
depends on what else the machine does; with two cores and two processes, half of it is what passes
on the clock.
"""

import argparse
import csv
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medshield.arms import CLEAN
from medshield.preparation import Preparation, prepare
from medshield.protect_config import ProtectConfig
from medshield.protecting import protect
from medshield.threats import LEVELS, declared_cells, largest_side, levels_up_to
from medshield.trials import Job
from medshield.verify_config import VerifyConfig
from medshield.verifying import verify


def make_set(folder: Path, images: int, side: int) -> None:
    """Grey PNG files of two classes, each of its own patient."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    rows = []
    for number in range(images):
        x, y = rng.integers(side // 4, side - side // 4, 2)
        radius, label = side // 6, number % 2
        distances = (abs(across - x), abs(down - y))
        shape = np.hypot(*distances) < radius if label else np.maximum(*distances) < radius
        image = rng.normal(90, 20, (side, side)) + rng.uniform(15, 90) * shape
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append([f"{number}.png", ("square", "disc")[label]])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "label"], *rows])


@dataclass(frozen=True)
class Sampled:
    """What one epoch of one cell took.

    Attributes:
        cell: its name.
        epochs: of a training.
        trainings: of the cell.
        fit, epoch: processor's seconds, of what happens once a training and of each epoch.
    """

    cell: str
    epochs: int
    trainings: int
    fit: float
    epoch: float

    @property
    def training(self) -> float:
        """Processor's seconds of one whole training."""
        return self.fit + self.epochs * self.epoch


def sampled(job: Job, trainings: int) -> Sampled:
    """Train one epoch of a cell."""
    images, targets = job.parts.train.images, job.parts.train.targets
    started = time.process_time()
    for countermeasure in job.cell.countermeasures:
        countermeasure.fitted(job.task, images, targets).on_training_set(images, targets)
    fit = time.process_time() - started if job.cell.countermeasures else 0.0
    epochs = job.schedule.recipe(job.cell).epochs
    started = time.process_time()
    replace(job, schedule=replace(job.schedule, standard=1, adversarial=1)).run()
    whole = time.process_time() - started
    return Sampled(job.cell.name, epochs, trainings, fit, max(0.0, whole - fit))


def sample(ready: Preparation) -> tuple[list[Sampled], float]:
    """Of every cell; and the processor's seconds that preparing cells takes."""
    started = time.process_time()
    found = ready.jobs()
    prepared = time.process_time() - started
    work = [(arms[CLEAN][0], sum(map(len, arms.values()))) for arms in found.values()]
    threads = max(1, torch.get_num_threads() // ready.config.workers)
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(ready.config.workers, torch.set_num_threads, (threads,)) as pool:
        return pool.starmap(sampled, work, chunksize=1), prepared


def main() -> None:
    """Make the set, ask and measure, and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64, help="of the images, px")
    parser.add_argument("--threat", choices=LEVELS, default="basic")
    parser.add_argument("--image-size", type=int, help="side of the victims' input, px")
    parser.add_argument("--cells", default="", help="only these, comma-separated")
    parser.add_argument("--weights", type=Path, action="append", default=[])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--run", action="store_true", help="train, and say how long it took")
    how.add_argument("--sample", action="store_true", help="train an epoch of each cell")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "images"
        make_set(source, options.images, options.side)
        released = protect(
            ProtectConfig(source, method="random-noise", epsilon=Fraction(8, 255), seed=0)
        )
        config = VerifyConfig(
            release=released.release,
            threat=options.threat,
            cells=tuple(filter(None, options.cells.split(","))),
            image_size=options.image_size,
            weights=tuple(options.weights),
        )
        ready = prepare(config, fetch=False)
        plan = ready.plan
        row = [options.images, options.threat, len(plan.cells), plan.trainings, plan.image_size]
        row.append(f"{plan.seconds / 60:.1f}")
        rows = [row]
        if options.run:
            started = time.monotonic()
            verify(config)
            row.append(f"{(time.monotonic() - started) / 60:.1f}")
        if options.sample:
            found, prepared = sample(ready)
            print_cells(found, prepared)
            rows = []
            for level, cells in by_level(found, options.threat, ready.task.name):
                counts = [len(cells), sum(cell.trainings for cell in cells), plan.image_size]
                forecast = row[-1] if level == options.threat else ""
                minutes = (prepared + spent(cells)) / config.workers / 60
                rows.append([options.images, level, *counts, forecast, f"{minutes:.1f}"])
    sys.stderr.write(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    header = ["images", "level", "cells", "trainings", "victims' input, px", "forecast, min"]
    header += ["measured, min"] if options.run else []
    header += ["by an epoch of each, min"] if options.sample else []
    print_table(header, rows)


def spent(cells: list[Sampled]) -> float:
    """Processor's seconds of all trainings."""
    return sum(cell.trainings * cell.training for cell in cells)


def by_level(found: list[Sampled], threat: str, task: str) -> Iterator[tuple[str, list[Sampled]]]:
    """The cells of a level, and of those below it whose victims see images of the same size."""
    for level in levels_up_to(threat)[:-1]:
        if largest_side(level, task) == largest_side(threat, task):
            names = {cell.name for cell in declared_cells(level, task)}
            yield level, [cell for cell in found if cell.cell in names]
    yield threat, found


def print_cells(found: list[Sampled], prepared: float) -> None:
    """What each cell takes."""
    header = ["cell", "trainings", "epochs", "an epoch, s", "once a training, s", "a training, s"]
    print_table(
        header,
        [
            [s.cell, s.trainings, s.epochs, *(f"{x:.1f}" for x in (s.epoch, s.fit, s.training))]
            for s in found
        ],
    )
    sys.stdout.write(f"\nPreparing cells took {prepared:.0f} s.\n\n")


def print_table(header: list[str], rows: list[list[object]]) -> None:
    """As Markdown."""
    for line in (header, ["---"] * len(header), *rows):
        sys.stdout.write("| " + " | ".join(map(str, line)) + " |\n")


if __name__ == "__main__":
    main()
