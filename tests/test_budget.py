"""Epsilon is read exactly, and its projection keeps the promise that every method leans on."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshield.budget import Budget, parse_epsilon
from medshield.errors import InputError

HALF = Budget(Fraction(1, 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.0314", Fraction(314, 10_000)),
        (".5", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("254/255", Fraction(254, 255)),
    ],
)
def test_epsilon_is_read_exactly(text, expected):
    assert parse_epsilon(text) == expected


def test_eight_of_255_grey_levels_is_eight():
    assert parse_epsilon("8/255") * 255 == 8


@pytest.mark.parametrize("text", ["", "eight", "8/", "8/0", "8/255/2", "nan", "inf", "0x8/255"])
def test_what_is_no_number_is_said_to_be_none(text):
    with pytest.raises(InputError, match="not a number"):
        parse_epsilon(text)


@pytest.mark.parametrize("text", ["0", "1", "8", "255/255", "-8/255", "1.0001"])
def test_epsilon_lies_strictly_between_0_and_1(text):
    with pytest.raises(InputError, match="outside"):
        parse_epsilon(text)


@pytest.mark.parametrize("text", ["eight\nand more", "8\n"])
def test_errors_are_one_line_and_show_how_to_write_it(text):
    with pytest.raises(InputError, match="8/255") as caught:
        parse_epsilon(text)
    assert "\n" not in str(caught.value)


def images(low, high):
    rows = st.lists(st.floats(low, high, width=32), min_size=6, max_size=6)
    return rows.map(lambda values: torch.tensor(values).view(1, 1, 2, 3))


epsilons = st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000)


@settings(deadline=None)
@given(images(-4, 4), images(0, 1), epsilons)
def test_the_projection_is_the_nearest_point_of_the_ball_and_of_the_unit_range(
    perturbed, original, epsilon
):
    budget = Budget(epsilon)
    projected = budget.project(perturbed, original)
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert (projected - original).abs().max() <= budget.radius + 1e-6
    # In each pixel apart, the allowed values are an interval: the nearest is the clamped one.
    low = (original.double() - budget.radius).clamp(min=0)
    high = (original.double() + budget.radius).clamp(max=1)
    nearest = perturbed.double().clamp(low, high)
    assert torch.allclose(projected.double(), nearest, atol=1e-6)


@settings(deadline=None)
@given(images(-4, 4), images(0, 1), epsilons)
def test_projecting_twice_is_projecting_once(perturbed, original, epsilon):
    budget = Budget(epsilon)
    once = budget.project(perturbed, original)
    assert torch.allclose(budget.project(once, original), once, atol=1e-6)


@settings(deadline=None)
@given(images(0, 1), epsilons)
def test_an_original_is_its_own_projection(original, epsilon):
    assert torch.equal(Budget(epsilon).project(original, original), original)


def test_gradients_pass_through_inside_and_stop_at_the_border():
    original = torch.full((1, 1, 1, 3), 0.5)
    perturbed = torch.tensor([0.6, 1.4, -0.2]).view(1, 1, 1, 3).requires_grad_()
    HALF.project(perturbed, original).sum().backward()
    assert perturbed.grad.flatten().tolist() == [1, 0, 0]
