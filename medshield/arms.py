"""The arms of a comparison: what the victims of one cell are trained on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from medshield import models
from medshield.budget import Budget
from medshield.dataset.examples import Examples
from medshield.keys import Key
from medshield.methods import METHODS, Setting
from medshield.splits import drawn_share
from medshield.tasks import Task
from medshield.trials import CLEAN_MIX, Cell, Parts

CLEAN, PROTECTED, NOISE = "clean", "protected", "random noise"
ARMS = (CLEAN, PROTECTED, NOISE)
ALONE = "clean fifth alone"
"""Only where clean data are mixed in: what the trainer had without the release."""
CLEAN_SHARE = 0.2


def arms_of(
    clean: Examples,
    released: Examples,
    split: dict[str, NDArray[np.int64]],
    task: Task,
    epsilon: Fraction,
    seed: int,
) -> dict[str, Parts]:
    """The three arms of every cell.

    Args:
        clean: examples as they were.
        released: the same in the same order, protected.
        split: row numbers of "train", "val" and "test".
        task: what is learned.
        epsilon: of the random noise.
        seed: of the random noise.
    """
    noisy = _with_noise(clean, task, epsilon, seed)
    arms = {CLEAN: clean, PROTECTED: released, NOISE: noisy}
    return {name: _parts(arm, clean, split) for name, arm in arms.items()}


def arms_for(cell: Cell, arms: dict[str, Parts], seed: int) -> dict[str, Parts]:
    """The arms as one cell trains on them.

    Where clean data are mixed in, the images of a fifth of the patients are clean in every arm,
    and one arm more trains on that fifth alone, as many steps as the others.

    Args:
        cell: any.
        arms: of every cell.
        seed: of the draw of patients.
    """
    if cell.training != CLEAN_MIX:
        return arms
    clean = arms[CLEAN].train
    known = drawn_share(clean, CLEAN_SHARE, seed)
    mixed = {
        name: replace(parts, train=_mixed(parts.train, clean, known))
        for name, parts in arms.items()
    }
    repeated = np.resize(known, len(clean))
    return {**mixed, ALONE: replace(arms[CLEAN], train=clean.rows(repeated))}


def _mixed(arm: Examples, clean: Examples, known: NDArray[np.int64]) -> Examples:
    """An arm's images with those at rows `known` replaced by the clean ones."""
    rows = torch.from_numpy(known)
    return replace(arm, images=arm.images.index_copy(0, rows, clean.images[rows]))


def _parts(arm: Examples, clean: Examples, split: dict[str, NDArray[np.int64]]) -> Parts:
    validation = arm.rows(split["val"])
    return Parts(
        train=arm.rows(split["train"]),
        validation=validation,
        clean_validation=validation if arm is clean else clean.rows(split["val"]),
        test=clean.rows(split["test"]),
    )


def _with_noise(clean: Examples, task: Task, epsilon: Fraction, seed: int) -> Examples:
    """Random noise of the same epsilon on every image."""
    noise = METHODS["random-noise"](
        Setting(
            task=task,
            channels=clean.images.shape[1],
            size=clean.images.shape[-1],
            budget=Budget(epsilon),
            key=Key.from_seed(seed),
            device=models.pick_device("cpu"),
        )
    )
    return replace(
        clean, images=clean.images + noise.perturb(clean.images, clean.targets, clean.names)
    )
