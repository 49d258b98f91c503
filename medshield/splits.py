"""Train, validation and test parts in which no patient appears twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medshield.dataset.examples import Examples

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}

Rows = NDArray[np.int64]


def split_by_group(examples: Examples, seed: int, notes: list[str]) -> dict[str, Rows]:
    """Row numbers of each part: as the data say, else by patient and about evenly by class.

    Args:
        examples: with `splits` where a column gave them; every example counts as training where
            it did not.
        seed: of the draw.
        notes: takes a sentence on each thing a reader should know.
    """
    splits, groups = examples.splits, examples.groups
    if not np.any(splits == "test"):
        notes.append("split by patient: 60 % train, 15 % validation, 25 % test")
        return _drawn(examples, np.arange(len(examples)), SHARES, seed)
    rows = {
        "train": np.flatnonzero((splits == "train") | (splits == "")),
        "val": np.flatnonzero(splits == "val"),
        "test": np.flatnonzero(splits == "test"),
    }
    notes.append("split as the data give it")
    if not len(rows["val"]):
        notes.append("validation: a fifth of the training part, by patient")
        drawn = _drawn(examples, rows["train"], {"train": 0.8, "val": 0.2}, seed)
        rows |= drawn
    taken = groups[rows["test"]]
    for part in ("val", "train"):
        overlap = np.isin(groups[rows[part]], taken)
        if overlap.any():
            notes.append(f"{part}: left out {overlap.sum()} images of patients in another part")
            rows[part] = rows[part][~overlap]
        taken = np.append(taken, groups[rows[part]])
    return rows


def drawn_share(examples: Examples, share: float, seed: int) -> Rows:
    """Row numbers of about this share of the examples: whole patients, evenly by class."""
    shares = {"drawn": share, "rest": 1 - share}
    return _drawn(examples, np.arange(len(examples)), shares, seed)["drawn"]


def _drawn(examples: Examples, rows: Rows, shares: dict[str, float], seed: int) -> dict[str, Rows]:
    """Deal whole groups out to the parts, class by class, always to the part that lacks most."""
    rng = np.random.default_rng(seed)
    targets = examples.targets.numpy()
    strata = targets[rows] if targets.ndim == 1 else np.zeros(len(rows), dtype=np.int64)
    groups = examples.groups[rows]
    members = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    order = rng.permutation(list(members))
    stratum = {group: int(np.bincount(strata[members[group]]).argmax()) for group in order}
    counts = {key: dict.fromkeys(shares, 0) for key in set(stratum.values())}
    chosen: dict[str, list[Rows]] = {part: [] for part in shares}
    for group in order:
        have = counts[stratum[group]]
        total = sum(have.values()) + len(members[group])
        part = max(shares, key=lambda name: shares[name] * total - have[name])
        have[part] += len(members[group])
        chosen[part].append(rows[members[group]])
    empty = np.array([], dtype=np.int64)
    return {part: np.sort(np.concatenate([empty, *found])) for part, found in chosen.items()}
