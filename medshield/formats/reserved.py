"""Stored values that mean something of their own, such as "transparent" or "background"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def step_back(
    wanted: NDArray[Any], source: NDArray[Any], landed: NDArray[np.bool_]
) -> NDArray[Any]:
    """`wanted`, with one step back towards `source` where it landed on a reserved value.

    The result is never further from `source` than `wanted` was.

    Args:
        wanted: stored values.
        source: what they were, same shape and dtype.
        landed: True where `wanted` has the reserved value and `source` has not; broadcasts.

    Returns:
        An array like `wanted`: integers moved by 1, floats by their smallest step.
    """
    if np.issubdtype(wanted.dtype, np.integer):
        stepped = np.where(wanted > source, wanted - 1, wanted + 1)
        stepped = np.where(wanted == source, wanted, stepped)
    else:
        stepped = np.nextafter(wanted, source)
    return np.where(landed, stepped, wanted)


def hidden_by_alpha(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """True for alpha itself, and for the pixels that it hides.

    Nobody sees those, but noise in them would show as soon as alpha is dropped.

    Args:
        stored: (frames, height, width, channels), alpha last.
    """
    frozen = np.repeat(stored[..., -1:] == 0, stored.shape[-1], axis=-1)
    frozen[..., -1] = True
    return frozen
