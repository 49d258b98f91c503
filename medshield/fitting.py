"""`medshield fit`: from a folder of images to a generator."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medshield import progress
from medshield.budget import Budget
from medshield.clusters import Clusters
from medshield.dataset import examples
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError
from medshield.generator import Generator
from medshield.keys import Key
from medshield.methods import METHODS, Setting
from medshield.models import pick_device
from medshield.places import Places, keep_apart, locked, named, refuse_existing, target_errors
from medshield.planning import backbone_for, plan_for
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig
from medshield.tasks import TASKS

MOST_FIT_EXAMPLES = 20_000


@dataclass(frozen=True)
class FitOutcome:
    """What `fit` made.

    Attributes:
        generator: saved.
        refused: path and reason of the images that it did not learn from.
    """

    generator: Generator
    refused: dict[str, str]


def fit(config: ProtectConfig) -> FitOutcome:
    """Learn a generator and save it to `config.target`, whole or not at all.

    Raises:
        InputError: the source or the target can't be used.
    """
    if config.target is None:
        raise InputError("-o GENERATOR is missing; name the folder to write")
    target = named(config.target)
    growing = Places(target).partial
    keep_apart(config.source, (target, growing))
    refuse_existing(target, "generator")
    found = plan_for(config, None)
    refused = {file.path: file.reason for file in found.with_action("refuse")}
    with target_errors(target, resumable=False):
        make_private_folder(growing)  # before hours of fitting, not after
        with locked(growing):
            try:
                generator = fitted(config, found, new_key(config), refused)
                generator.save(growing)
                growing.rename(target)
            except BaseException:
                shutil.rmtree(growing, ignore_errors=True)
                raise
    return FitOutcome(generator, refused)


def fitted(config: ProtectConfig, found: Scan, key: Key, refused: dict[str, str]) -> Generator:
    """Fit the method on the scanned images; files that can't be read go to `refused`."""
    assert found.annotations is not None  # noqa: S101 (`plan_for` saw to both)
    assert config.epsilon is not None  # noqa: S101
    files = found.with_action("protect")
    setting = Setting(
        task=TASKS[found.annotations.task](found.annotations.classes),
        channels=found.channels,
        size=examples.auto_size(files, config.image_size),
        budget=Budget(config.epsilon),
        key=key,
        device=pick_device(config.device),
        effort=config.effort,
        pretrained=backbone_for(config, found.annotations.task),
    )
    method = METHODS[config.method](setting)
    clusters = None
    if setting.task.name in method.trains or not found.annotations.labelled:
        frames = _chosen_frames(files, key)
        with progress.bar("loading") as update:
            known = examples.load(
                found,
                [file for file in files if file.path in frames],
                channels=setting.channels,
                size=setting.size,
                frames=frames,
                refused=refused,
                progress=update,
            )
        targets = known.targets
        if not found.annotations.labelled:
            with progress.bar("finding clusters") as update:
                clusters = Clusters.fit(
                    known.images, len(setting.task.classes), key, progress=update
                )
            targets = clusters.assign(known.images)
        with progress.bar(f"fitting {config.method}") as update:
            method.fit(known.images, targets, lambda share: update(round(1000 * share), 1000))
    return Generator(method, found.ranges, clusters)


def new_key(config: ProtectConfig) -> Key:
    """A random key, or that of `--seed`."""
    return Key.generate() if config.seed is None else Key.from_seed(config.seed)


def _chosen_frames(files: list[SourceFile], key: Key) -> dict[str, NDArray[np.int64]]:
    """The frames that a method learns from: all, or as many as fit into memory, by the key."""
    starts = np.cumsum([0, *(file.shape[0] for file in files)])
    order = key.numpy("fit", "subset").permutation(starts[-1])[:MOST_FIT_EXAMPLES]
    owners = np.searchsorted(starts, order, side="right") - 1
    return {
        files[owner].path: np.sort(order[owners == owner] - starts[owner])
        for owner in np.unique(owners)
    }
