"""`medshield fit`: from a folder of images to a generator."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medshield import processes, progress
from medshield.budget import Budget
from medshield.checkpoint import Checkpoint
from medshield.clusters import Clusters
from medshield.dataset import examples
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError, Unfinished
from medshield.generator import Generator
from medshield.kept_run import forget_checkpoint, keep_plan, kept_key, planned
from medshield.keys import Key
from medshield.method_names import versions_of
from medshield.methods import METHODS, Method, Setting
from medshield.models import pick_device
from medshield.places import (
    CHECKPOINT,
    GENERATOR,
    PLAN,
    Places,
    keep_apart,
    locked,
    named,
    refuse_existing,
    target_errors,
)
from medshield.planning import backbone_for
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig
from medshield.tasks import TASKS

MOST_FIT_EXAMPLES = 20_000


@dataclass(frozen=True)
class FitOutcome:
    """What `fit` made.

    Attributes:
        folder: where the generator is saved.
        generator: the same, loaded.
        refused: path and reason of the images that it did not learn from.
    """

    folder: Path
    generator: Generator
    refused: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "generator": str(self.folder),
            **self.generator.facts(),
            "refused": [{"path": path, "reason": why} for path, why in self.refused.items()],
        }


def fit(config: ProtectConfig) -> FitOutcome:
    """Learn a generator and save it to `config.target`, whole or not at all.

    With `resume` and nothing to resume, it starts from the beginning, as `protect` does. Of
    several processes the first one saves it, and all share the work.

    Raises:
        InputError: the source or the target can't be used.
    """
    if config.target is None:
        raise InputError("-o GENERATOR is missing; name the folder to write")
    target = named(config.target)
    growing = Places(target).partial
    keep_apart(config.source, (target, growing))
    refuse_existing(target, "generator")
    if not processes.current().is_first:
        return FitOutcome(config.target, _helped(config, growing), {})
    if not config.resume and os.path.lexists(growing):
        if growing.is_dir() and not growing.is_symlink():
            with locked(growing):
                pass  # or another fit is at it just now
        raise InputError(
            f"{growing}: left by an interrupted fit; finish that with --resume, or remove it to "
            "start again"
        )
    found = planned(config, None, growing)
    refused = {file.path: file.reason for file in found.with_action("refuse")}
    with target_errors(target, resumable=True):
        make_private_folder(growing)  # before hours of fitting, not after
        with locked(growing):
            refuse_existing(target, "generator")  # by now
            is_resumed = (growing / PLAN).is_file()
            try:
                keep_plan(config, found, growing)
                kept_key(config, growing)
                processes.see_to_shared(growing)
                generator, _ = settled(config, found, growing, refused)
            except Unfinished:
                raise
            except InputError:  # nothing can come of it, so nothing is worth keeping
                if not is_resumed:
                    shutil.rmtree(growing, ignore_errors=True)
                raise
            processes.meet()  # others may still read what lies there
            (growing / GENERATOR).rename(target)
            shutil.rmtree(growing)
    return FitOutcome(config.target, generator, refused)


def _helped(config: ProtectConfig, growing: Path) -> Generator:
    """Fit with the first process, by the plan and the key that it has kept."""
    processes.see_to_shared(growing)
    generator, _ = settled(config, planned(config, None, growing), growing, {})
    processes.meet()
    return generator


def settled(
    config: ProtectConfig,
    found: Scan,
    folder: Path,
    refused: dict[str, str],
    given: Generator | None = None,
) -> tuple[Generator, bool]:
    """The generator of a run, kept in its folder, and whether this process alone has fitted it.

    Args:
        config: what is asked for.
        found: the plan.
        folder: where the run keeps what others need to go on with it.
        refused: path and reason of images that can't be read for fitting are added.
        given: that of `--generator`; None for one that is there, or is to be fitted.
    """
    kept, is_first = folder / GENERATOR, processes.current().is_first
    if processes.agreed([Generator.is_complete(kept)])[0]:
        generator, fitted_here = Generator.load(kept, pick_device(config.device)), False
    else:
        fitted_here = given is None and not (folder / CHECKPOINT).is_file()
        generator = given or _fitted(config, found, folder, refused)
        if is_first:
            generator.save(kept)
    if is_first:
        forget_checkpoint(folder)
    return generator, fitted_here


def _fitted(config: ProtectConfig, found: Scan, folder: Path, refused: dict[str, str]) -> Generator:
    """Fit the method on the scanned images, from where an interrupted run was."""
    assert found.annotations is not None  # noqa: S101 (`plan_for` saw to both)
    assert config.epsilon is not None  # noqa: S101
    files, key = found.with_action("protect"), kept_key(config, folder)
    setting = Setting(
        task=TASKS[found.annotations.task](found.annotations.classes),
        channels=found.channels,
        size=examples.auto_size(files, config.image_size),
        budget=Budget(config.epsilon),
        key=key,
        device=pick_device(config.device),
        effort=config.effort,
        pretrained=backbone_for(config, found.annotations.task),
        crew=processes.current(),
    )
    method = METHODS.made(config.method, setting)
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
            method.fit(
                known.images,
                targets,
                lambda share: update(round(1000 * share), 1000),
                Checkpoint(folder / CHECKPOINT, _work(method, known.images, targets)),
            )
    return Generator(method, found.ranges, clusters)


def _work(method: Method, images: Tensor, targets: Tensor) -> str:
    """Tells a fit from all others, by what its result depends on."""
    setting = method.setting
    weights = setting.pretrained.weights if setting.pretrained else None
    words = [torch.__version__, method.name, setting.task.name, str(setting.task.classes)]
    words += [str(setting.budget.epsilon), str(setting.effort), setting.device.type]
    words += [setting.pretrained.name, weights.sha256] if setting.pretrained and weights else []
    words += versions_of(method.name).values()
    digest = hashlib.blake2b("\0".join(words).encode(), key=setting.key.secret)
    for part in (images, targets):
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _chosen_frames(files: Sequence[SourceFile], key: Key) -> dict[str, NDArray[np.int64]]:
    """The frames that a method learns from: all, or as many as fit into memory, by the key."""
    starts = np.cumsum([0, *(file.shape[0] for file in files)])
    order = key.numpy("fit", "subset").permutation(starts[-1])[:MOST_FIT_EXAMPLES]
    owners = np.searchsorted(starts, order, side="right") - 1
    return {
        files[owner].path: np.sort(order[owners == owner] - starts[owner])
        for owner in np.unique(owners)
    }
