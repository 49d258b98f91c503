"""Choosing the intensity range that epsilon is a fraction of: declared, never guessed per image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield.errors import InputError
from medshield.formats import DecodedImage, IntensityRange

SAMPLES_A_FILE = 4096
PERCENTILES = (0.5, 99.5)
WIDEST_SPREAD = 10.0
"""Windows that differ more than this in width say how to look at one image, not what the
numbers mean (MR, PET): then the whole data set's percentiles are the fairer range."""


def parse_intensity(text: str) -> str | tuple[float, float]:
    """Read `--intensity`: auto, window, stored, or LOW,HIGH in real-world units.

    Raises:
        InputError: anything else.
    """
    if text in ("auto", "window", "stored"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not (low < high and math.isfinite(high - low)):
        raise InputError(
            f"--intensity: {text!r} is neither auto, window, stored nor LOW,HIGH; "
            "for a soft-tissue CT window write --intensity=-160,240"
        )
    return low, high


@dataclass
class KindSurvey:
    """What is known of all files of one kind once each was seen."""

    declared: Counter[tuple[float, float]] = field(default_factory=Counter)
    samples: list[NDArray[Any]] = field(default_factory=list)
    undeclared: int = 0
    stored: tuple[float, float] = (float("inf"), float("-inf"))

    def add(self, image: DecodedImage) -> None:
        """Take note of one image: its narrowest declared range and a sample of its values."""
        if image.declared:
            self.declared[min(image.declared, key=lambda pair: pair[1] - pair[0])] += 1
        else:
            self.undeclared += 1
        values = image.stored[..., : image.colour_channels].reshape(-1)
        if image.frozen is not None:
            frozen = np.broadcast_to(image.frozen, image.stored.shape)
            values = values[~frozen[..., : image.colour_channels].reshape(-1)]
        values = values[:: max(1, len(values) // SAMPLES_A_FILE)].astype(np.float64)
        values = values[np.isfinite(values)]
        self.samples.append(values * image.slope + image.intercept)
        if image.is_integer:
            info = np.iinfo(image.stored.dtype)
            ends = [
                image.slope * min(max(limit, info.min), info.max) + image.intercept
                for limit in (image.lowest, image.highest)
            ]
            self.stored = (min(self.stored[0], *ends), max(self.stored[1], *ends))


def choose(surveys: Iterable[tuple[str, KindSurvey]], wanted: str) -> dict[str, IntensityRange]:
    """One range for each kind of file.

    Args:
        surveys: kind and what is known of it.
        wanted: the text of `--intensity`.

    Raises:
        InputError: `window` or `stored` was asked for and a kind has none, or the files are
            constant.
    """
    parsed = parse_intensity(wanted)
    return {kind: _choose_one(kind, survey, parsed) for kind, survey in surveys}


def _choose_one(kind: str, survey: KindSurvey, wanted: str | tuple[float, float]) -> IntensityRange:
    if isinstance(wanted, tuple):
        return IntensityRange(*wanted, reason="given with --intensity")
    if wanted == "stored":
        if survey.stored[0] >= survey.stored[1]:
            raise InputError(f"--intensity stored: {kind} holds floats; give LOW,HIGH instead")
        return IntensityRange(*survey.stored, reason="all values that the files can store")
    narrowest = min(survey.declared, key=lambda pair: pair[1] - pair[0], default=None)
    if wanted == "window":
        if narrowest is None:
            raise InputError(f"--intensity window: no {kind} file declares one; use auto")
        return IntensityRange(*narrowest, reason=_window_reason(survey))
    if narrowest is not None and not survey.undeclared and _agree(survey):
        return IntensityRange(*narrowest, reason=_window_reason(survey))
    values = np.concatenate(survey.samples)
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 0.0)
    if not low < high:
        low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if not low < high:
        raise InputError(f"{kind}: every pixel has the same value; give --intensity LOW,HIGH")
    count = len(survey.samples)
    reason = f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} over {count} files"
    if survey.declared:
        reason += ", as their declared windows are missing or too far apart to mean one range"
    return IntensityRange(float(low), float(high), reason)


def _agree(survey: KindSurvey) -> bool:
    widths = [high - low for low, high in survey.declared]
    return max(widths) <= WIDEST_SPREAD * min(widths)


def _window_reason(survey: KindSurvey) -> str:
    if len(survey.declared) == 1:
        return f"declared by all {survey.declared.total()} files"
    return f"the narrowest of {len(survey.declared)} ranges that the files declare"
