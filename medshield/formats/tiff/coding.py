"""The bytes of one strip or tile: compression (TIFF 6.0 sections 9, 13) and predictor (14)."""

from __future__ import annotations

import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.deflate import zlib_stream
from medshield.formats.packed import packed, unpacked
from medshield.formats.tiff.page import (
    DEFLATE,
    FLOATING_POINT,
    HORIZONTAL,
    LZMA,
    LZW,
    OLD_DEFLATE,
    PACKBITS,
    UNCOMPRESSED,
    ZSTD,
    Page,
    Segment,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Order = Literal["<", ">"]
"""A byte order, as NumPy and struct write it."""

_ZSTD_LEVEL = 9  # libtiff's own default
_LZW_STRIP = 8 + 2 + 9 * 12 + 4  # behind the header and a directory of nine entries


def decode_segment(page: Page, segment: Segment, order: Order, data: bytes) -> NDArray[Any]:
    """The samples of a segment: (rows, columns, samples) in the machine's byte order.

    Args:
        page: that it belongs to.
        segment: its geometry.
        order: "<" or ">", the file's byte order.
        data: its bytes in the file.

    Raises:
        RefusedFile: damaged, or shorter than its geometry.
    """
    size = page.segment_bytes(segment)
    try:
        plain = _decompressed(page.compression, data, size)
    except RefusedFile:
        raise
    except Exception as error:
        raise RefusedFile(f"damaged TIFF: pixels of {page.name} can't be decoded") from error
    if len(plain) < size:
        raise RefusedFile(f"damaged TIFF: pixels of {page.name} end too early")
    rows = np.frombuffer(plain, np.uint8, size).reshape(segment.rows, page.row_bytes(segment))
    return _from_rows(page, segment, order, rows)


def encode_segment(page: Page, segment: Segment, order: Order, samples: NDArray[Any]) -> bytes:
    """The bytes of (rows, columns, samples), as `decode_segment` reads them."""
    rows = _to_rows(page, segment, order, samples)
    return _compressed(page.compression, rows)


def _decompressed(compression: int, data: bytes, size: int) -> bytes:
    """At most `size` bytes of what was compressed."""
    if compression == UNCOMPRESSED:
        return data
    if compression in (DEFLATE, OLD_DEFLATE):
        return _inflated(data, size)
    if compression == LZW:
        if data[:1] == b"\0" and data[1:2] and data[1] & 1:
            raise RefusedFile(
                "TIFF with LZW of the old style (bits reversed): save it anew, for example with "
                "tiffcp -c lzw"
            )
        return _by_libtiff(data, size)
    if compression == PACKBITS:
        # A run may reach past the end, where a reader stops: it makes at most 128 bytes.
        return bytes(imagecodecs.packbits_decode(data, out=size + 128))[:size]
    if compression == ZSTD:
        return bytes(imagecodecs.zstd_decode(data, out=size))
    return lzma.LZMADecompressor(memlimit=limits.MOST_LZMA_BYTES).decompress(data, size)


def _by_libtiff(data: bytes, size: int) -> bytes:
    """`size` bytes of an LZW stream, as the one strip of a TIFF that is made around it.

    The LZW decoder that imagecodecs has of its own writes past its memory on damaged streams.
    """
    entries = (  # tag, type (3 SHORT, 4 LONG), value
        (256, 4, size),
        (257, 4, 1),
        (258, 3, 8),
        (259, 3, LZW),
        (262, 3, 1),  # black is zero
        (273, 4, _LZW_STRIP),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, len(data)),
    )
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return imagecodecs.tiff_decode(head + directory + bytes(4) + data).tobytes()


def _inflated(data: bytes, size: int) -> bytes:
    """The first `size` bytes of a zlib stream, which is read to its end for its checksum's sake."""
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, size + 1)
    if len(plain) > size:
        raise RefusedFile(
            "TIFF with strips or tiles that inflate to more than their size, which readers show in "
            "different ways: save it anew, for example with tiffcp"
        )
    if not inflater.eof:
        raise RefusedFile("damaged TIFF: deflated strips or tiles end too early")
    return plain


def _compressed(compression: int, rows: NDArray[np.uint8]) -> bytes:
    if compression == PACKBITS:  # "pack each row separately" (section 9)
        return b"".join(bytes(imagecodecs.packbits_encode(row.tobytes())) for row in rows)
    data = rows.tobytes()
    if compression == UNCOMPRESSED:
        return data
    if compression in (DEFLATE, OLD_DEFLATE):
        return zlib_stream(data)
    if compression == LZW:
        return bytes(imagecodecs.lzw_encode(data))
    if compression == ZSTD:
        return bytes(imagecodecs.zstd_encode(data, level=_ZSTD_LEVEL))
    assert compression == LZMA  # noqa: S101 (`read_page` refuses all others)
    return lzma.compress(data, check=lzma.CHECK_NONE)


def _from_rows(page: Page, segment: Segment, order: Order, rows: NDArray[np.uint8]) -> NDArray[Any]:
    form = page.form
    shape = (segment.rows, segment.columns, segment.samples)
    if form.bits < 8:
        return unpacked(rows, form.bits, segment.columns * segment.samples).reshape(shape)
    dtype = np.dtype(form.dtype)
    if page.predictor == FLOATING_POINT:
        return _unshuffled(rows, dtype, segment.samples).reshape(shape)
    samples = rows.view(dtype.newbyteorder(order)).astype(dtype).reshape(shape)
    if page.predictor != HORIZONTAL:
        return samples
    # Floats are differenced as the integers that their bits make.
    bits = samples.view(f"u{dtype.itemsize}")
    return np.cumsum(bits, axis=1, dtype=bits.dtype).view(dtype)


def _to_rows(
    page: Page, segment: Segment, order: Order, samples: NDArray[Any]
) -> NDArray[np.uint8]:
    form = page.form
    samples = np.ascontiguousarray(samples)
    if form.bits < 8:
        return packed(samples.reshape(segment.rows, -1), form.bits)
    dtype = np.dtype(form.dtype)
    if page.predictor == FLOATING_POINT:
        return _shuffled(samples.reshape(segment.rows, -1), dtype, segment.samples)
    if page.predictor == HORIZONTAL:
        bits = samples.view(f"u{dtype.itemsize}")
        samples = bits.copy()
        samples[:, 1:] -= bits[:, :-1]
    swapped = samples.astype(samples.dtype.newbyteorder(order))
    return swapped.view(np.uint8).reshape(segment.rows, -1)


def _unshuffled(rows: NDArray[np.uint8], dtype: np.dtype[Any], step: int) -> NDArray[Any]:
    """Floats of rows that hold first all highest bytes, last all lowest (TIFF technical note 3).

    Bytes are differences to those `step` before.
    """
    summed = rows.reshape(len(rows), -1, step).cumsum(axis=1, dtype=np.uint8)
    planes = summed.reshape(len(rows), dtype.itemsize, -1)
    big_endian = np.ascontiguousarray(planes.transpose(0, 2, 1))
    return big_endian.view(dtype.newbyteorder(">"))[..., 0].astype(dtype)


def _shuffled(samples: NDArray[Any], dtype: np.dtype[Any], step: int) -> NDArray[np.uint8]:
    """The inverse of `_unshuffled`."""
    big_endian = samples.astype(dtype.newbyteorder(">")).view(np.uint8)
    planes = big_endian.reshape(len(samples), -1, dtype.itemsize).transpose(0, 2, 1)
    rows = np.ascontiguousarray(planes).reshape(len(samples), -1)
    rows[:, step:] -= rows[:, :-step].copy()
    return rows
