"""Finds coefficients whose decoded pixels come near a wanted change and keep within a radius.

Rounding to whole quantiser steps throws some pixels over the radius, by more than they were
meant to move. What is asked for there is lowered by what came out too much, again and again; then
single coefficients go up and down again by a step as long as that brings pixels nearer. The
decoder itself is in the loop, so its rounding, its chroma interpolation and its clipping count.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

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
# Rounds of single steps afterwards, and the share of the wanted squared change that may be missing
# for a unit to be near enough: of smooth photographs, whose units mostly are, that saves most of
# the time. Twice the rounds bring less than a hundredth more.
_NEARING, _NEAR_ENOUGH = 10, 0.05
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
            search.come_nearer()
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
        values: of every component, as `Coefficients.original` has them; views of `_flat`, a row
            for each unit.

    Steps that are no whole steps yet wait in `_left_over`. `_worth` is the squared error that a bit
    is worth.
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
        self._original = _rows(coefficients.original)
        self._flat = self._original.copy()
        self.values = _views(self._flat, coefficients.original)
        self._rate, self._worth = Rate(coefficients), 0.0
        self._left_over = [np.zeros(own.shape, np.float32) for own in self.values]

    def start(self, *, thrifty: bool) -> None:
        """Take the values nearest to what is wanted, or those of them that are worth their bits."""
        before = sum(
            self._rate.bits([own[part] for own in self._coefficients.original], part)
            for part in in_parts(self._everywhere)
        )
        for worth in _WORTH_OF_A_BIT if thrifty else (0.0,):
            bits, self._worth = 0.0, worth * self._radius
            for part in in_parts(self._everywhere):
                change = self._coefficients.transformed(self._target[part].astype(np.float32))
                chosen = self._rate.choose(change, part, self._worth)
                for number, new in enumerate(chosen):
                    original = self._coefficients.original[number][part]
                    missing = original + change[number] - new
                    self.values[number][part] = new
                    # What rounding left over counts in later rounds; what was too dear does not.
                    self._left_over[number][part] = np.where(np.abs(missing) <= 0.5, missing, 0)
                bits += self._rate.bits(chosen, part)
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

    def come_nearer(self) -> None:
        """Move single coefficients by a step where that brings pixels nearer, within the radius.

        The best step of each unit is tried, and taken back if a pixel is then too far; a unit is
        done when it is near enough or no step is left that gains anything.
        """
        if not self._trial.is_exact:
            return  # every step would decode the whole file
        groups = [group for group in self._apart() if len(group)]
        refused = np.zeros(self._flat.shape, bool)
        for _ in range(_NEARING):
            groups = [left for group in groups if len(left := self._step(group, refused))]
            if not groups:
                break

    def _apart(self) -> list[NDArray[np.int64]]:
        """Numbers of units in groups, within which no unit reaches into another."""
        if all(factors == (1, 1) for factors in self._coefficients.factors):
            return [self._everywhere]
        row, column = np.divmod(self._everywhere, self._coefficients.units[1])
        corner = 2 * (row % 2) + column % 2
        return [np.flatnonzero(corner == number) for number in range(4)]

    def _step(self, places: NDArray[np.int64], refused: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Try the best step of each of these units; the units that may have another.

        Args:
            places: numbers of units that don't reach into each other.
            refused: of every unit's coefficients those whose step was tried in vain; renewed.
        """
        found = [self._best_step(part, refused) for part in in_parts(places)]
        places, best, step = (np.concatenate(each) for each in zip(*found, strict=True))
        before = self._flat[places, best]
        after = within_code(before + step, self._original[places, best]).astype(np.int16)
        self._flat[places, best] = after
        self._trial.update(self.values, places)
        over = self._trial.reach(np.flatnonzero(self._trial.furthest > self._radius))
        vain = np.isin(places, over) | (after == before)
        refused[places[~vain]] = False
        refused[places[vain], best[vain]] = True
        self._flat[places[vain], best[vain]] = before[vain]
        self._trial.update(self.values, places[vain])
        return places

    def _best_step(
        self, places: NDArray[np.int64], refused: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Of these units those that a step brings nearer, their coefficient, and its step."""
        missing = (self._target[places] - self._trial.change[places]) * self._trial.inside[places]
        far = _energy(missing) > _NEAR_ENOUGH * _energy(self._target[places])
        places, missing = places[far], missing[far].astype(np.float32)
        if not len(places):
            return places, places, np.zeros(0, np.float32)
        steps, gains = self._gains(places, missing)
        gains[refused[places]] = 0
        best = gains.argmax(axis=1)[:, None]
        better = np.take_along_axis(gains, best, axis=1)[:, 0] > 0
        step = np.take_along_axis(steps, best, axis=1)[better, 0]
        return places[better], best[better, 0], step

    def _gains(
        self, places: NDArray[np.int64], missing: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of every coefficient of these units the step to try and the squared error that it saves.

        What the step costs in bits is taken off. Both are (places, coefficients of a unit).

        Args:
            places: numbers of units.
            missing: what they still lack, as `Coefficients.cut` has it.
        """
        changes = self._coefficients.transformed(missing)
        steps, gains = [np.sign(change) for change in changes], []
        for number, (change, step) in enumerate(zip(changes, steps, strict=True)):
            scale = self._coefficients.steps[number] ** 2 * self._coefficients.energy[number]
            gain = scale * (2 * np.abs(change) - 1)
            if self._worth:
                own = self.values[number][places]
                dearer = self._rate.price(number, own + step, places)
                dearer -= self._rate.price(number, own, places)
                gain -= self._worth * dearer
            gains.append(gain)
        return _rows(steps), _rows(gains)

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


def _energy(change: NDArray[Any]) -> NDArray[np.float32]:
    """The sum of squares of every unit."""
    energy: NDArray[np.float32] = (change.astype(np.float32) ** 2).sum(axis=(1, 2, 3))
    return energy


def _rows(components: list[NDArray[Any]]) -> NDArray[Any]:
    """All components' coefficients of a unit in one row."""
    return np.concatenate([own.reshape(len(own), -1) for own in components], axis=1)


def _views(rows: NDArray[np.int16], components: list[NDArray[np.int16]]) -> list[NDArray[np.int16]]:
    """Rows as the components that they are made of."""
    ends = np.cumsum([prod(own.shape[1:]) for own in components])[:-1]
    parts = np.split(rows, ends, axis=1)
    return [part.reshape(own.shape) for part, own in zip(parts, components, strict=True)]
