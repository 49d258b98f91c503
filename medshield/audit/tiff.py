"""TIFF: libtiff's pixels, every tag compared, and no byte that belongs to nothing."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from medshield.audit import limits
from medshield.audit.base import (
    Allowed,
    AuditedImage,
    byte,
    first_difference,
    refuse_bomb,
    refuse_many,
    whole_file,
)
from medshield.audit.tiff_directories import PLACES, SUB_PAGES, Area, Directories, Folder, Tag
from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _OLD_SUBFILE, _DESCRIPTION, _NO_DATA, _CREDENTIALS = 254, 255, 270, 42113, 52545
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 262, 277, 284
_COLOURS, _EXTRA, _FORMAT = 320, 338, 339
_RGB, _PALETTE, _MASK = 2, 3, 4
_PLACE_TAGS = frozenset(tag for pair in PLACES[:2] for tag in pair)


class TiffAuditor:
    """TIFF and BigTIFF as libtiff (through imagecodecs) reads them."""

    name = "tiff"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By byte order and version; a DICOM preamble may look the same."""
        return head[:4] in _MAGIC and head[128:132] != b"DICM"

    def read(self, path: Path) -> AuditedImage:
        """The samples of all full pages as stored, of a palette as shown; see `Auditor.read`."""
        file = Directories(whole_file(path))
        pages, _ = _sorted(file)
        try:
            frames = [frame for page in pages for frame in _frames(file, page)]
            values = np.stack(frames)
        except RefusedFile:
            raise
        except Exception as error:  # a damaged file may raise anything
            raise RefusedFile("no established reader decodes it") from error
        first = pages[0]
        alpha = values.shape[-1] in (2, 4)
        return AuditedImage(
            values=values,
            kind=_kind(file, first, values),
            colours=values.shape[-1] - alpha,
            reserved=_reserved(file, first, alpha),
        )

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """See `Auditor.differences`."""
        raw, other = whole_file(source), whole_file(released)
        if not allowed.pixels:
            position = first_difference(raw, other)
            if position is not None:
                yield byte(position)
            return
        before, after = Directories(raw), Directories(other)
        if raw[:4] != other[:4] or (before.big and raw[4:8] != other[4:8]):
            yield f"{byte(0)}: another byte order or version"
        gone = {folder.name for folder in before if _may_go(folder.name, allowed)}
        kept = [folder for folder in before if not _is_within(folder.name, gone)]
        if len(kept) != len(list(after)):
            yield f"it has {len(list(after))} directories, expected {len(kept)}"
            return
        for old, new in zip(kept, after, strict=True):
            yield from _tags_compared(old, after, new, gone, allowed)
        yield from _masks_compared(before, kept, after)
        yield from _copies_compared(after, allowed)
        yield from _strangers(before, after)


def _may_go(name: str, allowed: Allowed) -> bool:
    """Whether the release says that it removed a smaller copy, and may have."""
    note = f"{name} (reduced resolution): removed"
    return allowed.icons == "remove" and note in allowed.notes


def _is_within(name: str, gone: set[str]) -> bool:
    """Whether a directory is one of these or below one."""
    return any(name == other or name.endswith(f" of {other}") for other in gone)


def _tags_compared(
    old: Folder,
    after: Directories,
    new: Folder,
    gone: set[str],
    allowed: Allowed,
) -> Iterator[str]:
    if old.start != new.start:
        yield f"{byte(new.start)}: {old.name} stood at {byte(old.start)}"
    tags = [tag for tag in old.tags if not _may_drop(tag, old.name, allowed)]
    for child in old.children:
        whole = all(_is_within(other.name, gone) for other in old.children)
        if child.name in gone and whole and SUB_PAGES in tags:
            tags.remove(SUB_PAGES)
    if tags != list(new.tags):
        yield f"{byte(new.start)}: {old.name} has other tags, or in another order"
        return
    for tag in tags:
        one, two = old.tags[tag], new.tags[tag]
        place = f"tag {tag} of {old.name}"
        if tag in _PLACE_TAGS:
            yield from _places_compared(place, tag, one, two, allowed)
        elif tag == SUB_PAGES and gone:
            left = [c.start for c in old.children if c.name not in gone and "sub-page" in c.name]
            if after.numbers(new, SUB_PAGES) != left:
                yield f"{byte(two.area[0])} in {place}"
        elif (one.entry, one.value) != (two.entry, two.value):
            position = first_difference(one.value, two.value) or 0
            yield f"{byte(two.area[0] + position)} in {place}"


def _may_drop(tag: int, name: str, allowed: Allowed) -> bool:
    may = allowed.drop_signatures if tag == _CREDENTIALS else allowed.icons == "remove"
    return may and f"tag {tag} of {name}: removed" in allowed.notes


