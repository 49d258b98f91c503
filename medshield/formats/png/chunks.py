"""PNG as a list of chunks (PNG 1.2 section 3, W3C PNG third edition section 5)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_many

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_BODY = 2**31 - 1

_HEADER = ">IIBBBBB"
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_COLOUR_NAMES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}


@dataclass(frozen=True)
class Chunk:
    """One chunk of a file.

    Attributes:
        kind: four ASCII letters.
        body: what lies between the kind and the CRC.
        start, end: where the whole chunk lies in the file, from its length to its CRC.
    """

    kind: bytes
    body: bytes
    start: int
    end: int

    @property
    def name(self) -> str:
        """The kind as text."""
        return self.kind.decode("ascii")


@dataclass(frozen=True)
class Header:
    """What IHDR says (section 11.2.1).

    Attributes:
        width, height: in pixels, at least 1.
        bit_depth: of one sample: 1, 2, 4, 8 or 16.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        interlaced: by Adam7.
    """

    width: int
    height: int
    bit_depth: int
    colour_type: int
    interlaced: bool

    @property
    def channels(self) -> int:
        """Samples of a pixel, alpha included."""
        return _CHANNELS[self.colour_type]

    @property
    def filter_step(self) -> int:
        """Bytes to the pixel on the left, as filters see it (section 9.2): at least 1."""
        return max(1, self.channels * self.bit_depth // 8)

    def row_bytes(self, width: int) -> int:
        """Bytes of that many pixels side by side."""
        return (width * self.channels * self.bit_depth + 7) // 8

    @property
    def has_palette(self) -> bool:
        """Whether samples are indices into PLTE."""
        return self.colour_type == 3

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.colour_type in (4, 6)

    @property
    def colour_name(self) -> str:
        """The colour type in words."""
        return _COLOUR_NAMES[self.colour_type]


def chunk_bytes(kind: bytes, body: bytes) -> bytes:
    """A chunk as it stands in a file: length, kind, body, CRC."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def read_chunks(data: bytes) -> list[Chunk]:
    """The chunks from IHDR to IEND; bytes after the last one's `end` are not PNG.

    Raises:
        RefusedFile: no signature, truncated, a wrong CRC, chunks in an order that the standard
            forbids, or more of them than real files have.
    """
    if not data.startswith(SIGNATURE):
        raise RefusedFile("damaged PNG: its first eight bytes are not PNG's signature")
    chunks: list[Chunk] = []
    position = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        chunk = _read_chunk(data, position, len(chunks) + 1)
        chunks.append(chunk)
        refuse_too_many(len(chunks), limits.MOST_PNG_CHUNKS, "chunks")
        position = chunk.end
    _check_order(chunks)
    return chunks


def read_header(first: Chunk) -> Header:
    """What the first chunk says.

    Raises:
        RefusedFile: it is no IHDR, or one with values that the standard does not know.
    """
    if first.kind != b"IHDR" or len(first.body) != 13:
        raise RefusedFile("damaged PNG: it does not start with an IHDR chunk of 13 bytes")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        _HEADER, first.body
    )
    if not (0 < width <= LARGEST_BODY and 0 < height <= LARGEST_BODY):
        raise RefusedFile(f"damaged PNG: its size is {width}x{height} pixels")
    if depth not in _DEPTHS.get(colour, ()):
        raise RefusedFile(f"damaged PNG: colour type {colour} can't have a bit depth of {depth}")
    if compression or filtering or interlace > 1:
        raise RefusedFile(
            f"PNG with compression {compression}, filter method {filtering} and interlace "
            f"{interlace}: the standard knows 0, 0 and 0 or 1"
        )
    return Header(width, height, depth, colour, bool(interlace))


def header_bytes(header: Header) -> bytes:
    """The body of IHDR."""
    return struct.pack(
        _HEADER,
        header.width,
        header.height,
        header.bit_depth,
        header.colour_type,
        0,
        0,
        header.interlaced,
    )


def _read_chunk(data: bytes, start: int, number: int) -> Chunk:
    """The chunk that starts at `start`, its CRC checked; IHDR has the number 1."""
    if len(data) < start + 12:
        raise RefusedFile(f"damaged PNG: it ends before chunk {number}, where IEND is missing")
    (length,) = struct.unpack_from(">I", data, start)
    kind = data[start + 4 : start + 8]
    end = start + 12 + length
    if not (kind.isascii() and kind.isalpha()):
        raise RefusedFile(f"damaged PNG: the type of chunk {number} is not four letters")
    if len(data) < end:
        raise RefusedFile(f"damaged PNG: it ends within chunk {number} {kind.decode()}")
    body = data[start + 8 : end - 4]
    if struct.pack(">I", zlib.crc32(kind + body)) != data[end - 4 : end]:
        raise RefusedFile(f"damaged PNG: chunk {number} {kind.decode()} has a wrong checksum")
    return Chunk(kind, body, start, end)


def only_chunk(chunks: list[Chunk], kind: bytes) -> bytes | None:
    """The body of the one chunk of that kind, or None where there is none.

    Raises:
        RefusedFile: more than one.
    """
    bodies = [chunk.body for chunk in chunks if chunk.kind == kind]
    if len(bodies) > 1:
        raise RefusedFile(f"damaged PNG: it has more than one {kind.decode('ascii')} chunk")
    return bodies[0] if bodies else None


def _check_order(chunks: list[Chunk]) -> None:
    """One IHDR, IDAT chunks in one run, and no critical chunk that readers could not know."""
    kinds = [chunk.kind for chunk in chunks]
    if b"CgBI" in kinds:
        raise RefusedFile(
            "PNG in Apple's own coding (chunk CgBI), which no standard reader shows: convert it "
            "to a standard PNG"
        )
    for chunk in chunks:
        if chunk.kind[:1].isupper() and chunk.kind not in _CRITICAL:
            raise RefusedFile(f"PNG with the unknown critical chunk {chunk.name}: save it anew")
    if kinds.count(b"IHDR") > 1:
        raise RefusedFile("damaged PNG: it has more than one IHDR chunk")
    if b"IDAT" not in kinds:
        raise RefusedFile("damaged PNG: it has no IDAT chunk, so no pixels")
    first = kinds.index(b"IDAT")
    if set(kinds[first : first + kinds.count(b"IDAT")]) != {b"IDAT"}:
        raise RefusedFile("damaged PNG: other chunks stand between its IDAT chunks")
