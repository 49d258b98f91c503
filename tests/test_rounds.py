"""Cells are trained again only where more trainings may show that a release protects."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medshield import forecast, trials
from medshield.arms import ARMS, NOISE, PROTECTED
from medshield.dataset.examples import Examples
from medshield.evidence import Verdict
from medshield.rounds import Rounds
from medshield.tasks import Classification
from medshield.trials import SELECTIONS, Cell, Job, Parts, Trial
from medshield.verify_config import VerifyConfig
from medshield.weighing import Weighing

TASK = Classification(("a", "b"))
PATIENTS = 200
TARGETS = np.arange(PATIENTS) % 2
ONE, OTHER, HARDER = Cell("resnet18"), Cell("small_convnet"), Cell("resnet18", "adversarial")
LEVELS = {ONE: "basic", OTHER: "basic", HARDER: "determined"}

STEADY = [0.3] * 10
UNEVEN = [0.25, 0.5, 0.35, 0.35, 0.38, 0.36, 0.36, 0.37, 0.36, 0.37]
VERY_UNEVEN = [0.2, 0.6, 0.5, 0.3, 0.6, 0.45, 0.4, 0.42, 0.38, 0.41]
LEAKING = [0.9] * 10


def parts():
    names = tuple(map(str, range(PATIENTS)))
    images, targets = torch.zeros(PATIENTS, 1, 1, 1), torch.from_numpy(TARGETS)
    part = Examples(images, targets, names, np.arange(PATIENTS), np.full(PATIENTS, ""))
    return Parts(part, part, part, part)


PARTS = {arm: parts() for arm in ARMS}


def trial(accuracy):
    """Of a victim that is right for so many of both classes alike, and fitted its own data."""
    right = np.arange(PATIENTS) // 2 < accuracy * PATIENTS / 2
    predicted = np.eye(2)[np.where(right, TARGETS, 1 - TARGETS)]
    return Trial([], [], [], [], {TASK.decision: 0.99}, dict.fromkeys(SELECTIONS, predicted))


def ran(accuracies, monkeypatch, **config):
    """Trains cells whose protected arms score as told: seed by seed, the clean ones 0.95."""
    config = VerifyConfig(**config)

    def run_all(jobs, _workers, _tell):
        for job in jobs:
            protected = job.parts is PARTS[PROTECTED]
            yield trial(accuracies[job.cell][job.seed] if protected else 0.95)

    def jobs():
        return {
            cell: {
                arm: [
                    Job(TASK, cell, None, PARTS[arm], seed, torch.device("cpu"), None)
                    for seed in range(1 if arm == NOISE else config.seeds)
                ]
                for arm in ARMS
            }
            for cell in accuracies
        }

    monkeypatch.setattr(trials, "run_all", run_all)
    monkeypatch.setattr(forecast, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(forecast, "seconds_of_each", lambda jobs, *_: [1.0] * len(jobs))
    cells = SimpleNamespace(level_of=LEVELS.get)
    weighing = Weighing(TASK, PARTS[PROTECTED], 0, len(accuracies))
    rounds = Rounds(SimpleNamespace(config=config, cells=cells, jobs=jobs, speeds={}), weighing)
    rounds.run()
    return rounds


def counts(rounds):
    return {cell: result.seeds for cell, result in rounds.results.items()}


def test_what_is_clear_is_trained_three_times(monkeypatch):
    for one in (STEADY, LEAKING):
        assert counts(ran({ONE: one}, monkeypatch)) == {ONE: 3}


def test_a_cell_whose_interval_is_too_wide_is_trained_until_it_is_narrow(monkeypatch):
    rounds = ran({ONE: UNEVEN, OTHER: STEADY}, monkeypatch)
    assert counts(rounds) == {ONE: 5, OTHER: 3}
    assert rounds.results[ONE].judged("basic")[0] is Verdict.PROTECTED
    assert {arm: len(jobs) for arm, jobs in rounds.jobs[ONE].items()} == {
        "clean": 5,
        "protected": 5,
        "random noise": 1,
    }
    assert [job.seed for job in rounds.jobs[ONE][PROTECTED]] == [0, 1, 2, 3, 4]
    assert list(rounds.results) == [ONE, OTHER]
    few = ran({ONE: UNEVEN, OTHER: STEADY}, monkeypatch, most_seeds=3)
    assert counts(few) == {ONE: 3, OTHER: 3}
    assert few.results[ONE].judged("basic")[0] is not Verdict.PROTECTED


def test_it_is_never_trained_more_often_than_may_be(monkeypatch):
    assert counts(ran({ONE: VERY_UNEVEN}, monkeypatch)) == {ONE: 10}
    assert counts(ran({ONE: VERY_UNEVEN}, monkeypatch, most_seeds=7)) == {ONE: 7}


def test_no_cell_is_trained_again_where_another_one_leaks(monkeypatch):
    assert counts(ran({ONE: UNEVEN, OTHER: LEAKING}, monkeypatch)) == {ONE: 3, OTHER: 3}


def test_what_leaks_at_a_higher_level_does_not_keep_a_lower_one_open(monkeypatch):
    cells = {ONE: UNEVEN, HARDER: LEAKING}
    assert counts(ran(cells, monkeypatch, threat="determined")) == {ONE: 5, HARDER: 3}


@pytest.mark.parametrize(
    ("seeds", "most", "expected"),
    [
        (3, 10, (3, 5, 10)),
        (3, 5, (3, 5)),
        (3, 4, (3, 4)),
        (3, 3, (3,)),
        (5, 10, (5, 10)),
        (12, 10, (12,)),
        (1, 10, (1,)),
    ],
)
def test_the_rounds_are_set_beforehand(seeds, most, expected):
    assert VerifyConfig(seeds=seeds, most_seeds=most).counts == expected
