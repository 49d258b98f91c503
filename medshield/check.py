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
from medshield.budget import parse_epsilon
from medshield.dataset.intensity import range_of
from medshield.dataset.scan import MASK_REASON, walk
from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats import CODECS, Codec, DecodedImage, IntensityRange, recognise
from medshield.formats.base import PerFrame
from medshield.manifest import Papers, Record

CODEC_OF_NAME = {codec.name: codec for codec in CODECS}


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
    """Check every file of a release, whatever its papers say.

    Args:
        release: the folder that `protect` wrote.
        source: the clean images; without them, checksums and readability.
        workers: files read at a time.

    Raises:
        InputError: the folder is no release, or the source is no folder.
    """
    papers = manifest.read_papers(release)
    if source is not None and not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder the release was made from")
    known, unclear = declared(papers)
    faults = [*papers.faults, *unclear, *_paper_faults(release, papers)]
    inspector = Inspector(release, source, known)
    with ThreadPoolExecutor(workers) as pool, progress.bar("checking") as update:
        for number, found in enumerate(pool.map(inspector.faults, papers.records), 1):
            faults += found
            update(number, len(papers.records))
    counts = dict(sorted(Counter(record.status for record in papers.records).items()))
    return CheckResult(release, counts, source is not None, tuple(sorted(set(faults))))


@dataclass(frozen=True)
class Declared:
    """What the summary declares: epsilon, and the intensity range of each kind of image."""

    epsilon: Fraction
    ranges: dict[str, IntensityRange]


def declared(papers: Papers) -> tuple[Declared | None, list[tuple[str, str]]]:
    """What the bound is measured by, or the faults of the papers that say it."""
    if not papers.summary:
        return None, []  # missing or damaged, which `papers.faults` says
    try:
        ranges = {
            kind: IntensityRange(float(values["low"]), float(values["high"]), values["reason"])
            for kind, values in papers.summary["intensity"].items()
        }
        return Declared(parse_epsilon(papers.summary["epsilon"]), ranges), []
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        return None, [(manifest.SUMMARY, "epsilon or the intensity ranges are missing or damaged")]


def _paper_faults(release: Path, papers: Papers) -> Iterator[tuple[str, str]]:
    """Where the papers and the folder disagree."""
    records = papers.records
    named = {record.path for record in records if record.sha256} | manifest.OWN_FILES
    for path in sorted({path for path, _ in walk(release)} - named):
        yield path, "in the release, but not in the manifest"
    for path, number in Counter(record.path for record in records).items():
        if number > 1:
            yield path, f"{number} lines of the manifest speak of it"
    counts = dict(Counter(record.status for record in records))
    if papers.summary and papers.summary.get("counts") != counts:
        yield manifest.SUMMARY, "its counts are not those of the manifest"
    yield from _checksum_faults(release, records)


def _checksum_faults(release: Path, records: list[Record]) -> Iterator[tuple[str, str]]:
    """Whether SHA256SUMS names all files, with the checksums of the manifest."""
    wanted = {manifest.checksum_line(r.sha256, r.path).rstrip("\n") for r in records if r.sha256}
    for name in (manifest.SUMMARY, manifest.MANIFEST):
        if (release / name).is_file():
            digest = manifest.sha256(release / name)
            wanted.add(manifest.checksum_line(digest, name).rstrip("\n"))
    try:
        raw = (release / manifest.CHECKSUMS).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        yield manifest.CHECKSUMS, "missing, or can't be read"
        return
    if set(raw.split("\n")) - {""} != wanted:
        yield manifest.CHECKSUMS, "does not agree with the manifest and the files"


