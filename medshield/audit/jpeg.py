"""JPEG (ITU-T T.81): libjpeg-turbo's pixels, and every segment outside the coding compared."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs

from medshield.audit import copies, limits
from medshield.audit.base import (
    Allowed,
    AuditedImage,
    byte,
    first_difference,
    refuse_bomb,
    refuse_many,
    whole_file,
)
from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_FILL = re.compile(rb"\xff*")
_SOI, _EOI, _SOS, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RSTn have no length (B.1.1.3)
_TAIL = "bytes after EOI"


class _Segment(NamedTuple):
    """A marker segment: marker, where it starts, its bytes, and its payload, without any scan."""

    marker: int
    start: int
    raw: bytes
    payload: bytes

    @property
    def name(self) -> str:
        names = {0xC4: "DHT", 0xDA: "SOS", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM"}
        if 0xE0 <= self.marker <= 0xEF:
            return f"APP{self.marker - 0xE0}"
        if 0xC0 <= self.marker <= 0xCF and self.marker not in (0xC4, 0xC8, 0xCC):
            return f"SOF{self.marker - 0xC0}"
        return names.get(self.marker, f"marker {self.marker:02X}")

    @property
    def is_index(self) -> bool:
        """Whether it tells where further pictures of the file are (CIPA DC-007)."""
        return self.name == "APP2" and self.payload.startswith(b"MPF\0")


class _File(NamedTuple):
    """A file's segments up to EOI, where EOI ends, and all its bytes."""

    segments: tuple[_Segment, ...]
    end: int
    data: bytes

    @property
    def tail(self) -> bytes:
        return self.data[self.end :]

    @property
    def scans(self) -> list[bytes]:
        """Scan headers (B.2.3) without the choice of Huffman tables.

        None of a progressive file, whose coefficients may be sent in any script.
        """
        if any(part.marker in _PROGRESSIVE for part in self.segments):
            return []
        headers = (part.payload for part in self.segments if part.marker == _SOS)
        return [header[:1] + header[1:-3:2] + header[-3:] for header in headers]

    @property
    def outside(self) -> list[_Segment]:
        """What is not the coding of the pixels: all but scans and Huffman tables."""
        return [part for part in self.segments if part.marker not in (_SOS, _DHT)]


