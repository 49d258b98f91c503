"""`--preview`: a contact sheet of a few images that a person can look at.

`scan` shows images as their intensity range shows them, `check` each source beside what was
released and the difference between the two. The sheet bears numbers, never names of files, which
often hold those of patients; the names go to standard output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medshield import manifest
from medshield.checking import CheckResult, Declared, declared
from medshield.contact_sheet import PANEL, Panel, Tile, draw
from medshield.dataset.intensity import range_of
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats import DecodedImage, IntensityRange, recognise
from medshield.formats.base import READ_ONLY, PerFrame
from medshield.manifest import Record

MOST_OF_A_SCAN, MOST_OF_A_CHECK, MOST_OF_A_PAGE = 24, 10, 6
ACROSS_OF_A_SCAN, ACROSS_OF_A_CHECK = 4, 2
HEADINGS = ("source", "protected", "difference")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Preview:
    """A sheet that was written.

    Attributes:
        path: of the PNG file.
        images: the files on it, in the order of their numbers from 1 on.
    """

    path: Path
    images: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The sheet as plain data."""
        return {"path": str(self.path), "images": list(self.images)}


def refuse_target(target: Path, *folders: Path | None) -> None:
    """Say at once, before anything is read, that no sheet can be written there.

    Args:
        target: the PNG file to be.
        folders: in which nothing may be written.

    Raises:
        InputError: it exists, is not called .png, lies in one of the folders, or can't be written.
    """
    folder = Path(os.path.realpath(target)).parent
    if target.suffix.lower() != ".png":
        raise InputError(f"--preview {target}: the sheet is a PNG file; give a name that ends so")
    if os.path.lexists(target):
        raise InputError(f"--preview {target}: already exists; remove it or choose another name")
    for other in folders:
        if other is not None and folder.is_relative_to(os.path.realpath(other)):
            raise InputError(
                f"--preview {target}: lies in {other}, where nothing is written; choose a place "
                "outside"
            )
    if not folder.is_dir():
        raise InputError(f"--preview {target}: its folder does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--preview {target}: its folder can't be written to; choose another")


def of_scan(found: Scan, target: Path) -> Preview | None:
    """Write a sheet of images to protect, spread over formats, ranges and classes.

    Returns:
        What was written; None where there is no image to show.

    Raises:
        InputError: the file can't be written.
    """
    order = spread(found.with_action("protect"), [lambda f: f.format, lambda f: f.kind, _class_of])
    chosen = order[:MOST_OF_A_SCAN]
    tiles = [_scan_tile(number, file, found) for number, file in enumerate(chosen, 1)]
    title = [
        f"{len(tiles)} of {len(order)} images to protect, as their intensity ranges show them",
        "These are the clean images: do not publish this sheet.",
    ]
    return _written(target, draw(title, tiles, across=ACROSS_OF_A_SCAN) if tiles else b"", chosen)


def of_check(result: CheckResult, source: Path, target: Path) -> Preview | None:
    """Write a sheet of source, released image and difference; files with faults come first.

    Returns:
        What was written; None where there is no image to show.

    Raises:
        InputError: the file can't be written.
    """
    papers = manifest.read_papers(result.release)
    known, _ = declared(papers)
    order = _in_order(result.release, papers.records, {path for path, _ in result.faults})
    chosen = order[:MOST_OF_A_CHECK]
    tiles = [
        _check_tile(number, source / record.path, result.release / record.path, known)
        for number, record in enumerate(chosen, 1)
    ]
    title = [
        f"{len(tiles)} of {len(order)} protected images",
        "Difference: grey is no change, white or black is the bound; of a block of pixels, the "
        "greatest change.",
        "It shows clean images: do not publish this sheet.",
    ]
    sheet = draw(title, tiles, across=ACROSS_OF_A_CHECK, headings=HEADINGS) if tiles else b""
    return _written(target, sheet, chosen)


def compared(source: Path, release: Path) -> tuple[Tile, ...]:
    """Source, released image and difference of a few protected files, for a page to show.

    Args:
        source: the clean images.
        release: its papers and images are read.
    """
    papers = manifest.read_papers(release)
    known, _ = declared(papers)
    chosen = _in_order(release, papers.records, set())[:MOST_OF_A_PAGE]
    return tuple(
        _check_tile(number, source / record.path, release / record.path, known)
        for number, record in enumerate(chosen, 1)
    )


def _in_order(release: Path, records: Sequence[Record], faulty: set[str]) -> list[Record]:
    """The protected files, those with faults first, spread over formats, radii and folders."""
    root = Path(os.path.realpath(release))
    keys: list[Callable[[Record], Any]] = [
        lambda record: str(record.format),
        lambda record: record.epsilon_stored or 0.0,
        lambda record: str(Path(record.path).parent),
    ]
    inside = [
        record
        for record in records
        # A symbolic link is a fault, and is not followed.
        if record.stays_inside and Path(os.path.realpath(root / record.path)) == root / record.path
    ]
    protected = [record for record in inside if record.status == "protected"]
    return [
        record
        for wanted in (True, False)
        for record in spread([r for r in protected if (r.path in faulty) is wanted], keys)
    ]


def spread(items: Sequence[Item], keys: Sequence[Callable[[Item], Any]]) -> list[Item]:
    """All items in an order whose beginning shows as many values of the keys as it can.

    The first key counts most: its values take turns, within each of them those of the second
    key, and so on. Items that agree in all keys keep their order.
    """
    if not keys:
        return list(items)
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(keys[0](item), []).append(item)
    lines = [spread(groups[value], keys[1:]) for value in sorted(groups)]
    longest = max(map(len, lines), default=0)
    return [line[turn] for turn in range(longest) for line in lines if turn < len(line)]


