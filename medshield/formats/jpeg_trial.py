"""The pixels that changed coefficients decode to, kept up to date unit by unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation

from medshield.formats.jpeg_pixels import decode_pixels
from medshield.formats.jpeg_segments import parse
from medshield.formats.jpeg_transform import inverse_transform, to_rgb, upsample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.jpeg_coefficients import Coefficients


class Trial:
    """What a choice of coefficients decodes to, and how far that is from the source.

    Attributes:
        change: (units, unit height, unit width, channels), decoded pixels less the source's.
    """

    def __init__(self, coefficients: Coefficients, source: NDArray[np.uint8]) -> None:
        """Start from the source's own coefficients.

        Args:
            coefficients: of the source.
            source: its pixels as the library decodes them, (height, width, channels).
        """
        self._coefficients = coefficients
        self._source = coefficients.cut(source.astype(np.int16))
        self._planes = [
            inverse_transform(values * step.astype(np.int32))
            for values, step in zip(coefficients.original, coefficients.steps, strict=True)
        ]
        self._inside = self._coefficients.cut(np.ones((*source.shape[:2], 1), bool), beyond=False)
        self.change = self._decoded(np.ones(len(self._source), bool))
        # A library of another make may compute otherwise; then it decodes by itself.
        self._is_exact = not self.change.any()

    def update(self, values: list[NDArray[np.int16]], where: NDArray[np.bool_]) -> None:
        """Take other coefficients in some units.

        Args:
            values: the coefficients of all units.
            where: the units in which they changed, (units,).
        """
        if not self._is_exact:
            self._decode_all(values)
            return
        for plane, own, step in zip(self._planes, values, self._coefficients.steps, strict=True):
            plane[where] = inverse_transform(own[where] * step.astype(np.int32))
        reached = self.reach(where)
        self.change[reached] = self._decoded(reached)

    def reach(self, where: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """These units and those into which their chroma is interpolated."""
        if all(factors == (1, 1) for factors in self._coefficients.factors):
            return where
        grid = where.reshape(self._coefficients.units)
        grown: NDArray[np.bool_] = binary_dilation(grid, np.ones((3, 3), bool))
        return grown.ravel()

    def _decode_all(self, values: list[NDArray[np.int16]]) -> None:
        """With a library whose arithmetic is not the usual one: whole files, by itself."""
        pixels = decode_pixels(parse(self._coefficients.write(values)))
        self.change = self._coefficients.cut(pixels.astype(np.int16)) - self._source

    def _decoded(self, where: NDArray[np.bool_]) -> NDArray[np.int16]:
        """The change in these units by this module's own arithmetic."""
        places = np.flatnonzero(where)
        planes = [
            self._upsampled(plane, factors, places)
            for plane, factors in zip(self._planes, self._coefficients.factors, strict=True)
        ]
        pixels = to_rgb(planes) if self._coefficients.is_rotated else np.stack(planes, axis=-1)
        change: NDArray[np.int16] = (pixels - self._source[where]) * self._inside[where]
        return change

    def _upsampled(
        self, plane: NDArray[np.int16], factors: tuple[int, int], places: NDArray[np.int64]
    ) -> NDArray[np.int16]:
        """Full-resolution samples of one component in these units."""
        if factors == (1, 1):
            own = plane[places]
            shape = len(places), 8 * own.shape[1], 8 * own.shape[2]
            return own.swapaxes(2, 3).reshape(shape)
        coefficients = self._coefficients
        rows, columns = coefficients.units
        _, down, across = plane.shape[:3]
        whole = plane.reshape(rows, columns, down, across, 8, 8).transpose(0, 2, 4, 1, 3, 5)
        whole = whole.reshape(rows * down * 8, columns * across * 8)
        # Filters see the last true sample beyond the edge, not what fills up the last block.
        height, width = -(-coefficients.height // factors[0]), -(-coefficients.width // factors[1])
        beyond = ((1, whole.shape[0] - height + 1), (1, whole.shape[1] - width + 1))
        padded = np.pad(whole[:height, :width], beyond, mode="edge")
        windows = sliding_window_view(padded, (8 * down + 2, 8 * across + 2))
        chosen = windows[places // columns * 8 * down, places % columns * 8 * across]
        # jdsample.c: columns narrower than three samples are repeated, rows never are.
        return upsample(chosen, factors, smooth=width > 2 or factors == (2, 1))
