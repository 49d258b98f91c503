"""Quantised DCT coefficients of a JPEG file: read, written, and the steps a pixel change takes.

Changing coefficients in whole quantiser steps is what keeps a JPEG from a second generation of
loss: blocks that do not change keep their pixels exactly.

Pixels are cut into units, the areas of one interleaved MCU (ITU-T T.81 A.2.3): 8x8 without
subsampling, 16x16 for 4:2:0. Coefficients of one component are (units, rows, columns, 8, 8),
the blocks of that component within each unit.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import jpeglib
import numpy as np
from scipy.fft import dctn

from medshield.errors import RefusedFile
from medshield.formats.jpeg.scans import with_coefficients
from medshield.formats.jpeg.segments import PROGRESSIVE, Layout, parse

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# libjpeg-turbo reads every file that Pillow reads; mozjpeg writes progressive files.
_READER, _PROGRESSIVE_WRITER = "turbo210", "mozjpeg403"
# The library chooses its version, and keeps what it reads of a header, in global variables.
_LIBRARY = threading.Lock()
# Largest coefficient that 8-bit Huffman coding holds: AC in 10 bits (T.81 F.1.2.2), and DC so
# that a difference of two stays in 11 bits (F.1.2.1).
_LARGEST = 1023
# From RGB to YCbCr, for changes: no offsets (JFIF 1.02, ITU-R BT.601).
_YCBCR_OF_RGB = np.array(
    [
        [0.299, -0.168735892, 0.5],
        [0.587, -0.331264108, -0.418687589],
        [0.114, 0.5, -0.081312411],
    ],
    dtype=np.float32,
)
# What a unit's change of Y, Cb or Cr moves R, G and B by, squared and summed.
_YCBCR_ENERGY = (3.0, 3.258, 2.475)


class Coefficients:
    """The quantised coefficients of one file, and files that differ in them alone.

    Attributes:
        original: of every component, (units, rows, columns, 8, 8); zeros in blocks that a unit at
            the right or lower edge does not have.
        steps: of every component, the quantiser's, (8, 8).
        factors: of every component, the pixels of one sample, vertically and horizontally.
        energy: what one squared sample's change of every component is in squared grey levels,
            summed over pixels and channels.
        height, width: of the picture in pixels.
        unit: height and width in pixels of one unit.
        units: rows and columns of units that cover the image.
        is_rotated: whether the components are Y, Cb and Cr of an RGB picture.
    """

    def __init__(self, layout: Layout, folder: Path) -> None:
        """Read the coefficients.

        Args:
            layout: the file.
            folder: an empty one to work in: the library reads and writes files only.

        Raises:
            RefusedFile: the library can't read them.
        """
        self._layout = layout
        frame = layout.frame
        self.height, self.width = frame.height, frame.width
        self._path = folder / "coded.jpg"
        self._path.write_bytes(bytes(layout.without_metadata()))
        with _LIBRARY:
            self._read()
        colours = len(self._planes)
        self.is_rotated = colours == 3 and not layout.stores_rgb
        # A single component is never interleaved, whatever its sampling factors say (A.2.2).
        factors = [(c.vertical, c.horizontal) for c in frame.components]
        self._blocks = factors if colours == 3 else [(1, 1)]
        most = max(v for v, _ in self._blocks), max(h for _, h in self._blocks)
        self.factors = [(most[0] // v, most[1] // h) for v, h in self._blocks]
        self.unit = 8 * most[0], 8 * most[1]
        self.units = -(-self.height // self.unit[0]), -(-self.width // self.unit[1])
        rotated = _YCBCR_ENERGY if self.is_rotated else (1.0,) * colours
        self.energy = [v * h * e for (v, h), e in zip(self.factors, rotated, strict=True)]
        self.original = [
            self._in_units(plane, *blocks)
            for plane, blocks in zip(self._planes.values(), self._blocks, strict=True)
        ]

    def _read(self) -> None:
        try:
            jpeglib.version.set(_READER)
            self._file = jpeglib.read_dct(str(self._path))
            self._file.load()
        except OSError as error:
            raise RefusedFile("JPEG whose coefficients can't be read: save it anew") from error
        names = ("Y", "Cb", "Cr") if self._file.has_chrominance else ("Y",)
        self._planes = {name: getattr(self._file, name).astype(np.int16) for name in names}
        self.steps = [
            self._file.get_component_qt(index).astype(np.float32) for index in range(len(names))
        ]

    def cut(self, pixels: NDArray[Any], *, beyond: bool = True) -> NDArray[Any]:
        """Cut (height, width, channels) into (units, unit height, unit width, channels).

        Args:
            pixels: to be cut.
            beyond: beyond the right and lower edge the last column and row go on, else zeros.
        """
        (rows, columns), (high, wide) = self.units, self.unit
        more = ((0, rows * high - self.height), (0, columns * wide - self.width), (0, 0))
        padded = np.pad(pixels, more, mode="edge") if beyond else np.pad(pixels, more)
        cut = padded.reshape(rows, high, columns, wide, -1).swapaxes(1, 2)
        return np.ascontiguousarray(cut).reshape(rows * columns, high, wide, -1)

    def transformed(self, change: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """A change of pixels as a change of coefficients, in quantiser steps.

        Args:
            change: (units, unit height, unit width, channels), grey levels.
        """
        planes = change.reshape(-1, change.shape[-1])
        if self.is_rotated:
            planes = planes @ _YCBCR_OF_RGB
        planes = planes.T.reshape(-1, *change.shape[:3])
        changes = []
        for index, ((rows, columns), step) in enumerate(zip(self._blocks, self.steps, strict=True)):
            # One sample of a subsampled component is the mean of the pixels that share it (A.1.1).
            high, wide = self.factors[index]
            plane = planes[index] / np.float32(high * wide)
            plane = np.add.reduce([plane[:, first::high] for first in range(high)])
            plane = np.add.reduce([plane[:, :, first::wide] for first in range(wide)])
            samples = plane.reshape(-1, rows, 8, columns, 8).swapaxes(2, 3)
            changes.append(dctn(samples, axes=(3, 4), norm="ortho") / step)
        return changes

    def write(self, coefficients: list[NDArray[np.int16]]) -> bytes:
        """The file with these coefficients, as `original` has them.

        Raises:
            RefusedFile: the library can't write them.
        """
        planes = self._in_file_order(coefficients)
        if self._layout.frame.marker != PROGRESSIVE:
            return bytes(with_coefficients(self._layout, planes))
        return bytes(self._layout.with_scans_of(self._progressive(planes)))

    def _progressive(self, planes: list[NDArray[np.int16]]) -> Layout:
        for name, plane in zip(self._planes, planes, strict=True):
            setattr(self._file, name, plane)
        with _LIBRARY:
            try:
                jpeglib.version.set(_PROGRESSIVE_WRITER)
                self._file.write_dct(str(self._path), flags=["+OPTIMIZE_CODING"])
            except OSError as error:
                raise RefusedFile(
                    "JPEG whose coefficients can't be written: save it anew"
                ) from error
        return parse(self._path.read_bytes())

    def _in_units(self, plane: NDArray[np.int16], rows: int, columns: int) -> NDArray[np.int16]:
        """From rows and columns of blocks to blocks within units."""
        whole = self.units[0] * rows, self.units[1] * columns
        beyond = ((0, whole[0] - plane.shape[0]), (0, whole[1] - plane.shape[1]), (0, 0), (0, 0))
        grid = np.pad(plane, beyond).reshape(self.units[0], rows, self.units[1], columns, 8, 8)
        return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, rows, columns, 8, 8)

    def _in_file_order(self, coefficients: list[NDArray[np.int16]]) -> list[NDArray[np.int16]]:
        """From blocks within units to the rows and columns of blocks that the file has."""
        planes = []
        for values, plane in zip(coefficients, self._planes.values(), strict=True):
            rows, columns = values.shape[1:3]
            grid = values.reshape(*self.units, rows, columns, 8, 8).swapaxes(1, 2)
            whole = grid.reshape(self.units[0] * rows, self.units[1] * columns, 8, 8)
            planes.append(whole[: plane.shape[0], : plane.shape[1]])
        return planes


def within_code(values: NDArray[np.float32], original: NDArray[np.int16]) -> NDArray[np.float32]:
    """Coefficients within what can be coded; what is already beyond it may stay there."""
    low, high = np.minimum(original, -_LARGEST), np.maximum(original, _LARGEST)
    return np.clip(values, low, high)
