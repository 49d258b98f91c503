"""Arms hold the same examples in the same order; one cell mixes clean ones into all of them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from medshield.arms import ALONE, ARMS, CLEAN, NOISE, PROTECTED, arms_for, arms_of
from medshield.dataset.examples import Examples
from medshield.tasks import Classification
from medshield.trials import Cell

PATIENTS, EACH, SIZE = 30, 2, 32
COUNT = PATIENTS * EACH
TASK = Classification(("a", "b"))
EPSILON = Fraction(8, 255)
MIXED = Cell("small_convnet", "clean-mix")


def clean_examples():
    images = torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    groups = np.arange(COUNT) // EACH
    names = tuple(map(str, range(COUNT)))
    targets = torch.from_numpy(groups % 2)
    return Examples(0.2 + 0.6 * images, targets, names, groups, np.full(COUNT, ""))


@pytest.fixture
def arms():
    clean = clean_examples()
    released = replace(clean, images=clean.images + 0.1)
    rows = np.arange(COUNT)
    split = {"train": rows[:40], "val": rows[40:50], "test": rows[50:]}
    return arms_of(clean, released, split, TASK, EPSILON, seed=0)


def same(first, second):
    """Which images of two parts are equal."""
    return (first.images == second.images).flatten(1).all(1).numpy()


def test_only_what_is_trained_on_differs(arms):
    assert tuple(arms) == ARMS
    for parts in arms.values():
        assert same(parts.test, arms[CLEAN].test).all()
        assert same(parts.clean_validation, arms[CLEAN].validation).all()
        assert parts.train.names == arms[CLEAN].train.names
    assert not same(arms[PROTECTED].train, arms[CLEAN].train).any()
    noise = arms[NOISE].train.images - arms[CLEAN].train.images
    assert noise.abs().max() == pytest.approx(float(EPSILON), abs=1e-6)


def test_other_cells_have_the_arms_as_they_are(arms):
    assert arms_for(Cell("small_convnet"), arms, seed=0) is arms


def test_a_fifth_of_the_patients_is_clean_in_every_arm(arms):
    mixed = arms_for(MIXED, arms, seed=0)
    clean = arms[CLEAN].train
    known = same(mixed[PROTECTED].train, clean)
    assert known.sum() == 8  # of 40
    assert np.array_equal(known, same(mixed[NOISE].train, clean))
    assert same(mixed[PROTECTED].train, arms[PROTECTED].train)[~known].all()
    assert same(mixed[CLEAN].train, clean).all()
    assert not set(clean.groups[known]) & set(clean.groups[~known])
    assert set(clean.targets.numpy()[known]) == {0, 1}


def test_the_arm_of_that_fifth_alone_trains_as_long_as_the_others(arms):
    mixed = arms_for(MIXED, arms, seed=0)
    known = same(mixed[PROTECTED].train, arms[CLEAN].train)
    alone = mixed[ALONE].train
    assert len(alone) == len(arms[CLEAN].train)
    names = np.array(arms[CLEAN].train.names)
    assert set(alone.names) == set(names[known])


def test_the_draw_hangs_on_the_seed(arms):
    def names(seed):
        return set(arms_for(MIXED, arms, seed)[ALONE].train.names)

    assert names(0) == names(0)
    assert names(0) != names(1)