class Inspector:
    """Reads one file of a release and says what is wrong with it.

    Args:
        release: its folder.
        source: the clean images, if they are at hand.
        declared: by the summary, if it could be read.
    """

    def __init__(self, release: Path, source: Path | None, declared: Declared | None) -> None:
        self._release = release
        self._root = os.path.realpath(release)
        self._source = source
        self._declared = declared

    def faults(self, record: Record) -> list[tuple[str, str]]:
        """(path, fault) for everything that is wrong with one file."""
        try:
            return [(record.path, fault) for fault in self._faults(record)]
        except (RefusedFile, NotAnImage) as error:
            return [(record.path, f"can't be read: {error}")]
        except OSError as error:
            return [(record.path, f"can't be read: {error.strerror}")]

    def _faults(self, record: Record) -> Iterator[str]:
        path = self._release / record.path
        if not record.stays_inside:
            yield "its path leads out of the release; it was not followed"
        elif record.status in ("omitted", "refused"):
            if os.path.lexists(path) and record.path not in manifest.OWN_FILES:
                yield f"{record.status}, and yet in the release"
        elif not os.path.lexists(path):
            yield "missing from the release"
        elif Path(os.path.realpath(path)) != Path(self._root, record.path):
            yield "a symbolic link, which a release never holds; it was not followed"
        elif not path.is_file():
            yield "not a file"
        elif manifest.sha256(path) != record.sha256:
            yield "its checksum differs from the manifest"
        elif path.stat().st_size != record.bytes:
            yield "its size differs from the manifest"
        elif record.status == "copied":
            yield from self._copied_faults(record, path)
        else:
            yield from self._protected_faults(record, path)

    def _original(self, record: Record) -> Path | None:
        original = self._source / record.path if self._source else None
        return original if original and original.is_file() else None

    def _copied_faults(self, record: Record, path: Path) -> Iterator[str]:
        original = self._original(record)
        if original and manifest.sha256(original) != record.sha256:
            yield "copied, but not byte for byte"
        elif self._source and not original:
            yield "missing from the source, so it can't be compared"
        if record.reason != MASK_REASON and _is_image(path):
            yield "an image that was copied as it is, clean"

    def _protected_faults(self, record: Record, path: Path) -> Iterator[str]:
        codec = CODEC_OF_NAME.get(record.format)
        if codec is None:
            yield "its format in the manifest is none that medshield protects"
            return
        if not record.epsilon_stored or not record.max_abs_delta:
            yield "protected, and yet the manifest says that nothing moved, or not how far"
        elif record.max_abs_delta > record.epsilon_stored:
            yield "the manifest itself says that a pixel moved further than the bound"
        released = codec.decode(path)
        original = self._original(record)
        if original:
            yield from self._compared(record, codec, original, path, released)
        elif self._source:
            yield "missing from the source, so it can't be compared"

    def _compared(
        self, record: Record, codec: Codec, original: Path, path: Path, released: DecodedImage
    ) -> Iterator[str]:
        clean = codec.decode(original)
        if clean.stored.shape != released.stored.shape:
            yield "its size differs from the source's"
            return
        moved = np.abs(clean.stored.astype(np.float64) - released.stored.astype(np.float64))
        furthest = float(np.nanmax(moved, initial=0.0))
        if furthest == 0:
            yield "the clean image: not one pixel differs from the source"
        elif record.max_abs_delta is None or abs(furthest - record.max_abs_delta) > 1e-9:
            yield "its greatest change differs from the manifest"
        if not np.array_equal(np.isnan(clean.stored), np.isnan(released.stored)):
            yield "its undefined (NaN) values differ from the source's"
        yield from self._bound_faults(record, clean, moved)
        for place in codec.differences(original, path):
            yield f"changed outside the pixels: {place}"

    def _bound_faults(
        self, record: Record, clean: DecodedImage, moved: np.ndarray[Any, Any]
    ) -> Iterator[str]:
        """Against the declared epsilon and range, not against what the manifest says of them."""
        if self._declared is None:
            return
        try:
            intensity = range_of(clean, self._declared.ranges)
        except RefusedFile as error:
            yield str(error)
            return
        radius = clean.epsilon_stored(intensity, self._declared.epsilon)
        largest = float(np.max(radius))
        if record.epsilon_stored is None or abs(largest - record.epsilon_stored) > 1e-9 * largest:
            yield "its radius in the manifest is not what epsilon and the range give"
        yield from _beyond(moved, radius)
        if np.any(moved[_fixed(clean, intensity)] > 0):
            yield "a value moved that had to stay (outside the range, padding, overlay or alpha)"


def _beyond(moved: np.ndarray[Any, Any], radius: PerFrame) -> Iterator[str]:
    """The furthest step over the bound, each frame by its own."""
    bounds = np.broadcast_to(radius, moved.shape)
    over = moved > bounds
    if over.any():
        worst = np.argmax(np.where(over, moved - bounds, 0))
        yield (
            f"a pixel moved by {moved.flat[worst]:g} stored units; the bound is "
            f"{bounds.flat[worst]:g}"
        )


def _fixed(clean: DecodedImage, intensity: IntensityRange) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """True where a value must be as it was."""
    fixed = clean.outside(intensity)
    fixed[..., clean.colour_channels :] = True
    if clean.frozen is not None:
        fixed |= np.broadcast_to(clean.frozen, fixed.shape)
    return fixed


def _is_image(path: Path) -> bool:
    codec = recognise(path)
    if codec is None:
        return False
    try:
        codec.decode(path)
    except (RefusedFile, NotAnImage):
        return False
    return True