class JpegAuditor:
    """JPEG files as libjpeg-turbo displays them; the codec measures with Pillow."""

    name = "jpeg"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By SOI and the first byte of another marker (B.1.1.3)."""
        return head.startswith(b"\xff\xd8\xff")

    def read(self, path: Path) -> AuditedImage:
        """Grey or RGB, 0 to 255; see `Auditor.read`."""
        file = _taken_apart(whole_file(path))
        refuse_bomb(_declared_bytes(file))
        try:
            values: NDArray[Any] = imagecodecs.jpeg8_decode(file.data)
        except Exception as error:  # a damaged file may raise anything
            raise RefusedFile("no established reader decodes it") from error
        values = values[..., None] if values.ndim == 2 else values
        return AuditedImage(
            values=values[None],
            kind=f"JPEG {8 * values.itemsize}-bit",
            colours=min(values.shape[-1], 3),
        )

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """See `Auditor.differences`."""
        before, after = (_taken_apart(whole_file(path)) for path in (source, released))
        if before.scans != after.scans:
            yield "its scans are of other components, or in another order"
        old = [part for part in before.outside if not _may_be_missing(part, allowed)]
        new = after.outside
        for number, (one, two) in enumerate(zip(old, new, strict=False), 1):
            place = f"segment {number} {one.name}"
            if one.marker != two.marker:
                yield f"{byte(two.start)}: {place} is missing, {two.name} stands in its place"
                return
            position = first_difference(one.raw, two.raw)
            if position is None and _pictures(one) and allowed.pixels:
                yield f"{byte(two.start)}: {place} still shows the clean image"
            elif position is not None and not _may_differ(one, two, after, allowed):
                yield f"{byte(two.start + position)} in {place}"
        for segment in old[len(new) :]:
            yield f"{segment.name}, at {byte(segment.start)} of the source: missing"
        for segment in new[len(old) :]:
            yield f"{segment.name}, at {byte(segment.start)}: added"
        yield from _tail(before.tail, after, allowed)


def _declared_bytes(file: _File) -> int:
    """Bytes of pixels by the frame header (B.2.2): precision, height, width, components."""
    frames = [part.payload for part in file.segments if part.name.startswith("SOF")]
    sizes = [
        int.from_bytes(head[1:3], "big")
        * int.from_bytes(head[3:5], "big")
        * (head[5] if len(head) > 5 else 1)
        * -(-head[0] // 8)
        for head in frames
        if head
    ]
    return max(sizes, default=0)


def _tail(old: bytes, after: _File, allowed: Allowed) -> Iterator[str]:
    new = after.tail
    position = first_difference(old, new)
    pictures = copies.areas("", old, end_of_jpeg)
    if position is None:
        if pictures and allowed.pixels:
            yield f"{byte(after.end)}, behind EOI: a picture that is still the clean one"
        return
    anew = allowed.icons == "regenerate" and copies.is_made_anew(old, new, pictures)
    cut = allowed.icons == "remove" and not new
    if not (_is_noted(_TAIL, allowed) and (anew or cut)):
        yield f"{byte(after.end + position)}, behind EOI"


def _may_be_missing(part: _Segment, allowed: Allowed) -> bool:
    """Whether a segment is one that was removed as a whole, with a note that says so."""
    if part.name == "APP11" and part.payload.startswith(b"JP"):
        signed = any(note.startswith("APP11: C2PA signature removed") for note in allowed.notes)
        return allowed.drop_signatures and signed
    whole = part.is_index or (part.name == "APP0" and part.payload.startswith(b"JFXX\0"))
    return allowed.icons == "remove" and whole and _is_noted(part.name, allowed)


def _may_differ(old: _Segment, new: _Segment, after: _File, allowed: Allowed) -> bool:
    if old.marker == _DRI:  # the restart interval becomes none (B.2.4.4)
        noted = any(note.startswith("DRI:") for note in allowed.notes)
        return noted and new.raw == old.raw[:-2] + b"\0\0"
    if old.is_index:
        origin = new.start + len(new.raw) - len(new.payload) + 4
        return copies.is_true_index(old.payload, new.payload, after.data, origin, after.end)
    if not _is_noted(old.name, allowed):
        return False
    if allowed.icons == "remove":
        return copies.is_without(old.payload, new.payload)
    remade = copies.is_made_anew(old.payload, new.payload, _pictures(old))
    return allowed.icons == "regenerate" and remade


def _is_noted(place: str, allowed: Allowed) -> bool:
    return any(note.startswith(f"{place}: copy of the picture") for note in allowed.notes)


def _pictures(part: _Segment) -> list[copies.Area]:
    """The copies of the picture in a segment; an index speaks of pictures and holds none."""
    return [] if part.is_index else copies.areas(part.name, part.payload, end_of_jpeg)


def end_of_jpeg(data: bytes, start: int) -> int | None:
    """Where a JPEG that starts somewhere in these bytes ends."""
    with suppress(RefusedFile):
        return start + _taken_apart(data[start:]).end
    return None


def _taken_apart(data: bytes) -> _File:
    """The segments from SOI to EOI."""
    if data[:2] != bytes([0xFF, _SOI]):
        raise RefusedFile("it does not start with SOI")
    found: list[_Segment] = []
    start = at = 2
    scans = 0
    while True:
        at = _FILL.match(data, at).end()  # type: ignore[union-attr]  # the marker's, and before it
        if at >= len(data) or at == start:
            raise RefusedFile("it ends, or has other bytes, where a marker is expected")
        marker = data[at]
        at += 1
        if marker == _EOI:
            return _File(tuple(found), at, data)
        payload = at
        if marker not in _ALONE:
            payload = at + 2
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        found.append(_Segment(marker, start, data[start:at], data[payload:at]))
        scans += marker == _SOS
        refuse_many(scans, limits.MOST_SCANS, "scans")
        refuse_many(len(found), limits.MOST_SEGMENTS, "segments")
        if marker == _SOS:
            at = _end_of_scan(data, at)
        start = at


def _end_of_scan(data: bytes, start: int) -> int:
    """Where the next marker is that is neither a stuffed byte nor RSTn (B.1.1.5)."""
    at = data.find(b"\xff", start)
    while 0 <= at < len(data) - 1:
        if data[at + 1] not in (0x00, 0xFF) and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at = data.find(b"\xff", at + 1)
    raise RefusedFile("it ends within a scan")
