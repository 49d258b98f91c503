"""What is said of the time that trainings take."""

from fractions import Fraction

import pytest
import torch

from medshield import forecast
from medshield.budget import Budget
from medshield.tasks import Classification
from medshield.text import duration
from medshield.trials import Cell, Job, Parts, Schedule
from tests.test_trials import examples

TASK = Classification(("no", "yes"))


def job(tmp_path, cell="small_convnet", training="standard", epochs=2):
    parts = Parts(examples(24, 0), examples(8, 1), examples(8, 2), examples(12, 3))
    schedule = Schedule(epochs, epochs, Budget(Fraction(4, 255)), 3)
    return Job(TASK, Cell(cell, training), schedule, parts, 0, torch.device("cpu"), tmp_path)


def test_passes_are_counted_as_training_makes_them(tmp_path):
    scored = (12 + 8 + 8) / 3
    assert forecast.passes(job(tmp_path)) == pytest.approx(2 * (24 + scored))
    hardened = job(tmp_path, training="adversarial")
    assert forecast.passes(hardened) == pytest.approx(2 * (4 * 24 + scored))
    probed = (4 * 24) / 3 + scored
    assert forecast.passes(job(tmp_path, training="probe")) == pytest.approx(probed)
    unlabelled = job(tmp_path, training="self-supervised")
    assert forecast.passes(unlabelled) == pytest.approx(probed + 2 * 2 * 2 * 24)


def test_more_epochs_take_longer_and_finished_trials_nothing(tmp_path):
    short, long = job(tmp_path), job(tmp_path, epochs=200)
    assert 0 < forecast.seconds([short], 1) < forecast.seconds([long], 1)
    short.run()
    assert forecast.seconds([short], 1) == 0


def test_each_job_has_its_time_and_a_victim_is_timed_once(tmp_path, monkeypatch):
    short, long = job(tmp_path, epochs=2), job(tmp_path, epochs=200)
    speeds = {}
    one, other = forecast.seconds_of_each([short, long], 1, speeds)
    assert other == pytest.approx(100 * one)
    monkeypatch.setattr(forecast, "seconds_of_a_pass", None)
    assert forecast.seconds_of_each([long, short], 2, speeds) == [other, one]
    assert forecast.seconds([short, long], 2, speeds) == pytest.approx((one + other) / 2)
    short.run()
    assert forecast.seconds_of_each([short, long], 1, speeds) == [0, other]


def test_threads_are_as_before(tmp_path):
    before = torch.get_num_threads()
    forecast.seconds([job(tmp_path), job(tmp_path, epochs=3)], 2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (50, "50 s"), (200, "3 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
