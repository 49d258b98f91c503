"""The index of a multi-picture file (CIPA DC-007), which says where its further pictures stand.

The index is a TIFF directory in APP2. It counts from its own start to the pictures, which follow
the first one's EOI, and so must be written anew when the first picture's length changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medshield.errors import RefusedFile
from medshield.formats.jpeg.segments import START_OF_IMAGE, Layout, Segment

PREFIX = b"MPF\0"
_ENTRIES = 0xB002  # MPEntry: 16 bytes a picture
_ENTRY, _SIZE, _OFFSET = 16, 4, 8


@dataclass(frozen=True)
class _Index:
    """Where the entries stand in the payload, and in which byte order."""

    start: int
    count: int
    order: Literal["big", "little"]


def is_index(segment: Segment) -> bool:
    """Whether a segment is the index of a multi-picture file."""
    return segment.name == "APP2" and segment.payload.startswith(PREFIX)


def with_true_index(source: Layout, released: Layout) -> Layout:
    """The released file with its index telling where its pictures now stand.

    Args:
        source: the file that its index is true for.
        released: the same file with another first picture; what follows that has the same length.

    Raises:
        RefusedFile: the index can't be read.
    """
    if not any(is_index(segment) for segment in released.segments):
        return released
    (old, old_origin), (new, new_origin) = _found(source), _found(released)
    index = _read(new.payload)
    payload = bytearray(new.payload)
    old_end, new_end = (len(bytes(f)) - len(f.trailing) for f in (source, released))

    farther = (new_end - new_origin) - (old_end - old_origin)
    for entry in range(index.start, index.start + _ENTRY * index.count, _ENTRY):
        if any(old.payload[entry + _OFFSET : entry + _OFFSET + 4]):
            _add(payload, entry + _OFFSET, farther, index.order)
        else:  # the first picture itself
            _add(payload, entry + _SIZE, new_end - old_end, index.order)
    segments = tuple(s.with_payload(bytes(payload)) if s is new else s for s in released.segments)
    return Layout(segments, released.end, released.trailing)


def _add(payload: bytearray, at: int, more: int, order: Literal["big", "little"]) -> None:
    """Add to the four-byte number that stands there; an impossible one stays."""
    number = int.from_bytes(payload[at : at + 4], order) + more
    if 0 <= number < 1 << 32:
        payload[at : at + 4] = number.to_bytes(4, order)


def _found(layout: Layout) -> tuple[Segment, int]:
    """The index and the position in the file that it counts from."""
    position = len(START_OF_IMAGE)
    for segment in layout.segments:
        if is_index(segment):
            start = position + len(segment.raw) - len(segment.payload) + len(PREFIX)
            return segment, start
        position += len(segment.raw) + len(segment.scan)
    raise _unreadable()


def _read(payload: bytes) -> _Index:
    order: Literal["big", "little"] = "big" if payload[4:6] == b"MM" else "little"

    def number(at: int, size: int) -> int:
        return int.from_bytes(payload[at : at + size], order)

    directory = len(PREFIX) + number(8, 4)
    for at in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(at, 2) == _ENTRIES:
            start, size = len(PREFIX) + number(at + 8, 4), number(at + 4, 4)
            if start + size <= len(payload):
                return _Index(start, size // _ENTRY, order)
    raise _unreadable()


def _unreadable() -> RefusedFile:
    return RefusedFile(
        "index of a multi-picture JPEG (APP2 MPF) that can't be read: use --icons remove, or "
        "extract the pictures to files of their own"
    )
