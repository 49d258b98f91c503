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
from medshield.formats.jpeg.coefficients import Coefficients, within_code
from medshield.formats.jpeg.pixels import decode_pixels
from medshield.formats.jpeg.rate import Rate
from medshield.formats.jpeg.segments import parse
from medshield.formats.jpeg.trial import Trial, in_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg.segments import Layout

# Rounds of lowering; of halving what is left; of giving up units that are still over the radius.
_LOWERING, _HALVING, _GIVING_UP = 32, 4, 32
# How far inside the radius lowering aims, as a fraction of it: more ends sooner and keeps less.
_MARGIN = 1 / 8
# The squared error that a bit is worth, in grey levels for every grey level of the radius: the
# first with which coefficients cost no more than this, else the last. On photographs the last takes
# less than a hundredth off the correlation with smooth changes; of pixel noise, which costs most
# and of which a quantiser drops the larger part anyway, it takes half of what was left. What
# `Rate` says is too high, and lowering saves some more: files grow by about half of it.
_WORTH_OF_A_BIT = (0.6, 1.2, 2.5)
_DEARER = 1.12


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
        search = _Search(coefficients, source, wanted, radius)
        for thrifty in (True, False):
            search.start(thrifty=thrifty)
            search.keep_within_radius()
            released = parse(coefficients.write(search.values))
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


class _Search:
    """Coefficients near a wanted change, on their way into the radius.

    Attributes:
        values: of every component, as `Coefficients.original` has them.

    Steps that are no whole steps yet wait in `_left_over`.
    """

    def __init__(
        self,
        coefficients: Coefficients,
        source: NDArray[np.uint8],
        wanted: NDArray[np.uint8],
        radius: float,
    ) -> None:
        self._coefficients, self._radius = coefficients, radius
        self._target = coefficients.cut(wanted.astype(np.int16) - source)
        self._everywhere = np.arange(len(self._target))
        self._trial = Trial(coefficients, source)
        self.values = [own.copy() for own in coefficients.original]
        self._left_over = [np.zeros(own.shape, np.float32) for own in self.values]

    def start(self, *, thrifty: bool) -> None:
        """Take the values nearest to what is wanted, or those of them that are worth their bits."""
        rate = Rate(self._coefficients)
        before = sum(
            rate.bits([own[part] for own in self._coefficients.original], part)
            for part in in_parts(self._everywhere)
        )
        for worth in _WORTH_OF_A_BIT if thrifty else (0.0,):
            bits = 0.0
            for part in in_parts(self._everywhere):
                change = self._coefficients.transformed(self._target[part].astype(np.float32))
                chosen = rate.choose(change, part, worth * self._radius)
                for number, new in enumerate(chosen):
                    original = self._coefficients.original[number][part]
                    missing = original + change[number] - new
                    self.values[number][part] = new
                    # What rounding left over counts in later rounds; what was too dear does not.
                    self._left_over[number][part] = np.where(np.abs(missing) <= 0.5, missing, 0)
                bits += rate.bits(chosen, part)
            if bits <= _DEARER * before:
                break

    def keep_within_radius(self) -> None:
        """Lower what came out too much until no pixel is further than the radius."""
        changed = self._everywhere
        for step in range(_LOWERING + _HALVING + _GIVING_UP):
            self._trial.update(self.values, changed)
            over = np.flatnonzero(self._trial.furthest > self._radius)
            if not len(over):
                break
            if step < _LOWERING:
                changed = over
                for part in in_parts(changed):
                    self._lower(part)
            else:
                changed = self._trial.reach(over)
                self._keep(changed, 0.5 if step < _LOWERING + _HALVING else 0.0)

    def _lower(self, places: NDArray[np.int64]) -> None:
        """Take off these units what came out too much; what is no whole step waits for its turn."""
        change, limit = self._trial.change[places], self._radius * (1 - _MARGIN)
        excess = (change - np.clip(change, -limit, limit)).astype(np.float32)
        for own, rest, steps, original in zip(
            self.values,
            self._left_over,
            self._coefficients.transformed(excess),
            self._coefficients.original,
            strict=True,
        ):
            wanted = rest[places] - steps
            whole = np.rint(wanted)
            rest[places] = wanted - whole
            own[places] = within_code(own[places] + whole, original[places]).astype(np.int16)

    def _keep(self, places: NDArray[np.int64], share: float) -> None:
        """Keep this share of the change of these units' coefficients."""
        for own, original in zip(self.values, self._coefficients.original, strict=True):
            change = np.trunc((own[places] - original[places]) * share)
            own[places] = original[places] + change.astype(np.int16)
