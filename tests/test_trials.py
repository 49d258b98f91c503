"""A trial is trained once, kept, and found again by what went into it."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from medshield import trials
from medshield.budget import Budget
from medshield.countermeasures import COUNTERMEASURES
from medshield.dataset.examples import Examples
from medshield.tasks import Classification
from medshield.threats import FURTHER_CLASSIFIERS, VICTIMS
from medshield.trials import BEST, CLEAN_BEST, LAST, SELECTIONS, Cell, Job, Parts, Schedule, run_all

CPU = torch.device("cpu")
EPOCHS = 3
SIZE = 8
PLAIN = Cell("small_convnet")
SCHEDULE = Schedule(
    standard=EPOCHS, adversarial=2, adversary=Budget(Fraction(4, 255)), adversary_steps=1
)


def examples(count, seed):
    """Dark and bright images, told apart at once."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    images = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=generator) + 0.3
    names = tuple(f"{seed}/{number}" for number in range(count))
    images = images + 0.4 * targets[:, None, None, None]
    return Examples(images, targets, names, np.arange(count), np.full(count, ""))


@pytest.fixture
def job(tmp_path):
    validation = examples(8, 1)
    parts = Parts(examples(32, 0), validation, validation, examples(12, 2))
    task = Classification(("dark", "bright"))
    return Job(task, PLAIN, SCHEDULE, parts, seed=0, device=CPU, cache=tmp_path / "trials")


def same(first, second):
    plain = first.curves() == second.curves() and first.train_scores == second.train_scores
    return plain and all(
        np.array_equal(first.predictions[name], second.predictions[name]) for name in SELECTIONS
    )


def files(job):
    return sorted(path.name for path in job.cache.iterdir())


def test_what_comes_of_a_trial(job):
    trial = job.run()
    assert set(trial.predictions) == {LAST, BEST, CLEAN_BEST}
    assert all(kept.shape == (12, 2) for kept in trial.predictions.values())
    assert all(len(curve) == EPOCHS for curve in trial.curves().values())
    assert np.isfinite(trial.losses).all()
    assert set(trial.train_scores) == set(trial.test_scores[0])
    last = job.task.scores(trial.predictions[LAST], job.parts.test.targets.numpy())
    assert last == trial.test_scores[-1]


@pytest.mark.parametrize(
    ("selection", "curve"), [(BEST, "validation"), (CLEAN_BEST, "clean_validation")]
)
def test_the_best_epoch_is_the_first_that_its_validation_says(job, selection, curve):
    upside_down = replace(job.parts.validation, targets=1 - job.parts.validation.targets)
    trial = replace(job, parts=replace(job.parts, clean_validation=upside_down)).run()
    assert trial.validation_scores != trial.clean_validation_scores
    scores = [row["balanced_accuracy"] for row in trial.curves()[curve]]
    chosen = job.task.scores(trial.predictions[selection], job.parts.test.targets.numpy())
    assert chosen == trial.test_scores[int(np.argmax(scores))]


def test_a_trial_s_cost_is_that_of_its_training(job):
    assert job.run().cost.passes == EPOCHS * 32


def test_trials_of_before_costs_were_counted_are_found_too(job):
    trials._save(replace(job.run(), cost=None), job.place)
    assert job.run().cost is None


def test_a_finished_trial_is_found_again_and_equal(job, monkeypatch):
    trial = job.run()
    assert job.run().cost == trial.cost
    assert files(job) == [job.place.name]
    monkeypatch.setattr("medshield.trials._train", None)  # nothing may be trained now
    assert same(job.run(), trial)


def test_a_trial_is_the_same_when_it_is_trained_anew(job, tmp_path):
    trial = job.run()
    torch.rand(5)
    assert same(replace(job, cache=tmp_path / "elsewhere").run(), trial)


def test_an_interrupted_trial_is_not_taken_for_a_finished_one(job):
    job.cache.mkdir()
    place = job.place
    remains = [place.with_name(f"{place.name}.123.part"), place.with_name(f"{place.name}.part")]
    for path in remains:
        path.write_bytes(b"half a tri")
    trial = job.run()
    assert place.is_file()
    assert same(job.run(), trial)


