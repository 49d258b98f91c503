"""What a TIFF file is made of: frames, small copies of them, masks, and nothing else.

A clean picture must not leave with a protected one, so every byte of the file has to belong to
something that is known: a directory, a value, a strip or tile.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_many
from medshield.formats.tiff.page import MASK, UNCOMPRESSED, Page, placed, read_page, subfile_type
from medshield.formats.tiff.splice import merged
from medshield.formats.tiff.structure import Directory, Role, Structure

if TYPE_CHECKING:
    from medshield.formats.base import Handling

_DESCRIPTION, _PHOTOMETRIC = 270, 262
_REDUCED, _TRANSPARENCY = 1, 4
_DESCRIPTION_BYTES = 1 << 16
"""Of a description are read: what tifffile and ImageJ say of the planes stands at its start."""
_STRAY = 8
"""So many bytes in a row may belong to nothing: no picture fits into them."""

# JPEG, PNG and GIF by their first bytes: previews in XMP, maker notes and private tags.
_PICTURE = re.compile(rb"\xff\xd8\xff[\xc0-\xc4\xdb\xdd\xe0-\xef\xfe]|\x89PNG\r\n\x1a\n|GIF8[79]a")
_XMP_PICTURE = re.compile(rb"GImg:image|GImage:Data")
# Photoshop's image resources 1033 and 1036 are thumbnails.
_PHOTOSHOP_THUMBNAIL = re.compile(rb"8BIM\x04[\x09\x0c]")
_PHOTOSHOP, _PHOTOSHOP_LAYERS, _COLOUR_PROFILE, _JPEG_TABLES = 34377, 37724, 34675, 347
_CREDENTIALS = 52545  # C2PA A.3.5


@dataclass(frozen=True)
class Reduced:
    """A smaller copy of a frame.

    Attributes:
        directory: that describes it.
        frame: the number of the page among `Contents.pages` that it shows.
    """

    directory: Directory
    frame: int


@dataclass(frozen=True)
class Contents:
    """What a file is made of.

    Attributes:
        pages: that hold the frames, in order, all of one form. Frames that have no directory of
            their own (ImageJ) share the first one's.
        reduced: smaller copies of them.
        copies: tags that hold a copy of the picture or a signature over it, to be removed.
    """

    pages: tuple[Page, ...]
    reduced: tuple[Reduced, ...]
    copies: tuple[tuple[Directory, int], ...]


def read_contents(structure: Structure, handling: Handling) -> Contents:
    """Sort the directories of a file.

    Raises:
        RefusedFile: damaged, of a form that can't be protected, or with something that
            `handling` does not cover.
    """
    images = [found for found in structure.directories if placed(structure, found)]
    private = [found for found in images if found.role is Role.PRIVATE]
    if private:
        raise RefusedFile(
            f"TIFF whose {private[0].name} holds pixels, perhaps a copy of the picture: save it "
            "without"
        )
    shown = [found for found in images if not _is_mask(structure, found)]
    full = [found for found in shown if not subfile_type(structure, found) & _REDUCED] or shown
    if not full:
        raise RefusedFile("TIFF without pixels: there is nothing in it to protect")
    pages = [read_page(structure, found) for found in full]
    for page in pages:
        if page.form != pages[0].form:
            raise RefusedFile(
                f"TIFF whose {page.name} differs from {pages[0].name} in size or kind and is not "
                "marked as reduced: save such pages as files of their own"
            )
    if len(pages) == 1:
        pages = _unfolded(structure, pages[0])
    _refuse_unknown_bytes(structure, pages)
    reduced = _reduced(shown, full, handling)
    return Contents(tuple(pages), reduced, _copies_in_tags(structure, handling))


def _is_mask(structure: Structure, directory: Directory) -> bool:
    """Whether a page says where another one is transparent, as an alpha channel does."""
    photometric = structure.numbers(directory, _PHOTOMETRIC)
    return bool(subfile_type(structure, directory) & _TRANSPARENCY) or photometric == (MASK,)


def _reduced(
    shown: list[Directory], full: list[Directory], handling: Handling
) -> tuple[Reduced, ...]:
    """The smaller copies: each of its parent, or else of the full page before it."""
    found: list[Reduced] = []
    frames = {directory.start: number for number, directory in enumerate(full)}
    frame = 0
    for directory in shown:
        if directory.start in frames:
            frame = frames[directory.start]
        else:
            parent = directory.parent
            found.append(Reduced(directory, frames.get(parent.start, frame) if parent else frame))
    if found and handling.icons == "refuse":
        raise RefusedFile(
            f"TIFF whose {found[0].directory.name} is a smaller copy of the picture: let it be "
            "made anew or removed (--icons)"
        )
    return tuple(found)


def _unfolded(structure: Structure, page: Page) -> list[Page]:
    """All frames of a file whose one directory speaks of many that follow each other.

    ImageJ writes stacks of more than 4 GiB so, and tifffile on demand.
    """
    count = _frames_told(structure, page)
    if count <= 1:
        return [page]
    refuse_too_many(count, limits.MOST_TIFF_DIRECTORIES, "planes")
    first, *others = page.segments
    size = sum(page.segment_bytes(segment) for segment in page.segments)
    ends = [segment.start + page.segment_bytes(segment) for segment in page.segments]
    follows = all(end == segment.start for end, segment in zip(ends[:-1], others, strict=True))
    if page.compression != UNCOMPRESSED or not follows or page.is_tiled:
        raise RefusedFile(
            f"TIFF of one page whose description speaks of {count}, but not as uncompressed planes "
            "that follow each other: save a page a plane"
        )
    if first.start + count * size > len(structure.data):
        raise RefusedFile(f"damaged TIFF: it ends before the last of its {count} planes")
    pages = []
    for number in range(count):
        segments = tuple(
            replace(
                segment,
                start=segment.start + number * size,
                size=page.segment_bytes(segment),
            )
            for segment in page.segments
        )
        pages.append(replace(page, segments=segments))
    return pages


def _frames_told(structure: Structure, page: Page) -> int:
    """How many planes the description of a single page speaks of."""
    entry = page.directory.entries.get(_DESCRIPTION)
    text = structure.raw(entry)[:_DESCRIPTION_BYTES] if entry else b""
    if text.startswith(b"ImageJ="):
        found = re.search(rb"^images=(\d{1,9})\s*$", text, re.MULTILINE)
        return int(found[1]) if found else 1
    if text.startswith(b'{"shape":'):
        try:
            told = json.loads(text.rstrip(b"\0"))
            if told.get("truncated"):
                form = page.form
                return int(prod(told["shape"])) // (form.height * form.width * form.samples)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return 1
    return 1


def _refuse_unknown_bytes(structure: Structure, pages: list[Page]) -> None:
    """Refuse a file in which bytes belong to nothing, or pixels to two things.

    Raises:
        RefusedFile: names the place.
    """
    pixels = [(segment.start, segment.end) for page in pages for segment in page.segments]
    paged = {page.directory.start for page in pages}
    known = {(0, structure.header_size)}
    for directory in structure.directories:
        known |= structure.areas(directory)
        if directory.start not in paged:
            pixels += set(placed(structure, directory))
    areas = sorted([*known, *(area for area in pixels if area[0] < area[1])])
    for before, after in pairwise(areas):
        if after[0] < before[1]:
            raise RefusedFile(
                f"TIFF in which two parts share the bytes from offset {after[0]} on: save it anew"
            )
    strays = _strays(structure, areas)
    refuse_too_many(len(strays), limits.MOST_TIFF_STRAYS, "runs of bytes that belong to nothing")
    # tifffile writes tags' values once for each page, and points to the first ones only.
    told = b"".join(structure.data[start:end] for start, end in merged(known)) if strays else b""
    for stray, position in strays.items():
        if stray not in told:
            raise RefusedFile(
                f"TIFF with {len(stray)} bytes after offset {position} that belong to no page or "
                "tag and may show the clean picture: save it anew, for example with tiffcp"
            )


def _strays(structure: Structure, areas: list[tuple[int, int]]) -> dict[bytes, int]:
    """What lies between the areas and is long enough to matter, and where each first does."""
    found: dict[bytes, int] = {}
    position = 0
    for start, end in [*merged(areas), (len(structure.data), len(structure.data))]:
        stray = structure.data[position:start].strip(b"\0")
        if len(stray) > _STRAY:
            found.setdefault(stray, position)
        position = end
    return found


def _copies_in_tags(structure: Structure, handling: Handling) -> tuple[tuple[Directory, int], ...]:
    """Tags that hold a copy of the picture, or a signature over it."""
    found = []
    searched: dict[tuple[int, int, int], bool] = {}  # pages may share a value
    for directory in structure.directories:
        for entry in directory.entries.values():
            area = entry.tag, entry.value_at, entry.size
            if area not in searched:
                shows = not entry.is_inline and _holds_picture(entry.tag, structure.raw(entry))
                searched[area] = shows
            place = f"tag {entry.tag} of {directory.name}"
            if entry.tag == _CREDENTIALS:
                if not handling.drop_signatures:
                    raise RefusedFile(
                        f"TIFF whose {place} signs the picture, which changed pixels break: let it "
                        "be dropped (--drop-signatures)"
                    )
                found.append((directory, entry.tag))
            elif searched[area]:
                if handling.icons != "remove":
                    raise RefusedFile(
                        f"TIFF whose {place} holds a preview or another copy of the picture, which "
                        "can't be made anew: let it be removed (--icons remove)"
                    )
                found.append((directory, entry.tag))
    return tuple(found)


def _holds_picture(tag: int, value: bytes) -> bool:
    """Whether a tag's value shows the picture."""
    if tag in (_COLOUR_PROFILE, _JPEG_TABLES):
        return False
    if tag == _PHOTOSHOP_LAYERS:
        return True
    if tag == _PHOTOSHOP and _PHOTOSHOP_THUMBNAIL.search(value):
        return True
    return bool(_PICTURE.search(value) or _XMP_PICTURE.search(value))
