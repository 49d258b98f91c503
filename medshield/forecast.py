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


def seconds(jobs: Sequence[Job], workers: int) -> float:
    """About how long the jobs will take that are not finished yet.

    Every victim among them is timed for a moment, at its own size; countermeasures are taken to
    cost nothing, so a level with many of them takes longer than this says.

    Args:
        jobs: of any kind.
        workers: jobs that run at a time on a CPU.
    """
    open_jobs = [job for job in jobs if not job.is_finished]
    if not open_jobs:
        return 0.0
    at_a_time = min(workers, len(open_jobs)) if open_jobs[0].device.type == "cpu" else 1
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // at_a_time))
    try:
        speeds: dict[tuple[str, bool], float] = {}
        total = 0.0
        for job in open_jobs:
            kind = (job.cell.victim, job.cell.is_pretrained)
            if kind not in speeds:
                speeds[kind] = seconds_of_a_pass(job)
            total += passes(job) * speeds[kind]
    finally:
        torch.set_num_threads(threads)
    return OVERHEAD * total / at_a_time


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
