"""How long trainings will take, said before they begin."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from medshield.contrastive import PRETRAINING
from medshield.cost import FORWARD_ONLY
from medshield.probing import VIEWS
from medshield.trials import SELF_SUPERVISED, Job, fresh_victim

FIRST_BATCH, ROUNDS = 16, 2
LONG = 0.5
"""Seconds; where the first batch takes longer, no larger one is tried."""
OVERHEAD = 1.1
"""What optimiser and augmentation add to the passes."""


Speeds = dict[tuple[str, bool], float]
"""Seconds that an image takes, forward and back, of victims that were timed."""


def seconds(jobs: Sequence[Job], workers: int, speeds: Speeds | None = None) -> float:
    """About how long the jobs will take that are not finished yet; see `seconds_of_each`."""
    each = seconds_of_each(jobs, workers, {} if speeds is None else speeds)
    return sum(each) / max(1, _at_a_time(jobs, workers))


def seconds_of_each(jobs: Sequence[Job], workers: int, speeds: Speeds) -> list[float]:
    """About how long each job will take; 0 where it is finished.

    Every victim among them is timed for a moment, at its own size; countermeasures are taken to
    cost nothing, so a level with many of them takes longer than this says.

    Args:
        jobs: of any kind.
        workers: jobs that run at a time on a CPU.
        speeds: of victims that were timed earlier; those that are timed now are added.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // max(1, _at_a_time(jobs, workers))))
    try:
        return [0.0 if job.is_finished else _seconds_of(job, speeds) for job in jobs]
    finally:
        torch.set_num_threads(threads)


def _at_a_time(jobs: Sequence[Job], workers: int) -> int:
    """How many of the jobs that are not finished run at a time."""
    left = [job for job in jobs if not job.is_finished]
    return min(workers, len(left)) if left and left[0].device.type == "cpu" else len(left[:1])


def _seconds_of(job: Job, speeds: Speeds) -> float:
    kind = (job.cell.victim, job.cell.is_pretrained)
    if kind not in speeds:
        speeds[kind] = seconds_of_a_pass(job)
    return OVERHEAD * passes(job) * speeds[kind]


def passes(job: Job) -> float:
    """Images that go forward and back through the victim, those that only go forward a third."""
    recipe = job.schedule.recipe(job.cell)
    parts = job.parts
    scored = len(parts.test) + len(parts.validation)
    if parts.clean_validation is not parts.validation:
        scored += len(parts.clean_validation)
    if job.cell.is_probed:  # features are computed once
        found = FORWARD_ONLY * (VIEWS * len(parts.train) + scored)
        if job.cell.training == SELF_SUPERVISED:
            found += 2 * PRETRAINING * recipe.epochs * len(parts.train)  # two views of each image
        return found
    steps = 1 + (recipe.adversarial.steps if recipe.adversarial else 0)
    return recipe.epochs * (steps * len(parts.train) + FORWARD_ONLY * scored)


def seconds_of_a_pass(job: Job) -> float:
    """Of one image, forward and back: the fastest of a few batches after one that warms up."""
    model, part = fresh_victim(job).train(), job.parts.train

    def timed(size: int) -> float:
        rows = torch.arange(size) % len(part)
        images, targets = part.images[rows].to(job.device), part.targets[rows].to(job.device)
        started = time.perf_counter()
        job.task.loss(model(images), targets).mean().backward()  # type: ignore[no-untyped-call]
        if job.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    size = FIRST_BATCH
    if timed(size) < LONG:
        size = job.schedule.recipe(job.cell).batch_of(len(part))
    return min(timed(size) for _ in range(ROUNDS)) / size
