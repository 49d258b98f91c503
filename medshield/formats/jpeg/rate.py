"""Which coefficients to change: those that bring most of the wanted change for a bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.formats.jpeg.coefficients import within_code
from medshield.formats.jpeg.huffman import magnitude_category

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg.coefficients import Coefficients

# Blocks are told apart by how many coefficients they have: a new one costs most in an empty block.
_ACTIVITIES = np.array([1, 2, 4, 8, 16, 32])
_CATEGORIES = 17  # what 16-bit integers may have: damaged files have more than the standard's
_PLACE = np.arange(64).reshape(8, 8)


class Rate:
    """What coefficients cost, as the source's own statistics have it.

    The cost of a value is the information in its magnitude category, given its place in the block
    and how full the block is, and the bits that follow. It is what an ideal coder would take, and
    near enough to what run lengths and Huffman codes take.
    """

    def __init__(self, coefficients: Coefficients) -> None:
        self._coefficients = coefficients
        self._activity = [self._activity_of(values) for values in coefficients.original]
        self._bits = [
            self._costs(values, activity)
            for values, activity in zip(coefficients.original, self._activity, strict=True)
        ]

    def choose(
        self, wanted: list[NDArray[np.float32]], places: NDArray[np.int64], worth: float
    ) -> list[NDArray[np.int16]]:
        """The coefficients that come near a wanted change and are cheap.

        Args:
            wanted: of every component, a change in quantiser steps, in some units.
            places: the numbers of these units.
            worth: how much squared error (grey levels, over pixels and channels) a bit is worth; 0
                takes the nearest.
        """
        chosen = []
        for number, change in enumerate(wanted):
            original = self._coefficients.original[number][places]
            exact = original + change
            nearest = np.rint(within_code(exact, original))
            if worth:
                activity = self._activity[number][places]
                nearest = self._cheaper(number, activity, original, exact, nearest, worth)
            chosen.append(nearest.astype(np.int16))
        return chosen

    def bits(self, values: list[NDArray[np.int16]], places: NDArray[np.int64]) -> float:
        """About what the coefficients of some units cost.

        Args:
            values: of every component, in these units.
            places: the numbers of these units.
        """
        total = 0.0
        for number, own in enumerate(values):
            activity = self._activity[number][places][..., None, None]
            total += float(self._bits[number][activity, _PLACE, magnitude_category(own)].sum())
        return total

    def price(
        self, number: int, values: NDArray[Any], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """About what each coefficient costs in bits; nothing for DC, which is coded by differences.

        Args:
            number: of the component.
            values: its coefficients in these units, whole numbers.
            places: the numbers of these units.
        """
        activity = self._activity[number][places][..., None, None]
        bits = self._bits[number][activity, _PLACE, magnitude_category(values)]
        bits[..., 0, 0] = 0
        return bits

    def _cheaper(
        self,
        number: int,
        activity: NDArray[np.int64],
        original: NDArray[np.int16],
        exact: NDArray[np.float32],
        nearest: NDArray[np.float32],
        worth: float,
    ) -> NDArray[np.float32]:
        """The best of the nearest value, the one nearer to zero, the original one, and zero."""
        scale = self._coefficients.steps[number] ** 2 * self._coefficients.energy[number] / worth
        activity = activity[..., None, None]

        def cost(values: NDArray[np.float32]) -> NDArray[np.float32]:
            bits = self._bits[number][activity, _PLACE, magnitude_category(values)]
            total: NDArray[np.float32] = scale * (exact - values) ** 2 + bits
            return total

        best, lowest = nearest, cost(nearest)
        # Between the source's value and the nearest: what nobody asked for does not change.
        low, high = np.minimum(nearest, original), np.maximum(nearest, original)
        for candidate in (nearest - np.sign(nearest), original, np.zeros_like(nearest)):
            other = np.clip(candidate, low, high).astype(np.float32)
            price = cost(other)
            better = price < lowest
            better[..., 0, 0] = False  # DC is coded by differences, about which this knows nothing
            best, lowest = np.where(better, other, best), np.where(better, price, lowest)
        return best

    def _activity_of(self, values: NDArray[np.int16]) -> NDArray[np.int64]:
        """How full blocks are, as a class."""
        filled = np.count_nonzero(values, axis=(3, 4))
        activity: NDArray[np.int64] = np.searchsorted(_ACTIVITIES, filled, side="right")
        return activity

    def _costs(self, values: NDArray[np.int16], activity: NDArray[np.int64]) -> NDArray[np.float32]:
        """Bits by activity, place in the block and magnitude category."""
        category = magnitude_category(values).reshape(-1, 64)
        classes = len(_ACTIVITIES) + 1
        index = (activity.reshape(-1, 1) * 64 + np.arange(64)) * _CATEGORIES + category
        counts = np.bincount(index.ravel(), minlength=classes * 64 * _CATEGORIES).astype(float)
        counts = counts.reshape(classes, 64, _CATEGORIES)
        # What was never seen is rare, and the rarer the larger it is.
        counts += 0.5 ** np.arange(_CATEGORIES)
        shares = counts / counts.sum(axis=2, keepdims=True)
        bits: NDArray[np.float32] = (np.arange(_CATEGORIES) - np.log2(shares)).astype(np.float32)
        return bits
