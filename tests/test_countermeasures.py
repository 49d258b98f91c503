"""Countermeasures keep shape and range, hang on the seed alone, and do what they are named."""

import pytest
import torch

from medshield.countermeasures import COUNTERMEASURES
from medshield.randomness import seeded
from medshield.tasks import Classification, MultiLabel, Segmentation

COUNT, SIDE = 12, 32
CLASSES = ("a", "b", "c")
TASKS = {
    "classification": (Classification(CLASSES), torch.arange(COUNT) % 3),
    "multilabel": (MultiLabel(CLASSES), torch.eye(3)[torch.arange(COUNT) % 3]),
    "segmentation": (Segmentation(()), (torch.arange(SIDE) < 9).long().expand(COUNT, SIDE, SIDE)),
}


def noise(channels, count=COUNT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, SIDE, SIDE, generator=generator)


def smooth(channels=1):
    """A slow brightness ramp with a faint grain, as photographs have it."""
    ramp = torch.linspace(0.2, 0.8, SIDE).expand(COUNT, channels, SIDE, SIDE)
    return ramp + 0.02 * (noise(channels) - 0.5)


def in_training(name, task, images, targets, seed=0):
    """A training batch as a countermeasure leaves it."""
    with seeded(seed):
        fitted = COUNTERMEASURES[name].fitted(task, images, targets)
        return fitted.on_train_batch(fitted.on_training_set(images, targets), targets)


def in_testing(name, images):
    task, targets = TASKS["classification"]
    return COUNTERMEASURES[name].fitted(task, images, targets).on_test_images(images)


def applicable():
    return [
        pytest.param(name, kind, channels, id=f"{name}-{kind}-{channels}")
        for name, countermeasure in COUNTERMEASURES.items()
        for kind, (task, _) in TASKS.items()
        for channels in (1, 3)
        if countermeasure.applies_to(task, channels)
    ]


@pytest.mark.parametrize(("name", "kind", "channels"), applicable())
def test_laws(name, kind, channels):
    task, targets = TASKS[kind]
    images = noise(channels)
    before = images.clone()
    changed, truth = in_training(name, task, images, targets)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images), "it does nothing"
    assert torch.equal(images, before), "it spoils what it is given"
    logits = torch.zeros(COUNT, task.outputs, *truth.shape[1:] if truth.ndim == 3 else ())
    assert task.loss(logits, truth).shape == (COUNT,)
    again, truth_again = in_training(name, task, images, targets)
    assert torch.equal(changed, again)
    assert torch.equal(truth, truth_again)


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_test_images_keep_shape_and_range_and_are_done_the_same_way_twice(name):
    images = noise(3)
    changed = in_testing(name, images)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(in_testing(name, images), changed)


@pytest.mark.parametrize("name", ["grey", "blur", "jpeg10", "jpeg75"])
def test_filters_are_for_test_images_too(name):
    images = noise(3)
    task, targets = TASKS["classification"]
    assert torch.equal(in_testing(name, images), in_training(name, task, images, targets)[0])


def distance(first, second):
    return float((first - second).square().mean().sqrt())


def test_grey_makes_the_channels_equal_and_does_not_apply_to_grey_images():
    changed = in_testing("grey", noise(3))
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert not COUNTERMEASURES["grey"].applies_to(TASKS["classification"][0], 1)


def test_lower_qualities_change_more():
    images = smooth(3)
    changes = [distance(in_testing(f"jpeg{q}", images), images) for q in (75, 50, 30, 10)]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 2


def test_blur_takes_grain_and_leaves_slow_changes():
    ramp = smooth() * 0 + torch.linspace(0.2, 0.8, SIDE)
    inner = (..., slice(3, -3))
    assert torch.allclose(in_testing("blur", ramp)[inner], ramp[inner], atol=1e-5)
    grain = noise(1)
    assert in_testing("blur", grain).std() < grain.std() / 2