def _class_of(file: SourceFile) -> tuple[Any, ...]:
    note = file.annotation
    if note is None:
        return ()
    return (-1 if note.label is None else note.label, note.findings or ())


def _scan_tile(number: int, file: SourceFile, found: Scan) -> Tile:
    intensity = found.ranges[file.kind]
    image = _decoded(found.source / file.path)
    if image is None:
        return Tile((None,), (f"{number}   {file.kind}", "can't be read", ""), alarm=True)
    frame = image.stored.shape[0] // 2
    picture = _shown(image.pixels(intensity)[frame], _block(image))
    range_text = f"black {intensity.low:.6g}, white {intensity.high:.6g}"
    return Tile((picture,), (f"{number}   {file.kind}", _size(image), range_text))


def _check_tile(number: int, source: Path, released: Path, known: Declared | None) -> Tile:
    nothing = (None, None, None)
    clean, moved = _decoded(source), _decoded(released)
    if clean is None or moved is None:
        which = "source" if clean is None else "released image"
        return Tile(nothing, (f"{number}   the {which} can't be read", ""), alarm=True)
    first = f"{number}   {clean.kind}, {_size(clean)}"
    if clean.stored.shape != moved.stored.shape:
        return Tile(nothing, (first, "the released image has another size"), alarm=True)
    try:
        intensity = range_of(clean, known.ranges if known else {})
    except RefusedFile:
        return Tile(nothing, (first, "the release declares no intensity range"), alarm=True)
    radius = clean.epsilon_stored(intensity, known.epsilon) if known else 0.0
    return _compared_tile(first, clean, moved, intensity, radius)


def _decoded(path: Path) -> DecodedImage | None:
    """The image, or None where it can't be read: `scan` and `check` have said why."""
    try:
        codec = recognise(path)
        return codec.decode(path, READ_ONLY) if codec else None
    except (RefusedFile, NotAnImage, OSError):
        return None


def _compared_tile(
    first: str,
    clean: DecodedImage,
    moved: DecodedImage,
    intensity: IntensityRange,
    radius: PerFrame,
) -> Tile:
    """The middle frames of an image and of what was released, of one shape, and how they differ."""
    frame, block = clean.stored.shape[0] // 2, _block(clean)
    with np.errstate(invalid="ignore"):  # infinity less itself is NaN, which is no change
        change = np.nan_to_num(moved.stored[:].astype(np.float64) - clean.stored[:])
    too_far, nothing = bool((np.abs(change) > radius).any()), not change.any()
    if isinstance(radius, np.ndarray):  # each frame by its own
        change, bound, where = change[[frame]], float(radius[frame].item()), " in this frame"
    else:
        change, bound, where = change, radius, ""
    slope = clean.slope[frame].item() if isinstance(clean.slope, np.ndarray) else clean.slope
    shown = change[frame if len(change) > 1 else 0, ..., : clean.colour_channels]
    panels = (
        _shown(clean.pixels(intensity)[frame], block),
        _shown(moved.pixels(intensity)[frame], block),
        _difference(shown * np.sign(slope) * (-1 if clean.inverted else 1), bound, block),
    )
    times = intensity.width / abs(slope) / (2 * bound) if bound else 0.0
    blocks = f", {block} x {block} blocks" if block > 1 else ""
    furthest = np.abs(change).max(initial=0.0)
    moved_by = f"greatest change{where} {furthest:.6g} of {bound:.6g} stored units"
    second = f"{moved_by}; difference x {times:.3g}{blocks}"
    return Tile(panels, (first, second), alarm=too_far or nothing)


def _size(image: DecodedImage) -> str:
    frames, height, width, _ = image.stored.shape
    colour = "colour" if image.colour_channels == 3 else "grey"
    middle = f", frame {frames // 2 + 1} of {frames}" if frames > 1 else ""
    return f"{width} x {height}{middle}, {colour}"


def _block(image: DecodedImage) -> int:
    """Side of the square of pixels that becomes one on the sheet."""
    longest: int = max(image.stored.shape[1:3])
    return -(-longest // PANEL)


def _shown(pixels: NDArray[np.float32], block: int) -> Panel:
    """A frame, (channels, height, width) in [0, 1], as a picture; larger ones are averaged."""
    colour = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    picture = Image.fromarray(np.rint(colour * 255).astype(np.uint8))
    return _enlarged(np.asarray(picture.reduce(block) if block > 1 else picture))


def _difference(change: NDArray[np.float64], radius: float, block: int) -> Panel:
    """A change, (height, width, channels), as a picture: grey for none, white and black for the
    radius; of each block the value that is furthest from none.
    """
    height, width, channels = change.shape
    padded = np.pad(change, ((0, -height % block), (0, -width % block), (0, 0)))
    blocks = padded.reshape(-(-height // block), block, -(-width // block), block, channels)
    highest, lowest = blocks.max((1, 3)), blocks.min((1, 3))
    furthest = np.where(highest >= -lowest, highest, lowest)
    share = np.clip(furthest / radius, -1, 1) if radius else np.sign(furthest)
    grey = np.rint(127.5 + 127.5 * share).astype(np.uint8)
    return _enlarged(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture with each pixel as a square, as large as fits."""
    times = max(1, PANEL // max(picture.shape[:2]))
    return np.ascontiguousarray(picture.repeat(times, 0).repeat(times, 1))


def _written(
    target: Path, content: bytes, chosen: Sequence[SourceFile] | Sequence[Record]
) -> Preview | None:
    """The sheet in its file, which only its owner may read, as it shows clean images."""
    if not content:
        return None
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError:
            target.unlink()
            raise
    except OSError as error:
        raise InputError(
            f"--preview {target}: can't be written ({error.strerror}); choose another place"
        ) from error
    return Preview(target, tuple(item.path for item in chosen))
