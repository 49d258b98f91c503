"""Reading masks: they are copied and never written, so more formats will do than for images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats import recognise
from medshield.formats.base import READ_ONLY

BY_PILLOW = ("PNG", "JPEG", "GIF", "BMP", "TIFF")


def read_foreground(path: Path) -> NDArray[np.bool_]:
    """Where a mask has its foreground, (frames, height, width).

    Eight-bit masks are drawn in black and white, and JPEG ones have grey edges: from 128 on is
    foreground. In label maps, palettes and masks of one bit, everything but 0 is.

    Raises:
        RefusedFile: it can't be read.
    """
    codec = recognise(path)
    try:
        if codec is None:
            raise RefusedFile("of an unknown format; save it as PNG or NIfTI")
        image = codec.decode(path, READ_ONLY)
    except (RefusedFile, NotAnImage) as refusal:
        return _by_pillow(path, str(refusal))
    if image.details.get("colour type") == "palette":  # decoded to colours, and classes are indices
        return _by_pillow(path, "its palette can't be read; save it as PNG")
    values = image.stored[:][..., 0]
    return _drawn(image.highest - values if image.inverted else values)


def _by_pillow(path: Path, refusal: str) -> NDArray[np.bool_]:
    """A mask that no codec would protect, such as one with a palette."""
    try:
        with Image.open(path, formats=BY_PILLOW) as image:
            values = np.asarray(image)
            is_drawn = image.mode not in ("1", "P")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise RefusedFile(refusal) from None
    plane = values[..., 0] if values.ndim == 3 else values
    return _drawn(plane[None]) if is_drawn else plane[None] != 0


def _drawn(values: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values >= 128 if values.max(initial=0) > 127 else values > 0
    return found
