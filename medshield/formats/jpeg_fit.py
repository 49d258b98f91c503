"""Finds coefficients whose decoded pixels come near a wanted change and keep within a radius.

Rounding to whole quantiser steps throws some pixels over the radius, by more than they were
meant to move. What is asked for there is lowered by what came out too much, again and again; the
decoder itself is in the loop, so its rounding, its chroma interpolation and its clipping count.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation

from medshield.errors import RefusedFile
from medshield.formats.jpeg_coefficients import Coefficients
from medshield.formats.jpeg_pixels import decode_pixels
from medshield.formats.jpeg_segments import parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg_segments import Layout

# Rounds of lowering; of halving what is left; of giving up units that are still over the radius.
_LOWERING, _HALVING, _GIVING_UP = 32, 4, 32
# How far inside the radius lowering aims, as a fraction of it: more ends sooner and keeps less.
_MARGIN = 1 / 8


def fit_change(
    layout: Layout, source: NDArray[np.uint8], wanted: NDArray[np.uint8], radius: float
) -> bytes:
    """A file like the source that decodes near `wanted`, nowhere further than `radius` from source.

    Args:
        layout: the source file.
        source: its decoded pixels, (height, width, channels).
        wanted: the pixels to come near to, same shape, within `radius` of the source.
        radius: largest difference between decoded pixels, in grey levels.

    Raises:
        RefusedFile: no change survives, or the decoded source can't be reproduced.
    """
    with TemporaryDirectory() as folder:
        content = _fitted(Coefficients(layout, Path(folder)), source, wanted, radius)
    return _verified(content, source, radius)


def _fitted(
    coefficients: Coefficients,
    source: NDArray[np.uint8],
    wanted: NDArray[np.uint8],
    radius: float,
) -> bytes:
    """The file that the search arrives at."""
    target = coefficients.cut(wanted.astype(np.int16) - source)
    changes = coefficients.nearest(target)
    for step in range(_LOWERING + _HALVING + _GIVING_UP):
        achieved = coefficients.cut(_change(coefficients.write(changes, final=False), source))
        over = np.abs(achieved).max(axis=(1, 2, 3)) > radius
        if not over.any():
            break
        if step < _LOWERING:
            limit = radius * (1 - _MARGIN)
            target[over] += np.clip(achieved[over], -limit, limit) - achieved[over]
        else:
            over = _with_neighbours(over, coefficients)
            target[over] *= 0.5 if step < _LOWERING + _HALVING else 0.0
        for change, nearer in zip(changes, coefficients.nearest(target[over]), strict=True):
            change[over] = nearer
    return coefficients.write(changes, final=True)


def _change(content: bytes, source: NDArray[np.uint8]) -> NDArray[np.int16]:
    return decode_pixels(parse(content)).astype(np.int16) - source


def _with_neighbours(over: NDArray[np.bool_], coefficients: Coefficients) -> NDArray[np.bool_]:
    """These units and those whose chroma reaches into them."""
    if not coefficients.is_subsampled:
        return over
    grid = over.reshape(coefficients.units)
    grown: NDArray[np.bool_] = binary_dilation(grid, np.ones((3, 3), bool))
    return grown.ravel()


def _verified(content: bytes, source: NDArray[np.uint8], radius: float) -> bytes:
    """The file, once its decoded pixels are seen to have moved and to keep within the radius."""
    moved = np.abs(_change(content, source)).max()
    if moved > radius:
        raise RefusedFile(
            "JPEG that does not decode the same from coefficients written anew: convert it to PNG"
        )
    if moved == 0:
        raise RefusedFile(
            "JPEG too coarsely quantised for a change this small: use a larger epsilon, or convert "
            "the source to PNG"
        )
    return content
