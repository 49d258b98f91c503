"""TIFF as directories of tags (TIFF 6.0 section 2), classic and BigTIFF, in both byte orders.

Nothing here knows of pixels; it says where every byte of the file belongs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_many

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

SUB_DIRECTORIES = 330
_PRIVATE_DIRECTORIES = frozenset({34665, 34853, 40965})  # EXIF, GPS, Interoperability
_DIRECTORY_TYPES = frozenset({13, 18})
# Bytes of one value by type: the twelve of TIFF 6.0, IFD, and BigTIFF's LONG8, SLONG8, IFD8.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_FLOATS = {11: "f", 12: "d"}
_OVERLAPPING = (
    "damaged TIFF, or made to do harm: values of its tags overlap, and have more bytes than the "
    "file has room for"
)


class Role(Enum):
    """How a directory is reached."""

    PAGE = "page"
    SUB_PAGE = "sub-page"
    PRIVATE = "private directory"


@dataclass(frozen=True)
class Entry:
    """One tag of a directory.

    Attributes:
        tag, type, count: as they stand in the file.
        position: where the entry stands.
        value_at: where its value stands, in the entry itself if it fits.
        size: of its value in bytes; 0 for a type that nobody knows.
        is_inline: whether the value stands in the entry.
    """

    tag: int
    type: int
    count: int
    position: int
    value_at: int
    size: int
    is_inline: bool


@dataclass(frozen=True)
class Directory:
    """One image file directory.

    Attributes:
        role: a page, a sub-page of one, or something private such as EXIF.
        name: for people, such as "page 2" or "sub-page 1 of page 2".
        start, end: where it stands, the link to the next one included.
        entries: by tag, in the file's order.
        pointer: where the offset stands that leads here.
        parent: the directory that names it in SubIFDs, or None.
    """

    role: Role
    name: str
    start: int
    end: int
    entries: dict[int, Entry]
    pointer: int
    parent: Directory | None = None


class Structure:
    """The directories of a TIFF file.

    Args:
        data: the whole file.

    Attributes:
        data: the whole file.
        order: "<" or ">".
        is_big: whether it is a BigTIFF, with offsets of eight bytes.
        directories: the pages, each followed by its sub-pages and private directories.

    Raises:
        RefusedFile: damaged.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        if data[:4] not in MAGIC:
            raise RefusedFile("damaged TIFF: it does not start as one")
        self.order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
        self.is_big = data[2:4] in (b"+\0", b"\0+")
        if self.is_big and self.number("HH", 4) != 8:
            raise RefusedFile("damaged TIFF: a BigTIFF whose offsets are not eight bytes long")
        self._seen: set[int] = set()
        self._entries_left = len(data) // self.entry_size
        self._areas: set[tuple[int, int]] = set()
        self._bytes_left = len(data) + limits.MOST_TIFF_SHARED_BYTES
        self._numbers_read = 0
        self._numbers: dict[int, tuple[int, ...]] = {}
        self.directories = tuple(self._chain())

    @property
    def header_size(self) -> int:
        """Bytes before anything else."""
        return 16 if self.is_big else 8

    @property
    def offset_format(self) -> str:
        """The struct format of an offset."""
        return "Q" if self.is_big else "I"

    @property
    def offset_size(self) -> int:
        """Bytes of an offset, and of what fits into an entry."""
        return 8 if self.is_big else 4

    @property
    def entry_size(self) -> int:
        """Bytes of one entry."""
        return 20 if self.is_big else 12

    @property
    def count_format(self) -> str:
        """The struct format of a directory's number of entries."""
        return "Q" if self.is_big else "H"

    def number(self, form: str, position: int) -> int:
        """The first of the numbers in the struct format `form` at a position.

        Raises:
            RefusedFile: beyond the end of the file.
        """
        try:
            return int(struct.unpack_from(self.order + form, self.data, position)[0])
        except (struct.error, OverflowError):
            raise RefusedFile("damaged TIFF: a directory lies beyond its end") from None

    def areas(self, directory: Directory) -> set[tuple[int, int]]:
        """Start and end of a directory itself, and of every value that stands outside of it."""
        values = {
            (entry.value_at, entry.value_at + entry.size)
            for entry in directory.entries.values()
            if not entry.is_inline
        }
        return values | {(directory.start, directory.end)}

    def link(self, directory: Directory) -> int:
        """The offset of the directory that follows a directory; 0 where none does."""
        return self.number(self.offset_format, directory.end - self.offset_size)

    def raw(self, entry: Entry) -> bytes:
        """The bytes of a value."""
        return self.data[entry.value_at : entry.value_at + entry.size]

    def numbers(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """The integers of a tag, none where the directory does not have it.

        Raises:
            RefusedFile: it holds something else than integers, or the file too many of them.
        """
        entry = directory.entries.get(tag)
        if entry is None:
            return ()
        if entry.position in self._numbers:
            return self._numbers[entry.position]
        form = _INTEGERS.get(entry.type)
        if form is None:
            raise RefusedFile(f"damaged TIFF: tag {tag} of {directory.name} holds no integers")
        self._numbers_read += entry.count
        refuse_too_many(self._numbers_read, limits.MOST_TIFF_NUMBERS, "numbers in its tags")
        found = struct.unpack(f"{self.order}{entry.count}{form}", self.raw(entry))
        self._numbers[entry.position] = found
        return found

    def limits(self, directory: Directory, tag: int) -> tuple[float, ...]:
        """The integers or floats of a tag, none where there are none."""
        entry = directory.entries.get(tag)
        form = (_INTEGERS | _FLOATS).get(entry.type) if entry else None
        if entry is None or form is None:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{form}", self.raw(entry))

    def _chain(self) -> Iterator[Directory]:
        """All directories, in the order of the links."""
        pointer = 8 if self.is_big else 4
        number = 0
        while start := self.number(self.offset_format, pointer):
            number += 1
            page = self._directory(Role.PAGE, f"page {number}", start, pointer, None)
            yield page
            yield from self._below(page, 1)
            pointer = page.end - self.offset_size
        if not number:
            raise RefusedFile("damaged TIFF: it has no page")

    def _below(self, directory: Directory, level: int) -> Iterator[Directory]:
        """The directories that a directory's tags lead to, and those below them."""
        refuse_too_many(level, limits.MOST_TIFF_LEVELS, "levels of directories")
        for entry in list(directory.entries.values()):
            is_sub = entry.tag == SUB_DIRECTORIES
            private = entry.tag in _PRIVATE_DIRECTORIES or entry.type in _DIRECTORY_TYPES
            if not (is_sub or private):
                continue
            size = entry.size // max(entry.count, 1)
            starts = self.numbers(directory, entry.tag)
            linked = {0, *starts}
            for index, start in enumerate(starts):
                role = Role.SUB_PAGE if is_sub else Role.PRIVATE
                label = f"{role.value} {index + 1}" if is_sub else f"directory {entry.tag}"
                name = f"{label} of {directory.name}"
                pointer = entry.value_at + index * size
                child = self._directory(role, name, start, pointer, directory)
                yield child
                yield from self._below(child, level + 1)
                # Sub-pages may also be linked to each other (TIFF technical note 1).
                if is_sub and self.link(child) not in linked:
                    raise RefusedFile(
                        f"TIFF whose {name} is linked to a page that SubIFDs does not name: save "
                        "it anew"
                    )

    def _directory(
        self, role: Role, name: str, start: int, pointer: int, parent: Directory | None
    ) -> Directory:
        if start in self._seen:
            raise RefusedFile(f"damaged TIFF: {name} is the same directory as another one")
        self._seen.add(start)
        refuse_too_many(len(self._seen), limits.MOST_TIFF_DIRECTORIES, "directories")
        count = self.number(self.count_format, start)
        self._entries_left -= count
        if self._entries_left < 0:
            raise RefusedFile("damaged TIFF: its directories have more tags than it has room for")
        first = start + struct.calcsize("<" + self.count_format)
        end = first + count * self.entry_size + self.offset_size
        if end > len(self.data):
            raise RefusedFile(f"damaged TIFF: {name} is cut off")
        entries: dict[int, Entry] = {}
        for position in range(first, end - self.offset_size, self.entry_size):
            entry = self._entry(position)
            if entry.tag in entries:
                raise RefusedFile(f"damaged TIFF: {name} has tag {entry.tag} twice")
            if entry.value_at + entry.size > len(self.data):
                raise RefusedFile(f"damaged TIFF: tag {entry.tag} of {name} is cut off")
            self._claim(entry)
            entries[entry.tag] = entry
        return Directory(role, name, start, end, entries, pointer, parent)

    def _claim(self, entry: Entry) -> None:
        """Pages may share a value, but values that overlap in many ways take their sum to read."""
        area = entry.value_at, entry.size
        if not entry.is_inline and area not in self._areas:
            self._areas.add(area)
            self._bytes_left -= entry.size
        if self._bytes_left < 0:
            raise RefusedFile(_OVERLAPPING)

    def _entry(self, position: int) -> Entry:
        tag, kind = struct.unpack_from(self.order + "HH", self.data, position)
        count = self.number(self.offset_format, position + 4)
        value_at = position + 4 + self.offset_size
        size = count * _SIZES.get(kind, 0)
        is_inline = size <= self.offset_size
        if not is_inline:
            value_at = self.number(self.offset_format, value_at)
        return Entry(tag, kind, count, position, value_at, size, is_inline)
