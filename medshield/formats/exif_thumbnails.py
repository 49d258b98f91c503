"""Thumbnails and previews in EXIF: found, made anew from the protected picture, or taken out.

EXIF is a small TIFF file (Exif 2.3 section 4.5.2): directories of 12-byte entries, each with a
link to the next one. The first describes the picture, the second a thumbnail: a JPEG
(JPEGInterchangeFormat) or uncompressed strips. Makers put further JPEGs into their own notes.

Everything here takes and gives a whole EXIF block as PNG's eXIf chunk holds it: from "II" or "MM"
on, without the "Exif" and two zeros that stand before it in a JPEG's APP1. Nothing is moved: what
is made anew takes exactly the bytes of what it replaces, so every offset stays true.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.jpeg.thumbnails import (
    REMEDY,
    Pictures,
    blank_jpegs,
    has_jpeg,
    has_other_picture,
    remake_jpeg,
    remake_jpegs,
    remake_pixels,
)

_ENTRY = 12
# Bytes of one value by the type of an entry (TIFF 6.0 section 2): BYTE, SHORT, LONG and IFD.
_SIZES = {1: 1, 3: 2, 4: 4, 13: 4}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_COUNTS, _PLANAR = 273, 277, 279, 284
_TILE_OFFSETS, _TILE_COUNTS = 324, 325
_JPEG_OFFSET, _JPEG_LENGTH = 513, 514
_SUB_DIRECTORIES = 330
_UNCOMPRESSED = 1
_GREY, _RGB = 1, 2


@dataclass(frozen=True)
class _Directory:
    """One directory: where it stands, its numbers by tag, and where its link stands."""

    start: int
    end: int
    values: dict[int, tuple[int, ...]]

    @property
    def link(self) -> int:
        """The position of the four bytes that lead to the next directory."""
        return self.end - 4

    def first(self, tag: int, default: int = 0) -> int:
        """The first number of a tag."""
        return self.values.get(tag, (default,))[0]

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Start and end of what holds its picture, none where it has none."""
        jpeg = (_JPEG_OFFSET, _JPEG_LENGTH)
        pairs = [jpeg, (_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)]
        return [
            (start, start + length)
            for offsets, lengths in pairs
            for start, length in zip(
                self.values.get(offsets, ()), self.values.get(lengths, ()), strict=False
            )
            if start and length
        ]


