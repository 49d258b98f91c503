"""The samples of a PNG and the deflated scanlines that hold them, interlaced or not.

libpng (through imagecodecs) filters and unfilters, as Pillow reduces 16-bit colour to 8 bits. It
sees nothing but IHDR and IDAT, so no other chunk (tRNS, gAMA, sBIT) can bend the samples, and each
pass of an interlaced image as an image of its own, as imagecodecs writes no interlaced ones.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.png_chunks import (
    LARGEST_BODY,
    SIGNATURE,
    Chunk,
    Header,
    chunk_bytes,
    header_bytes,
    read_chunks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVEL = 6  # zlib's own default: higher ones cost much time for under a percent
_LARGEST_RATIO = 1032  # deflate makes at most 258 bytes out of 2 bits

_WHOLE = ((slice(None), slice(None)),)
# Rows and columns of the seven passes of Adam7 (PNG third edition section 8.2).
_ADAM7 = (
    (slice(0, None, 8), slice(0, None, 8)),
    (slice(0, None, 8), slice(4, None, 8)),
    (slice(4, None, 8), slice(0, None, 4)),
    (slice(0, None, 4), slice(2, None, 4)),
    (slice(2, None, 4), slice(0, None, 2)),
    (slice(0, None, 2), slice(1, None, 2)),
    (slice(1, None, 2), slice(None)),
)


def decode_samples(header: Header, stream: bytes) -> NDArray[Any]:
    """The samples that a deflated stream holds: (height, width, channels), uint8 or uint16.

    Args:
        header: of a bit depth of 8 or 16 and no palette.
        stream: the bodies of all IDAT chunks, joined.

    Raises:
        RefusedFile: the stream is damaged, or not as long as the header says.
    """
    parts = [part for part in _parts(header) if part.size]
    scanlines = _inflated(stream, sum(part.size for part in parts))
    samples = np.empty((header.height, header.width, header.channels), f"u{header.bit_depth // 8}")
    for part in parts:
        samples[part.rows, part.columns] = _decoded(part.header, scanlines[: part.size])
        scanlines = scanlines[part.size :]
    return samples


def encode_samples(samples: NDArray[Any], *, interlaced: bool) -> bytes:
    """IDAT chunks, one after the other, that hold (height, width, channels) uint8 or uint16."""
    parts = (samples[rows, columns] for rows, columns in _passes(interlaced))
    scanlines = b"".join(_encoded(part) for part in parts if part.size)
    stream = zlib.compress(scanlines, _LEVEL)
    return b"".join(
        chunk_bytes(b"IDAT", stream[start : start + LARGEST_BODY])
        for start in range(0, len(stream), LARGEST_BODY)
    )


def pixel_stream(chunks: list[Chunk]) -> bytes:
    """The bodies of all IDAT chunks, joined."""
    return b"".join(chunk.body for chunk in chunks if chunk.kind == b"IDAT")


@dataclass(frozen=True)
class _Part:
    """One pass of Adam7, or the whole image: coded as an image of its own would be.

    Attributes:
        header: of that image, not interlaced; it may be empty.
        rows, columns: where it lies in the whole.
    """

    header: Header
    rows: slice
    columns: slice

    @property
    def size(self) -> int:
        """Bytes of its scanlines, each with its filter's number before it; 0 where it is empty."""
        pixel = self.header.channels * self.header.bit_depth // 8
        return self.header.height * (1 + self.header.width * pixel) if self.header.width else 0


def _parts(header: Header) -> list[_Part]:
    """The images that the scanlines hold one after the other."""
    return [
        _Part(
            replace(
                header,
                height=len(range(header.height)[rows]),
                width=len(range(header.width)[columns]),
                interlaced=False,
            ),
            rows,
            columns,
        )
        for rows, columns in _passes(header.interlaced)
    ]


def _passes(interlaced: bool) -> tuple[tuple[slice, slice], ...]:
    return _ADAM7 if interlaced else _WHOLE


def _decoded(header: Header, scanlines: memoryview) -> NDArray[Any]:
    """The samples of one image, from its filtered scanlines."""
    image = SIGNATURE + b"".join(
        chunk_bytes(kind, body)
        for kind, body in (
            (b"IHDR", header_bytes(header)),
            (b"IDAT", zlib.compress(scanlines, 0)),
            (b"IEND", b""),
        )
    )
    try:
        samples = np.asarray(imagecodecs.png_decode(image))
    except Exception as error:
        raise RefusedFile("damaged PNG: its scanlines can't be decoded") from error
    return samples.reshape(header.height, header.width, header.channels)


def _encoded(samples: NDArray[Any]) -> bytes:
    """The filtered scanlines of one image."""
    # A copy, as imagecodecs refuses the strides that a slice of one row or column keeps.
    image = bytes(imagecodecs.png_encode(samples.copy(), level=0))
    return zlib.decompress(pixel_stream(read_chunks(image)))


def _inflated(stream: bytes, expected: int) -> memoryview:
    """The scanlines; what libpng would only warn of is refused, before there is room for it."""
    if expected > _LARGEST_RATIO * len(stream):
        raise RefusedFile("damaged PNG: it has too little data for its width and height")
    inflater = zlib.decompressobj()
    try:
        scanlines = inflater.decompress(stream, expected + 1)
    except zlib.error as error:
        raise RefusedFile("damaged PNG: its pixel data can't be inflated") from error
    if len(scanlines) != expected or not inflater.eof or inflater.unused_data:
        raise RefusedFile("damaged PNG: its pixel data is shorter or longer than its header says")
    return memoryview(scanlines)