def _places_compared(place: str, tag: int, old: Tag, new: Tag, allowed: Allowed) -> Iterator[str]:
    """Offsets and sizes may be others, and wider numbers, where the release says so."""
    if (old.kind, old.count, old.value) == (new.kind, new.count, new.value):
        return
    noted = any(re.match(rf"tag {tag} \w+: changed in ", note) for note in allowed.notes)
    if not noted or old.count != new.count:
        yield f"{byte(new.area[0])} in {place}"


def _masks_compared(before: Directories, kept: list[Folder], after: Directories) -> Iterator[str]:
    """Pages of transparency stay as they are."""
    for old, new in zip(kept, after, strict=True):
        if not _is_mask(before, old):
            continue
        for (start, end), (other, last) in zip(before.pixels(old), after.pixels(new), strict=False):
            position = first_difference(before.data[start:end], after.data[other:last])
            if position is not None:
                yield f"{byte(other + position)} in the mask of {old.name}"


def _copies_compared(after: Directories, allowed: Allowed) -> Iterator[str]:
    """Smaller copies show what the protected pages show, and nothing else."""
    pages, reduced = _sorted(after)
    for folder, number in reduced:
        noted = f"{folder.name} (reduced resolution): made anew from the protected picture"
        if noted not in allowed.notes or allowed.icons != "regenerate":
            yield f"{folder.name}: a smaller copy that the release does not say it made anew"
            continue
        try:
            small, large = _samples(after, folder), _samples(after, pages[number])
        except Exception:  # a damaged file may raise anything
            yield f"{folder.name}: no established reader decodes it"
            continue
        channels = small.shape[-1] - (_alpha(after, folder) > 0)
        low, high = (_windows(large, small.shape[:2], pick) for pick in (np.minimum, np.maximum))
        strange = (small < low) | (small > high)
        if strange[..., :channels].any():
            yield f"{folder.name}: a smaller copy of something else than its page"


