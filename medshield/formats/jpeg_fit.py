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

from medshield.errors import RefusedFile
from medshield.formats.jpeg_coefficients import Coefficients, within_code
from medshield.formats.jpeg_pixels import decode_pixels
from medshield.formats.jpeg_rate import Rate
from medshield.formats.jpeg_segments import parse
from medshield.formats.jpeg_trial import Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg_segments import Layout

# Rounds of lowering; of halving what is left; of giving up units that are still over the radius.
_LOWERING, _HALVING, _GIVING_UP = 32, 4, 32
# How far inside the radius lowering aims, as a fraction of it: more ends sooner and keeps less.
_MARGIN = 1 / 8
# The squared error that a bit is worth, in grey levels for every grey level of the radius. On
# photographs this takes less than a hundredth off the correlation with smooth changes, and
# keeps pixel noise, most of which a quantiser drops anyway, from making files much larger.
_WORTH_OF_A_BIT = 2.5


def fit_change(
    layout: Layout, source: NDArray[np.uint8], wanted: NDArray[np.uint8], radius: float
) -> Layout:
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
        coefficients = Coefficients(layout, Path(folder))
        for worth in (_WORTH_OF_A_BIT * radius, 0.0):
            values = _fitted(coefficients, source, wanted, radius, worth)
            released = parse(coefficients.write(values))
            moved = np.abs(decode_pixels(released).astype(np.int16) - source).max()
            if moved > radius:
                raise RefusedFile(
                    "JPEG that does not decode the same from coefficients written anew: convert it "
                    "to PNG"
                )
            if moved > 0:
                return released
    raise RefusedFile(
        "JPEG too coarsely quantised for a change this small: use a larger epsilon, or convert "
        "the source to PNG"
    )


def _fitted(
    coefficients: Coefficients,
    source: NDArray[np.uint8],
    wanted: NDArray[np.uint8],
    radius: float,
    worth: float,
) -> list[NDArray[np.int16]]:
    """The coefficients that the search arrives at."""
    trial = Trial(coefficients, source)
    target = coefficients.cut((wanted.astype(np.int16) - source).astype(np.float32))
    values = Rate(coefficients).choose(coefficients.transformed(target), worth)
    left_over = [np.zeros(own.shape, np.float32) for own in values]
    changed = np.ones(len(target), bool)
    for step in range(_LOWERING + _HALVING + _GIVING_UP):
        trial.update(values, changed)
        over = np.abs(trial.change).max(axis=(1, 2, 3)) > radius
        if not over.any():
            break
        if step < _LOWERING:
            changed = over
            limit = radius * (1 - _MARGIN)
            excess = trial.change[over] - np.clip(trial.change[over], -limit, limit)
            less = coefficients.transformed(excess.astype(np.float32))
            _lower(values, left_over, less, over, coefficients)
        else:
            changed = trial.reach(over)
            share = 0.5 if step < _LOWERING + _HALVING else 0.0
            for own, original in zip(values, coefficients.original, strict=True):
                change = np.trunc((own[changed] - original[changed]) * share)
                own[changed] = original[changed] + change.astype(np.int16)
    return values


def _lower(
    values: list[NDArray[np.int16]],
    left_over: list[NDArray[np.float32]],
    less: list[NDArray[np.float32]],
    where: NDArray[np.bool_],
    coefficients: Coefficients,
) -> None:
    """Take whole steps off the values of some units; what is no whole step waits for its turn."""
    for own, rest, steps, original in zip(
        values, left_over, less, coefficients.original, strict=True
    ):
        wanted = rest[where] - steps
        whole = np.rint(wanted)
        rest[where] = wanted - whole
        own[where] = within_code(own[where] + whole, original[where]).astype(np.int16)
