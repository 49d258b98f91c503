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
from medshield.formats.series import Frames, MadeFrames, held, runs

BY_PILLOW = ("PNG", "JPEG", "GIF", "BMP", "TIFF")


def read_foreground(path: Path) -> Frames:
    """Where a mask has its foreground, (frames, height, width) of bool.

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
    stored = image.stored

    def grey(frames: slice) -> NDArray[Any]:
        values = stored[frames][..., 0]
        return image.highest - values if image.inverted else values

    return _drawn(held(MadeFrames(stored.shape[:3], stored.dtype, grey)))


def _by_pillow(path: Path, refusal: str) -> Frames:
    """A mask that no codec would protect, such as one with a palette."""
    try:
        with Image.open(path, formats=BY_PILLOW) as image:
            values = np.asarray(image)
            is_drawn = image.mode not in ("1", "P")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise RefusedFile(refusal) from None
    plane = values[..., 0] if values.ndim == 3 else values
    return _drawn(plane[None]) if is_drawn else plane[None] != 0


def _drawn(values: Frames) -> Frames:
    bright = any(values[run].max(initial=0) > 127 for run in runs(values.shape))

    def foreground(frames: slice) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = values[frames] >= 128 if bright else values[frames] > 0
        return found

    return held(MadeFrames(values.shape, np.bool_, foreground))
