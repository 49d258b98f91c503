"""JPEG pixels as Pillow decodes them, for reading and for measuring what was written."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from medshield.errors import RefusedFile
from medshield.formats.jpeg.segments import START_OF_SCAN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg.segments import Layout

# More bits than one block needs, and no FF among them.
_MORE_DATA = b"\xa5\x5a\x96\x69" * 64


def decode_pixels(layout: Layout) -> NDArray[np.uint8]:
    """Decode a file as stored: (height, width, channels), 1 channel grey or 3 RGB, 0 to 255.

    The orientation of EXIF is not applied. Metadata play no part and are left out, and the plugin
    is called by itself, so that nothing is printed of them and of the size.

    Raises:
        RefusedFile: Pillow can't decode it.
    """
    content = io.BytesIO(bytes(layout.without_metadata(keep_colour=True)))
    try:
        with JpegImageFile(content) as image:
            pixels = np.asarray(image)
    except Exception as error:  # a damaged file may raise anything
        raise RefusedFile("JPEG that can't be decoded: the file is damaged") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def is_complete(layout: Layout, pixels: NDArray[np.uint8]) -> bool:
    """Whether no scan is missing and the last one holds all its data.

    Decoders fill what is missing and say nothing. But bits that follow a whole scan are never
    read: where more of them change a pixel, the scan ended too early.

    Args:
        layout: a file with a scan.
        pixels: what it decodes to.
    """
    segments = list(layout.segments)
    last = max(n for n, segment in enumerate(segments) if segment.marker == START_OF_SCAN)
    segments[last] = replace(segments[last], scan=segments[last].scan + _MORE_DATA)
    longer = replace(layout, segments=tuple(segments))
    return layout.sends_everything and np.array_equal(decode_pixels(longer), pixels)
