"""The promise about pixels, worked out anew: how far each value moved, and which had to stay."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.audit.base import AuditedImage
    from medshield.formats.base import IntensityRange


@dataclass
class Movement:
    """How far an image moved from another one.

    Attributes:
        furthest: the greatest change of a colour, in the values' own units; infinite where an
            infinite value changed.
        radii: what the frames allow, each once.
        faults: what breaks the promise, the first place of each kind.
    """

    furthest: float = 0.0
    radii: set[float] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)

    def note(self, wrong: NDArray[np.bool_], frame: int, what: str) -> None:
        """Remember the first place of a fault, if there is one and none is known yet."""
        if what not in self.faults and wrong.any():
            row, column, channel = np.argwhere(wrong)[0]
            self.faults[what] = f"(frame {frame}, row {row}, column {column}, channel {channel})"


def movement(
    clean: AuditedImage, released: AuditedImage, intensity: IntensityRange, epsilon: Fraction
) -> Movement:
    """Compare frame by frame, so that no more than one frame is held as floats.

    Args:
        clean: the source.
        released: of the same shape.
        intensity: what epsilon is a fraction of.
        epsilon: radius as a fraction of the range.
    """
    found = Movement()
    for frame in range(len(clean.values)):
        slope, intercept = clean.scaling(frame)
        radius = frame_radius(intensity, epsilon, slope, clean.is_integer)
        found.radii.add(radius)
        old, new = (image.values[frame].astype(np.float64) for image in (clean, released))
        moved = _moved(old, new)
        colours = moved[..., : clean.colours]
        found.furthest = max(found.furthest, float(colours.max(initial=0.0)))
        far = colours > radius
        if far.any():
            words = f"a pixel moved by {colours.max():g} stored units; the bound is {radius:g}"
            found.note(far, frame, words)
        real = old * slope + intercept
        outside = ~((real >= intensity.low) & (real <= intensity.high))
        outside[..., clean.colours :] = True  # alpha
        kept, taken = _reserved(clean, released, frame)
        found.note(
            (moved > 0) & (outside | kept),
            frame,
            "a value moved that had to stay (outside the range, padding, background or alpha)",
        )
        found.note(
            taken & ~kept, frame, "a value became one that means padding, background or transparent"
        )
    return found


def frame_radius(
    intensity: IntensityRange, epsilon: Fraction, slope: float, is_integer: bool
) -> float:
    """Epsilon in a frame's own units; integers move by whole numbers."""
    radius = epsilon * Fraction(intensity.high - intensity.low) / abs(Fraction(slope))
    radius = min(radius, Fraction(sys.float_info.max))  # a slope may be next to nothing
    return float(math.floor(radius)) if is_integer else float(radius)


def _moved(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """The change of each value; infinite where one of them is undefined and the other is not."""
    with np.errstate(invalid="ignore"):
        moved: NDArray[np.float64] = np.abs(new - old)
    moved[(old == new) | (np.isnan(old) & np.isnan(new))] = 0.0
    moved[np.isnan(moved)] = np.inf
    return moved


def _reserved(
    clean: AuditedImage, released: AuditedImage, frame: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What had to stay in one frame of the source, and what means the same in the release."""
    shape = clean.values.shape
    old = np.zeros(shape[1:], bool)
    new = old.copy()
    if clean.reserved is not None:
        old |= clean.reserved(clean.values[frame])
        new |= clean.reserved(released.values[frame])
    if clean.fixed is not None:
        old |= np.broadcast_to(clean.fixed, shape)[frame]
    return old, new


def spread(image: AuditedImage) -> float:
    """Between the ends of what a sample of the values that may move means in the real world.

    Where a kind has several ranges (MR that is numbered on different scales), the release has
    chosen between them by this number: of every n-th value that is not reserved, so that some
    4096 are left, the distance of the percentiles 0.5 and 99.5.
    """
    colours = image.values[..., : image.colours]
    kept = np.zeros(image.values.shape, bool)
    if image.reserved is not None:
        kept |= image.reserved(image.values)
    if image.fixed is not None:
        kept |= image.fixed
    places = np.flatnonzero(~kept[..., : image.colours])
    places = places[:: max(1, places.size // 4096)]
    frames = places // max(1, math.prod(colours.shape[1:]))
    slope, intercept = (np.ravel(part) for part in (image.slope, image.intercept))
    real = colours.reshape(-1)[places].astype(np.float64)
    real = real * slope[frames % slope.size] + intercept[frames % intercept.size]
    real = real[np.isfinite(real)]
    low, high = np.percentile(real, (0.5, 99.5)) if real.size else (0.0, 0.0)
    return float(high - low)
