"""Choosing the intensity range that epsilon is a fraction of: declared, never guessed per image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield.errors import InputError, RefusedFile
from medshield.formats import DecodedImage, IntensityRange
from medshield.formats.base import PerFrame

SAMPLES_A_FILE = 4096
PERCENTILES = (0.5, 99.5)
SCALE_GAP = 3.0
FEWEST_OF_A_SCALE = 3
"""MR scanners, and the programs behind them, number the same signal from 0 to 100 or to 500,000.
Files whose spreads lie more than a factor of three apart, with no file in between, are numbered
on different scales; one range for all would drown the small ones. Two files do not make a scale."""
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

    def merge(self, other: KindSurvey) -> None:
        """Take over what another survey saw."""
        self.declared += other.declared
        self.samples += other.samples
        self.undeclared += other.undeclared
        low, high = other.stored
        self.stored = (min(self.stored[0], low), max(self.stored[1], high))

    def add(self, image: DecodedImage) -> None:
        """Take note of one image: its narrowest declared range and a sample of its values."""
        if image.declared:
            self.declared[min(image.declared, key=lambda pair: pair[1] - pair[0])] += 1
        else:
            self.undeclared += 1
        self.samples.append(_sample(image))
        if image.is_integer:
            info = np.iinfo(image.stored.dtype)
            ends = [
                np.asarray(image.slope * min(max(limit, info.min), info.max) + image.intercept)
                for limit in (image.lowest, image.highest)
            ]
            low, high = float(min(end.min() for end in ends)), float(max(end.max() for end in ends))
            self.stored = (min(self.stored[0], low), max(self.stored[1], high))


def _sample(image: DecodedImage) -> NDArray[np.float64]:
    """Some of the values that may move, in real-world units, evenly spread over the image."""
    colours = image.stored[..., : image.colour_channels]
    values = colours.reshape(-1)
    places: NDArray[np.integer[Any]] | None = None
    if image.frozen is not None:
        frozen = np.broadcast_to(image.frozen, image.stored.shape)
        places = np.flatnonzero(~frozen[..., : image.colour_channels])
    number = values.size if places is None else places.size
    chosen = np.arange(0, number, max(1, number // SAMPLES_A_FILE))
    places = chosen if places is None else places[chosen]
    some = values[places].astype(np.float64)
    frames = places // max(1, math.prod(colours.shape[1:]))
    real = some * _of_frames(image.slope, frames) + _of_frames(image.intercept, frames)
    return real[np.isfinite(real)]


def _of_frames(scaling: PerFrame, frames: NDArray[np.integer[Any]]) -> PerFrame:
    """The slopes or intercepts of some frames, or the one of all."""
    return scaling.reshape(-1)[frames] if isinstance(scaling, np.ndarray) else scaling


def range_name(kind: str, spread: float, ranges: Mapping[str, IntensityRange]) -> str:
    """Which of the declared ranges an image has: its kind's, or that of its kind and scale.

    Args:
        kind: of the decoded image.
        spread: as `spread_of` gives it.
        ranges: by name.

    Raises:
        RefusedFile: none was declared for its kind.
    """
    names = [name for name in ranges if name == kind or name.startswith(f"{kind}, scale ")]
    if not names:
        raise RefusedFile(f"no intensity range is declared for {kind} files")
    if len(names) == 1:
        return names[0]
    return min(names, key=lambda name: abs(math.log(ranges[name].width / max(spread, 1e-300))))


def range_of(image: DecodedImage, ranges: Mapping[str, IntensityRange]) -> IntensityRange:
    """The declared range of an image; see `range_name`."""
    return ranges[range_name(image.kind, spread_of(image), ranges)]


def spread_of(image: DecodedImage) -> float:
    """Between the percentiles of the values that may move, in real-world units."""
    return _spread(_sample(image))


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 0.0)
    return float(high - low)


def choose(surveys: Iterable[tuple[str, KindSurvey]], wanted: str) -> dict[str, IntensityRange]:
    """One range for each kind of file, or for each scale of a kind without declared ranges.

    Args:
        surveys: kind and what is known of it.
        wanted: the text of `--intensity`.

    Raises:
        InputError: `window` or `stored` was asked for and a kind has none, or the files are
            constant.
    """
    parsed = parse_intensity(wanted)
    ranges: dict[str, IntensityRange] = {}
    for kind, survey in surveys:
        declared = _declared(kind, survey, parsed)
        ranges |= {kind: declared} if declared else _by_scale(kind, survey)
    return ranges


def _declared(
    kind: str, survey: KindSurvey, wanted: str | tuple[float, float]
) -> IntensityRange | None:
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
    return None


def _by_scale(kind: str, survey: KindSurvey) -> dict[str, IntensityRange]:
    """Percentiles over all files that are numbered on one scale."""
    groups = _scales(survey.samples)
    names = [f"{kind}, scale {i} of {len(groups)}" for i in range(1, len(groups) + 1)]
    return {
        name: _percentiles(name, group, bool(survey.declared))
        for name, group in zip(names if len(groups) > 1 else [kind], groups, strict=True)
    }


def _scales(samples: list[NDArray[np.float64]]) -> list[list[NDArray[np.float64]]]:
    """Files in groups of like spread, from the narrowest to the widest."""
    groups: list[list[NDArray[np.float64]]] = [[]]
    last = 0.0
    for values in sorted(samples, key=_spread):
        spread = _spread(values)
        if spread > SCALE_GAP * last > 0 and len(groups[-1]) >= FEWEST_OF_A_SCALE:
            groups.append([])
        groups[-1].append(values)
        last = spread
    if len(groups) > 1 and len(groups[-1]) < FEWEST_OF_A_SCALE:
        few = groups.pop()
        groups[-1] += few
    return groups


def _percentiles(name: str, samples: list[NDArray[np.float64]], windows: bool) -> IntensityRange:
    values = np.concatenate(samples)
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 0.0)
    if not low < high:
        low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if not low < high:
        raise InputError(f"{name}: every pixel has the same value; give --intensity LOW,HIGH")
    reason = f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} over {len(samples)} files"
    if windows:
        reason += ", as their declared windows are missing or too far apart to mean one range"
    return IntensityRange(float(low), float(high), reason)


def _agree(survey: KindSurvey) -> bool:
    widths = [high - low for low, high in survey.declared]
    return max(widths) <= WIDEST_SPREAD * min(widths)


def _window_reason(survey: KindSurvey) -> str:
    if len(survey.declared) == 1:
        return f"declared by all {survey.declared.total()} files"
    return f"the narrowest of {len(survey.declared)} ranges that the files declare"
