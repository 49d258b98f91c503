"""Epsilon: how far a perturbation may move an intensity, and the projection that keeps it there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from medshield.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


_NUMBER = re.compile(r"[^eE]{1,40}([eE][-+]?\d{1,3})?")
"""Longer ones than people write: 1e-999999999 would be worked out exactly."""


MOST_LEVELS = 65_535
"""The largest denominator of a fraction of levels that a float is taken for."""


def parse_epsilon(text: str) -> Fraction:
    """Read `8/255` or `0.0314` exactly, so that 8/255 of 255 is 8 and not 7.999.

    Raises:
        InputError: not a number, or not strictly between 0 and 1.
    """
    try:
        if not _NUMBER.fullmatch(text.strip()):
            raise ValueError("no number that people write")
        epsilon = Fraction(text.strip().replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"--eps: {text[:40]!r} is not a number; write it as 8/255 or 0.0314"
        ) from None
    if not 0 < epsilon < 1:
        raise InputError(
            f"--eps: {text.strip()} is outside (0, 1); it is a fraction of the intensity range, "
            "such as 8/255"
        )
    return epsilon


def to_epsilon(value: str | float | Fraction) -> Fraction:
    """Epsilon as a person gives it in Python, exactly.

    Args:
        value: text as `parse_epsilon` takes it, a fraction, or a float: that of 8 / 255 is 8/255,
            and that of 0.0314 is 157/5000.

    Raises:
        InputError: not a number, or not strictly between 0 and 1.
    """
    if isinstance(value, float) and math.isfinite(value):
        near = Fraction(value).limit_denominator(MOST_LEVELS)
        value = near if float(near) == value else repr(float(value))
    return parse_epsilon(str(value))


@dataclass(frozen=True)
class Budget:
    """The l-infinity ball of radius `epsilon` around an original, within [0, 1].

    Attributes:
        epsilon: radius as an exact fraction of the intensity range.
    """

    epsilon: Fraction

    @property
    def radius(self) -> float:
        """Epsilon as a float."""
        return float(self.epsilon)

    def project(self, perturbed: Tensor, original: Tensor) -> Tensor:
        """The point of the ball, and of [0, 1], that is nearest to `perturbed` (same shapes)."""
        delta = (perturbed - original).clamp(-self.radius, self.radius)
        return (original + delta).clamp(0, 1)
