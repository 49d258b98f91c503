"""What the choice of an intensity range keeps of the files: a few numbers of each, values of some.

Memory does not grow with the data set beyond those numbers, and nothing depends on the order in
which files are read.
"""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medshield.formats import DecodedImage
from medshield.formats.base import PerFrame
from medshield.formats.series import runs

Range = tuple[float, float]
Values = NDArray[np.float64]

EIGHT_BITS: Range = (0.0, 255.0)
PERCENTILES = (0.5, 99.5)
FEWEST_STEPS = 32
"""Of a picture: slices beside the body, of air and noise, have fewer. At 8/255, fewer steps would
also leave nothing to move by."""
SAMPLES_A_FILE = 4096
FILES_A_STRATUM = 64
"""Files whose values are kept of each stratum, 2 MB; a set has a dozen strata or two."""
MOST_RANGES_A_FILE = 16
_NO_MEASURE = 1e300
"""No quantity is so large; differences of such values, of damaged files, would overflow."""
_STRATA_A_SCALE = 4
"""A stratum spans a factor of the fourth root of three in spread."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What is remembered of every file.

    Attributes:
        kind: see `DecodedImage`.
        values: the percentiles of the values that may move, in real-world units.
        declared: its display windows, or the one range that its format declares; each once,
            the narrowest first.
        by_format: `declared` is the range of 8-bit values or of colours, and no window.
        stored: the real-world range of all values that the file can store; None for floats.
        unit: the least step between its values, in real-world units; 0 for floats.
        suspect: its path speaks of masks; it may turn out to be none.
    """

    kind: str
    values: Range
    declared: tuple[Range, ...] = ()
    by_format: bool = False
    stored: Range | None = None
    unit: float = 0.0
    suspect: bool = False

    @property
    def spread(self) -> float:
        """Between its percentiles."""
        return self.values[1] - self.values[0]

    @property
    def is_faint(self) -> bool:
        """Whether it shows next to nothing: one value, or noise of a few steps about one."""
        return self.spread <= 0 or self.spread < FEWEST_STEPS * self.unit

    @property
    def stratum(self) -> tuple[str, int | None, bool]:
        """Files that are alike in all that matters for choosing some of them."""
        step = math.floor(math.log(self.spread, 3) * _STRATA_A_SCALE) if self.spread > 0 else None
        return self.kind, step, self.suspect


def glance(image: DecodedImage, values: Values, suspect: bool = False) -> Glance:
    """Take note of an image.

    Args:
        image: decoded.
        values: of it, as `sample` gives them.
        suspect: see `Glance`.
    """
    declared = sorted(set(image.declared), key=by_width)[:MOST_RANGES_A_FILE]
    return Glance(
        kind=image.kind,
        values=percentiles(values, None),
        declared=tuple(declared),
        by_format=declared == [EIGHT_BITS] or image.colour_channels == 3,
        stored=_storable(image) if image.is_integer else None,
        unit=float(np.max(np.abs(image.slope))) * image.step if image.is_integer else 0.0,
        suspect=suspect,
    )


def spread(values: Values) -> float:
    """Between the percentiles of some values; 0 of none."""
    low, high = percentiles(values, None)
    return high - low


def sample(image: DecodedImage) -> Values:
    """Some of the values that may move, in real-world units, evenly spread over the image."""
    numbers = [_moving(image, run) for run in runs(image.stored.shape)]
    number = sum(numbers)
    chosen = np.arange(0, number, max(1, number // SAMPLES_A_FILE))
    found = [np.empty(0)]
    first = 0
    for (_, part), many in zip(image.parts(), numbers, strict=True):
        here = chosen[(chosen >= first) & (chosen < first + many)] - first
        found.append(_values_at(part, here))
        first += many
    return np.concatenate(found)


def _moving(image: DecodedImage, run: slice) -> int:
    """How many values of some frames may move."""
    if image.frozen is None:
        frames: int = run.stop - run.start
        return frames * math.prod(image.stored.shape[1:-1]) * image.colour_channels
    return int(np.count_nonzero(~_frozen_colours(image.part(run))))


def _values_at(image: DecodedImage, chosen: NDArray[np.integer]) -> Values:
    """Some of the values that may move, in real-world units: the first of them is number 0."""
    colours = image.stored[:][..., : image.colour_channels]
    places = chosen
    if image.frozen is not None:
        places = np.flatnonzero(~_frozen_colours(image))[chosen]
    some = colours.reshape(-1)[places].astype(np.float64)
    frames = places // max(1, math.prod(colours.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):
        real = some * _of_frames(image.slope, frames) + _of_frames(image.intercept, frames)
        measured: Values = real[np.abs(real) < _NO_MEASURE]
        return measured


def _frozen_colours(image: DecodedImage) -> NDArray[np.bool_]:
    assert image.frozen is not None  # noqa: S101 (the caller saw to it)
    frozen = np.broadcast_to(image.frozen[:], image.stored.shape)
    return frozen[..., : image.colour_channels]


class Samples:
    """Values of some files of every stratum: of those whose paths have the lowest hashes.

    That is a random choice which depends on the files alone, and on no order.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int | None, bool], list[tuple[str, str]]] = defaultdict(list)
        self._values: dict[str, Values] = {}

    def __len__(self) -> int:
        return len(self._values)

    def add(self, path: str, seen: Glance, values: Values) -> None:
        """Keep the values of a file, or drop them, or those of another file."""
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self._kept[seen.stratum]
        insort(kept, (digest, path))
        self._values[path] = values
        if len(kept) > FILES_A_STRATUM:
            del self._values[kept.pop()[1]]

    def pooled(self, files: Mapping[str, Glance]) -> tuple[Values, Values | None]:
        """The values of files, those that stand for others included.

        Args:
            files: that count, by path; at least one of each stratum was kept.

        Returns:
            Values and, unless all of the files were kept, how many each of them stands for.
        """
        present = Counter(seen.stratum for seen in files.values())
        kept = {path: files[path].stratum for path in sorted(files) if path in self._values}
        standing = Counter(kept.values())
        values = np.concatenate([np.empty(0), *(self._values[path] for path in kept)])
        if len(kept) == len(files):
            return values, None
        shares = [present[stratum] / standing[stratum] for stratum in kept.values()]
        return values, np.repeat(shares, [len(self._values[path]) for path in kept])


def percentiles(values: Values, weights: Values | None) -> Range:
    """The two percentiles of values, each counted as often as its weight says; (0, 0) of none."""
    if not len(values):
        return 0.0, 0.0
    if weights is None:
        low, high = np.percentile(values, PERCENTILES)
    else:
        low, high = np.percentile(values, PERCENTILES, weights=weights, method="inverted_cdf")
    return float(low), float(high)


def by_width(pair: Range) -> tuple[float, Range]:
    """To sort ranges by: their width, and then so that the order of files plays no part."""
    return pair[1] - pair[0], pair


def _of_frames(scaling: PerFrame, frames: NDArray[np.integer]) -> PerFrame:
    """The slopes or intercepts of some frames, or the one of all."""
    return scaling.reshape(-1)[frames] if isinstance(scaling, np.ndarray) else scaling


def _storable(image: DecodedImage) -> Range:
    """The real-world ends of what the stored integers may become, over all frames."""
    info = np.iinfo(image.stored.dtype)
    ends = [
        np.asarray(image.slope * min(max(limit, info.min), info.max) + image.intercept)
        for limit in (image.lowest, image.highest)
    ]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))
