"""The pixels that changed coefficients decode to, kept up to date unit by unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation

from medshield.formats.jpeg.pixels import decode_pixels
from medshield.formats.jpeg.segments import parse
from medshield.formats.jpeg.transform import inverse_transform, to_rgb, upsample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medshield.formats.jpeg.coefficients import Coefficients

_PART = 256


class Trial:
    """What a choice of coefficients decodes to, and how far that is from the source.

    Attributes:
        change: (units, unit height, unit width, channels), decoded pixels less the source's.
        furthest: (units,), the greatest change in each.
        inside: (units, unit height, unit width, 1), whether a pixel is one of the picture.
        is_exact: whether this package's own arithmetic decodes as the library does.
    """

    def __init__(self, coefficients: Coefficients, source: NDArray[np.uint8]) -> None:
        """Start from the source's own coefficients.

        Args:
            coefficients: of the source.
            source: its pixels as the library decodes them, (height, width, channels).
        """
        self._coefficients = coefficients
        self._source = coefficients.cut(source.astype(np.int16))
        self._planes = [np.zeros(own.shape, np.int16) for own in coefficients.original]
        self.inside = coefficients.cut(np.ones((*source.shape[:2], 1), bool), beyond=False)
        self.change = np.zeros_like(self._source)
        self.furthest = np.zeros(len(self._source), np.int16)
        self.is_exact = True
        self.update(coefficients.original, np.arange(len(self._source)))
        # A library of another make may compute otherwise; then it decodes by itself.
        self.is_exact = not self.furthest.any()

    def update(self, values: list[NDArray[np.int16]], places: NDArray[np.int64]) -> None:
        """Take other coefficients in some units.

        Args:
            values: the coefficients of all units.
            places: the numbers of the units in which they changed.
        """
        if not self.is_exact:
            self._decode_all(values)
            return
        for part in in_parts(places):
            for plane, own, step in zip(
                self._planes, values, self._coefficients.steps, strict=True
            ):
                plane[part] = inverse_transform(own[part] * step.astype(np.int32))
        windows = [
            None if factors == (1, 1) else self._windows(plane, factors)
            for plane, factors in zip(self._planes, self._coefficients.factors, strict=True)
        ]
        for part in in_parts(self.reach(places)):
            self.change[part] = self._decoded(part, windows)
            self.furthest[part] = np.abs(self.change[part]).max(axis=(1, 2, 3))

    def reach(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """These units and those into which their chroma is interpolated."""
        if all(factors == (1, 1) for factors in self._coefficients.factors):
            return places
        grid = np.zeros(self._coefficients.units, bool)
        grid.flat[places] = True
        return np.flatnonzero(binary_dilation(grid, np.ones((3, 3), bool)))

    def _decode_all(self, values: list[NDArray[np.int16]]) -> None:
        """With a library whose arithmetic is not the usual one: whole files, by itself."""
        pixels = decode_pixels(parse(self._coefficients.write(values)))
        self.change = self._coefficients.cut(pixels.astype(np.int16)) - self._source
        self.furthest = np.abs(self.change).max(axis=(1, 2, 3))

    def _decoded(
        self, places: NDArray[np.int64], windows: list[NDArray[np.int16] | None]
    ) -> NDArray[np.int16]:
        """The change in these units by this package's own arithmetic."""
        planes = []
        for plane, window, factors in zip(
            self._planes, windows, self._coefficients.factors, strict=True
        ):
            if window is None:
                own = plane[places]
                shape = len(places), 8 * own.shape[1], 8 * own.shape[2]
                planes.append(own.swapaxes(2, 3).reshape(shape))
            else:
                columns = self._coefficients.units[1]
                chosen = window[places // columns, places % columns]
                planes.append(upsample(chosen, factors, smooth=self._is_smooth(factors)))
        pixels = to_rgb(planes) if self._coefficients.is_rotated else np.stack(planes, axis=-1)
        change: NDArray[np.int16] = (pixels - self._source[places]) * self.inside[places]
        return change

    def _is_smooth(self, factors: tuple[int, int]) -> bool:
        """Whether samples are interpolated; jdsample.c repeats columns narrower than three."""
        return -(-self._coefficients.width // factors[1]) > 2 or factors == (2, 1)

    def _windows(self, plane: NDArray[np.int16], factors: tuple[int, int]) -> NDArray[np.int16]:
        """Samples of every unit with one neighbour on each side, by rows and columns of units."""
        coefficients = self._coefficients
        rows, columns = coefficients.units
        _, down, across = plane.shape[:3]
        whole = plane.reshape(rows, columns, down, across, 8, 8).transpose(0, 2, 4, 1, 3, 5)
        whole = whole.reshape(rows * down * 8, columns * across * 8)
        # Filters see the last true sample beyond the edge, not what fills up the last block.
        height, width = -(-coefficients.height // factors[0]), -(-coefficients.width // factors[1])
        beyond = ((1, whole.shape[0] - height + 1), (1, whole.shape[1] - width + 1))
        padded = np.pad(whole[:height, :width], beyond, mode="edge")
        views = sliding_window_view(padded, (8 * down + 2, 8 * across + 2))
        return views[:: 8 * down, :: 8 * across]


def in_parts(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """These numbers a few hundred at a time, so that work on them stays in the processor cache."""
    for start in range(0, len(places), _PART):
        yield places[start : start + _PART]
