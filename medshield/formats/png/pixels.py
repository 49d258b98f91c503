"""The samples of a PNG and the deflated scanlines that hold them, interlaced or not.

libpng (through imagecodecs) undoes the filters. It sees each pass of an interlaced image as a
grey image of its own whose pixels are bytes, so that no depth, palette or other chunk can bend
the samples: filters know bytes only (PNG third edition section 9.2).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import refuse_too_large
from medshield.formats.deflate import zlib_stream
from medshield.formats.limits import LARGEST_RATIO
from medshield.formats.packed import packed, unpacked
from medshield.formats.png.chunks import SIGNATURE, Header, chunk_bytes, header_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4

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


@dataclass(frozen=True)
class Samples:
    """What a deflated stream of scanlines holds.

    Attributes:
        values: (height, width, channels), uint8 (for depths below 8 too) or uint16.
        filters: the filter's number of each scanline, of all passes one after the other.
    """

    values: NDArray[Any]
    filters: NDArray[np.uint8]


def decode_samples(header: Header, stream: bytes) -> Samples:
    """The samples that a deflated stream holds.

    Args:
        header: of the image.
        stream: the bodies of all IDAT chunks, joined.

    Raises:
        RefusedFile: the stream is damaged, or not as long as the header says.
    """
    parts = _parts(header)
    scanlines = _inflated(stream, sum(part.size for part in parts))
    shape = (header.height, header.width, header.channels)
    values = np.empty(shape, np.uint16 if header.bit_depth == 16 else np.uint8)
    filters = []
    for part in parts:
        lines = np.frombuffer(scanlines[: part.size], np.uint8).reshape(part.height, -1)
        filters.append(lines[:, 0])
        values[part.rows, part.columns] = _from_rows(header, _unfiltered(header, lines), part.width)
        scanlines = scanlines[part.size :]
    return Samples(values, np.concatenate(filters))


def encode_samples(header: Header, samples: Samples) -> bytes:
    """The deflated stream that holds the samples, each scanline filtered as `samples` says."""
    lines, line = [], 0
    for part in _parts(header):
        rows = _to_rows(header, samples.values[part.rows, part.columns])
        filters = samples.filters[line : line + part.height]
        lines.append(_filtered(rows, filters, header.filter_step).tobytes())
        line += part.height
    return zlib_stream(b"".join(lines))


@dataclass(frozen=True)
class _Part:
    """One pass of Adam7, or the whole image: coded as an image of its own would be.

    Attributes:
        height, width: of that image, neither of them 0.
        rows, columns: where it lies in the whole.
        size: bytes of its scanlines, each with its filter's number before it.
    """

    height: int
    width: int
    rows: slice
    columns: slice
    size: int


def _parts(header: Header) -> list[_Part]:
    """The images that the scanlines hold one after the other."""
    parts = []
    for rows, columns in _ADAM7 if header.interlaced else _WHOLE:
        height, width = len(range(header.height)[rows]), len(range(header.width)[columns])
        if height and width:
            size = height * (1 + header.row_bytes(width))
            parts.append(_Part(height, width, rows, columns, size))
    return parts


def _from_rows(header: Header, rows: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """(height, width, channels) of unfiltered scanlines."""
    if header.bit_depth == 16:
        values = np.ascontiguousarray(rows).view(">u2")
    else:
        values = unpacked(rows, header.bit_depth, width * header.channels)
    return values.reshape(len(rows), width, header.channels)


def _to_rows(header: Header, values: NDArray[Any]) -> NDArray[np.uint8]:
    """(height, bytes) of (height, width, channels)."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    if header.bit_depth == 16:
        return flat.astype(">u2").view(np.uint8)
    return packed(flat, header.bit_depth)


def _unfiltered(header: Header, lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, bytes) of scanlines that start with their filter's number, by libpng."""
    height, width = lines.shape[0], lines.shape[1] - 1
    # A pixel of the stand-in has as many bytes as a filter steps back.
    depth, colour = {1: (8, 0), 2: (16, 0), 3: (8, 2), 4: (16, 4), 6: (16, 2), 8: (16, 6)}[
        header.filter_step
    ]
    stand_in = Header(width // header.filter_step, height, depth, colour, interlaced=False)
    image = SIGNATURE + b"".join(
        chunk_bytes(kind, body)
        for kind, body in (
            (b"IHDR", header_bytes(stand_in)),
            (b"IDAT", zlib.compress(lines.tobytes(), 0)),
            (b"IEND", b""),
        )
    )
    try:
        samples = np.asarray(imagecodecs.png_decode(image))
    except Exception as error:
        raise RefusedFile("damaged PNG: its scanlines can't be decoded") from error
    if depth == 16:
        samples = samples.astype(">u2")
    return np.ascontiguousarray(samples).view(np.uint8).reshape(height, width)


def _filtered(rows: NDArray[np.uint8], filters: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Scanlines with their filter's number (section 9.2) before each.

    Args:
        rows: (height, bytes).
        filters: (height).
        step: bytes to the pixel on the left.
    """
    left, above, corner = np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    above[1:] = rows[:-1]
    corner[1:] = left[:-1]
    result = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    result[:, 0], result[:, 1:] = filters, rows
    for number in (_SUB, _UP, _AVERAGE, _PAETH):
        lines = filters == number
        if lines.any():
            result[lines, 1:] -= _guess(number, left[lines], above[lines], corner[lines])
    return result


def _guess(
    number: int, left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What a filter subtracts (section 9.2)."""
    if number == _SUB:
        return left
    if number == _UP:
        return above
    if number == _AVERAGE:
        return ((left.astype(np.uint16) + above) // 2).astype(np.uint8)
    return _paeth(left, above, corner)


def _paeth(
    left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Whichever neighbour is nearest to left + above - corner (section 9.4)."""
    a, b, c = (array.astype(np.int16) for array in (left, above, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))


def _inflated(stream: bytes, expected: int) -> memoryview:
    """The scanlines; what libpng would only warn of is refused, before there is room for it."""
    refuse_too_large(expected)
    if expected > LARGEST_RATIO * len(stream):
        raise RefusedFile("damaged PNG: it has too little data for its width and height")
    inflater = zlib.decompressobj()
    try:
        scanlines = inflater.decompress(stream, expected + 1)
    except zlib.error as error:
        raise RefusedFile("damaged PNG: its pixel data can't be inflated") from error
    if len(scanlines) != expected or not inflater.eof or inflater.unused_data:
        raise RefusedFile("damaged PNG: its pixel data is shorter or longer than its header says")
    return memoryview(scanlines)
