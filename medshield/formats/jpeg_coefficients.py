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
from medshield.formats.jpeg_segments import PROGRESSIVE, Layout, parse

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# libjpeg-turbo writes sequential files quickly, mozjpeg writes progressive ones by default.
_SEQUENTIAL_WRITER, _PROGRESSIVE_WRITER = "turbo210", "mozjpeg403"
# The library chooses its writer, and keeps what it reads of a header, in global variables.
_LIBRARY = threading.Lock()
# Largest coefficient that 8-bit Huffman coding holds: AC in 10 bits (T.81 F.1.2.2), and DC so
# that a difference of two stays in 11 bits (F.1.2.1).
_LARGEST = 1023
# From RGB to YCbCr, for changes: no offsets (JFIF 1.02, ITU-R BT.601).
_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ],
    dtype=np.float32,
)


class Coefficients:
    """The quantised coefficients of one file, and files that differ in them alone.

    Attributes:
        unit: height and width in pixels of one unit.
        units: rows and columns of units that cover the image.
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
        self._height, self._width = frame.height, frame.width
        self._path = folder / "coded.jpg"
        self._path.write_bytes(bytes(layout.without_metadata()))
        with _LIBRARY:
            self._read()
        self._colours = len(self._original)
        self._rotate = self._colours == 3 and not layout.stores_rgb
        # A single component is never interleaved, whatever its sampling factors say (A.2.2).
        factors = [(c.vertical, c.horizontal) for c in frame.components]
        self._blocks = factors if self._colours == 3 else [(1, 1)]
        self.unit = (8 * max(v for v, _ in self._blocks), 8 * max(h for _, h in self._blocks))
        self.units = (-(-self._height // self.unit[0]), -(-self._width // self.unit[1]))

    @property
    def is_subsampled(self) -> bool:
        """Whether a unit's pixels depend on its neighbours too, through chroma interpolation."""
        return len(set(self._blocks)) > 1

    def _read(self) -> None:
        try:
            jpeglib.version.set(_SEQUENTIAL_WRITER)
            self._file = jpeglib.read_dct(str(self._path))
            self._file.load()
        except OSError as error:
            raise RefusedFile("JPEG whose coefficients can't be read: save it anew") from error
        names = ("Y", "Cb", "Cr") if self._file.has_chrominance else ("Y",)
        self._original = {name: getattr(self._file, name).astype(np.int16) for name in names}
        self._steps = [
            self._file.get_component_qt(index).astype(np.float32) for index in range(len(names))
        ]

    def cut(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Cut (height, width, channels) into (units, unit height, unit width, channels).

        Beyond the right and lower edge the last column and row go on.
        """
        (rows, columns), (high, wide) = self.units, self.unit
        beyond = ((0, rows * high - self._height), (0, columns * wide - self._width), (0, 0))
        padded = np.pad(pixels.astype(np.float32), beyond, mode="edge")
        cut = padded.reshape(rows, high, columns, wide, -1).swapaxes(1, 2)
        return np.ascontiguousarray(cut).reshape(rows * columns, high, wide, -1)

    def nearest(self, change: NDArray[np.float32]) -> list[NDArray[np.int16]]:
        """The whole quantiser steps nearest to a change of pixels.

        Args:
            change: (units, unit height, unit width, channels), grey levels.

        Returns:
            Coefficient changes of every component.
        """
        planes = change @ _RGB_TO_YCBCR.T if self._rotate else change
        changes = []
        for index, ((rows, columns), step) in enumerate(
            zip(self._blocks, self._steps, strict=True)
        ):
            # One sample of a subsampled component is the mean of the pixels that share it (A.1.1).
            high, wide = self.unit[0] // (8 * rows), self.unit[1] // (8 * columns)
            plane = planes[..., index].reshape(-1, rows * 8, high, columns * 8, wide)
            samples = plane.mean(axis=(2, 4)).reshape(-1, rows, 8, columns, 8).swapaxes(2, 3)
            steps = np.rint(dctn(samples, axes=(3, 4), norm="ortho") / step)
            changes.append(np.clip(steps, -2 * _LARGEST, 2 * _LARGEST).astype(np.int16))
        return changes

    def write(self, changes: list[NDArray[np.int16]], *, final: bool) -> bytes:
        """The file with these changes added to its coefficients.

        Args:
            changes: as `nearest` returns them, for all units in order.
            final: with the source's own coding process; otherwise sequential, which decodes to
                the same pixels and is quicker to write.

        Raises:
            RefusedFile: the library can't write them.
        """
        progressive = final and self._layout.frame.marker == PROGRESSIVE
        for (name, original), change in zip(self._original.items(), changes, strict=True):
            setattr(self._file, name, _add(original, self._in_file_order(change, original)))
        with _LIBRARY:
            try:
                jpeglib.version.set(_PROGRESSIVE_WRITER if progressive else _SEQUENTIAL_WRITER)
                # Huffman tables of the file's own cost a second pass and make it smaller.
                flags = ["+OPTIMIZE_CODING"] if final else []
                self._file.write_dct(str(self._path), flags=flags)
            except OSError as error:
                raise RefusedFile(
                    "JPEG whose coefficients can't be written: save it anew"
                ) from error
        coded = parse(self._path.read_bytes())
        return bytes((self._layout if final else self._layout.sequential()).with_scans_of(coded))

    def _in_file_order(
        self, change: NDArray[np.int16], original: NDArray[np.int16]
    ) -> NDArray[np.int16]:
        """From blocks within units to the rows and columns of blocks that the file has."""
        rows, columns = change.shape[1:3]
        grid = change.reshape(*self.units, rows, columns, 8, 8).swapaxes(1, 2)
        whole = grid.reshape(self.units[0] * rows, self.units[1] * columns, 8, 8)
        return whole[: original.shape[0], : original.shape[1]]


def _add(original: NDArray[np.int16], change: NDArray[np.int16]) -> NDArray[np.int16]:
    """The sum, within what can be coded; what is already beyond it may stay there."""
    low, high = np.minimum(original, -_LARGEST), np.maximum(original, _LARGEST)
    total: NDArray[np.int16] = np.clip(original + change, low, high)
    return total
