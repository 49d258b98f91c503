"""Parts in which no patient appears twice."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshield.dataset.examples import Examples
from medshield.splits import SHARES, split_by_group

NAMES = ("train", "val", "test")


def examples(targets, groups, splits=None):
    count = len(groups)
    return Examples(
        images=torch.zeros(count, 1, 1, 1),
        targets=torch.as_tensor(np.asarray(targets)),
        names=tuple(f"{number}.png" for number in range(count)),
        groups=np.array(groups, np.int64),
        splits=np.array([""] * count if splits is None else splits, dtype=str),
    )


def split(data, seed=0):
    notes = []
    return split_by_group(data, seed, notes), notes


def check(data, rows):
    """No row twice, and no group in two parts."""
    assert set(rows) == set(NAMES)
    every = np.concatenate(list(rows.values()))
    assert len(np.unique(every)) == len(every)
    groups = [set(data.groups[part].tolist()) for part in rows.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


several = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from(["", *NAMES])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(several, st.integers(0, 3))
def test_no_patient_is_in_two_parts(drawn, seed):
    targets, groups, splits = (list(column) for column in zip(*drawn, strict=True))
    data = examples(targets, groups)
    rows, _ = split(data, seed)
    check(data, rows)
    assert sum(map(len, rows.values())) == len(data)
    given_by_a_column = examples(targets, groups, splits)
    check(given_by_a_column, split(given_by_a_column, seed)[0])


def test_it_is_the_same_every_time_and_another_for_another_seed():
    data = examples(np.arange(60) % 3, np.arange(60) // 2)
    parts = [split(data, seed)[0] for seed in (0, 0, 1)]
    for name in NAMES:
        assert np.array_equal(parts[0][name], parts[1][name])
    assert not np.array_equal(parts[0]["test"], parts[2]["test"])


def test_parts_are_about_as_large_as_said_and_hold_the_classes_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), rng.integers(1, 5, 200))
    targets = (groups * 7 % 10 < 2).astype(int) + (groups * 7 % 10 < 1)
    rows, notes = split(examples(targets, groups))
    assert notes == ["split by patient: 60 % train, 15 % validation, 25 % test"]
    overall = np.bincount(targets, minlength=3) / len(targets)
    for name, share in SHARES.items():
        part = targets[rows[name]]
        assert len(part) / len(targets) == pytest.approx(share, abs=0.03)
        assert np.bincount(part, minlength=3) / len(part) == pytest.approx(overall, abs=0.05)


def test_a_rare_class_reaches_the_test_part():
    targets = np.r_[np.zeros(40, int), np.ones(3, int)]
    for seed in range(10):
        rows, _ = split(examples(targets, np.arange(43)), seed)
        counts = {name: Counter(targets[part])[1] for name, part in rows.items()}
        assert counts["train"] >= 1
        assert counts["test"] >= 1


@pytest.mark.parametrize("shape", [(50, 4), (50, 6, 6)], ids=["findings", "masks"])
def test_findings_and_masks_are_split_by_patient_alone(shape):
    data = examples(np.zeros(shape, int), np.arange(50) // 2)
    rows, _ = split(data)
    check(data, rows)
    assert len(rows["train"]) == pytest.approx(30, abs=2)


def test_a_split_column_is_kept():
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows, notes = split(examples([0, 1] * 5, range(10), splits))
    assert {name: part.tolist() for name, part in rows.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "val": [6, 7],
        "test": [8, 9],
    }
    assert notes == ["split as the data give it"]


def test_what_a_split_column_leaves_open_is_for_training():
    rows, _ = split(examples([0, 1, 0, 1], range(4), ["", "val", "test", ""]))
    assert rows["train"].tolist() == [0, 3]


def test_without_a_validation_part_a_fifth_of_the_training_part_is_taken():
    splits = ["train"] * 40 + ["test"] * 10
    data = examples(np.arange(50) % 2, np.arange(50) // 2, splits)
    rows, notes = split(data)
    check(data, rows)
    assert rows["test"].tolist() == list(range(40, 50))
    assert len(rows["val"]) == pytest.approx(8, abs=2)
    assert any("fifth" in note for note in notes)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_patient_of_the_test_part_is_left_out_of_the_others_and_it_is_said(part):
    splits = ["train", "train", "val", "val", "test", "test"]
    groups = [0, 1, 2, 3, 4, 5]
    leaking = splits.index(part)
    groups[4] = groups[leaking]
    rows, notes = split(examples([0, 1] * 3, groups, splits))
    assert leaking not in rows[part]
    assert rows["test"].tolist() == [4, 5]
    assert sum(map(len, rows.values())) == 5
    assert any(note.startswith(f"{part}: left out 1 image") for note in notes)


def test_a_patient_of_the_validation_part_is_left_out_of_training():
    splits = ["train", "train", "val", "test"]
    rows, notes = split(examples([0, 1, 0, 1], [0, 1, 0, 2], splits))
    assert rows["train"].tolist() == [1]
    assert rows["val"].tolist() == [2]
    assert any(note.startswith("train: left out 1 image") for note in notes)
