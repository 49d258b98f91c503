"""The marker segments of a JPEG file (ITU-T T.81, Annex B): walking them and splicing new scans in.

Every byte of a file belongs to exactly one piece: a segment (with the entropy-coded data behind
it, where it starts a scan) or what follows the end of the image. So a file can be put together
again from its own pieces and from the scans of another file of the same frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_many

START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"

BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS = 0xC0, 0xC1, 0xC2, 0xC3
HUFFMAN_TABLES, ARITHMETIC_CONDITIONING = 0xC4, 0xCC
START_OF_SCAN, QUANTISATION_TABLES, RESTART_INTERVAL, COMMENT = 0xDA, 0xDB, 0xDD, 0xFE
APPLICATION = range(0xE0, 0xF0)
# T.81 Table B.1: the codes C0 to CF are frame headers but for DHT, JPG (reserved) and DAC.
FRAMES = frozenset(range(0xC0, 0xD0)) - {HUFFMAN_TABLES, 0xC8, ARITHMETIC_CONDITIONING}

_NAMES = {
    HUFFMAN_TABLES: "DHT",
    ARITHMETIC_CONDITIONING: "DAC",
    START_OF_SCAN: "SOS",
    QUANTISATION_TABLES: "DQT",
    0xDC: "DNL",
    RESTART_INTERVAL: "DRI",
    0xDE: "DHP",
    0xDF: "EXP",
    COMMENT: "COM",
}
# In entropy-coded data FF is followed by a stuffed 00 or belongs to a restart marker (B.1.1.5);
# a run of FF is fill before a marker (B.1.1.2).
_FILL = re.compile(rb"\xff*")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True)
class Component:
    """One component of the frame header (B.2.2): its name in scans and its sampling factors."""

    identifier: int
    horizontal: int
    vertical: int


@dataclass(frozen=True)
class Frame:
    """What the frame header says (B.2.2); `marker` is the coding process (Table B.1)."""

    marker: int
    precision: int
    height: int
    width: int
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Segment:
    """One marker segment.

    Attributes:
        marker: the second byte of its marker, such as 0xE1 for APP1.
        raw: its bytes in the file: fill, marker, length and payload.
        payload: what follows the length.
        scan: the entropy-coded data behind it, empty but after SOS.
    """

    marker: int
    raw: bytes
    payload: bytes
    scan: bytes = b""

    @property
    def name(self) -> str:
        """The standard's short name, such as "APP1"."""
        if self.marker in APPLICATION:
            return f"APP{self.marker - APPLICATION.start}"
        if self.marker in FRAMES:
            return f"SOF{self.marker - BASELINE}"
        return _NAMES.get(self.marker, f"marker {self.marker:02X}")

    @property
    def carries_coding(self) -> bool:
        """Whether it holds Huffman tables or a scan, which new coefficients replace."""
        return self.marker in (HUFFMAN_TABLES, START_OF_SCAN)

    def with_payload(self, payload: bytes) -> Segment:
        """The segment with another payload and its length (B.1.1.4), at most 65,533 bytes."""
        head = self.raw[: len(self.raw) - len(self.payload) - 2]
        length = (len(payload) + 2).to_bytes(2, "big")
        return replace(self, raw=head + length + payload, payload=payload)


