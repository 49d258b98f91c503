"""A stream of randomness depends on the key and on what it is for, and on nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshield.keys import KEY_BYTES, Key

KEY = Key.from_seed(7)
names = st.lists(st.text(max_size=8), min_size=1, max_size=3)


def test_a_seed_gives_the_same_key_every_time():
    assert Key.from_seed(7) == Key.from_seed(7)
    assert len({Key.from_seed(seed).secret for seed in range(-50, 50)}) == 100


def test_the_key_of_a_seed_never_changes_between_releases_of_this_program():
    """Otherwise `--seed` would give other bytes after an update, and old generators would die."""
    assert Key.from_seed(0).number("synthetic", "bands") == 3201396490023042076


def test_a_key_without_a_seed_is_never_the_same():
    keys = {Key.generate().secret for _ in range(20)}
    assert len(keys) == 20
    assert {len(secret) for secret in keys} == {KEY_BYTES}


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_the_secret_is_not_shown(show):
    key = Key.generate()
    shown = show(key)
    assert key.secret.hex() not in shown
    assert repr(key.secret)[2:-1] not in shown
    assert show(Key.generate()) == shown


@settings(deadline=None)
@given(names)
def test_a_number_is_one_that_every_generator_takes(asked):
    assert 0 <= KEY.number(*asked) < 2**63


@settings(deadline=None)
@given(names, names)
def test_other_names_give_another_number(first, second):
    equal = KEY.number(*first) == KEY.number(*second)
    assert equal == ("\0".join(first) == "\0".join(second))


@settings(deadline=None)
@given(names)
def test_another_key_gives_another_number(asked):
    assert KEY.number(*asked) != Key.from_seed(8).number(*asked)


def test_names_are_not_just_glued_together():
    assert KEY.number("ab", "c") != KEY.number("a", "bc")


def test_the_name_of_a_file_need_not_be_text():
    odd = b"scan\xff.png".decode("utf-8", "surrogateescape")
    assert KEY.number("view", odd) != KEY.number("view", "scan.png")


@pytest.mark.parametrize(
    "draw",
    [
        lambda *asked: KEY.numpy(*asked).integers(0, 2**62, 4).tolist(),
        lambda *asked: torch.randint(2**62, (4,), generator=KEY.torch(*asked)).tolist(),
    ],
    ids=["numpy", "torch"],
)
def test_streams_do_not_depend_on_what_was_asked_before(draw):
    asked = [("patterns", f"{i}.png") for i in range(5)]
    forward = {each: draw(*each) for each in asked}
    np.random.default_rng(0).random(3)
    torch.rand(3)
    backward = {each: draw(*each) for each in reversed(asked)}
    assert forward == backward
    assert len({tuple(values) for values in forward.values()}) == len(asked)


def test_streams_leave_the_global_randomness_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=KEY.torch("patterns"))
    assert torch.equal(torch.get_rng_state(), before)
