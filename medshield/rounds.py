"""Trainings in rounds: of every cell a few, and more of those that they leave open.

Three trainings that differ say little. To train all cells ten times would cost three times as
much, also where a glance shows that a release leaks; so only those are trained more often which
nothing but the width of an interval keeps from being protected, while no other cell leaks. The
rounds are few and set beforehand, since each one is a chance to be deceived; how often that
happens is measured in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from medshield import forecast, processes, progress, trials
from medshield.arms import NOISE
from medshield.evidence import CellResult, open_cells
from medshield.preparation import Jobs, Preparation
from medshield.text import duration
from medshield.threats import levels_up_to
from medshield.trials import Cell, Trial
from medshield.weighing import Weighing

Trials = dict[str, list[Trial]]
"""Of one cell: arm -> its trials."""


@dataclass
class Rounds:
    """The trainings of a verification.

    Attributes:
        ready: what is trained.
        weighing: what cells are weighed by.
        jobs, kept: trainings of each cell that are finished, and what came of them.
        results: of each cell.
    """

    ready: Preparation
    weighing: Weighing
    jobs: dict[Cell, Jobs] = field(default_factory=dict)
    kept: dict[Cell, Trials] = field(default_factory=dict)
    results: dict[Cell, CellResult] = field(default_factory=dict)

    def run(self) -> None:
        """Train every cell, and those that stay open again."""
        self._train(processes.in_turn(self.ready.jobs), "training victims")
        for count in self.ready.config.counts[1:]:
            undecided = self._open()
            if not undecided:
                break
            further = {cell: self._further(cell, count) for cell in undecided}
            every = [job for jobs in further.values() for arm in jobs.values() for job in arm]
            progress.logger.info(
                "no cell leaks, but intervals are wide: %d more trainings of %s, about %s",
                len(every),
                ", ".join(cell.name for cell in undecided),
                duration(forecast.seconds(every, self.ready.config.workers, self.ready.speeds)),
            )
            self._train(further, "training more victims")

    def _open(self) -> list[Cell]:
        """The cells that more trainings may decide at any level that is run, in their order."""
        found: set[Cell] = set()
        for level in levels_up_to(self.ready.config.threat):
            below = levels_up_to(level)
            results = [result for result in self.results.values() if result.level in below]
            found.update(result.cell for result in open_cells(results, level))
        agreed = processes.agreed([cell in found for cell in self.results])
        return [cell for cell, is_open in zip(self.results, agreed, strict=True) if is_open]

    def _further(self, cell: Cell, count: int) -> Jobs:
        """Trainings up to so many of each arm; one of random noise is enough."""
        config = self.ready.config
        return {
            arm: [
                replace(jobs[0], seed=config.victim_seed(number))
                for number in range(len(jobs), count)
            ]
            for arm, jobs in self.jobs[cell].items()
            if arm != NOISE
        }

    def _train(self, jobs: dict[Cell, Jobs], said: str) -> None:
        """Run jobs and weigh their cells anew."""
        for (cell, arm, job), trial in self._trained(jobs, said):
            self.jobs.setdefault(cell, {}).setdefault(arm, []).append(job)
            self.kept.setdefault(cell, {}).setdefault(arm, []).append(trial)
        for cell in jobs:
            level = self.ready.cells.level_of(cell)
            self.results[cell] = self.weighing.result(cell, level, self.kept[cell])

    def _trained(
        self, jobs: dict[Cell, Jobs], said: str
    ) -> Iterator[tuple[tuple[Cell, str, trials.Job], Trial]]:
        order = [
            (cell, arm, job)
            for cell, arms in jobs.items()
            for arm, found in arms.items()
            for job in found
        ]
        with progress.bar(said) as update:
            every = self._run([job for *_, job in order], update)
            yield from zip(order, every, strict=True)

    def _run(self, jobs: list[trials.Job], update: progress.Update) -> Iterator[Trial]:
        """What comes of jobs, in their order; where there are several processes, of all of them."""
        workers = self.ready.config.workers
        if processes.current().count > 1:
            trials.run_together(jobs, workers, update)
        costs = forecast.seconds_of_each(jobs, workers, self.ready.speeds)

        def tell(shares: Sequence[float]) -> None:
            done = sum(share == 1 for share in shares)
            spent = sum(share * cost for share, cost in zip(shares, costs, strict=True))
            update(done, len(jobs), spent / sum(costs) if sum(costs) else None)

        return trials.run_all(jobs, workers, tell)
