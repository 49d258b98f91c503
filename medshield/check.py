"""`medshield check`: is a release what its papers say, and is nothing but pixels different?

Reads every file anew, with none of what protect knew: checksums, decoding, the bound, and every
byte outside the pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from medshield import manifest, progress
from medshield.dataset.scan import walk
from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats import DecodedImage, IntensityRange, codec_named
from medshield.manifest import Record


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        release: its folder.
        checked: files read, by status.
        compared: whether there was a source to compare with.
        faults: (path, what is wrong), sorted; empty for a sound release.
    """

    release: Path
    checked: dict[str, int]
    compared: bool
    faults: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "release": str(self.release),
            "passed": not self.faults,
            "compared_with_source": self.compared,
            "checked": self.checked,
            "faults": [{"path": path, "fault": fault} for path, fault in self.faults],
        }


def check(release: Path, source: Path | None = None, workers: int = 2) -> CheckResult:
    """Check every file of a release.

    Args:
        release: the folder that `protect` wrote.
        source: the clean images; without them, checksums and readability.
        workers: files read at a time.

    Raises:
        InputError: the release has no papers, or the source is no folder.
    """
    records, summary = manifest.read_release(release)
    if source is not None and not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder the release was made from")
    epsilon = Fraction(summary["epsilon"])
    ranges = {kind: IntensityRange(**values) for kind, values in summary["intensity"].items()}
    faults = list(_paper_faults(release, records))

    def look(record: Record) -> list[tuple[str, str]]:
        found = list(_file_faults(release, source, record, ranges, epsilon))
        return [(record.path, fault) for fault in found]

    with ThreadPoolExecutor(workers) as pool, progress.bar("checking") as update:
        for number, found in enumerate(pool.map(look, records), 1):
            faults += found
            update(number, len(records))
    counts = dict(sorted(Counter(record.status for record in records).items()))
    return CheckResult(release, counts, source is not None, tuple(sorted(faults)))


def _paper_faults(release: Path, records: list[Record]) -> Iterator[tuple[str, str]]:
    """Files that the papers do not name, and checksums that differ between the papers."""
    named = {record.path for record in records if record.sha256} | manifest.OWN_FILES
    for path in sorted({path for path, _ in walk(release)} - named):
        yield path, "in the release, but not in the manifest"
    wanted = {manifest.checksum_line(r.sha256, r.path).rstrip("\n") for r in records if r.sha256}
    wanted |= {
        manifest.checksum_line(manifest.sha256(release / name), name).rstrip("\n")
        for name in (manifest.SUMMARY, manifest.MANIFEST)
    }
    try:
        raw = (release / manifest.CHECKSUMS).read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        yield manifest.CHECKSUMS, "missing"
        return
    if set(raw.split("\n")) - {""} != wanted:
        yield manifest.CHECKSUMS, "does not agree with the manifest and the files"


def _file_faults(
    release: Path,
    source: Path | None,
    record: Record,
    ranges: dict[str, IntensityRange],
    epsilon: Fraction,
) -> Iterator[str]:
    path = release / record.path
    if record.status in ("omitted", "refused"):
        if os.path.lexists(path):
            yield f"{record.status}, and yet in the release"
        return
    if not path.is_file():
        yield "missing from the release"
        return
    if manifest.sha256(path) != record.sha256:
        yield "its checksum differs from the manifest"
        return
    original = source / record.path if source else None
    if original is not None and not original.is_file():
        yield "missing from the source, so it can't be compared"
        return
    try:
        if record.status == "copied":
            if original and manifest.sha256(original) != record.sha256:
                yield "copied, but not byte for byte"
            return
        codec = codec_named(record.format)
        released = codec.decode(path)
        if original is None:
            return
        clean = codec.decode(original)
        yield from _bound_faults(record, clean, released, ranges, epsilon)
        for place in codec.differences(original, path):
            yield f"changed outside the pixels: {place}"
    except (RefusedFile, NotAnImage) as error:
        yield f"can't be read: {error}"


def _bound_faults(
    record: Record, clean: DecodedImage, released: DecodedImage, ranges: dict[str, IntensityRange], epsilon: Fraction
) -> Iterator[str]:
    if clean.stored.shape != released.stored.shape:
        yield "its size differs from the source's"
        return
    radius = clean.epsilon_stored(ranges[clean.kind], epsilon)
    moved = np.abs(clean.stored.astype(np.float64) - released.stored.astype(np.float64))
    furthest = float(np.nanmax(moved, initial=0.0))
    if record.epsilon_stored is None or abs(radius - record.epsilon_stored) > 1e-9 * radius:
        yield "its radius in the manifest is not what epsilon and the range give"
    if not furthest <= radius:
        yield f"a pixel moved by {furthest:g} stored units; the bound is {radius:g}"
    elif record.max_abs_delta is None or abs(furthest - record.max_abs_delta) > 1e-9:
        yield "its greatest change differs from the manifest"
    if not np.array_equal(np.isnan(clean.stored), np.isnan(released.stored)):
        yield "its undefined (NaN) values differ from the source's"
