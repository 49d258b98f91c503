"""Rows of samples as bytes: big or little endian, or several samples of 1, 2 or 4 bits a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unpacked(rows: NDArray[np.uint8], bits: int, samples: int) -> NDArray[np.uint8]:
    """(rows, samples) of 1, 2, 4 or 8 bits; the first sample lies in the highest bits.

    Args:
        rows: (rows, bytes).
        bits: of one sample.
        samples: of one row; further bits of its last byte are left out.
    """
    if bits == 8:
        return rows[:, :samples]
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    spread = (rows[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    return spread.reshape(len(rows), -1)[:, :samples]


def packed(samples: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The bytes of (rows, samples) of 1, 2, 4 or 8 bits; unused bits are 0."""
    if bits == 8:
        return samples
    each = 8 // bits
    room = -samples.shape[1] % each
    filled = np.pad(samples, ((0, 0), (0, room))).reshape(len(samples), -1, each)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    joined: NDArray[Any] = np.bitwise_or.reduce(filled << shifts, axis=-1)
    return joined.astype(np.uint8)
