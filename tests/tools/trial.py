"""One file through medshield's own path, and judged by readers that know nothing of it."""

import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from medshield.audit import Allowed, auditor_named
from medshield.audit.bound import movement
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.dataset.scanned import SourceFile
from medshield.errors import InputError, MedshieldError, RefusedFile
from medshield.formats import Codec, DecodedImage, IntensityRange, recognise
from medshield.formats.base import PerFrame
from medshield.movement import NOTHING_MOVED
from tests.tools.readers import Reading, reading, views_of

NO_LABELS = AnnotationOptions(labels=Path("no such table"))  # so that none are asked for
EPSILON = Fraction(8, 255)
TOO_COARSE = "epsilon is less than"
CATEGORIES = ("exact", "copied", "omitted", "refused", "wrong")
CATEGORY_OF_ACTION = {
    "protect": "exact",
    "copy": "copied",
    "omit": "omitted",
    "refuse": "refused",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: below the folder.
        category: one of `CATEGORIES`.
        reason: why it is not exact.
        format, kind: as the established reader has them; empty where none decodes the file.
        lossless: whether its coding is.
        stuck: whether no value can move within epsilon, by arithmetic.
        alone: whether it is exact in a folder of its own, with the range that fits it, and not
            among its siblings here.
        ratio: size of the written file over that of the source.
        as_asked: share of the values that are what was asked for, of an exact one.
    """

    path: str
    category: str
    reason: str = ""
    format: str = ""
    kind: str = ""
    lossless: bool = False
    stuck: bool = False
    alone: bool = False
    ratio: float | None = None
    as_asked: float | None = None


@dataclass(frozen=True)
class Made:
    """A file that was written, and what it was to be.

    Attributes:
        codec: that wrote it.
        image: the source.
        wanted: the stored values asked for.
        intensity, epsilon: that it was protected with.
        radius: the bound, in stored units; of each frame where they are scaled differently.
        notes: elements that had to change.
    """

    codec: Codec
    image: DecodedImage
    wanted: np.ndarray
    intensity: IntensityRange
    epsilon: Fraction
    radius: PerFrame
    notes: tuple[str, ...]


def attempt(
    folder: Path,
    ranges: Mapping[str, IntensityRange],
    epsilon: Fraction,
    scratch: Path,
    file: SourceFile,
) -> Outcome:
    """Do what is planned for one file of a folder, and judge what was written."""
    source = folder / file.path
    seen = reading(source)
    category, reason, ratio, as_asked = CATEGORY_OF_ACTION[file.action], file.reason, None, None
    if category == "exact":
        try:
            faults, ratio, as_asked = _protected(source, seen, ranges[file.kind], epsilon, scratch)
            category, reason = ("wrong", "; ".join(faults)) if faults else ("exact", "")
        except RefusedFile as error:
            category, reason = "refused", str(error)
        except Exception as error:  # a traceback is never an answer
            category, reason = "wrong", f"{type(error).__name__} when it is written: {error}"
    if seen is None:
        return Outcome(file.path, category, reason, ratio=ratio)
    stuck = category == "refused" and (
        seen.stuck(float(epsilon)) or (seen.levels is None and reason.startswith(TOO_COARSE))
    )
    alone = not stuck and category == "refused" and reason.startswith((NOTHING_MOVED, TOO_COARSE))
    return Outcome(
        file.path,
        category,
        reason,
        seen.format,
        seen.kind,
        seen.lossless,
        stuck,
        alone and _is_exact_alone(source, seen, epsilon, scratch),
        ratio,
        as_asked,
    )


def _is_exact_alone(source: Path, seen: Reading, epsilon: Fraction, scratch: Path) -> bool:
    try:
        faults, _, _ = _protected(source, seen, own_range(source), epsilon, scratch)
    except RefusedFile:
        return False
    return not faults


def _protected(
    source: Path, seen: Reading | None, intensity: IntensityRange, epsilon: Fraction, scratch: Path
) -> tuple[list[str], float, float]:
    """The faults of the written file, its size over the source's, and the share as asked for."""
    target = scratch / source.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    made = protect(source, target, intensity, epsilon)
    ratio = target.stat().st_size / source.stat().st_size
    try:
        again = made.codec.read_back(made.image, target).stored
        faults = list(_faults(source, target, seen, made, again))
    except MedshieldError as error:
        return [f"medshield does not read what it wrote: {error}"], ratio, 0.0
    if not faults and _equal(again, made.image.stored):
        raise RefusedFile(NOTHING_MOVED)
    return faults, ratio, float(np.mean(_same(again, made.wanted))) if not faults else 0.0


def protect(
    source: Path, target: Path, intensity: IntensityRange | None = None, epsilon: Fraction = EPSILON
) -> Made:
    """Write `source` to `target` with plus or minus epsilon in every value.

    Args:
        source: an image.
        target: does not exist; of a .hdr/.img pair, the header is put beside it.
        intensity: the range of its kind; None for that of a folder with this file alone.
        epsilon: a fraction of the range.

    Raises:
        RefusedFile: it can't be protected.
    """
    codec = recognise(source)
    assert codec is not None
    image = codec.decode(source)
    if intensity is None:
        intensity = own_range(source)
    radius = image.epsilon_stored(intensity, epsilon)
    if image.is_integer and not np.all(radius >= image.step):
        raise RefusedFile(f"{TOO_COARSE} one step of this file")
    wanted = image.moved(random_signs(image, source.name, epsilon), intensity, epsilon)
    for partner in _partners(source):
        shutil.copyfile(partner, target.parent / partner.name)
    notes = codec.write(image, wanted, target, float(np.max(radius)))
    return Made(codec, image, wanted, intensity, epsilon, radius, tuple(notes))


def own_range(source: Path) -> IntensityRange:
    """The range that a folder of this file alone has.

    Raises:
        RefusedFile: it is not to be protected.
    """
    with tempfile.TemporaryDirectory() as folder:
        for part in (source, *_partners(source)):
            shutil.copyfile(part, Path(folder, part.name))
        try:
            found = scan(Path(folder), NO_LABELS)
        except InputError as error:
            raise RefusedFile(str(error)) from error
    (file,) = (file for file in found.files if file.path == source.name)
    if file.action != "protect":
        raise RefusedFile(file.reason)
    return found.ranges[file.kind]


def random_signs(image: DecodedImage, name: str, epsilon: Fraction) -> np.ndarray:
    """Plus or minus epsilon for every value, the same in all channels of a grey image."""
    rng = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape")))
    frames, height, width, _ = image.stored.shape
    channels = 1 if image.is_grey else image.colour_channels
    signs = rng.integers(0, 2, (frames, channels, height, width), dtype=np.int8) * 2 - 1
    delta = signs.astype(np.float32) * np.float32(epsilon)
    return np.broadcast_to(delta, (frames, image.colour_channels, height, width))


def _partners(source: Path) -> list[Path]:
    """The header of a .hdr/.img pair, without which its voxels mean nothing."""
    name = source.name.replace(".img", ".hdr")
    header = source.with_name(name)
    return [header] if name != source.name and header.is_file() else []


def _faults(
    source: Path, target: Path, seen: Reading | None, made: Made, again: np.ndarray
) -> Iterator[str]:
    """What is wrong with a written file."""
    yield from _audited(source, target, made)
    if seen is None:
        yield "no established reader decodes the source"
        return
    stored = made.image.stored
    if again.shape != stored.shape:
        yield "medshield sees another size"
        return
    after = reading(target)
    if after is None:
        yield "the established reader does not decode what was written"
        return
    agreeing = [name for name, view in views_of(seen) if _equal(view, stored)]
    if not agreeing:
        yield "the established reader sees other values in the source"
        return
    views = dict(views_of(after))
    for name in agreeing:
        view = views.get(name)
        if view is None or view.shape != stored.shape:
            continue  # of a lossy source, whose coding and so whose raw view is another now
        yield from _value_faults(made, again, view, exact=seen.direct)
        return
    yield "the established reader sees another size"


def _audited(source: Path, target: Path, made: Made) -> Iterator[str]:
    """What `medshield check` would find wrong with a written file."""
    auditor = auditor_named(made.codec.name)
    if auditor is None:
        yield "check does not know the format"
        return
    clean, released = auditor.read(source), auditor.read(target)
    if clean.values.shape != released.values.shape:
        yield "check sees another size"
        return
    for fault, place in movement(clean, released, made.intensity, made.epsilon).faults.items():
        yield f"{fault} {place}"
    for place in auditor.differences(source, target, Allowed(made.notes)):
        yield f"changed outside the pixels: {place}"


def _value_faults(made: Made, again: np.ndarray, seen: np.ndarray, exact: bool) -> Iterator[str]:
    """Where the values, as the established reader sees them, break a promise."""
    if not _equal(seen, again):
        yield "the established reader sees other values than medshield in what was written"
    before, asked, after = (a.astype(np.float64) for a in (made.image.stored, made.wanted, seen))
    if not np.array_equal(np.isnan(before), np.isnan(after)):
        yield "NaN values changed"
    with np.errstate(invalid="ignore"):  # infinity less itself
        apart = np.nan_to_num(np.abs(after - before), nan=0.0)
    if (apart > made.radius).any():
        yield f"a value moved by {apart.max():g}, the bound is {np.max(made.radius):g}"
    low, high = np.fmin(before, asked), np.fmax(before, asked)
    if exact and ((after < low) | (after > high)).any():
        yield "a value moved past what was asked for"
    alpha = slice(made.image.colour_channels, None)
    if not _equal(seen[..., alpha], made.image.stored[..., alpha]):
        yield "alpha changed"


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one == other) | ((one != one) & (other != other))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(_same(one, other).all())
