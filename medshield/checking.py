"""`medshield check`: is a release what its papers say, and is nothing but pixels different?

Reads every file anew, with none of what protect knew and with other readers than those that wrote
it (`medshield.audit`): checksums, decoding, the bound, and every byte outside the pixels.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from medshield import manifest, progress
from medshield.audit import Allowed, AuditedImage, Auditor, auditor_named, recognise
from medshield.audit.bound import movement, spread
from medshield.audit.uids import UidMap
from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.budget import parse_epsilon
from medshield.dataset.intensity import range_name
from medshield.dataset.scanned import MASK_REASON
from medshield.dataset.walk import walk
from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats.base import IntensityRange
from medshield.manifest import Papers, Record
from medshield.metrics import ssim
from medshield.places import require_folder

_ROUNDING = 1e-9
_AHEAD = 8
"""Files that wait for each worker: enough to keep it busy, few enough to keep memory flat."""


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        release: its folder.
        checked: files read, by status.
        compared: whether there was a source to compare with.
        faults: (path, what is wrong), sorted; empty for a sound release.
        sizes: by format, each protected file's size over that of its source.
    """

    release: Path
    checked: dict[str, int]
    compared: bool
    faults: tuple[tuple[str, str], ...]
    sizes: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the release is sound."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "release": str(self.release),
            "passed": self.passed,
            "compared_with_source": self.compared,
            "checked": self.checked,
            "size_ratio": {
                name: {"files": len(ratios), "median": median(ratios)}
                for name, ratios in self.sizes.items()
            },
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
    if source is not None:
        require_folder(source, "give the folder the release was made from")
    known, unclear = declared(papers)
    faults = [*papers.faults, *unclear, *_paper_faults(release, papers)]
    inspector = Inspector(release, source, known)
    findings: list[Finding] = []
    with ThreadPoolExecutor(workers) as pool, progress.bar("checking") as update:
        jobs = _in_turn(pool, inspector, papers.records, _AHEAD * workers)
        for number, found in enumerate(jobs, 1):
            faults += found.faults
            findings.append(found.without_faults())
            update(number, len(papers.records))
    faults += inspector.uids.faults()
    faults += _clean_files(findings)
    counts = dict(sorted(Counter(record.status for record in papers.records).items()))
    return CheckResult(
        release, counts, source is not None, tuple(sorted(set(faults))), _sizes(findings)
    )


@dataclass(frozen=True)
class Finding:
    """What was found out about one file.

    Attributes:
        record: its line in the manifest.
        faults: (path, what is wrong).
        original: checksum of the file of that name in the source, or None.
        size: of that file in bytes.
    """

    record: Record
    faults: tuple[tuple[str, str], ...] = ()
    original: str | None = None
    size: int = 0

    def without_faults(self) -> Finding:
        """What is needed once all files were read."""
        return replace(self, faults=())


def _in_turn(
    pool: ThreadPoolExecutor, inspector: Inspector, records: Sequence[Record], most: int
) -> Iterator[Finding]:
    """The findings in the records' order, with no more than `most` files waiting."""
    waiting: deque[Future[Finding]] = deque()
    for record in records:
        waiting.append(pool.submit(inspector.inspect, record))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _sizes(findings: Sequence[Finding]) -> dict[str, tuple[float, ...]]:
    """Sizes of protected files over those of their sources, by format."""
    sizes: dict[str, list[float]] = {}
    for found in findings:
        if found.record.status == "protected" and found.record.bytes and found.size:
            ratio = found.record.bytes / found.size
            sizes.setdefault(found.record.format, []).append(ratio)
    return {name: tuple(sizes[name]) for name in sorted(sizes)}


