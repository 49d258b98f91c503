"""Copies of a picture inside a JPEG's segments: where they are, and what may become of them.

Whoever makes copies anew may change the bytes that hold them and not one more; whoever removes
them may cut bytes out or set them to zero, and leave no picture behind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Area = tuple[int, int]
_JPEG = re.compile(rb"\xff\xd8\xff[\xc0-\xc4\xdb\xdd\xe0-\xef\xfe]")
_BASE64 = re.compile(rb"/9j/(?:[A-Za-z0-9+/=\s]|&#x?[0-9A-Fa-f]{1,4};)+")
_LENGTHS = {1: 1, 3: 2, 4: 4, 13: 4}  # of a value by the type of a TIFF entry
_STRIPS, _COUNTS, _SUB = 273, 279, 330
_MP_ENTRIES = 0xB002  # CIPA DC-007 5.2.3.2


def areas(name: str, payload: bytes, end_of_jpeg: Callable[[bytes, int], int | None]) -> list[Area]:
    """Start and end of every picture in a segment's payload.

    Args:
        name: of the segment, such as "APP1".
        payload: what follows its length.
        end_of_jpeg: where the JPEG ends that starts at a position, None where it does not end.
    """
    if name == "APP0" and payload.startswith(b"JFIF\0"):
        size = 3 * payload[12] * payload[13] if len(payload) >= 14 else 0
        return [(14, 14 + size)] if size else []
    if name == "APP0" and payload.startswith(b"JFXX\0") and payload[5:6] in (b"\x11", b"\x13"):
        pixels = payload[6] * payload[7]
        start, size = (8 + 768, pixels) if payload[5] == 0x11 else (8, 3 * pixels)
        return [(start, start + size)]
    if name == "APP1" and payload.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        return [found.span() for found in _BASE64.finditer(payload)]
    found = list(_jpegs(payload, end_of_jpeg))
    if name == "APP1" and payload.startswith(b"Exif\0"):
        found += [(start + 6, end + 6) for start, end in _strips(payload[6:])]
    return found


def is_made_anew(old: bytes, new: bytes, pictures: list[Area]) -> bool:
    """Whether every picture changed and nothing around them did."""
    if len(old) != len(new) or not pictures:
        return False
    return _without(old, pictures) == _without(new, pictures) and all(
        old[start:end] != new[start:end] for start, end in pictures
    )


def is_without(old: bytes, new: bytes) -> bool:
    """Whether only cuts and zeros make one payload of the other, and no picture is left.

    Either everything stays at its place, with zeros here and there and maybe less at the end; or
    whole pieces that hold pictures are cut out.
    """
    if _JPEG.search(new) or _BASE64.search(new):
        return False
    in_place = len(new) <= len(old) and all(
        two in (one, 0) for one, two in zip(old, new, strict=False)
    )
    if in_place or new == _BASE64.sub(b"", old):
        return True
    front = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(new))
    return len(new) < len(old) and old.endswith(new[front:])


def is_true_index(old: bytes, new: bytes, data: bytes, origin: int, end: int) -> bool:
    """Whether an index of further pictures is the old one but for sizes and offsets that are true.

    Args:
        old: the payload of the source's APP2.
        new: that of the release.
        data: the released file.
        origin: where the payload's TIFF header is in it.
        end: where its first picture ends, behind EOI.
    """
    order: Literal["big", "little"] = "big" if new[4:6] == b"MM" else "little"

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(new[at : at + size], order)

    fields: list[Area] = []
    directory = 4 + number(8)
    for at in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(at, 2) == _MP_ENTRIES:
            first, size = 4 + number(at + 8), number(at + 4)
            fields = [(entry + 4, entry + 12) for entry in range(first, first + size, 16)]
    if len(old) != len(new) or _without(old, fields) != _without(new, fields):
        return False
    for start, _ in fields:
        size, offset = number(start), number(start + 4)
        if offset == 0 and size not in (end, int.from_bytes(old[start : start + 4], order)):
            return False
        if offset and data[origin + offset :][:2] != b"\xff\xd8":
            return False
    return bool(fields)


def _jpegs(data: bytes, end_of_jpeg: Callable[[bytes, int], int | None]) -> Iterator[Area]:
    at = 0
    while found := _JPEG.search(data, at):
        end = end_of_jpeg(data, found.start())
        at = found.end() if end is None else end
        if end is not None:
            yield found.start(), end


def _strips(exif: bytes) -> Iterator[Area]:
    """The uncompressed pictures that the directories of EXIF's TIFF speak of (TIFF 6.0)."""
    order: Literal["big", "little"] = "big" if exif[:2] == b"MM" else "little"

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)

    waiting, seen = [number(4, 4)], set[int]()
    while waiting and len(seen) < 32:
        start = waiting.pop()
        if not 0 < start < len(exif) or start in seen:
            continue
        seen.add(start)
        values: dict[int, list[int]] = {}
        after = start + 2 + 12 * number(start, 2)
        for at in range(start + 2, min(after, len(exif)), 12):
            tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, 4)
            size = _LENGTHS.get(kind, 0)
            if tag in (_STRIPS, _COUNTS, _SUB) and size and size * count <= len(exif):
                first = at + 8 if size * count <= 4 else number(at + 8, 4)
                values[tag] = [number(first + size * i, size) for i in range(count)]
        pairs = zip(values.get(_STRIPS, ()), values.get(_COUNTS, ()), strict=False)
        yield from ((one, one + length) for one, length in pairs if 0 < one < len(exif))
        waiting += [number(after, 4), *values.get(_SUB, ())]


def _without(data: bytes, holes: list[Area]) -> bytes:
    kept = bytearray(data)
    for start, end in holes:
        kept[start:end] = bytes(max(0, min(end, len(data)) - start))
    return bytes(kept)
