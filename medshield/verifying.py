"""`medshield verify`: does a release keep models from learning? Trains victims and says so.

The test part is clean, split by patient, and the same for every arm. What a verdict means is
written in docs/evidence.md and decided in `medshield.evidence`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medshield import processes, progress
from medshield.arms import ARMS, CLEAN
from medshield.cost import mean_cost
from medshield.dataset.examples import Examples
from medshield.evidence import CONFIDENCE, CellResult, Verdict, summarise, worst
from medshield.fidelity import fidelity, worst_files
from medshield.preparation import prepare
from medshield.rounds import Rounds, Trials
from medshield.sample import Sample
from medshield.text import epsilon_text
from medshield.threats import levels_up_to
from medshield.training import predict
from medshield.trials import Job
from medshield.verify_config import VerifyConfig
from medshield.versions import versions
from medshield.weighing import Weighing

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """Everything that a verification found.

    Attributes:
        threat: the level asked for.
        levels: verdict of each level that was run.
        not_run: what a level declares and was not run, by level.
        cells: results.
        facts: how it was run, for the report.
        reports: the folder of the reports; None where none were written.
    """

    threat: str
    levels: dict[str, Verdict]
    not_run: dict[str, tuple[str, ...]]
    cells: tuple[CellResult, ...]
    facts: dict[str, Any]
    reports: Path | None = None

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
            "seeds": result.seeds,
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


def verify(config: VerifyConfig) -> Evidence:
    """Train victims on clean and protected images and weigh what they learned.

    Raises:
        InputError: the release or the source can't be used.
    """
    started = time.monotonic()
    rounds = trained(config)
    ready, weighing = rounds.ready, rounds.weighing
    task, cells, clean, schedule = ready.task, ready.cells, ready.clean, ready.schedule
    results = list(rounds.results.values())
    facts = {
        "release": ready.release.name,
        "method": ready.summary["method"],
        **({"plugin": str(plugin)} if (plugin := ready.summary.get("plugin")) else {}),
        "epsilon": ready.summary["epsilon"],
        "task": task.name,
        "threat": config.threat,
        "arms": list(ARMS),
        "examples": {part: len(rows) for part, rows in ready.split.items()},
        "patients": {
            part: len(np.unique(clean.groups[rows])) for part, rows in ready.split.items()
        },
        "duplicates": {"same": ready.twins.same, "near": ready.twins.near},
        "notes": ready.notes,
        "weights": {cell.victim: found.facts() for cell, found in cells.weights.items()},
        "seeds": config.seeds,
        "most_seeds": config.counts[-1],
        "image_size": clean.images.shape[-1],
        "epochs": {"standard": schedule.standard, "adversarial": schedule.adversarial},
        "adversary": {"epsilon": epsilon_text(config.adversary), "steps": config.adversary_steps},
        "floor": weighing.floor,
        "use": _use(rounds.jobs[cells.of_use][CLEAN], ready.released.rows(ready.split["test"])),
        "cost": {cell.name: _training_cost(arms) for cell, arms in rounds.kept.items()},
        "fidelity": fidelity(ready.records, ready.found, ready.release),
        "worst_files": worst_files(ready.records),
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    levels = _level_verdicts(results, cells.not_run)
    facts["limit"] = _limit(results, levels[config.threat], config)
    return Evidence(config.threat, levels, cells.not_run, tuple(results), facts)


def trained(config: VerifyConfig) -> Rounds:
    """All trainings of a verification; where several processes do this, each trains a share.

    Raises:
        InputError: the release or the source can't be used.
    """
    ready = prepare(config)
    for line in ready.plan.lines:
        progress.logger.info("%s", line)
    weighing = Weighing(ready.task, ready.arms[CLEAN], config.seed, len(ready.cells.run))
    rounds = Rounds(ready, weighing)
    processes.see_to_shared(ready.cache)
    rounds.run()
    return rounds


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


def _use(clean_jobs: Sequence[Job], released_test: Examples) -> dict[str, Any]:
    """Models trained on clean images, scored on clean and on protected test images."""
    task, test = clean_jobs[0].task, clean_jobs[0].parts.test
    parts = {"on_clean": test, "on_protected": released_test}
    models = [job.kept_model() for job in clean_jobs]
    predictions = {
        name: [predict(model, task, part.images, part.targets) for model in models]
        for name, part in parts.items()
    }
    rng = np.random.default_rng(clean_jobs[0].seed)
    sample = Sample.of(task, predictions, test.targets.numpy(), test.groups, rng)
    column = sample.names.index(task.decision)
    drop, low, high = sample.difference("on_clean", "on_protected", task.decision, CONFIDENCE)
    return {
        "victim": clean_jobs[0].cell.name,
        "score": task.decision,
        **{
            name: summarise(list(sample.scores[:, number, column]))
            for number, name in enumerate(sample.arms)
        },
        "drop": {"mean": drop, "low": low, "high": high},
    }


def _training_cost(arms: Trials) -> dict[str, float] | None:
    """What training one victim of a cell cost in the mean."""
    found = mean_cost(trial.cost for trials in arms.values() for trial in trials)
    return found.to_json() if found else None
