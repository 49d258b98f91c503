"""What a verification compares: the files of a release, and the clean images that they were."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield import progress
from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.budget import parse_epsilon
from medshield.dataset import examples
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.examples import Examples
from medshield.dataset.scan import scan
from medshield.dataset.scanned import Scan
from medshield.errors import InputError, RefusedFile
from medshield.formats import IntensityRange
from medshield.formats.base import READ_ONLY
from medshield.manifest import SUMMARY, Record
from medshield.places import CONFIGURATION
from medshield.tasks import TASKS, Task
from medshield.threats import largest_side
from medshield.verify_config import VerifyConfig


def scan_source(config: VerifyConfig, private: Path, summary: dict[str, Any]) -> Scan:
    """The clean images with their labels, under the ranges that the release declares.

    Args:
        config: may name the source and its labels.
        private: the private folder beside the release, which knows both, where there is one.
        summary: what the release says of itself.

    Raises:
        InputError: there is no source, or it has no labels; or the summary is damaged.
    """
    kept = _kept(private)
    source = source_of(config, private)
    epsilon, ranges = _declared(summary)
    with progress.bar("reading the source") as update:
        found = scan(
            source,
            _victims_options(config, kept, summary),
            epsilon=epsilon,
            known_ranges=ranges,
            handling=READ_ONLY,
            workers=config.workers,
            progress=update,
        )
    if found.problem and config.annotations is None and not used_labels(summary):
        raise InputError(
            "the release was made with --labels none, and victims need labels to learn from; "
            "give --labels CSV"
        )
    if found.problem:
        raise InputError(found.problem)
    return found


def source_of(config: VerifyConfig, private: Path) -> Path:
    """The folder of the clean images: as told, or as the private folder records it.

    Raises:
        InputError: neither says.
    """
    kept = _kept(private)
    source = config.source or (Path(kept["source"]) if kept else None)
    if source is None:
        raise InputError(
            "the clean images are not known here (no private folder beside the release); "
            "give --source SOURCE"
        )
    return source


def _kept(private: Path) -> dict[str, Any]:
    """The configuration that the private folder keeps; empty where there is none."""
    try:
        kept = parsed_json(read_bounded(private / CONFIGURATION, MOST_DESCRIPTION_BYTES))
    except FileNotFoundError:
        return {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or not isinstance(kept.get("source"), str):
        raise InputError(f"{private / CONFIGURATION}: damaged; restore it, or give --source SOURCE")
    return kept


def _declared(summary: dict[str, Any]) -> tuple[Fraction, dict[str, IntensityRange]]:
    """Epsilon and the range of each kind, as a release declares them."""
    try:
        if summary["task"] not in TASKS or not isinstance(summary["method"], str):
            raise ValueError("no task or no method")
        ranges = {
            kind: IntensityRange(float(values["low"]), float(values["high"]), str(values["reason"]))
            for kind, values in summary["intensity"].items()
        }
        return parse_epsilon(summary["epsilon"]), ranges
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        raise InputError(
            f"{SUMMARY}: epsilon, task, method or intensity ranges are missing or damaged; run "
            "`medshield check` on the release"
        ) from None


def used_labels(summary: dict[str, Any]) -> bool:
    """Whether the release was made with labels."""
    return bool(summary.get("labels_used", True))


def _victims_options(
    config: VerifyConfig, kept: dict[str, Any], summary: dict[str, Any]
) -> AnnotationOptions:
    """Where to find what victims learn: as told here, or else as `protect` was told.

    A release made with `--labels none` says nothing of labels, so these are looked for anew.

    Raises:
        InputError: there are to be none.
    """
    told = config.annotations
    if told and told.no_labels:
        raise InputError(
            "--labels none: victims need labels to learn from; give --labels CSV, or leave it out "
            "to have them found"
        )
    if used_labels(summary):
        return replace(told or _kept_options(kept), task=summary["task"])
    return told or AnnotationOptions(masks=_kept_options(kept).masks)


def _kept_options(kept: dict[str, Any]) -> AnnotationOptions:
    values = dict(kept.get("annotations", {}))
    for name in ("labels", "masks"):
        if values.get(name):
            values[name] = Path(values[name])
    return AnnotationOptions(**values)


def load_both(
    config: VerifyConfig, release: Path, found: Scan, records: Sequence[Record]
) -> tuple[Examples, Examples]:
    """The protected files twice: as they were, and as they are released.

    Raises:
        InputError: an original is missing, or a file can't be read.
    """
    protected = {record.path for record in records if record.status == "protected"}
    files = [file for file in found.with_action("protect") if file.path in protected]
    if len(files) < len(protected):
        raise InputError(
            f"{found.source}: {len(protected) - len(files)} of {len(protected)} protected files "
            "have no labelled original there; give the --source that the release was made from"
        )
    root = os.path.realpath(release)
    for path in (Path(root, file.path) for file in files):
        if os.path.lexists(path) and (not path.is_file() or Path(os.path.realpath(path)) != path):
            raise InputError(
                f"{path}: no plain file, but a link, a pipe or a device, which a release never "
                "holds; run `medshield check` on the release"
            )
    assert found.annotations is not None  # noqa: S101 (`scan_source` saw to it)
    largest = largest_side(config.threat, found.annotations.task)
    size = examples.auto_size(files, config.image_size, largest)

    def loaded(root: Path | None) -> Examples:
        with progress.bar("loading") as update:
            return examples.load(
                found, files, channels=found.channels, size=size, root=root, progress=update
            )

    try:
        clean, released = loaded(None), loaded(release)
    except (RefusedFile, OSError) as error:
        raise InputError(f"{error}; run `medshield check` on the release") from error
    return clean, released


def check_parts(task: Task, clean: Examples, split: dict[str, NDArray[np.int64]]) -> None:
    """Too little to say anything is an error, not an inconclusive verdict after an hour.

    Raises:
        InputError: a part is empty, or lacks a class.
    """
    for part in ("train", "val", "test"):
        if not len(split[part]):
            raise InputError(f"the {part} part is empty; check the split column or add patients")
    if task.name == "classification":
        targets = clean.targets.numpy()
        missing = set(targets[split["test"]]) - set(targets[split["train"]])
        if missing or len(set(targets[split["test"]])) < 2:
            raise InputError(
                "a class is missing from the training or the test part; add images or patients"
            )