class Exif:
    """An EXIF block and the copies of the picture in it.

    Args:
        block: from "II" or "MM" on.
        place: what holds it, for messages, such as "APP1 EXIF" or "PNG chunk 3 eXIf".

    Raises:
        RefusedFile: its directories can't be read, so a thumbnail can't be ruled out.
    """

    def __init__(self, block: bytes, place: str) -> None:
        self._block, self._place = block, place
        self._numbers_left = limits.MOST_EXIF_NUMBERS
        self._order: Literal["big", "little"] = "big" if block[:2] == b"MM" else "little"
        if block[:4] not in (b"II*\0", b"MM\0*"):
            raise self._unreadable()
        self._directories = self._read_directories()

    @property
    def holds_picture(self) -> bool:
        """Whether it carries a copy of the picture, or what looks like a picture."""
        return (
            any(self._within(directory) for directory in self._directories)
            or has_jpeg(self._block)
            or has_other_picture(self._block)
        )

    def regenerated(self, pictures: Pictures) -> bytes:
        """The block with every copy made anew from the protected picture; the length stays.

        Raises:
            RefusedFile: a copy can't be made anew faithfully.
        """
        self._refuse_other_pictures()
        pieces = [piece for directory in self._directories for piece in self._within(directory)]
        if any(end > len(self._block) for _, end in pieces):
            raise RefusedFile(f"{self._thumbnail} is cut off: {REMEDY}")
        # Outside of all thumbnails, what starts like a JPEG is a preview in a maker note.
        new = bytearray(remake_jpegs(self._blanked(pieces), self._note, pictures))
        for directory in self._directories:
            if directory.first(_JPEG_OFFSET) and (jpegs := self._within(directory)):
                start, end = jpegs[0]
                new[start:end] = remake_jpeg(self._block[start:end], self._thumbnail, pictures)
            elif self._within(directory):
                self._remake_strips(new, directory, pictures)
        return bytes(new)

    def removed(self) -> bytes:
        """The block without copies of the picture.

        The first directory links to no further one, zeros stand where thumbnails and previews
        were, and what of them ends the block is cut off.

        Raises:
            RefusedFile: it holds a picture whose extent is unknown.
        """
        self._refuse_other_pictures()
        first, *others = self._directories
        blank = [(other.start, other.end) for other in others]
        blank += [piece for directory in self._directories for piece in self._within(directory)]
        new = bytearray(blank_jpegs(self._blanked(blank), self._note))
        if others:
            new[first.link : first.end] = bytes(4)
        for start, end in sorted(blank, reverse=True):
            if end >= len(new):
                del new[start:]
        return bytes(new)

    @property
    def _thumbnail(self) -> str:
        return f"{self._place} thumbnail"

    @property
    def _note(self) -> str:
        return f"{self._place} maker note"

    def _blanked(self, areas: list[tuple[int, int]]) -> bytes:
        """The block with zeros in these areas."""
        new = bytearray(self._block)
        for start, end in areas:
            new[start:end] = bytes(min(end, len(new)) - start)
        return bytes(new)

    def _within(self, directory: _Directory) -> list[tuple[int, int]]:
        """The pieces of its picture that start in the block: tools leave tags of removed ones."""
        return [(start, end) for start, end in directory.pieces if start < len(self._block)]

    def _remake_strips(self, new: bytearray, directory: _Directory, pictures: Pictures) -> None:
        """Put a new picture into uncompressed strips (TIFF 6.0 sections 3, 4 and 6)."""
        strips = self._within(directory)
        old = np.frombuffer(b"".join(self._block[a:b] for a, b in strips), np.uint8)
        height, width = directory.first(_HEIGHT), directory.first(_WIDTH)
        samples = directory.first(_SAMPLES, 1)
        plain = (
            directory.first(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
            and set(directory.values.get(_BITS, (8,))) == {8}
            and directory.first(_PLANAR, 1) == 1
            and (samples, directory.first(_PHOTOMETRIC)) in ((1, _GREY), (3, _RGB))
            and _TILE_OFFSETS not in directory.values
            and old.size == height * width * samples
        )
        if not plain:
            raise RefusedFile(
                f"{self._thumbnail} is neither JPEG nor uncompressed 8-bit grey or RGB: {REMEDY}"
            )
        picture = remake_pixels(old.reshape(height, width, samples), self._thumbnail, pictures)
        data = picture.tobytes()
        for start, end in strips:
            new[start:end], data = data[: end - start], data[end - start :]

    def _refuse_other_pictures(self) -> None:
        if has_other_picture(self._block):
            raise RefusedFile(
                f"{self._place} holds a PNG, GIF or film, of which only JPEGs can be made anew: "
                "strip it from the source first"
            )

    def _unreadable(self) -> RefusedFile:
        return RefusedFile(
            f"{self._place} can't be read, so a thumbnail can't be ruled out: strip or repair it "
            "first"
        )

    def _number(self, start: int, size: int) -> int:
        if start + size > len(self._block):
            raise self._unreadable()
        return int.from_bytes(self._block[start : start + size], self._order)

    def _read_directories(self) -> list[_Directory]:
        """The first directory, those it links to, and those in SubIFDs of any of them.

        A link that leads to no directory is followed by no reader, so there is nothing behind it.
        """
        first = self._read_directory(self._number(4, 4))
        waiting, found = [first], {first.start: first}
        while waiting and len(found) < limits.MOST_EXIF_DIRECTORIES:
            directory = waiting.pop(0)
            links = [*directory.values.get(_SUB_DIRECTORIES, ())]
            if directory.end <= len(self._block):  # some writers leave the last link out
                links.append(self._number(directory.link, 4))
            for link in links:
                if link and link not in found:
                    with suppress(RefusedFile):
                        found[link] = self._read_directory(link)
                        waiting.append(found[link])
        if waiting:
            raise self._unreadable()
        return list(found.values())

    def _read_directory(self, start: int) -> _Directory:
        """The directory at an offset, with those of its numbers that are read here."""
        entries = self._number(start, 2)
        end = start + 2 + _ENTRY * entries + 4
        values = {}
        for at in range(start + 2, end - 4, _ENTRY):
            tag, kind, count = self._number(at, 2), self._number(at + 2, 2), self._number(at + 4, 4)
            if tag in _READ and kind in _SIZES:
                values[tag] = self._numbers(at + 8, _SIZES[kind], count)
        return _Directory(start, end, values)

    def _numbers(self, at: int, size: int, count: int) -> tuple[int, ...]:
        """The numbers of an entry: in its last four bytes, or where these lead."""
        start = at if size * count <= 4 else self._number(at, 4)
        self._numbers_left -= count
        if start + size * count > len(self._block) or self._numbers_left < 0:
            raise self._unreadable()
        return tuple(self._number(start + size * index, size) for index in range(count))


_READ = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _STRIP_COUNTS}
    | {_PLANAR, _TILE_OFFSETS, _TILE_COUNTS, _JPEG_OFFSET, _JPEG_LENGTH, _SUB_DIRECTORIES}
)
