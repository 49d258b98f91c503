"""A part of a folder as a folder of its own: `benchmark --limit` on sets that are too large.

Whole patients are drawn by the seed, about evenly by class, and their files copied. The source
stays as it is; patients are numbers in the copy's table.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medshield import progress
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError
from medshield.formats.nifti.files import header_names
from medshield.places import keep_apart, target_errors
from medshield.private import make_private_folder
from medshield.splits import SHARES

TABLE, FACTS = "labels.csv", "drawn.json"
FEWEST_PATIENTS = 4
"""Of each class, where there is room: some for each part."""


@dataclass(frozen=True)
class Part:
    """A part of a folder.

    Attributes:
        folder: the copy.
        annotations: where its labels or masks are.
        task: as the source's labels or masks have it.
        note: what was drawn.
    """

    folder: Path
    annotations: AnnotationOptions
    task: str
    note: str


def kept_part(source: Path, options: AnnotationOptions, target: Path) -> Part | None:
    """The part that an earlier run drew into `target`; None where there is none.

    Raises:
        InputError: it was drawn from another folder or by other labels, or it is damaged.
    """
    if not target.exists():
        return None
    try:
        kept = json.loads((target / FACTS).read_text())
        asked, told = kept["asked"], dict(kept["annotations"])
        for name in ("labels", "masks"):
            told[name] = told[name] and target / told[name]
        part = Part(
            target / source.resolve().name, AnnotationOptions(**told), kept["task"], kept["note"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{target / FACTS}: damaged; remove {target} to draw again") from None
    if asked != _asked(source, options) or not part.folder.is_dir():
        raise InputError(
            f"{target}: was drawn from another folder or by other labels; remove it to draw "
            "again, or choose another -o"
        )
    return part


def draw_part(
    found: Scan, options: AnnotationOptions, target: Path, *, limit: int, seed: int
) -> Part:
    """Draw a part of a folder and copy it.

    Where the folder says which images are for the test: `limit` training images at the most, a
    quarter as many for validation, and as many for the test. Else so many in all that about
    `limit` of them are for training.

    Args:
        found: the folder; has no problem.
        options: as the user gave them. Victims learn labels even where none are to be used, so
            the part has them in any case.
        target: the folder to write, with mode 0700; gets its name when it is whole.
        limit: training images.
        seed: of the draw.

    Raises:
        InputError: the target can't be written, or is in the source.
    """
    labels = found.annotations
    assert labels is not None  # noqa: S101 (or there were a problem)
    source = found.source
    keep_apart(source, (target,))
    partial = target.with_name(target.name + ".partial")
    files = list(found.with_action("protect"))
    chosen = drawn(files, labels.task, limit, seed)
    with target_errors(target, resumable=False):
        shutil.rmtree(partial, ignore_errors=True)
        make_private_folder(partial)
        folder = partial / source.resolve().name
        folder.mkdir()
        with progress.bar("copying the part that was drawn") as update:
            for number, file in enumerate(chosen, 1):
                _copy(source, file, folder)
                update(number, len(chosen))
        told = _table(found, chosen, options, folder)
        note = _note(files, chosen, limit, seed)
        facts = {
            "note": note,
            "task": "classification" if options.no_labels else labels.task,
            "asked": _asked(source, options),
            "annotations": json.loads(json.dumps(asdict(told), default=str)),
        }
        for name in ("labels", "masks"):
            path = getattr(told, name)
            facts["annotations"][name] = path and path.relative_to(partial).as_posix()
        (partial / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        partial.rename(target)
    part = kept_part(source, options, target)
    assert part is not None  # noqa: S101 (it was just written)
    return part


def drawn(files: Sequence[SourceFile], task: str, limit: int, seed: int) -> list[SourceFile]:
    """Files of whole patients, about evenly by class, sorted by path; the same in any order.

    Args:
        files: annotated.
        task: classification, multilabel or segmentation.
        limit: training images, see `draw_part`.
        seed: of the draw; a larger limit adds patients to those of a smaller one, or nearly so.
    """
    splits = [_split(file) for file in files]
    quotas: dict[str, int] = {"train": limit, "val": max(1, limit // 4), "test": limit}
    if "test" not in splits:
        splits = ["all"] * len(files)
        quotas = {"all": max(1, math.floor(limit / SHARES["train"]))}
    rng = np.random.default_rng(seed)
    chosen: list[SourceFile] = []
    for part, most in quotas.items():
        own = [file for file, split in zip(files, splits, strict=True) if split == part]
        chosen += _of_part(sorted(own, key=lambda file: file.path), task, most, rng)
    return sorted(chosen, key=lambda file: file.path)


def _split(file: SourceFile) -> str:
    return (file.annotation and file.annotation.split) or "train"


def _patient(file: SourceFile) -> tuple[str, ...]:
    """What groups files; one of no known patient stands alone."""
    patient = file.annotation and file.annotation.patient
    return (patient,) if patient else ("", file.path)


def _of_part(
    files: Sequence[SourceFile], task: str, most: int, rng: np.random.Generator
) -> list[SourceFile]:
    """Patients in an order of which every beginning has about the classes of the whole."""
    patients: dict[tuple[str, ...], list[SourceFile]] = defaultdict(list)
    for file in files:
        patients[_patient(file)].append(file)
    frequency = Counter(name for file in files for name in _classes(file, task))
    strata: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    names = list(patients)
    for number in rng.permutation(len(names)):
        own = Counter(name for file in patients[names[number]] for name in _classes(file, task))
        strata[_class_of(own, frequency, task)].append(names[number])
    order = sorted(
        (0.0 if rank < FEWEST_PATIENTS else (rank + 0.5) / len(members), rank, stratum, patient)
        for stratum, members in strata.items()
        for rank, patient in enumerate(members)
    )
    chosen: list[SourceFile] = []
    for *_, patient in order:
        if len(chosen) + len(patients[patient]) <= most:
            chosen += patients[patient]
    return chosen


def _class_of(own: Counter[int], frequency: Counter[int], task: str) -> int:
    """The class that a patient is drawn for: the commonest of his images', his rarest finding."""
    if not own:
        return -1
    if task == "multilabel":
        return min(own, key=lambda name: (frequency[name], name))
    return min(own, key=lambda name: (-own[name], name))


