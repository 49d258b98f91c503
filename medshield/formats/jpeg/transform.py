"""From coefficients to pixels exactly as libjpeg computes them, for the blocks that are asked for.

The search for coefficients decodes again and again, and in all but the first rounds only a few
blocks changed. A library decodes whole files; this decodes units. It follows libjpeg's default
arithmetic to the bit: the accurate integer inverse DCT (jidctint.c, after Loeffler, Ligtenberg and
Moschytz), triangle filters for chroma (jdsample.c), and 16-bit fixed point for colours (jdcolor.c).
Whoever uses it compares a whole image with the library's pixels first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONSTANT_BITS, _PASS_BITS = 13, 2
_SAMPLE_CENTRE = 128
_COLOUR_BITS = 16
# Triangle filters: shift and rounding of the nearer and the farther output sample.
_ONE_WAY, _BOTH_WAYS = (2, 1, 2), (4, 8, 7)


def _fixed(value: float, bits: int = _CONSTANT_BITS) -> int:
    return round(value * (1 << bits))


_SIDEWAYS = [_fixed(c) for c in (0.541196100, -1.847759065, 0.765366865)]
_ODD = [_fixed(c) for c in (0.298631336, 2.053119869, 3.072711026, 1.501321110)]
_ODD_SUMS = [_fixed(c) for c in (-0.899976223, -2.562915447, -1.961570560, -0.390180644)]
_ODD_ALL = _fixed(1.175875602)


def inverse_transform(blocks: NDArray[np.int32]) -> NDArray[np.int16]:
    """Samples of dequantised coefficients, both (..., 8, 8); samples are 0 to 255."""
    columns = _one_dimension(np.moveaxis(blocks, -2, 0), _CONSTANT_BITS - _PASS_BITS)
    rows = _one_dimension(np.moveaxis(columns, -1, 0), _CONSTANT_BITS + _PASS_BITS + 3)
    # Both passes put what they transform first: (8 columns, 8 rows, ...).
    samples = np.clip(rows + _SAMPLE_CENTRE, 0, 255).astype(np.int16)
    return np.ascontiguousarray(np.moveaxis(samples, (0, 1), (-1, -2)))


def _one_dimension(values: NDArray[np.int32], shift: int) -> NDArray[np.int32]:
    """One pass along the first axis of eight, rounded and shifted right."""
    first = (values[2] + values[6]) * _SIDEWAYS[0]
    two, three = first + values[6] * _SIDEWAYS[1], first + values[2] * _SIDEWAYS[2]
    zero = (values[0] + values[4]) << _CONSTANT_BITS
    one = (values[0] - values[4]) << _CONSTANT_BITS
    even = zero + three, one + two, one - two, zero - three

    seven, five, third, last = values[7], values[5], values[3], values[1]
    both = (seven + third + five + last) * _ODD_ALL
    outer, inner = (seven + last) * _ODD_SUMS[0], (five + third) * _ODD_SUMS[1]
    upper = (seven + third) * _ODD_SUMS[2] + both
    lower = (five + last) * _ODD_SUMS[3] + both
    odd = (
        last * _ODD[3] + outer + lower,
        third * _ODD[2] + inner + upper,
        five * _ODD[1] + inner + lower,
        seven * _ODD[0] + outer + upper,
    )
    half = 1 << (shift - 1)
    sums = [(e + o + half) >> shift for e, o in zip(even, odd, strict=True)]
    differences = [(e - o + half) >> shift for e, o in zip(even, odd, strict=True)]
    return np.stack(sums + differences[::-1])


def upsample(
    windows: NDArray[np.int16], factors: tuple[int, int], *, smooth: bool
) -> NDArray[np.int16]:
    """Samples at full resolution.

    Args:
        windows: (units, rows + 2, columns + 2): samples of units with one neighbour on each side.
        factors: how many rows and columns of pixels one sample stands for.
        smooth: with triangle filters, where libjpeg has one for these factors.

    Returns:
        (units, rows * factors[0], columns * factors[1]).
    """
    if smooth and factors == (2, 2):
        near = 3 * windows
        above = near[:, 1:-1] + windows[:, :-2]
        below = near[:, 1:-1] + windows[:, 2:]
        return _alternate([_sideways(half, *_BOTH_WAYS) for half in (above, below)], axis=1)
    if smooth and factors == (1, 2):
        return _sideways(windows[:, 1:-1], *_ONE_WAY)
    if smooth and factors == (2, 1):
        return _sideways(windows[:, :, 1:-1].swapaxes(1, 2), *_ONE_WAY).swapaxes(1, 2)
    inner = windows[:, 1:-1, 1:-1]
    return inner.repeat(factors[0], axis=1).repeat(factors[1], axis=2)


def _sideways(
    samples: NDArray[np.int16], shift: int, nearer: int, farther: int
) -> NDArray[np.int16]:
    """Twice the columns, each three quarters its own sample and a quarter the next one."""
    own = 3 * samples[..., 1:-1]
    left = (own + samples[..., :-2] + nearer) >> shift
    right = (own + samples[..., 2:] + farther) >> shift
    return _alternate([left, right], axis=2)


def _alternate(parts: list[NDArray[np.int16]], axis: int) -> NDArray[np.int16]:
    """The parts' rows or columns in turn."""
    joined = np.stack(parts, axis=axis + 1)
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return joined.reshape(shape)


def to_rgb(planes: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    """RGB of full-resolution Y, Cb and Cr, the channels last (JFIF 1.02)."""
    luma = planes[0]
    blue, red = (plane.astype(np.int32) - _SAMPLE_CENTRE for plane in planes[1:])
    half = 1 << (_COLOUR_BITS - 1)
    green = -_fixed(0.34414, 16) * blue - _fixed(0.71414, 16) * red + half
    shifts = (_fixed(1.402, 16) * red + half, green, _fixed(1.772, 16) * blue + half)
    channels = [luma + (shift >> _COLOUR_BITS).astype(np.int16) for shift in shifts]
    return np.clip(np.stack(channels, axis=-1), 0, 255)
