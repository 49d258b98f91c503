"""The plan of a run, kept in its private folder: JSON lines, first what all files share.

The last line is the SHA-256 of those before it, by which damage is told. Whoever goes on with a
run acts on the same plan, and scans no file again to make one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from medshield.dataset.annotations import Annotation, Annotations
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dataset.walk import files_of, stamps_of
from medshield.formats import Handling, IntensityRange
from medshield.private import private_file

_OF_FILE = [field.name for field in fields(SourceFile)]
_OF_ANNOTATION = [field.name for field in fields(Annotation)]


def write_plan(found: Scan, path: Path) -> None:
    """Keep a plan, whole or not at all."""
    labels = found.annotations
    shared = {
        "ranges": {kind: asdict(found.ranges[kind]) for kind in found.ranges},
        "handling": asdict(found.handling),
        "annotations": labels
        and {
            "task": labels.task,
            "classes": labels.classes,
            "unlabelled": labels.unlabelled,
            "masks": sorted(labels.masks),
            "tables": sorted(labels.tables),
            "notes": labels.notes,
            "labelled": labels.labelled,
        },
    }
    digest = hashlib.sha256()
    with private_file(path) as file:
        for facts in (shared, *map(_facts, found.files)):
            line = json.dumps(facts).encode() + b"\n"
            digest.update(line)
            file.write(line)
        file.write(digest.hexdigest().encode() + b"\n")


def read_plan(path: Path, source: Path) -> Scan:
    """The plan that was kept.

    Args:
        path: its file.
        source: the folder that it is of.

    Raises:
        ValueError: it is damaged.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        count = _lines_of_whole(file)
        file.seek(0)
        shared = json.loads(next(file))
        files = tuple(_file(json.loads(line)) for line in islice(file, count - 1))
    return Scan(
        source,
        files,
        shared["annotations"] and _annotations(shared["annotations"], files),
        {kind: IntensityRange(**values) for kind, values in shared["ranges"].items()},
        handling=Handling(**shared["handling"]),
    )


def has_changed(found: Scan) -> bool:
    """Whether files of the source were written to, added or removed since it was scanned."""
    stamps = {file.path: file.stamp for file in found.files}
    return stamps_of(found.source, files_of(found.source)) != stamps


def _lines_of_whole(file: BinaryIO) -> int:
    """How many lines stand before the checksum, which is that of them.

    Raises:
        ValueError: it is not, so something is missing or was changed.
    """
    digest, last, count = hashlib.sha256(), b"", -1
    for line in file:
        digest.update(last)
        last, count = line, count + 1
    if count < 1 or last != digest.hexdigest().encode() + b"\n":
        raise ValueError("not as it was written")
    return count


def _facts(file: SourceFile) -> dict[str, Any]:
    values = {name: getattr(file, name) for name in _OF_FILE}
    if file.annotation:
        values["annotation"] = {name: getattr(file.annotation, name) for name in _OF_ANNOTATION}
    return values


def _file(values: dict[str, Any]) -> SourceFile:
    values["shape"], values["slopes"] = tuple(values["shape"]), tuple(values["slopes"])
    values["stamp"] = values["stamp"] and tuple(values["stamp"])
    if annotation := values["annotation"]:
        annotation["findings"] = annotation["findings"] and tuple(annotation["findings"])
        values["annotation"] = Annotation(**annotation)
    return SourceFile(**values)


def _annotations(values: dict[str, Any], files: tuple[SourceFile, ...]) -> Annotations:
    return Annotations(
        task=values["task"],
        classes=tuple(values["classes"]),
        by_path={file.path: file.annotation for file in files if file.annotation},
        unlabelled=tuple(values["unlabelled"]),
        masks=frozenset(values["masks"]),
        tables=frozenset(values["tables"]),
        notes=tuple(values["notes"]),
        labelled=values["labelled"],
    )
