"""Putting new pixels into the bytes of a TIFF file.

What is not coded stays where it is. Strips and tiles that are coded anew share the room of the
old ones, in the same order, as long as they fit; the rest goes to the end of the file. Of the
tags, only those change that say where strips or tiles are and how long. No byte of an old strip
stays: what is not written over becomes zero.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats.tiff.page import (
    STRIP_COUNTS,
    STRIP_OFFSETS,
    TILE_COUNTS,
    TILE_OFFSETS,
    Page,
    Segment,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medshield.formats.tiff.structure import Directory, Entry, Structure

_LONG, _LONG8 = 4, 16
_WIDEST = {3: 2**16, 4: 2**32, 13: 2**32, 16: 2**64, 18: 2**64}
_FORMATS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_NAMES = {
    STRIP_OFFSETS: "StripOffsets",
    STRIP_COUNTS: "StripByteCounts",
    TILE_OFFSETS: "TileOffsets",
    TILE_COUNTS: "TileByteCounts",
}


class Splicer:
    """Collects changes of one file.

    Args:
        structure: of the source.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._buffer = bytearray(structure.data)
        self._changes: list[tuple[Page, Segment, bytes]] = []
        self._moved: Counter[int] = Counter()
        self._dropped: dict[int, tuple[Directory, set[int]]] = {}
        self._uses = Counter(
            entry.value_at
            for directory in structure.directories
            for entry in directory.entries.values()
            if not entry.is_inline
        )

    def replace(self, page: Page, segments: Iterable[tuple[Segment, bytes]]) -> None:
        """Put new bytes in the place of strips or tiles."""
        for segment, data in segments:
            if len(data) == segment.size:
                self._buffer[segment.start : segment.end] = data
            else:
                self._changes.append((page, segment, data))

    def blank(self, areas: Iterable[tuple[int, int]]) -> None:
        """Write zeros over parts of the file."""
        for start, end in areas:
            self._buffer[start:end] = bytes(end - start)

    def unlink(self, pages: Sequence[Directory]) -> None:
        """Take pages out of the chain; their bytes stay until they are blanked."""
        size, form = self._structure.offset_size, self._order + self._structure.offset_format
        # From the last to the first, so that a run of pages hands on where it goes on.
        for page in sorted(pages, key=lambda page: page.pointer, reverse=True):
            (following,) = struct.unpack_from(form, self._buffer, page.end - size)
            struct.pack_into(form, self._buffer, page.pointer, following)

    def drop_tag(self, directory: Directory, tag: int) -> None:
        """Take a tag out of a directory in the end; its value is not blanked."""
        self._dropped.setdefault(directory.start, (directory, set()))[1].add(tag)

    def set_numbers(self, directory: Directory, tag: int, values: Sequence[int]) -> None:
        """Write a tag's offsets or counts, elsewhere if they do not fit where they are.

        Raises:
            RefusedFile: an offset beyond what the file's kind can say.
        """
        entry = directory.entries[tag]
        shared = self._uses[entry.value_at] > 1 and not entry.is_inline
        if len(values) == entry.count and max(values) < _WIDEST.get(entry.type, 0) and not shared:
            packed = struct.pack(f"{self._order}{len(values)}{_FORMATS[entry.type]}", *values)
            self._buffer[entry.value_at : entry.value_at + entry.size] = packed
            return
        if not (entry.is_inline or shared):
            self.blank([(entry.value_at, entry.value_at + entry.size)])
        self._relocate(entry, values)

    def finish(self) -> tuple[bytes, list[str]]:
        """The whole new file, and notes on tags that changed.

        Raises:
            RefusedFile: it outgrew four gigabytes, where no classic TIFF can point to.
        """
        self._place_changes()
        for directory, tags in self._dropped.values():
            self._close_up(directory, tags)
        if len(self._buffer) >= 2**32 and not self._structure.is_big:
            raise RefusedFile(
                "its newly coded pixels would make it larger than 4 GiB, which only BigTIFF may "
                "be: convert it to BigTIFF"
            )
        notes = [
            f"tag {tag} {_NAMES[tag]}: changed in {pages} page{'s' * (pages > 1)}, as strips or "
            "tiles are coded anew"
            for tag, pages in sorted(self._moved.items())
        ]
        return bytes(self._buffer), notes

    @property
    def _order(self) -> str:
        return self._structure.order

    def _place_changes(self) -> None:
        """Find a place for everything that changed its length, and say so in the tags."""
        changes = sorted(self._changes, key=lambda change: change[1].start)
        old = [(segment.start, segment.end) for _, segment, _ in changes]
        self.blank(old)
        extents = merged(old)
        starts, cursors = [start for start, _ in extents], [start for start, _ in extents]
        if extents and extents[-1][1] == len(self._buffer):  # the last one can grow
            del self._buffer[extents[-1][0] :]
            extents[-1] = (extents[-1][0], extents[-1][0])
        places: dict[int, dict[int, tuple[int, int]]] = {}
        pages: dict[int, Page] = {}
        for page, segment, data in changes:
            extent = bisect_right(starts, segment.start) - 1
            position = cursors[extent]
            if position + len(data) <= extents[extent][1]:
                self._buffer[position : position + len(data)] = data
                cursors[extent] += len(data)
            else:
                position = self._append(data)
            pages[page.directory.start] = page
            place = places.setdefault(page.directory.start, {})
            place[segment.number] = (position, len(data))
        for start, page in pages.items():
            self._point_to(page, places[start])

    def _point_to(self, page: Page, places: dict[int, tuple[int, int]]) -> None:
        """Write where a page's strips or tiles are now."""
        now = [
            places.get(segment.number, (segment.start, segment.size)) for segment in page.segments
        ]
        tags = (TILE_OFFSETS, TILE_COUNTS) if page.is_tiled else (STRIP_OFFSETS, STRIP_COUNTS)
        for tag, values in zip(tags, zip(*now, strict=True), strict=True):
            if values != self._structure.numbers(page.directory, tag):
                self.set_numbers(page.directory, tag, values)
                self._moved[tag] += 1

    def _relocate(self, entry: Entry, values: Sequence[int]) -> None:
        """Write an array as LONG (BigTIFF: LONG8) into the entry or to the end of the file."""
        structure = self._structure
        kind = _LONG8 if structure.is_big else _LONG
        packed = struct.pack(f"{self._order}{len(values)}{_FORMATS[kind]}", *values)
        struct.pack_into(self._order + "H", self._buffer, entry.position + 2, kind)
        form = self._order + structure.offset_format
        struct.pack_into(form, self._buffer, entry.position + 4, len(values))
        field = entry.position + 4 + structure.offset_size
        if len(packed) <= structure.offset_size:
            padded = packed.ljust(structure.offset_size, b"\0")
            self._buffer[field : field + structure.offset_size] = padded
        else:
            position = self._append(packed)
            if position >= 2 ** (8 * structure.offset_size):
                raise RefusedFile("a classic TIFF can't grow beyond 4 GiB: convert it to BigTIFF")
            struct.pack_into(form, self._buffer, field, position)

    def _close_up(self, directory: Directory, dropped: set[int]) -> None:
        """Move up what follows dropped tags, the link included, so that others find it."""
        structure = self._structure
        first = directory.start + struct.calcsize("<" + structure.count_format)
        link = self._buffer[directory.end - structure.offset_size : directory.end]
        kept = [
            self._buffer[entry.position : entry.position + structure.entry_size]
            for entry in directory.entries.values()
            if entry.tag not in dropped
        ]
        whole = (b"".join(kept) + link).ljust(directory.end - first, b"\0")
        self._buffer[first : directory.end] = whole
        form = self._order + structure.count_format
        struct.pack_into(form, self._buffer, directory.start, len(kept))

    def _append(self, data: bytes) -> int:
        """Put bytes at the end of the file, on an even position; returns where."""
        self._buffer += bytes(len(self._buffer) % 2)
        position = len(self._buffer)
        self._buffer += data
        return position


def merged(areas: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes in as few areas as possible, sorted."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(areas):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result
