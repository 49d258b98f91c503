"""YBR_FULL samples, shown as RGB (PS3.3 C.7.6.3.1.2), moved so that the RGB stays in the bound.

The conversion is a sum of terms, rounded and clipped. Some viewers round the sum, some each term
from a table; a term rounded before and after a step has moved by its exact product rounded down or
up. So those are what must stay within the bound: then it holds in every viewer that converts as
the standard says, not only in the one that a test asked. Clipping only shortens a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.processing import convert_color_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medshield.formats.series import Frames

_HIGHEST, _MIDDLE = 255, 128.0
_BLUE = np.array([0.0, -0.114 * 1.772 / 0.587, 1.772])
"""What one step of Cb adds to red, green and blue; one of Y adds 1 to each."""
_RED = np.array([1.402, -0.299 * 1.402 / 0.587, 0.0])
"""What one step of Cr adds."""
_TERMS = np.stack([_BLUE, _RED])
_TO_CHROMA = np.linalg.inv(np.stack([np.ones(3), _BLUE, _RED], axis=1))[1:]


@dataclass(frozen=True)
class YbrView:
    """8-bit YBR_FULL, or YBR_FULL_422 with its shared chroma samples repeated.

    Attributes:
        chroma_moves: False where pixels share chroma samples. How a viewer spreads those is its
            own affair, so that only the luma is moved: that moves red, green and blue alike.
    """

    chroma_moves: bool

    def shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """(frames, rows, columns, 3) of YBR as RGB, both of 8 bits."""
        return np.stack([convert_color_space(frame, "YBR_FULL", "RGB") for frame in values])

    def nearest(
        self, wanted: NDArray[Any], values: NDArray[Any], radius: float
    ) -> NDArray[np.uint8]:
        """The YBR samples whose RGB comes nearest to `wanted`, none further than `radius` away.

        Args:
            wanted: (frames, rows, columns, 3), RGB.
            values: the source's YBR samples, of the same shape.
            radius: what no shown value may move by.
        """
        return np.stack(
            [self._nearest_in_frame(w, v, radius) for w, v in zip(wanted, values, strict=True)]
        )

    def step(self, values: Frames) -> float:
        """One step of the luma is one of red, green and blue."""
        return 1.0

    def notes(self, values: Frames, radius: float) -> list[str]:
        """None: every pixel can move."""
        return []

    def _nearest_in_frame(
        self, wanted: NDArray[Any], source: NDArray[Any], radius: float
    ) -> NDArray[np.uint8]:
        before = self.shown(source[None])[0].astype(np.int64)
        step = wanted - before
        moving = np.any(step != 0, axis=-1)
        steps, samples = step[moving].astype(np.float64), source[moving].astype(np.float64)
        # Far from the ends of their range, samples move alike for alike steps, which are few.
        distinct, place = _distinct(step[moving])
        middle = np.full(distinct.shape, _MIDDLE)
        moved = samples + (self._nearest(distinct, middle, radius) - middle)[place]
        ended = np.any((moved < 0) | (moved > _HIGHEST), axis=-1)
        moved[ended] = self._nearest(steps[ended], samples[ended], radius)
        found = source.copy()
        found[moving] = moved
        over = np.abs(self.shown(found[None])[0] - before).max(axis=-1) > radius
        return np.where(over[..., None], source, found)

    def _nearest(
        self, step: NDArray[np.float64], samples: NDArray[np.float64], radius: float
    ) -> NDArray[np.float64]:
        """(pixels, 3): the samples whose RGB moves by what comes nearest to `step`."""
        best, least = samples, np.sum(step**2, axis=-1)
        for chroma in self._chroma_candidates(step, samples):
            chroma_step = chroma - samples[:, 1:]
            colour = chroma_step @ _TERMS
            low, high = _room(chroma_step, radius)
            luma = np.clip(np.rint(np.mean(step - colour, axis=-1)), low, high)
            luma = np.clip(samples[:, 0] + luma, 0, _HIGHEST) - samples[:, 0]
            cost = np.sum((step - colour - luma[:, None]) ** 2, axis=-1)
            better = (cost < least) & (low <= luma) & (luma <= high)
            moved = np.column_stack([samples[:, 0] + luma, chroma])
            best = np.where(better[:, None], moved, best)
            least = np.where(better, cost, least)
        return best

    def _chroma_candidates(
        self, step: NDArray[np.float64], samples: NDArray[np.float64]
    ) -> Iterator[NDArray[np.float64]]:
        """(pixels, 2): chroma samples that come near to a step of the RGB."""
        chroma = samples[:, 1:]
        yield chroma
        if self.chroma_moves:
            exact = chroma + np.rint(step @ _TO_CHROMA.T)
            for around in product((-1, 0, 1), repeat=2):
                yield np.clip(exact + around, 0, _HIGHEST)


def _distinct(steps: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each distinct step once, and where every step is among them: all between -255 and 255."""
    packed = (steps + _HIGHEST) @ np.array([1 << 18, 1 << 9, 1])
    _, first, place = np.unique(packed, return_index=True, return_inverse=True)
    return steps[first].astype(np.float64), place


def _room(
    chroma_step: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the luma may go down and up where the chroma takes this step."""
    terms = chroma_step[..., None] * _TERMS  # (rows, columns, Cb and Cr, RGB)
    least, most = np.floor(terms).sum(axis=-2), np.ceil(terms).sum(axis=-2)
    return np.ceil(-radius) - least.min(axis=-1), np.floor(radius) - most.max(axis=-1)
