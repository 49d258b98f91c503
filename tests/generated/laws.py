"""What every codec promises of every file, as functions that raise AssertionError."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from medshield.formats import DecodedImage, IntensityRange

EPSILONS = (Fraction(8, 255), Fraction(1, 255), Fraction(1, 10), Fraction(9, 10))


@dataclass(frozen=True)
class Change:
    """A change that was asked of a codec.

    Attributes:
        intensity: the range that it is a part of.
        epsilon: the bound, as a part of that range.
        stored: the wanted values.
        radius: the bound, in stored units, for all or for each frame.
    """

    intensity: IntensityRange
    epsilon: Fraction
    stored: Any
    radius: Any

    @property
    def largest(self):
        """The radius that `Codec.write` is told."""
        return float(np.max(self.radius))


def change_of(
    image: DecodedImage, random: np.random.Generator, *, whole_range: bool = False
) -> Change:
    """Any change that `protect` might ask for.

    Args:
        image: the source.
        random: what is drawn from.
        whole_range: of the declared range alone. A lossy codec is not told the range, so it
            can't keep values that lie outside a narrower one.
    """
    intensity = _range_for(image, random, whole_range)
    epsilon = EPSILONS[random.integers(len(EPSILONS))]
    frames, height, width, _ = image.stored.shape
    shape = (frames, image.colour_channels, height, width)
    delta = random.uniform(-1, 1, shape) * float(epsilon)
    form = random.integers(5)
    if form == 0:
        delta = np.sign(delta) * float(epsilon)
    elif form == 1:
        delta = np.full(shape, float(epsilon) * random.choice([-1, 1]))
    elif form == 2:  # further than any method may go
        delta *= 100
    elif form == 3:  # smooth, as methods make it
        wave = np.sin(np.add.outer(np.arange(height), np.arange(width)) / 3 + random.uniform(0, 6))
        delta = np.broadcast_to(wave * float(epsilon), shape)
    stored = image.moved(delta, intensity, epsilon)
    return Change(intensity, epsilon, stored, image.epsilon_stored(intensity, epsilon))


def _range_for(image: DecodedImage, random: np.random.Generator, whole: bool) -> IntensityRange:
    """The narrowest declared range, or one that the values lie in only partly."""
    if image.declared and (whole or random.random() < 0.7):
        low, high = min(image.declared, key=lambda pair: pair[1] - pair[0])
        return IntensityRange(low, high, "declared")
    with np.errstate(over="ignore", invalid="ignore"):
        real = image.stored[..., : image.colour_channels].astype(np.float64) * image.slope
        real = real + image.intercept
    real = real[np.isfinite(real) & (np.abs(real) < 1e300)]
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 1.0)
    if random.random() < 0.3:
        low, high = low + (high - low) / 4, high - (high - low) / 4
    return IntensityRange(low, high if high > low else low + abs(low) + 1, "given")


def same(one, other) -> bool:
    """Whether two arrays are equal to the last bit, NaN and negative zero included."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def assert_keeps_the_bound(image: DecodedImage, change: Change, again: DecodedImage) -> None:
    """What was written lies within the radius, and what is fixed is as it was."""
    assert again.stored.dtype == image.stored.dtype, "another type"
    assert again.stored.shape == image.stored.shape, "another shape"
    before, after = image.stored.astype(np.float64), again.stored.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(after - before)
    assert not (distance > change.radius).any(), (
        f"moved by {np.nanmax(distance)}, the bound is {np.max(change.radius)}"
    )
    fixed = image.fixed(change.intensity)
    assert same(image.stored[fixed], again.stored[fixed]), "a fixed value moved"


def assert_is_what_was_wanted(image: DecodedImage, change: Change, again: DecodedImage) -> None:
    """Each value is the wanted one, or (padding, background, transparency) nearer to its source."""
    before, wanted, after = (
        values.astype(np.float64) for values in (image.stored, change.stored, again.stored)
    )
    low, high = np.minimum(before, wanted), np.maximum(before, wanted)
    equal = same(change.stored, again.stored)
    with np.errstate(invalid="ignore"):
        between = (low <= after) & (after <= high) | (np.isnan(before) & np.isnan(after))
    assert equal or between.all(), "neither the wanted value nor one nearer to the source"
    other = change.stored != again.stored
    assert equal or (other & ~(np.isnan(before) & np.isnan(after))).mean() <= 0.5, (
        "mostly not moved"
    )
