"""The release's own papers: the manifest, the checksums, and what a release says of itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from medshield.errors import InputError

MANIFEST = "medshield-manifest.jsonl"
SUMMARY = "medshield.json"
CHECKSUMS = "SHA256SUMS"
OWN_FILES = frozenset({MANIFEST, SUMMARY, CHECKSUMS})
FORMAT_VERSION = 1
STATUSES = frozenset({"protected", "copied", "omitted", "refused"})
NUMBERS = ("bytes", "epsilon_stored", "max_abs_delta", "psnr", "ssim")


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
        record = cls(**json.loads(line))
        if not isinstance(record.path, str) or record.status not in STATUSES:
            raise ValueError("no path or no status")
        for name in NUMBERS:
            value = getattr(record, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(f"{name} is no number")
        return record

    @property
    def stays_inside(self) -> bool:
        """Whether the path, as it is written, leads to a file below the release."""
        parts = PurePosixPath(self.path).parts
        return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in self.path


FIELDS = tuple(field.name for field in fields(Record))


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


def write_papers(release: Path, records: Iterable[Record], summary: dict[str, Any]) -> None:
    """Write manifest, summary and checksums into a release that is otherwise complete."""
    ordered = sorted(records, key=lambda record: record.path)
    (release / MANIFEST).write_text("".join(record.to_line() + "\n" for record in ordered))
    (release / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    lines = [checksum_line(r.sha256, r.path) for r in ordered if r.sha256]
    lines += [checksum_line(sha256(release / name), name) for name in (SUMMARY, MANIFEST)]
    (release / CHECKSUMS).write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


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
        InputError: the folder has neither, so it is no release.
    """
    papers = Papers([], {}, [])
    if not any((release / name).is_file() for name in (MANIFEST, SUMMARY)):
        raise InputError(
            f"{release}: not a release (no {MANIFEST} and {SUMMARY}); make one with "
            "`medshield protect`"
        )
    for number, line in enumerate(_lines(release, MANIFEST, papers.faults), 1):
        try:
            papers.records.append(Record.from_line(line))
        except (ValueError, TypeError):
            papers.faults.append((MANIFEST, f"line {number} is damaged"))
    text = "".join(_lines(release, SUMMARY, papers.faults))
    try:
        papers.summary.update(json.loads(text) if text else {})
    except (ValueError, TypeError):
        papers.faults.append((SUMMARY, "damaged: not a JSON object"))
    return papers


def _lines(release: Path, name: str, faults: list[tuple[str, str]]) -> list[str]:
    """The lines of a paper; none, and a fault, where it can't be read."""
    try:
        text = (release / name).read_text("utf-8")
    except FileNotFoundError:
        faults.append((name, "missing"))
    except (OSError, ValueError):
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
