"""The arms of a comparison: what the victims of one cell are trained on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from medshield import models
from medshield.budget import Budget
from medshield.dataset.examples import Examples, joined
from medshield.denoising import OtherKeys
from medshield.keys import Key
from medshield.methods import METHODS, Setting
from medshield.splits import drawn_share
from medshield.tasks import Task
from medshield.trials import CLEAN_MIX, DENOISED, Cell, Parts

CLEAN, PROTECTED, NOISE = "clean", "protected", "random noise"
ARMS = (CLEAN, PROTECTED, NOISE)
ALONE = "clean fifth alone"
"""Only where clean data are mixed in: what the trainer had without the release."""
CLEAN_SHARE = 0.2
FEWEST_OWN, MOST_OWN_SHARE = 200, 1 / 3
"""Clean images that a trainer with a denoiser wants at the least, and the largest share of the
training part that they are taken from."""


def trainings(arm: str, seeds: int) -> int:
    """How often victims are trained on an arm: noise is no part of leakage, so once."""
    return 1 if arm == NOISE else seeds


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


def arms_for(
    cell: Cell, arms: dict[str, Parts], seed: int, other_keys: OtherKeys
) -> dict[str, Parts]:
    """The arms as one cell trains on them.

    Where clean data are mixed in, the images of a fifth of the patients are clean in every arm,
    and one arm more trains on that fifth alone, as many steps as the others.

    Where a denoiser is used, it learns from the clean images of the validation part. If these are
    fewer than FEWEST_OWN, it also has those of some training patients, who are then left out of
    every arm. It is applied to all images of every arm, to those of the test part, too.

    Args:
        cell: any.
        arms: of every cell.
        seed: of the draw of patients.
        other_keys: makes the denoiser.
    """
    if cell.training == DENOISED:
        return _denoised(arms, seed, other_keys)
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


def _denoised(arms: dict[str, Parts], seed: int, other_keys: OtherKeys) -> dict[str, Parts]:
    clean = arms[CLEAN]
    own, train = clean.clean_validation, clean.train
    share = min(MOST_OWN_SHARE, (FEWEST_OWN - len(own)) / len(train))
    taken = drawn_share(train, share, seed) if share > 0 else np.array([], dtype=np.int64)
    denoiser = other_keys.denoiser(joined(own, train.rows(taken)))
    left = np.setdiff1d(np.arange(len(train)), taken)
    known: dict[int, Examples] = {}

    def cleaned(part: Examples) -> Examples:
        """Each part once: what was one object stays one."""
        if id(part) not in known:
            known[id(part)] = denoiser.cleaned(part)
        return known[id(part)]

    return {
        name: Parts(
            train=denoiser.cleaned(parts.train.rows(left)),
            validation=cleaned(parts.validation),
            clean_validation=cleaned(parts.clean_validation),
            test=cleaned(parts.test),
        )
        for name, parts in arms.items()
    }


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