def _clean_files(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Files of the source that are in the release, under whatever name, and must not be.

    A file that was copied may be there once more under another name that was copied, too.
    """
    copied = {found.original for found in findings if found.record.status == "copied"}
    clean = {found.original: found.record.path for found in findings if found.original}
    for found in findings:
        digest = found.record.sha256
        if digest not in clean or digest == found.original:
            continue  # what is the clean file under its own name is seen by its pixels
        if found.record.status != "copied" or digest not in copied:
            yield found.record.path, f"byte for byte the clean file {clean[digest]} of the source"


@dataclass(frozen=True)
class Declared:
    """What the summary declares.

    Attributes:
        epsilon: radius as a fraction of the intensity range.
        ranges: the intensity range of each kind of image, by name.
        handling: what was done with icons, signatures and UIDs.
        min_ssim: structural similarity that every frame keeps; None where none is declared.
    """

    epsilon: Fraction
    ranges: dict[str, IntensityRange]
    handling: dict[str, Any]
    min_ssim: float | None = None


def declared(papers: Papers) -> tuple[Declared | None, list[tuple[str, str]]]:
    """What the bound is measured by, or the faults of the papers that say it."""
    if not papers.summary:
        return None, []  # missing or damaged, which `papers.faults` says
    try:
        ranges = {
            kind: IntensityRange(float(values["low"]), float(values["high"]), values["reason"])
            for kind, values in papers.summary["intensity"].items()
        }
        handling = dict(papers.summary.get("handling") or {})
        min_ssim = papers.summary.get("min_ssim")
        if min_ssim is not None and not 0 < float(min_ssim) < 1:
            raise ValueError("no similarity")
        epsilon = parse_epsilon(papers.summary["epsilon"])
        return Declared(epsilon, ranges, handling, min_ssim), []
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        return None, [
            (manifest.SUMMARY, "epsilon, min_ssim or intensity ranges are missing or damaged")
        ]


def _paper_faults(release: Path, papers: Papers) -> Iterator[tuple[str, str]]:
    """Where the papers and the folder disagree."""
    records = papers.records
    named = {record.path for record in records if record.sha256} | manifest.OWN_FILES
    cards = _cards(release, records)
    named |= set(cards)
    for path in sorted({path for path, _ in walk(release)} - named):
        yield path, "in the release, but not in the manifest"
    for path, number in Counter(record.path for record in records).items():
        if number > 1:
            yield path, f"{number} lines of the manifest speak of it"
    counts = dict(Counter(record.status for record in records))
    if papers.summary and papers.summary.get("counts") != counts:
        yield manifest.SUMMARY, "its counts are not those of the manifest"
    yield from _checksum_faults(release, records, cards)
    for name, digest in cards.items():
        yield from ((name, fault) for fault in _card_faults(release, name, digest))


def _cards(release: Path, records: list[Record]) -> dict[str, str]:
    """The card that SHA256SUMS speaks of and that does not come from the source: its checksums."""
    source = {record.path for record in records if record.sha256}
    try:
        known = manifest.read_checksums(release)
    except InputError:
        return {}  # which `_checksum_faults` says
    return {n: known[n] for n in manifest.CARD_FILES if n in known and n not in source}


def _card_faults(release: Path, name: str, digest: str) -> Iterator[str]:
    """Whether a file of the card is one, and speaks of this release."""
    path = release / name
    if not os.path.lexists(path):
        yield f"{manifest.CHECKSUMS} speaks of it, but it is missing"
    elif path.is_symlink() or not path.is_file():
        yield "not a file, which a card is"
    elif manifest.sha256(path) != digest:
        yield (
            f"its checksum differs from {manifest.CHECKSUMS}; if you edited it, "
            "`medshield card RELEASE --edited` renews that"
        )
    elif recognise(path) is not None:
        yield "an image, where a card should be"
    elif name == manifest.CROISSANT and not _speaks_of(path, release):
        yield "speaks of another manifest than the one beside it, or is damaged"


def _speaks_of(path: Path, release: Path) -> bool:
    """Whether Croissant metadata give the checksum of the manifest beside them."""
    try:
        document = parsed_json(read_bounded(path, MOST_DESCRIPTION_BYTES))
        sums = {found.get("contentUrl"): found.get("sha256") for found in document["distribution"]}
        return bool(sums.get(manifest.MANIFEST) == manifest.sha256(release / manifest.MANIFEST))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return False


def _checksum_faults(
    release: Path, records: list[Record], cards: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Whether SHA256SUMS names all files, with the checksums of the manifest."""
    wanted = {manifest.checksum_line(r.sha256, r.path).rstrip("\n") for r in records if r.sha256}
    wanted |= {manifest.checksum_line(cards[name], name).rstrip("\n") for name in cards}
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

    Attributes:
        uids: what the files inspected so far say of new UIDs.
    """

    def __init__(self, release: Path, source: Path | None, declared: Declared | None) -> None:
        self._release = release
        self._root = os.path.realpath(release)
        self._source = source
        self._declared = declared
        self.uids = UidMap()

    def inspect(self, record: Record) -> Finding:
        """Everything that is wrong with one file, and the checksum of its source."""
        original = self._original(record)
        digest, size = None, 0
        try:
            if original:
                digest, size = manifest.sha256(original), original.stat().st_size
            faults = tuple((record.path, fault) for fault in self._faults(record, original, digest))
        except (RefusedFile, NotAnImage) as error:
            faults = ((record.path, f"can't be read: {error}"),)
        except OSError as error:
            faults = ((record.path, f"can't be read: {error.strerror}"),)
        except Exception as error:  # a damaged file may raise anything, in words that quote it
            faults = ((record.path, f"can't be read ({type(error).__name__})"),)
        return Finding(record, faults, digest, size)

    def _original(self, record: Record) -> Path | None:
        original = self._source / record.path if self._source and record.stays_inside else None
        return original if original and original.is_file() else None

    def _faults(self, record: Record, original: Path | None, digest: str | None) -> Iterator[str]:
        path = self._release / record.path
        if not record.stays_inside:
            yield "its path leads out of the release; it was not followed"
        elif record.status in ("omitted", "refused"):
            papers = (*manifest.OWN_FILES, *manifest.CARD_FILES)
            if os.path.lexists(path) and record.path not in papers:
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
        elif self._source and not original:
            yield "missing from the source, so it can't be compared"
        elif record.status == "copied":
            yield from self._copied_faults(record, path, original, digest)
        else:
            yield from self._protected_faults(record, path, original)

    def _copied_faults(
        self, record: Record, path: Path, original: Path | None, digest: str | None
    ) -> Iterator[str]:
        auditor = recognise(path)
        if original and digest != record.sha256 and (auditor is None or not record.notes):
            yield "copied, but not byte for byte"
        elif original and auditor is not None:  # icons made anew, new UIDs
            yield from _elsewhere(auditor, original, path, self._allowed(record, pixels=False))
        if auditor is not None and record.reason != MASK_REASON and _is_image(auditor, path):
            yield "an image that was copied as it is, clean"

    def _protected_faults(self, record: Record, path: Path, original: Path | None) -> Iterator[str]:
        auditor = auditor_named(record.format)
        if auditor is None:
            yield "its format in the manifest is none that medshield protects"
            return
        if not record.epsilon_stored or not record.max_abs_delta:
            yield "protected, and yet the manifest says that nothing moved, or not how far"
        elif record.max_abs_delta > record.epsilon_stored:
            yield "the manifest itself says that a pixel moved further than the bound"
        least = self._declared.min_ssim if self._declared else None
        if least is not None and (record.ssim is None or record.ssim < least - _ROUNDING):
            yield "its similarity in the manifest is below the declared min_ssim, or missing"
        released = auditor.read(path)
        if original:
            yield from self._moved(record, auditor.read(original), released)
            del released
            yield from _elsewhere(auditor, original, path, self._allowed(record))

    def _moved(self, record: Record, clean: AuditedImage, released: AuditedImage) -> Iterator[str]:
        """The promise about pixels, by the declared epsilon and range alone."""
        if (clean.values.shape, clean.values.dtype) != (
            released.values.shape,
            released.values.dtype,
        ):
            yield "its size, channels or data type differ from the source's"
            return
        if self._declared is None:
            return
        try:
            name = range_name(clean.kind, spread(clean), self._declared.ranges)
        except RefusedFile as error:
            yield str(error)
            return
        found = movement(clean, released, self._declared.ranges[name], self._declared.epsilon)
        for fault, place in found.faults.items():
            yield f"{fault} {place}"
        least = self._declared.min_ssim
        if least is not None:
            yield from _seen(clean, released, self._declared.ranges[name], least)
        if found.furthest == 0:
            yield "the clean image: not one pixel differs from the source"
        elif not _about(record.max_abs_delta, found.furthest):
            yield "its greatest change differs from the manifest"
        if not _about(record.epsilon_stored, max(found.radii)):
            yield "its radius in the manifest is not what epsilon and the range give"

    def _allowed(self, record: Record, *, pixels: bool = True) -> Allowed:
        """What the release says that it changed in a file beside its pixels."""
        handling = self._declared.handling if self._declared else {}
        return Allowed(
            notes=tuple(str(note) for note in record.notes),
            icons=handling.get("icons", "regenerate"),
            drop_signatures=bool(handling.get("drop_signatures", False)),
            uid=handling.get("uid", "keep"),
            uids=partial(self.uids.add, record.path),
            pixels=pixels,
        )


def _seen(
    clean: AuditedImage, released: AuditedImage, intensity: IntensityRange, least: float
) -> Iterator[str]:
    """Whether a frame is less like its source than the release declares."""
    for frame in range(len(clean.values)):
        width = intensity.width / abs(clean.scaling(frame)[0])
        old, new = (
            image.values[frame : frame + 1, ..., : clean.colours] for image in (clean, released)
        )
        found = ssim(old, new, width)
        if not found >= least - _ROUNDING:
            yield f"a frame's similarity is {found:.4f}; min_ssim is {least:g} (frame {frame})"
            return


def _elsewhere(auditor: Auditor, original: Path, path: Path, allowed: Allowed) -> Iterator[str]:
    for place in auditor.differences(original, path, allowed):
        yield f"changed outside the pixels: {place}"


def _about(said: float | None, measured: float) -> bool:
    """Whether a number in the manifest is the measured one, as far as it could be written."""
    return said is not None and abs(said - measured) <= 1e-9 * max(1.0, measured)


def _is_image(auditor: Auditor, path: Path) -> bool:
    try:
        auditor.read(path)
    except (RefusedFile, NotAnImage):
        return False
    return True
