"""Arms hold the same examples in the same order; one cell mixes clean ones into all of them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from medshield import arms as arms_module
from medshield.arms import ALONE, ARMS, CLEAN, NOISE, PROTECTED, arms_for, arms_of
from medshield.dataset.examples import Examples
from medshield.denoising import Denoiser
from medshield.tasks import Classification
from medshield.trials import DENOISED, Cell

PATIENTS, EACH, SIZE = 30, 2, 32
COUNT = PATIENTS * EACH
TASK = Classification(("a", "b"))
EPSILON = Fraction(8, 255)
MIXED = Cell("small_convnet", "clean-mix")
CLEANED = Cell("small_convnet", DENOISED)


class Shifting:
    """In place of a trainer with keys of their own: a denoiser that takes 0.05 from everything."""

    def __init__(self):
        self.own = None

    def denoiser(self, own):
        self.own = own
        model = Denoiser(1, 0.05)
        model.delta = torch.ones_like
        return model


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
    assert arms_for(Cell("small_convnet"), arms, 0, Shifting()) is arms


def test_a_fifth_of_the_patients_is_clean_in_every_arm(arms):
    mixed = arms_for(MIXED, arms, 0, Shifting())
    clean = arms[CLEAN].train
    known = same(mixed[PROTECTED].train, clean)
    assert known.sum() == 8  # of 40
    assert np.array_equal(known, same(mixed[NOISE].train, clean))
    assert same(mixed[PROTECTED].train, arms[PROTECTED].train)[~known].all()
    assert same(mixed[CLEAN].train, clean).all()
    assert not set(clean.groups[known]) & set(clean.groups[~known])
    assert set(clean.targets.numpy()[known]) == {0, 1}


def test_the_arm_of_that_fifth_alone_trains_as_long_as_the_others(arms):
    mixed = arms_for(MIXED, arms, 0, Shifting())
    known = same(mixed[PROTECTED].train, arms[CLEAN].train)
    alone = mixed[ALONE].train
    assert len(alone) == len(arms[CLEAN].train)
    names = np.array(arms[CLEAN].train.names)
    assert set(alone.names) == set(names[known])


def test_the_draw_hangs_on_the_seed(arms):
    def names(seed):
        return set(arms_for(MIXED, arms, seed, Shifting())[ALONE].train.names)

    assert names(0) == names(0)
    assert names(0) != names(1)


def test_who_makes_pairs_has_the_validation_part_and_a_third_of_the_training_part_clean(arms):
    other = Shifting()
    cleaned = arms_for(CLEANED, arms, 0, other)
    clean = arms[CLEAN]
    names = set(other.own.names)
    assert set(clean.validation.names) <= names
    assert not names & set(clean.test.names)
    taken = names - set(clean.validation.names)
    assert 10 <= len(taken) <= 14  # of 40
    for name, parts in cleaned.items():
        assert set(parts.train.names) == set(clean.train.names) - taken
        assert not set(parts.train.groups) & set(other.own.groups)
        rows = np.flatnonzero(~np.isin(clean.train.names, list(taken)))
        expected = (arms[name].train.images[rows] - 0.05).clamp(0, 1)
        assert torch.allclose(parts.train.images, expected)
    images = torch.cat([clean.validation.images, clean.train.images])
    for image in other.own.images:
        assert (images == image).flatten(1).all(1).any(), "the trainer's images are not clean"


def test_a_denoiser_is_applied_to_all_parts_and_the_same_part_stays_the_same(arms):
    cleaned = arms_for(CLEANED, arms, 0, Shifting())
    expected = (arms[CLEAN].test.images - 0.05).clamp(0, 1)
    assert torch.allclose(cleaned[PROTECTED].test.images, expected)
    assert cleaned[PROTECTED].test.images is not cleaned[CLEAN].validation.images
    assert cleaned[CLEAN].clean_validation is cleaned[CLEAN].validation
    moved = cleaned[PROTECTED].validation.images - arms[PROTECTED].validation.images
    assert (moved < 0).any()


def test_who_has_enough_validation_images_takes_none_of_the_training_part(arms, monkeypatch):
    monkeypatch.setattr(arms_module, "FEWEST_OWN", 10)
    other = Shifting()
    cleaned = arms_for(CLEANED, arms, 0, other)
    assert other.own.names == arms[CLEAN].validation.names
    assert cleaned[CLEAN].train.names == arms[CLEAN].train.names
