"""Twins across a split are found, and images that are merely alike are not."""

import numpy as np
import pytest
import torch

from medshield import duplicates
from medshield.dataset.examples import Examples

COUNT, SIDE = 60, 48


def pictures(seed=0, channels=1):
    """Shapes of all sizes, the large ones strongest, as photographs have them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = 0.5
    for side in (4, 8, 16, 32):
        grain = torch.rand(COUNT, channels, side, side, generator=generator) - 0.5
        shapes = shapes + 3 / side * torch.nn.functional.interpolate(grain, (SIDE, SIDE))
    return shapes.clamp(0, 1)


def found(images):
    examples = Examples(
        images=images,
        targets=torch.zeros(len(images), dtype=torch.long),
        names=tuple(map(str, range(len(images)))),
        groups=np.arange(len(images)),
        splits=np.full(len(images), ""),
    )
    rows = np.arange(len(images))
    return duplicates.across(examples, {"train": rows[:40], "val": rows[40:45], "test": rows[45:]})


@pytest.mark.parametrize("channels", [1, 3])
def test_unlike_images_have_no_twins(channels):
    twins = found(pictures(channels=channels))
    assert (twins.same, twins.near, twins.test) == (0, 0, 15)
    assert twins.note == ""


@pytest.mark.parametrize("other", [0, 42])
def test_the_same_image_in_two_parts_is_found(other):
    images = pictures()
    images[50] = images[other]
    twins = found(images)
    assert (twins.same, twins.near) == (1, 0)
    assert "of 15 test images 1 are also in the training or validation part" in twins.note


@pytest.mark.parametrize(
    "exported",
    [
        lambda image: 0.8 * image + 0.1,
        lambda image: image + 0.01 * torch.randn(image.shape, generator=torch.manual_seed(1)),
        lambda image: (image * 31).round() / 31,
    ],
    ids=["another window", "noise", "fewer levels"],
)
def test_a_second_export_is_found(exported):
    images = pictures()
    images[50] = exported(images[0]).clamp(0, 1)
    twins = found(images)
    assert (twins.same, twins.near) == (0, 1)
    assert "1 more look the same" in twins.note


def test_twins_inside_a_part_do_not_matter():
    images = pictures()
    images[1] = images[0]
    images[50] = images[51]
    assert found(images).note == ""
