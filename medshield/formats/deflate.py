"""Deflated data (RFC 1951) as PNG, TIFF and DICOM hold it, made by libdeflate.

It takes a fifth of zlib's time and the result is a little smaller; everything that inflates zlib's
output inflates this.
"""

from __future__ import annotations

import imagecodecs

_LEVEL = 6  # as zlib's default; the next one takes half as long again for 0.2 % less


def zlib_stream(data: bytes) -> bytes:
    """A zlib stream (RFC 1950): deflated data with a checksum."""
    return bytes(imagecodecs.deflate_encode(data, _LEVEL))


def raw_stream(data: bytes) -> bytes:
    """Deflated data and nothing around them."""
    return bytes(imagecodecs.deflate_encode(data, _LEVEL, raw=True))
