"""The directories of a TIFF file (TIFF 6.0 section 2, BigTIFF), and which bytes belong to what."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from medshield.audit import limits
from medshield.audit.base import refuse_many
from medshield.errors import RefusedFile

Area = tuple[int, int]
SUB_PAGES = 330
PLACES = ((273, 279), (324, 325), (513, 514))
_OTHER_DIRECTORIES = (34665, 34853, 40965)
_FORMS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d", 13: "L", 16: "Q"}
_FORMS |= {2: "c", 5: "LL", 7: "c", 10: "ll", 17: "q", 18: "Q"}


@dataclass(frozen=True)
class Tag:
    """One entry of a directory.

    Attributes:
        kind, count: of its values.
        value: their bytes, which lie in `area`.
        inside: whether that is in the entry.
        entry: all bytes of the entry.
    """

    kind: int
    count: int
    value: bytes
    area: Area
    inside: bool
    entry: bytes


@dataclass(frozen=True)
class Folder:
    """One directory.

    Attributes:
        name: such as "page 1", "sub-page 2 of page 1" or "directory 34665 of page 1".
        start, end: where it lies, its link included.
        tags: by number.
        children: the directories that its tags lead to.
    """

    name: str
    start: int
    end: int
    tags: dict[int, Tag]
    children: list[Folder] = field(default_factory=list)


class Directories:
    """All directories of one file.

    Args:
        data: the whole file.

    Raises:
        RefusedFile: they can't be followed.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not self.order:
            raise RefusedFile("its first two bytes are not TIFF's")
        self.big = self._number("H", 2) == 43
        self.header = 16 if self.big else 8
        self._offset = "Q" if self.big else "L"
        self._seen: set[int] = set()
        self._counted: set[tuple[int, int]] = set()
        self._numbers = 0
        self._values: dict[Area, bytes] = {}
        self._bytes_left = len(data) + limits.MOST_SHARED_BYTES
        self._copy: bytearray | None = None
        self.pages = self._chain(self._number(self._offset, self.header // 2))

    def __iter__(self) -> Iterator[Folder]:
        """Every directory, each before its children."""
        for page in self.pages:
            yield from _with_children(page)

    def numbers(self, folder: Folder, tag: int) -> list[int]:
        """The integers of a tag, none where there is no such tag."""
        return [int(number) for number in self.reals(folder, tag)]

    def reals(self, folder: Folder, tag: int) -> list[float]:
        """The numbers of a tag, none where there is no such tag.

        Raises:
            RefusedFile: all pages' tags have too many, as they share them.
        """
        found = folder.tags.get(tag)
        form = _FORMS.get(found.kind, "c") if found else "c"
        if found is None or form in ("c", "LL", "ll"):
            return []
        if (folder.start, tag) not in self._counted:
            self._counted.add((folder.start, tag))
            self._numbers += found.count
            refuse_many(self._numbers, limits.MOST_NUMBERS, "numbers in its tags")
        return list(struct.unpack(f"{self.order}{found.count}{form}", found.value))

    def pixels(self, folder: Folder) -> list[Area]:
        """Where the strips and tiles of a directory lie."""
        return [
            (start, start + size)
            for offsets, sizes in PLACES
            for start, size in zip(
                self.numbers(folder, offsets), self.numbers(folder, sizes), strict=False
            )
            if size
        ]

    def beginning_with(self, folder: Folder) -> bytearray:
        """The file with another first page, for readers that know no others; not to be changed."""
        if self._copy is None:
            self._copy = bytearray(self.data)
        struct.pack_into(self.order + self._offset, self._copy, self.header // 2, folder.start)
        return self._copy

    def _chain(self, start: int) -> list[Folder]:
        found: list[Folder] = []
        while start:
            page = self._folder(f"page {len(found) + 1}", start)
            found.append(page)
            start = self._number(self._offset, page.end - struct.calcsize("=" + self._offset))
        return found

    def _folder(self, name: str, start: int, level: int = 1) -> Folder:
        if start in self._seen:
            raise RefusedFile("its directories lead to each other in a circle")
        self._seen.add(start)
        refuse_many(len(self._seen), limits.MOST_FOLDERS, "directories")
        refuse_many(level, limits.MOST_LEVELS, "levels of directories")
        count = self._number("Q" if self.big else "H", start)
        first, each = start + (8 if self.big else 2), 20 if self.big else 12
        last = first + each * count
        if last > len(self.data):
            raise RefusedFile("a directory ends behind the file")
        tags = dict(self._tag(at) for at in range(first, last, each))
        folder = Folder(name, start, last + (8 if self.big else 4), tags)
        for number, tag in tags.items():
            if number != SUB_PAGES and number not in _OTHER_DIRECTORIES and tag.kind != 13:
                continue
            for index, place in enumerate(self.numbers(folder, number), 1):
                label = f"sub-page {index}" if number == SUB_PAGES else f"directory {number}"
                folder.children.append(self._folder(f"{label} of {name}", place, level + 1))
        return folder

    def _tag(self, at: int) -> tuple[int, Tag]:
        number, kind = self._number("H", at), self._number("H", at + 2)
        count = self._number(self._offset, at + 4)
        room = 8 if self.big else 4
        size = count * struct.calcsize("=" + _FORMS[kind]) if kind in _FORMS else 0
        inside = size <= room
        start = at + 4 + room if inside else self._number(self._offset, at + 4 + room)
        if start + size > len(self.data):
            raise RefusedFile("a tag's value ends behind the file")
        entry = self.data[at : at + 4 + 2 * room]
        return number, Tag(
            kind, count, self._value((start, start + size)), (start, start + size), inside, entry
        )

    def _value(self, area: Area) -> bytes:
        """The bytes of a value; pages may share it."""
        if area not in self._values:
            self._values[area] = self.data[slice(*area)]
            self._bytes_left -= area[1] - area[0]
        if self._bytes_left < 0:
            raise RefusedFile("values of its tags overlap, and have more bytes than the file")
        return self._values[area]

    def _number(self, form: str, at: int) -> int:
        try:
            return int(struct.unpack_from(self.order + form, self.data, at)[0])
        except (struct.error, OverflowError):
            raise RefusedFile("a directory lies behind the end of the file") from None


def _with_children(folder: Folder) -> Iterator[Folder]:
    yield folder
    for child in folder.children:
        yield from _with_children(child)
