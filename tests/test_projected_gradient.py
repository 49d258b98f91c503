"""The one gradient loop: it descends, it stays in the ball, and images do not meet."""

from fractions import Fraction

import pytest
import torch

from medshield.budget import Budget
from medshield.projected_gradient import projected_gradient

BUDGET = Budget(Fraction(8, 255))


def images(count=4):
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(count, 3, 5, 5, generator=generator)
    originals[0, 0], originals[0, 1] = 0, 1  # where only one direction is open
    return originals


def towards(goal):
    return lambda perturbed: ((perturbed - goal) ** 2).sum()


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("step_size", [0.001, 0.05, 10])
@pytest.mark.parametrize("start", [None, 3.0])
def test_it_never_leaves_the_ball(steps, step_size, start):
    originals = images()
    begin = None if start is None else torch.full_like(originals, start)
    found = projected_gradient(
        towards(2.0), originals, BUDGET, steps=steps, step_size=step_size, start=begin
    )
    assert (found - originals).abs().max() <= BUDGET.radius + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad


def test_it_tells_how_far_it_is():
    told = []
    projected_gradient(
        towards(2.0), images(), BUDGET, steps=4, step_size=0.001, progress=told.append
    )
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_it_finds_the_nearest_point_to_a_goal():
    originals = images()
    goal = originals + 0.02 * torch.randn(originals.shape, generator=torch.Generator())
    found = projected_gradient(towards(goal), originals, BUDGET, steps=80, step_size=0.0005)
    assert torch.allclose(found, BUDGET.project(goal, originals), atol=0.001)


def test_the_objective_becomes_small():
    originals, steps = images(), range(5)
    objective = towards(0.5)
    found = [
        float(objective(projected_gradient(objective, originals, BUDGET, steps=n, step_size=0.005)))
        for n in steps
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


@pytest.mark.parametrize(("momentum", "moved"), [(0, 0.0), (0.9, -0.008)])
def test_momentum_does_not_turn_back_for_a_weaker_pull(momentum, moved):
    """Along one pixel a strong and a weak pull take turns; the other pixel is always pulled."""
    originals = torch.full((1, 1, 1, 2), 0.5)
    pulls = iter([torch.tensor([pull, 1.0]) for pull in (1.0, -0.2)] * 4)

    def in_turn(perturbed):
        return (perturbed * next(pulls)).sum()

    found = projected_gradient(
        in_turn, originals, BUDGET, steps=8, step_size=0.001, momentum=momentum
    )
    assert (found - originals).flatten().tolist() == pytest.approx([moved, -0.008], abs=1e-6)


def test_momentum_keeps_images_apart():
    originals = images()
    arguments = {"steps": 5, "step_size": 0.005, "momentum": 0.9}
    together = projected_gradient(towards(0.3), originals, BUDGET, **arguments)
    alone = projected_gradient(towards(0.3), originals[2:3], BUDGET, **arguments)
    assert torch.equal(together[2:3], alone)


def test_without_steps_it_is_the_projected_start():
    originals = images()
    assert torch.equal(
        projected_gradient(towards(0), originals, BUDGET, steps=0, step_size=1), originals
    )
    start = torch.zeros_like(originals)
    found = projected_gradient(towards(0), originals, BUDGET, steps=0, step_size=1, start=start)
    assert torch.equal(found, BUDGET.project(start, originals))


def test_an_image_s_steps_do_not_depend_on_its_neighbours():
    originals = images()
    together = projected_gradient(towards(0.3), originals, BUDGET, steps=3, step_size=0.01)
    alone = [
        projected_gradient(towards(0.3), one[None], BUDGET, steps=3, step_size=0.01)
        for one in originals
    ]
    assert torch.equal(together, torch.cat(alone))


def test_the_originals_and_the_model_are_left_alone():
    originals = images()
    before = originals.clone()
    model = torch.nn.Conv2d(3, 1, 3)
    projected_gradient(lambda x: model(x).sum(), originals, BUDGET, steps=2, step_size=0.01)
    assert torch.equal(originals, before)
    assert not originals.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