def test_a_trial_is_named_by_all_that_it_depends_on(job):
    train = job.parts.train
    brighter = replace(job.parts, train=replace(train, images=train.images + 1 / 255))
    swapped = replace(job.parts, train=replace(train, targets=1 - train.targets))
    variants = [
        job,
        replace(job, seed=1),
        replace(job, task=Classification(("bright", "dark"))),
        replace(job, cell=Cell("resnet18")),
        replace(job, cell=Cell("small_convnet", "adversarial")),
        replace(job, cell=Cell("small_convnet", "adversarial-2")),
        replace(job, cell=Cell("small_convnet", "standard", "blur")),
        replace(job, schedule=replace(SCHEDULE, standard=4)),
        replace(job, parts=brighter),
        replace(job, parts=swapped),
        replace(job, parts=replace(job.parts, clean_validation=examples(8, 9))),
        replace(job, parts=replace(job.parts, test=examples(12, 9))),
    ]
    assert len({variant.place for variant in variants}) == len(variants)


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_a_trial_with_a_countermeasure_is_named_alike_in_every_run(name):
    recipe = SCHEDULE.recipe(Cell("small_convnet", "standard", name))
    assert " at 0x" not in str(recipe)  # an address would name it anew each time


def test_what_a_cell_does_not_use_does_not_count(job):
    longer = replace(SCHEDULE, adversarial=9, adversary_steps=5)
    assert replace(job, schedule=longer).place == job.place


def test_a_kept_model_gives_the_last_epoch_s_predictions(job):
    keeping = replace(job, keep_model=True)
    trial = keeping.run()
    model = keeping.kept_model().eval()
    test = job.parts.test
    with torch.no_grad():
        found = job.task.predictions(model(test.images), test.targets)
    assert np.array_equal(found.numpy(), trial.predictions[LAST])


def test_a_trial_without_its_model_is_run_again_where_the_model_is_asked_for(job):
    trial = job.run()
    keeping = replace(job, keep_model=True)
    assert same(keeping.run(), trial)
    assert len(files(job)) == 2


@pytest.mark.parametrize("countermeasure", COUNTERMEASURES)
def test_a_trial_with_a_countermeasure(job, countermeasure):
    cell = Cell("small_convnet", "standard", countermeasure)
    trial = replace(job, cell=cell, schedule=replace(SCHEDULE, standard=1)).run()
    assert np.isfinite(trial.predictions[LAST]).all()


def test_adversarial_training(job):
    trial = replace(job, cell=Cell("small_convnet", "adversarial")).run()
    assert len(trial.losses) == 2
    assert not same(trial, job.run())


@pytest.mark.parametrize(
    ("training", "radius"), [("adversarial", 3), ("adversarial-2", 2), ("adversarial-8", 8)]
)
def test_a_cell_may_name_its_radius(training, radius):
    schedule = replace(SCHEDULE, adversary=Budget(Fraction(3, 255)))
    attack = schedule.recipe(Cell("small_convnet", training)).adversarial
    assert attack.budget.epsilon == Fraction(radius, 255)


def test_several_trials_come_in_the_order_of_their_jobs(job):
    jobs = [replace(job, seed=seed) for seed in (2, 0, 1)]
    found = list(run_all(jobs, workers=1))
    assert all(same(trial, each.run()) for trial, each in zip(found, jobs, strict=True))
    assert not same(found[0], found[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_tell_how_far_they_are_after_each_epoch(job, workers, monkeypatch):
    monkeypatch.setattr(trials, "SECONDS_BETWEEN_LOOKS", 0.001)
    jobs = [job, *(replace(job, seed=seed) for seed in (1, 2))]
    job.run()  # which was done earlier
    told = []
    assert len(list(run_all(jobs, workers, lambda shares: told.append(tuple(shares))))) == 3
    assert all(first == 1 for first, *_ in told)
    assert told[-1] == (1, 1, 1)
    assert any(0 < share < 1 for shares in told for share in shares)
    assert told == sorted(told, key=sum)


def test_the_cache_is_for_the_owner_alone(job):
    job.run()
    assert job.cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (PLAIN, "small_convnet:standard"),
        (Cell("resnet18", "adversarial"), "resnet18:adversarial"),
        (Cell("resnet18", "standard", "grey"), "resnet18:standard:grey"),
    ],
)
def test_names_of_cells(cell, name):
    assert cell.name == name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("victim", [*VICTIMS["classification"], *FURTHER_CLASSIFIERS])
def test_every_declared_classifier_trains_on_small_images(job, victim, channels):
    def some(count, seed):
        small = examples(count, seed)
        images = small.images.repeat(1, channels, 4, 4)
        return replace(small, images=images)

    parts = Parts(some(16, 0), some(4, 1), some(4, 1), some(4, 2))
    short = replace(SCHEDULE, standard=1)
    trial = replace(job, cell=Cell(victim), schedule=short, parts=parts).run()
    assert np.isfinite(trial.losses).all()
    assert trial.predictions[LAST].shape == (4, 2)