@dataclass(frozen=True)
class Layout:
    """A whole file: SOI, its segments, EOI (with fill before it), and what follows."""

    segments: tuple[Segment, ...]
    end: bytes
    trailing: bytes

    def __bytes__(self) -> bytes:
        """The file."""
        pieces = [piece for segment in self.segments for piece in (segment.raw, segment.scan)]
        return b"".join([START_OF_IMAGE, *pieces, self.end, self.trailing])

    @property
    def frame(self) -> Frame:
        """The frame header.

        Raises:
            RefusedFile: there is none, there are several, or it is cut short.
        """
        headers = [segment for segment in self.segments if segment.marker in FRAMES]
        if len(headers) != 1:
            raise RefusedFile(
                f"JPEG with {len(headers)} frame headers, expected one: save it as a plain JPEG"
            )
        payload = headers[0].payload
        if len(payload) < 6 or len(payload) != 6 + 3 * payload[5]:
            raise RefusedFile("JPEG frame header of the wrong length: the file is damaged")
        return Frame(
            marker=headers[0].marker,
            precision=payload[0],
            height=int.from_bytes(payload[1:3], "big"),
            width=int.from_bytes(payload[3:5], "big"),
            components=tuple(
                Component(payload[at], payload[at + 1] >> 4, payload[at + 1] & 15)
                for at in range(6, len(payload), 3)
            ),
        )

    @property
    def stores_rgb(self) -> bool:
        """Whether three components are RGB and not YCbCr, decided as libjpeg decides it.

        A JFIF header means YCbCr, then Adobe's APP14 says it, then the component identifiers.
        """
        for segment in self.segments:
            if segment.name == "APP0" and segment.payload.startswith(b"JFIF\0"):
                return False
        for segment in self.segments:
            if segment.name == "APP14" and segment.payload.startswith(b"Adobe"):
                return segment.payload[11:12] == b"\0"
        return bytes(part.identifier for part in self.frame.components) == b"RGB"

    @property
    def restarts(self) -> bool:
        """Whether a restart interval is set (B.2.4.4)."""
        return any(s.marker == RESTART_INTERVAL and any(s.payload) for s in self.segments)

    @property
    def sends_everything(self) -> bool:
        """Whether the scans bring every coefficient of every component to its last bit (G.1.1.1).

        A progressive file that was cut off between two scans does not.
        """
        frame = self.frame
        left = {(part.identifier, index) for part in frame.components for index in range(64)}
        for scan in (s.payload for s in self.segments if s.marker == START_OF_SCAN):
            # Sequential scans hold whole blocks; decoders ignore what else they may say (B.2.3).
            first, last, bits = scan[-3:] if frame.marker == PROGRESSIVE else (0, 63, 0)
            if bits & 15 == 0:
                left -= {(part, index) for part in scan[1:-3:2] for index in range(first, last + 1)}
        return not left

    def without_metadata(self, *, keep_colour: bool = False) -> Layout:
        """The file without APPn, COM and trailing bytes: what its coefficients need.

        Args:
            keep_colour: keep JFIF and Adobe headers too, which tell YCbCr from RGB.
        """
        headers = {"APP0": b"JFIF\0", "APP14": b"Adobe"} if keep_colour else {}
        kept = (
            s
            for s in self.segments
            if s.marker not in (*APPLICATION, COMMENT)
            or (s.name in headers and s.payload.startswith(headers[s.name]))
        )
        return Layout(tuple(kept), self.end, b"")

    def with_scans_of(self, coded: Layout) -> Layout:
        """The file with the Huffman tables and scans of another one.

        Scans written anew have no restart markers, so the restart interval becomes 0 (none).
        """
        kept = (
            replace(s, raw=s.raw[:-2] + b"\0\0", payload=b"\0\0")
            if s.marker == RESTART_INTERVAL
            else s
            for s in self.segments
            if not s.carries_coding
        )
        own = [component.identifier for component in self.frame.components]
        theirs = [component.identifier for component in coded.frame.components]
        names = dict(zip(theirs, own, strict=True))
        new = (_renamed(s, names) for s in coded.segments if s.carries_coding)
        return replace(self, segments=(*kept, *new))


def _renamed(segment: Segment, names: dict[int, int]) -> Segment:
    """The segment with other component identifiers, where it is a scan header (B.2.3)."""
    if segment.marker != START_OF_SCAN:
        return segment
    payload = bytearray(segment.payload)
    for at in range(1, 1 + 2 * payload[0], 2):
        payload[at] = names[payload[at]]
    header = segment.raw[: len(segment.raw) - len(payload)]
    return replace(segment, raw=header + bytes(payload), payload=bytes(payload))


def parse(content: bytes) -> Layout:
    """Walk a file from SOI to EOI.

    Raises:
        RefusedFile: the file is cut short, has bytes that belong to no segment, or more segments
            or scans than real files have.
    """
    if not content.startswith(START_OF_IMAGE):
        raise RefusedFile("not a JPEG: the start-of-image marker is missing")
    segments: list[Segment] = []
    position, scans = len(START_OF_IMAGE), 0
    while True:
        start, position = position, _after_marker(content, position)
        marker = content[position - 1]
        if marker == END_OF_IMAGE[1]:
            return Layout(tuple(segments), content[start:position], content[position:])
        length = int.from_bytes(content[position : position + 2], "big")
        end = position + length
        if length < 2 or end > len(content):
            raise RefusedFile("JPEG segment runs past the end of the file: the file is damaged")
        scan_end = _end_of_scan(content, end) if marker == START_OF_SCAN else end
        scans += marker == START_OF_SCAN
        refuse_too_many(scans, limits.MOST_JPEG_SCANS, "scans")
        refuse_too_many(len(segments) + 1, limits.MOST_JPEG_SEGMENTS, "segments")
        segments.append(
            Segment(
                marker=marker,
                raw=content[start:end],
                payload=content[position + 2 : end],
                scan=content[end:scan_end],
            )
        )
        position = scan_end


def _after_marker(content: bytes, position: int) -> int:
    """The position behind the marker that stands here, fill bytes included."""
    code = _FILL.match(content, position).end()  # type: ignore[union-attr]  # matches nothing too
    refuse_too_many(code - position, limits.MOST_JPEG_FILL, "bytes of fill in a row")
    if code >= len(content):
        raise RefusedFile("JPEG without its end-of-image marker: the file is truncated")
    if code == position or content[code] == 0:
        raise RefusedFile("JPEG with bytes that belong to no segment: the file is damaged")
    return code + 1


def _end_of_scan(content: bytes, position: int) -> int:
    """Where entropy-coded data that starts here ends."""
    found = _MARKER_AFTER_SCAN.search(content, position)
    if found is None:
        raise RefusedFile("JPEG without its end-of-image marker: the file is truncated")
    # Fill before the marker is no data, which never end with it.
    return position + len(content[position : found.start()].rstrip(b"\xff"))