def _classes(file: SourceFile, task: str) -> list[int]:
    """Positions of the classes of an image; none of one with a mask."""
    note = file.annotation
    if task == "multilabel" and note and note.findings:
        return [number for number, shown in enumerate(note.findings) if shown]
    return [note.label] if note and note.label is not None else []


def _copy(source: Path, file: SourceFile, folder: Path) -> None:
    """An image, its mask, and the header beside it."""
    mask = file.annotation.mask if file.annotation else None
    images = [path for path in (file.path, mask) if path]
    headers = [name.as_posix() for path in images for name in header_names(Path(path))]
    for path in (*images, *headers):
        if path in images or (source / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, folder / path)


def _table(
    found: Scan, chosen: Sequence[SourceFile], options: AnnotationOptions, folder: Path
) -> AnnotationOptions:
    """Write what is known of the images as a table, and say where it is."""
    labels = found.annotations
    assert labels is not None  # noqa: S101 (`draw_part` saw to it)
    numbers = {name: str(n) for n, name in enumerate(dict.fromkeys(map(_patient, chosen)), 1)}
    grouped = any(file.annotation and file.annotation.patient for file in chosen)
    split = any(file.annotation and file.annotation.split for file in chosen)
    listed = labels.task == "multilabel" and len(labels.classes) == 1
    if labels.task == "segmentation":
        columns: list[str] = []
    elif labels.task == "classification":
        columns = ["label"]
    else:
        columns = ["finding labels"] if listed else list(labels.classes)

    def cells(file: SourceFile) -> list[str]:
        note = file.annotation
        if not columns or note is None:
            return []
        if note.label is not None:
            return [labels.classes[note.label]]
        shown = [str(value) for value in note.findings or ()]
        return [labels.classes[0] if shown == ["1"] else "No Finding"] if listed else shown

    told = AnnotationOptions(
        no_labels=options.no_labels,
        masks=options.masks and folder / _inside(options.masks, found.source),
        task="auto" if options.no_labels else labels.task,
    )
    if not (columns or grouped or split):
        return told
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", *columns, *["patient"] * grouped, *["split"] * split])
        for each in chosen:
            part = (each.annotation and each.annotation.split) or ""
            last = [numbers[_patient(each)]] * grouped + [part] * split
            writer.writerow([each.path, *cells(each), *last])
    if options.no_labels:
        return told
    plain = not any("," in name for name in columns)
    return replace(
        told,
        labels=folder / TABLE,
        path_column="filename",
        label_column=",".join(columns) if columns and plain else None,
        patient_column="patient" if grouped else None,
        split_column="split" if split else None,
    )


def _inside(masks: Path, source: Path) -> Path:
    """The folder of masks, relative to the source, from the current folder or from the source."""
    root = source.resolve()
    for path in (masks.resolve(), (source / masks).resolve()):
        if path.is_dir() and path.is_relative_to(root):
            return path.relative_to(root)
    return masks


def _asked(source: Path, options: AnnotationOptions) -> dict[str, Any]:
    """What must be the same for a part to be used again."""
    told = {name: str(value) for name, value in asdict(options).items()}
    return {"source": str(source.resolve()), **told}


def _note(files: Sequence[SourceFile], chosen: Sequence[SourceFile], limit: int, seed: int) -> str:
    """What was drawn, for people."""
    parts = Counter(map(_split, chosen))
    shares = ", ".join(f"{parts[name]} {name}" for name in ("train", "val", "test") if parts[name])
    given = f" ({shares})" if parts["test"] else ""
    patients = [len(set(map(_patient, some))) for some in (chosen, files)]
    grouped = any(file.annotation and file.annotation.patient for file in files)
    by = f", of {patients[0]} of {patients[1]} patients" if grouped else ""
    masks = any(file.annotation and file.annotation.mask for file in files)
    evenly = "" if masks else ", about evenly by class"
    return (
        f"--limit {limit}: {len(chosen)} of {len(files)} images were drawn{given}{by}{evenly}, by "
        f"seed {seed}; figures are of these alone"
    )
