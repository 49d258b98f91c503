"""Choosing which class each is to be taken for."""

import numpy as np
import pytest
import torch

from medshield.methods.wrong_classes import SAMPLE, least_taught, sample

CLASSES = 4


def corners(targets):
    """An image of one row for each target, with one bright pixel."""
    return torch.nn.functional.one_hot(targets, CLASSES).float()[:, None, None]


@pytest.mark.parametrize("best", [(1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0), (1, 2, 3, 0)])
def test_the_choice_is_the_one_whose_images_can_be_moved(best):
    """Here images only move to one of the wrong classes, and elsewhere stay what they are."""
    targets = torch.arange(CLASSES).repeat(8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(CLASSES, CLASSES))

    def move(images, wrong):
        own = images.flatten(1).argmax(1)
        moves = torch.tensor(best)[own] == wrong
        return torch.where(moves[:, None, None, None], corners(wrong), images)

    assert least_taught(move, [model], corners(targets), targets, CLASSES) == best


def test_a_sample_has_of_each_class_as_many_or_all_that_there_are():
    targets = torch.tensor([0] * 900 + [1] * 300 + [2] * 5)
    rows = sample(targets, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows)
    assert torch.bincount(targets[rows]).tolist() == [SAMPLE // 3, SAMPLE // 3, 5]
