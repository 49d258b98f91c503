"""The plan of a run, kept in its private folder: JSON lines, first what all files share.

The last line is the SHA-256 of those before it, by which damage is told. Whoever goes on with a
run acts on the same plan, and scans no file again to make one.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from medshield.dataset.annotations import Labelling
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dataset.walk import files_of, stamp_unless
from medshield.formats import Handling, IntensityRange
from medshield.kept_lines import KeptLines
from medshield.private import private_file


def write_plan(found: Scan, path: Path) -> None:
    """Keep a plan, whole or not at all."""
    shared = {
        "ranges": {kind: asdict(found.ranges[kind]) for kind in found.ranges},
        "handling": asdict(found.handling),
        "annotations": found.annotations and asdict(found.annotations),
    }
    digest = hashlib.sha256()
    with private_file(path) as file:
        for line in chain([json.dumps(shared).encode() + b"\n"], _lines(found)):
            digest.update(line)
            file.write(line)
        file.write(digest.hexdigest().encode() + b"\n")


def _lines(found: Scan) -> Iterator[bytes]:
    if isinstance(found.files, KeptLines):
        return map(found.files.line, range(len(found.files)))
    return (file.to_line() for file in found.files)


def read_plan(path: Path, source: Path) -> Scan:
    """The plan that was kept.

    Args:
        path: its file.
        source: the folder that it is of.

    Raises:
        ValueError: it is damaged.
        OSError: it can't be read.
    """
    file = path.open("rb")
    try:
        starts = _starts_of_whole(file)
        file.seek(0)
        shared = json.loads(next(file))
    except ValueError:
        file.close()
        raise
    return Scan(
        source,
        KeptLines(file, starts[1:], SourceFile.from_line),
        shared["annotations"] and _labelling(shared["annotations"]),
        {kind: IntensityRange(**values) for kind, values in shared["ranges"].items()},
        handling=Handling(**shared["handling"]),
    )


def has_changed(found: Scan) -> bool:
    """Whether files of the source were written to, added or removed since it was scanned."""
    now = dict(sorted(files_of(found.source).items()))
    return len(now) != len(found.files) or any(
        file.path != path or file.stamp != stamp_unless(reason, found.source / path)
        for file, (path, reason) in zip(found.files, now.items(), strict=True)
    )


def _starts_of_whole(file: BinaryIO) -> array[int]:
    """Where each line starts, and last the checksum, which is that of them.

    Raises:
        ValueError: it is not, so something is missing or was changed.
    """
    digest, last, starts = hashlib.sha256(), b"", array("q", [0])
    for line in file:
        digest.update(last)
        last = line
        starts.append(starts[-1] + len(line))
    if len(starts) < 3 or last != digest.hexdigest().encode() + b"\n":
        raise ValueError("not as it was written")
    return starts[:-1]


def _labelling(values: dict[str, Any]) -> Labelling:
    for name in ("classes", "notes"):
        values[name] = tuple(values[name])
    return Labelling(**values)
