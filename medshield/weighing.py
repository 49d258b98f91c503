"""From the trials of a cell to its result: scores of every arm, and leakage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medshield.arms import NOISE, PROTECTED
from medshield.evidence import CONFIDENCE, CellResult, measured, summarise
from medshield.sample import Sample
from medshield.tasks import Array, Task
from medshield.trials import LAST, SELECTIONS, Cell, Parts, Trial


@dataclass(frozen=True)
class Weighing:
    """What all cells of a verification are weighed by.

    Attributes:
        task: gives the scores.
        parts: of the clean arm.
        seed: of the draws of patients.
        cells: how many there are.
    """

    task: Task
    parts: Parts
    seed: int
    cells: int

    def result(self, cell: Cell, level: str, kept: dict[str, list[Trial]]) -> CellResult:
        """Weigh one cell.

        Args:
            cell: what was run.
            level: that declares it.
            kept: arm -> its trials; of each arm as many, but for random noise.
        """
        compared = {arm: trials for arm, trials in kept.items() if arm != NOISE}
        control = {arm: trials for arm, trials in kept.items() if arm == NOISE}
        samples = {name: self._sample(compared, name) for name in SELECTIONS}
        of_arm = dict.fromkeys(compared, samples)
        if control:
            of_arm[NOISE] = {name: self._sample(control, name) for name in SELECTIONS}
        comparisons = self.cells * len(SELECTIONS) * len(samples[LAST].names)
        return CellResult(
            cell=cell,
            level=level,
            scores={
                arm: {
                    name: self._scores(arm, trials, name, of_arm[arm][name]) for name in SELECTIONS
                }
                for arm, trials in kept.items()
            },
            leakages=tuple(
                leakage
                for name, sample in samples.items()
                for leakage in measured(sample, self.floor, name, comparisons=comparisons)
            ),
            decision=self.task.decision,
            floor=self.floor[self.task.decision],
            fitted=float(
                np.mean([trial.train_scores[self.task.decision] for trial in kept[PROTECTED]])
            ),
            curves={arm: [trial.curves() for trial in kept[arm]] for arm in kept},
            per_class={arm: self._per_class(kept[arm]) for arm in kept},
            seeds=len(kept[PROTECTED]),
        )

    @cached_property
    def floor(self) -> dict[str, float]:
        """What the constant predictor scores."""
        return self.task.constant_scores(self.parts.train.targets.numpy(), self.targets)

    @cached_property
    def targets(self) -> Array:
        """Of the test part."""
        return self.parts.test.targets.numpy()

    def _sample(self, kept: dict[str, list[Trial]], selection: str) -> Sample:
        predictions = {
            arm: [trial.predictions[selection] for trial in trials] for arm, trials in kept.items()
        }
        rng = np.random.default_rng(self.seed)
        return Sample.of(self.task, predictions, self.targets, self.parts.test.groups, rng)

    def _scores(
        self, arm: str, trials: Sequence[Trial], selection: str, sample: Sample
    ) -> dict[str, dict[str, Any]]:
        """Every score: mean and spread over seeds, and of those in the sample an interval."""
        rows = [self.task.scores(trial.predictions[selection], self.targets) for trial in trials]
        found = {name: summarise([row[name] for row in rows]) for name in rows[0]}
        for name in sample.names:
            low, high = sample.interval(arm, name, CONFIDENCE)
            found[name] |= {"low": max(0.0, low), "high": min(1.0, high)}
        return found

    def _per_class(self, trials: Sequence[Trial]) -> dict[str, float]:
        rows = [self.task.per_class(trial.predictions[LAST], self.targets) for trial in trials]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