def _windows(values: NDArray[Any], shape: tuple[int, ...], pick: np.ufunc) -> NDArray[Any]:
    """The smallest or greatest of the values that each pixel of a smaller copy covers."""
    for axis, size in enumerate(shape):
        length = values.shape[axis]
        first = np.arange(size) * length // size
        last = -(-(np.arange(size) + 1) * length // size)
        edges = np.stack([first, last], 1).reshape(-1)
        # A value of no consequence behind the end, where the last window may end.
        padded = np.concatenate([values, values.take([-1], axis)], axis)
        values = pick.reduceat(padded, edges, axis).take(range(0, 2 * size, 2), axis)
    return values


def _strangers(before: Directories, after: Directories) -> Iterator[str]:
    """Bytes that belong to nothing are zero, or were there and belonged to nothing before."""
    old, new = _belongs(before), _belongs(after)
    data, earlier = (np.frombuffer(file.data, np.uint8) for file in (after, before))
    shared = min(data.size, earlier.size)
    strange = ~new & (data != 0)
    strange[:shared] &= old[:shared] | (data[:shared] != earlier[:shared])
    if strange.any():
        yield f"{byte(int(strange.argmax()))}, which belongs to no page or tag"


def _belongs(file: Directories) -> NDArray[np.bool_]:
    """Which bytes of a file a header, directory, value, strip or tile takes."""
    known = np.zeros(len(file.data), np.bool_)
    known[: file.header] = True
    areas: list[Area] = []
    for folder in file:
        areas += [(folder.start, folder.end), *file.pixels(folder)]
        areas += [tag.area for tag in folder.tags.values() if not tag.inside]
    for page in _sorted(file)[0]:
        areas += _planes(file, page)
    for start, end in areas:
        known[start:end] = True
    return known


def _sorted(file: Directories) -> tuple[list[Folder], list[tuple[Folder, int]]]:
    """The full pages, and each smaller copy with the number of the page that it shows."""
    shown = [folder for folder in file if file.pixels(folder) and not _is_mask(file, folder)]
    full = [folder for folder in shown if not _is_reduced(file, folder)] or shown
    if not full:
        raise RefusedFile("it has no page with pixels")
    numbers = {folder.start: number for number, folder in enumerate(full)}
    reduced = []
    latest = 0
    for folder in shown:
        if folder.start in numbers:
            latest = numbers[folder.start]
            continue
        parents = [n for n, page in enumerate(full) if folder.name.endswith(f" of {page.name}")]
        reduced.append((folder, parents[0] if parents else latest))
    return full, reduced


def _is_reduced(file: Directories, folder: Folder) -> bool:
    found = file.numbers(folder, _SUBFILE)
    return bool(found[0] & 1) if found else file.numbers(folder, _OLD_SUBFILE) == [2]


def _is_mask(file: Directories, folder: Folder) -> bool:
    found = file.numbers(folder, _SUBFILE)
    return bool(found and found[0] & 4) or file.numbers(folder, _PHOTOMETRIC) == [_MASK]


def _planes(file: Directories, page: Folder) -> list[Area]:
    """Where the planes lie of which only the description speaks, the first one included."""
    text = page.tags[_DESCRIPTION].value if _DESCRIPTION in page.tags else b""
    told = re.search(rb"\nimages=(\d+)", text) if text.startswith(b"ImageJ=") else None
    count = int(told[1]) if told else 1
    areas = file.pixels(page)
    size = sum(end - start for start, end in areas)
    if text.startswith(b'{"shape"') and b'"truncated": true' in text:
        shape = json.loads(text.rstrip(b"\0"))["shape"]
        bits = file.numbers(page, _BITS)[0]
        count = math.prod(shape) * bits // 8 // max(size, 1)
    if len(file.pages) > 1 or count < 2:
        return []
    refuse_many(count, limits.MOST_FOLDERS, "planes")
    start = areas[0][0]
    return [(start + number * size, start + (number + 1) * size) for number in range(count)]


def _frames(file: Directories, page: Folder) -> Iterator[NDArray[Any]]:
    """(height, width, channels) of each frame of a page."""
    whole = _samples(file, page)
    planes = [whole]
    for start, end in _planes(file, page)[1:]:
        stored = whole.dtype.newbyteorder("<" if file.order == "<" else ">")
        plane = np.frombuffer(file.data[start:end], stored).astype(whole.dtype)
        if file.numbers(page, _PLANAR) == [2]:
            plane = np.moveaxis(plane.reshape(whole.shape[2], *whole.shape[:2]), 0, -1)
        planes.append(plane.reshape(whole.shape))
    for plane in planes:
        if file.numbers(page, _PHOTOMETRIC)[0] == _PALETTE:
            colours = np.array(file.numbers(page, _COLOURS)).reshape(3, -1).T
            yield (colours[plane[..., 0]] >> 8).astype(np.uint8)
        elif file.numbers(page, _PHOTOMETRIC)[0] != _RGB and not _alpha(file, page):
            yield from np.moveaxis(plane, -1, 0)[..., None]
        else:
            yield plane


def _samples(file: Directories, page: Folder) -> NDArray[Any]:
    """(height, width, samples) of one page, by libtiff."""
    numbers = (max(file.numbers(page, tag) or [1]) for tag in (_WIDTH, _HEIGHT, _SAMPLES, _BITS))
    refuse_bomb(math.prod(numbers) // 8)
    found: NDArray[Any] = np.asarray(imagecodecs.tiff_decode(file.beginning_with(page), index=0))
    if found.dtype == np.bool_:
        found = found.astype(np.uint8)
    height, width = (file.numbers(page, tag)[0] for tag in (_HEIGHT, _WIDTH))
    samples = (file.numbers(page, _SAMPLES) or [1])[0]
    if samples > 1 and file.numbers(page, _PLANAR) == [2]:
        return np.moveaxis(found.reshape(samples, height, width), 0, -1)
    return found.reshape(height, width, samples)


def _alpha(file: Directories, page: Folder) -> int:
    """1 for colours that are multiplied by alpha, 2 for others with alpha, 0 without alpha."""
    extra = file.numbers(page, _EXTRA)
    return extra[0] if len(extra) == 1 and extra[0] in (1, 2) else 0


def _kind(file: Directories, page: Folder, values: NDArray[Any]) -> str:
    if file.numbers(page, _PHOTOMETRIC)[0] == _PALETTE:
        return "TIFF 8-bit"
    bits = (file.numbers(page, _BITS) or [1])[0]
    suffix = {"i": " signed", "f": " float"}.get(values.dtype.kind, "")
    return f"TIFF {bits}-bit{suffix}"


def _reserved(file: Directories, page: Folder, alpha: bool) -> Any:
    """What `AuditedImage.reserved` is: what alpha hides, and the value for "no data" (GDAL's)."""
    empty = math.nan
    if _NO_DATA in page.tags and file.numbers(page, _PHOTOMETRIC)[0] != _PALETTE:
        text = page.tags[_NO_DATA].value.rstrip(b"\0 ")
        empty = float(text) if re.fullmatch(rb"[-+.\deE]+", text) else math.nan
    return partial(_stays, alpha, empty)


def _stays(alpha: bool, empty: float, values: NDArray[Any]) -> NDArray[np.bool_]:
    hidden = np.asarray(values == empty)
    return hidden | (values[..., -1:] == 0) if alpha else hidden
