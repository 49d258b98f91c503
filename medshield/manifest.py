"""The release's own papers: the manifest, the checksums, and what a release says of itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from medshield.bounded import (
    MOST_DESCRIPTION_BYTES,
    MOST_MANIFEST_BYTES,
    parsed_json,
    read_bounded,
)
from medshield.errors import InputError
from medshield.kept_lines import KeptLines
from medshield.places import require_folder

MANIFEST = "medshield-manifest.jsonl"
SUMMARY = "medshield.json"
CHECKSUMS = "SHA256SUMS"
OWN_FILES = frozenset({MANIFEST, SUMMARY, CHECKSUMS})
CROISSANT, DATA_CARD = "croissant.json", "DATACARD.md"
CARD_FILES = (CROISSANT, DATA_CARD)
"""What `--card` adds to a release: in no line of the manifest, but in the checksums."""
FORMAT_VERSION = 1
STATUSES = frozenset({"protected", "copied", "omitted", "refused"})
NUMBERS = ("bytes", "epsilon_stored", "max_abs_delta", "psnr", "ssim")
TEXTS = ("sha256", "reason")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the manifest.

    Attributes:
        path: relative to the release, with forward slashes.
        status: protected, copied, omitted or refused.
        format: the codec's name, or the file's suffix.
        sha256, bytes: of the released file; None where it is not in the release.
        epsilon_stored, max_abs_delta: in stored units, the second measured on the written file.
        psnr: dB over the intensity range; None where nothing moved.
        ssim: mean over frames, in [-1, 1].
        reason: why it is not protected.
        notes: each element that had to change beside the pixels.
    """

    path: str
    status: str
    format: str
    sha256: str | None = None
    bytes: int | None = None
    epsilon_stored: float | None = None
    max_abs_delta: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    reason: str | None = None
    notes: list[str] = field(default_factory=list)

    def to_line(self) -> str:
        """One line of JSON; a number that JSON has no word for is null."""
        fields = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in ((name, getattr(self, name)) for name in FIELDS)
        }
        return json.dumps(fields, ensure_ascii=True)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """The inverse of `to_line`.

        Raises:
            ValueError, TypeError: another kind of line.
        """
        record = cls(**parsed_json(line))
        if not isinstance(record.path, str) or record.status not in STATUSES:
            raise ValueError("no path or no status")
        for name in NUMBERS:
            value = getattr(record, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(f"{name} is no number")
        texts = [record.format, *record.notes, *(getattr(record, name) or "" for name in TEXTS)]
        if not isinstance(record.notes, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("a text is none")
        return record

    @property
    def stays_inside(self) -> bool:
        """Whether the path, as it is written, leads to a file below the release."""
        parts = PurePosixPath(self.path).parts
        return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in self.path


FIELDS = tuple(field.name for field in fields(Record))
_ESCAPED = re.compile(r"\\([\\nr])")
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r"}
"""How GNU coreutils escapes what would break a line."""


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_line(digest: str, path: str) -> str:
    """A line that `sha256sum -c` reads; odd names are escaped as GNU coreutils does it."""
    if any(character in path for character in "\\\n\r"):
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{digest}  {escaped}\n"
    return f"{digest}  {path}\n"


def checksum_entry(line: str) -> tuple[str, str]:
    """The inverse of `checksum_line`: path and checksum.

    Args:
        line: without the newline at its end.

    Raises:
        ValueError: another kind of line.
    """
    is_escaped = line.startswith("\\")
    digest, separator, path = line.removeprefix("\\").partition("  ")
    if not separator or not path or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("no line of checksums")
    if is_escaped:
        path = _ESCAPED.sub(lambda found: _PLAIN[found[1]], path)
    return path, digest


def write_manifest(release: Path, records: Iterable[Record]) -> Sequence[Record]:
    """Write the manifest of a release.

    Args:
        release: its folder.
        records: sorted by path.

    Returns:
        The same; each is read when it is asked for.
    """
    path, starts = release / MANIFEST, array("q", [0])
    with path.open("wb") as file:
        for record in records:
            starts.append(starts[-1] + file.write(record.to_line().encode() + b"\n"))
    return KeptLines(path.open("rb"), starts, lambda line: Record.from_line(line.decode()))


def write_summary(release: Path, summary: dict[str, Any]) -> None:
    """Write what a release says of itself as a whole."""
    (release / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def checksum_lines(
    release: Path, records: Iterable[Record], cards: Mapping[str, str]
) -> Iterator[bytes]:
    """What SHA256SUMS says of a release.

    Args:
        release: holds manifest and summary.
        records: of the manifest, sorted by path.
        cards: checksums of those of `CARD_FILES` that are to be in the release.
    """
    files = ((record.path, record.sha256) for record in records)
    papers = ((name, sha256(release / name)) for name in (SUMMARY, MANIFEST))
    others = ((name, cards.get(name)) for name in CARD_FILES)
    for path, digest in chain(files, papers, others):
        if digest:
            yield checksum_line(digest, path).encode("utf-8", "surrogateescape")


def read_checksums(release: Path) -> dict[str, str]:
    """Path and checksum of every line of SHA256SUMS.

    Raises:
        InputError: it is missing, damaged, or names a file twice.
    """
    found: dict[str, str] = {}
    path = release / CHECKSUMS
    try:
        text = read_bounded(path, MOST_MANIFEST_BYTES).decode("utf-8", "surrogateescape")
        for line in filter(None, text.split("\n")):
            name, digest = checksum_entry(line)
            if name in found:
                raise ValueError("a name stands there twice")
            found[name] = digest
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "damaged"
        raise InputError(
            f"{path}: can't be read ({why}); expected the checksums that `protect` wrote; copy "
            "the release again"
        ) from error
    return found


def require_release(release: Path) -> None:
    """See to it that a folder is a release, sound or not.

    Raises:
        InputError: there is no such folder, or it has neither manifest nor summary.
    """
    advice = "give the release, the folder that `medshield protect` wrote"
    if os.path.isdir(partial := f"{release}.partial"):  # noqa: PTH112 (False where no such name can be)
        advice = f"{partial} is a run that did not end: finish it with `medshield protect --resume`"
    require_folder(release, advice)
    if any((release / name).is_file() for name in (MANIFEST, SUMMARY)):
        return
    if (release / "bagit.txt").is_file() and (release / "data" / SUMMARY).is_file():
        raise InputError(f"{release}: a bag; the release in it is {release / 'data'}, give that")
    raise InputError(
        f"{release}: not a release (no {MANIFEST} and {SUMMARY}); make one with `medshield protect`"
    )


def find_release(folder: Path) -> Path:
    """The release in a folder: the folder itself or its one child that is one.

    Raises:
        InputError: there is none, or more than one.
    """
    candidates = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    found = [path for path in candidates if (path / MANIFEST).is_file()]
    found = [path for path in found if not path.name.endswith(".partial")]
    if folder in found:
        return folder
    if len(found) != 1:
        raise InputError(
            f"{len(found)} releases here; name the one to verify: medshield verify RELEASE"
        )
    return found[0]


@dataclass(frozen=True)
class Papers:
    """What a release says of itself, as far as it can be read.

    Attributes:
        records: of the manifest, in its order.
        summary: of `medshield.json`.
        faults: (paper, what is wrong with it).
    """

    records: list[Record]
    summary: dict[str, Any]
    faults: list[tuple[str, str]]


def read_papers(release: Path) -> Papers:
    """Read manifest and summary, damaged or not.

    Raises:
        InputError: there is no such folder, or it has neither, so it is no release.
    """
    require_release(release)
    papers = Papers([], {}, [])
    for number, line in enumerate(_lines(release, MANIFEST, papers.faults), 1):
        try:
            papers.records.append(Record.from_line(line))
        except (ValueError, TypeError):
            papers.faults.append((MANIFEST, f"line {number} is damaged"))
    text = "".join(_lines(release, SUMMARY, papers.faults))
    try:
        papers.summary.update(parsed_json(text) if text else {})
    except (ValueError, TypeError):
        papers.faults.append((SUMMARY, "damaged: not a JSON object"))
    return papers


def _lines(release: Path, name: str, faults: list[tuple[str, str]]) -> list[str]:
    """The lines of a paper; none, and a fault, where it can't be read."""
    try:
        most = MOST_DESCRIPTION_BYTES if name == SUMMARY else MOST_MANIFEST_BYTES
        text = read_bounded(release / name, most).decode()
    except FileNotFoundError:
        faults.append((name, "missing"))
    except (OSError, ValueError, InputError):
        faults.append((name, "can't be read"))
    else:
        return text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    return []


def read_release(release: Path) -> tuple[list[Record], dict[str, Any]]:
    """The manifest and the summary of a sound release.

    Raises:
        InputError: the folder is no release, or its papers are damaged.
    """
    papers = read_papers(release)
    if papers.faults:
        name, fault = papers.faults[0]
        raise InputError(f"{release}: {name}: {fault}; protect the source again")
    return papers.records, papers.summary
