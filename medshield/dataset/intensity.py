"""Choosing the intensity range that epsilon is a fraction of: declared, never guessed per image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from medshield.dataset.samples import (
    EIGHT_BITS,
    PERCENTILES,
    Glance,
    Range,
    Samples,
    by_width,
    percentiles,
    sample,
    spread,
)
from medshield.errors import InputError, RefusedFile
from medshield.formats import DecodedImage, IntensityRange

SCALE_GAP = 3.0
FEWEST_OF_A_SCALE = 3
"""MR scanners, and the programs behind them, number the same signal from 0 to 100 or to 500,000.
Files whose spreads lie more than a factor of three apart, with no file in between, are numbered
on different scales; one range for all would drown the small ones. Two files do not make a scale:
they are strays, whose values do not count where there are others to go by."""
MOST_STRAYS = 1 / 3
"""As a share of a kind's files; where there are more, the files have no scales but many sizes."""
WIDEST_SPREAD = 10.0
"""Windows that differ more than this in width say how to look at one image, not what the
numbers mean (MR, PET): then the whole data set's percentiles are the fairer range."""
WIDEST_WINDOW, NARROWEST_WINDOW = 10.0, 1 / 200
"""A window's width in spreads of the values. What is wider (0 to 65535 around 12 bits) would let
noise drown the picture; what is narrower (a threshold) shows nothing but black and white. A CT
window for strokes, 40 HU wide, is a fiftieth of the spread from air to bone."""

MOST_WITHOUT_WINDOW = 0.1
"""As a share of a kind's files: so few take the window of the others, which the numbers mean the
same in. One slice without a window must not make the noise of ten thousand others larger. And of
so few a window may show nothing: values outside it stay as they are, so a window beside the values
of many would leave many out of the release."""

Files = Mapping[str, Glance]


def parse_intensity(text: str) -> str | Range:
    """Read `--intensity`: auto, window, stored, or LOW,HIGH in real-world units.

    Raises:
        InputError: anything else.
    """
    if text in ("auto", "window", "stored"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--intensity: {text!r} is neither auto, window, stored nor LOW,HIGH; "
            "for a soft-tissue CT window write --intensity=-160,240"
        ) from None
    if not (low < high and math.isfinite(high - low)):
        raise InputError(
            f"--intensity: {text!r} is no range: LOW,HIGH are two numbers, LOW below HIGH, as in "
            "--intensity=-160,240"
        )
    return low, high


class Constant(InputError):
    """Every pixel has the same value."""


def range_name(kind: str, width: float, ranges: Mapping[str, IntensityRange]) -> str:
    """Which of the declared ranges an image has: its kind's, or that of its kind and scale.

    Args:
        kind: of the decoded image.
        width: spread of its values, as `spread_of` gives it.
        ranges: by name.

    Raises:
        RefusedFile: none was declared for its kind.
    """
    names = _declared(kind, ranges)
    if len(names) == 1:
        return names[0]
    width = min(max(width, 1e-300), 1e300)
    return min(names, key=lambda name: abs(math.log(ranges[name].width / width)))


def _declared(kind: str, ranges: Mapping[str, IntensityRange]) -> list[str]:
    names = [name for name in ranges if name == kind or name.startswith(f"{kind}, scale ")]
    if not names:
        raise RefusedFile(f"no intensity range is declared for {kind} files")
    return names


def range_of(image: DecodedImage, ranges: Mapping[str, IntensityRange]) -> IntensityRange:
    """The declared range of an image; see `range_name`."""
    names = _declared(image.kind, ranges)
    if len(names) == 1:
        return ranges[names[0]]  # whatever its spread, which takes time to find
    return ranges[range_name(image.kind, spread_of(image), ranges)]


def spread_of(image: DecodedImage) -> float:
    """Between the percentiles of the values that may move, in real-world units."""
    return spread(sample(image))


def choose(files: Files, samples: Samples, wanted: str) -> dict[str, IntensityRange]:
    """One range for each kind of file, or for each scale of a kind without declared ranges.

    A kind whose files are all constant has none, as there is nothing in them to perturb.

    Args:
        files: by path, all that share ranges.
        samples: of their values.
        wanted: the text of `--intensity`.

    Raises:
        InputError: `window` or `stored` was asked for and a kind has none.
        Constant: all files are.
    """
    parsed = parse_intensity(wanted)
    kinds: dict[str, dict[str, Glance]] = defaultdict(dict)
    for path, seen in files.items():
        kinds[seen.kind][path] = seen
    ranges: dict[str, IntensityRange] = {}
    constant: list[Constant] = []
    for kind in sorted(kinds):
        try:
            ranges |= _of_kind(kind, kinds[kind], samples, parsed)
        except Constant as error:
            constant.append(error)
    if constant and not ranges:
        raise constant[0]
    return ranges


def _of_kind(
    kind: str, files: Files, samples: Samples, wanted: str | Range
) -> dict[str, IntensityRange]:
    if isinstance(wanted, tuple):
        return {kind: IntensityRange(*wanted, reason="given with --intensity")}
    if wanted == "stored":
        return {kind: _stored(kind, files)}
    groups, strays = _scales(files)
    windows = _windows(files, percentiles(*samples.pooled(_joined(groups))))
    if wanted == "window":
        if not windows.declaring:
            raise InputError(f"--intensity window: no {kind} file declares one; use auto")
        return {kind: windows.narrowest()}
    if windows.agree:
        return {kind: windows.narrowest()}
    names = [f"{kind}, scale {i} of {len(groups)}" for i in range(1, len(groups) + 1)]
    because = f"; {windows.why_not()}{_left_out(strays)}"
    alike = " whose values are alike in size" if len(groups) > 1 else ""
    return {
        name: _by_percentiles(
            name, group, samples, _share(len(group), len(files)) + alike + because
        )
        for name, group in zip(names if len(groups) > 1 else [kind], groups, strict=True)
    }


def _stored(kind: str, files: Files) -> IntensityRange:
    ends = [seen.stored for seen in files.values() if seen.stored]
    low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (0, 0)
    if not low < high:
        raise InputError(f"--intensity stored: {kind} holds floats; give LOW,HIGH instead")
    return IntensityRange(low, high, reason="all values that the files can store")


@dataclass(frozen=True)
class _Windows:
    """What the files of one kind declare.

    Attributes:
        files: how many there are.
        declaring: how many of them declare a range.
        by_format: how many of these by their format, not as a display window.
        chosen: the narrowest fitting range of each file that has one.
        reaching: those of them that show something of all files, or of all but a few.
        declared: every range that is declared, once.
    """

    files: int
    declaring: int
    by_format: int
    chosen: tuple[Range, ...]
    reaching: tuple[Range, ...]
    declared: tuple[Range, ...]

    @property
    def agree(self) -> bool:
        """Whether all files, or all but a few, have a range that fits, of like width."""
        missing = self.files - len(self.chosen)
        few = not self.by_format and missing <= MOST_WITHOUT_WINDOW * self.files
        return (few or not missing) and bool(self.reaching) and self._ratio() <= WIDEST_SPREAD

    def narrowest(self) -> IntensityRange:
        """The narrowest range that fits, or that is declared at all, and why."""
        low, high = min(self.reaching or self.chosen or self.declared, key=by_width)
        if self.by_format == self.declaring and (low, high) == EIGHT_BITS:
            reason = f"8-bit values, in {_all(self.files)}"
        elif self.by_format == self.declaring:
            reason = f"all values of colours of this depth, in {_all(self.files)}"
        elif len(self.declared) == 1:
            reason = f"the display window of {_share(self.declaring, self.files)}"
        else:
            what = "ranges" if self.by_format else "display windows"
            where = _share(self.declaring, self.files)
            reason = f"the narrowest of {len(self.declared)} {what} in {where}"
            if self.chosen and by_width((low, high)) > min(map(by_width, self.chosen)):
                reason += ", but for such as show nothing of many of them"
        return IntensityRange(low, high, reason)

    def why_not(self) -> str:
        """Why the files' own ranges are not taken, to end a sentence."""
        if not self.declaring:
            return "no file declares a range"
        missing = self.files - self.declaring
        if missing:
            what = "range, as 8-bit files do" if self.by_format else "display window"
            return f"{_count(missing)} of {self.files} declare{'s' * (missing == 1)} no {what}"
        unfit = self.files - len(self.chosen)
        if unfit:
            return (
                f"the display windows of {_count(unfit)} lie beside the values, or are much too "
                "narrow or too wide for them"
            )
        if not self.reaching:
            return "every display window lies beside the values of many files"
        return (
            f"the widest display window is {self._ratio():.0f} times as wide as the narrowest, "
            "too much to mean one range"
        )

    def _ratio(self) -> float:
        widths = [high - low for low, high in self.chosen]
        return max(widths) / min(widths)


def _windows(files: Files, values: Range) -> _Windows:
    """What the files declare, weighed against the range that their values fill."""
    declaring = [seen for seen in files.values() if seen.declared]
    fitting = [
        next((pair for pair in seen.declared if seen.by_format or _fits(pair, values)), None)
        for seen in declaring
    ]
    chosen = tuple(pair for pair in fitting if pair)
    return _Windows(
        files=len(files),
        declaring=len(declaring),
        by_format=sum(seen.by_format for seen in declaring),
        chosen=chosen,
        reaching=_reaching(chosen, files),
        declared=tuple({pair for seen in declaring for pair in seen.declared}),
    )


def _fits(window: Range, values: Range) -> bool:
    """Whether a window shows something of the values, in neither a few shades nor two."""
    width, span = window[1] - window[0], values[1] - values[0]
    if span <= 0:
        return True
    overlaps = window[0] < values[1] and values[0] < window[1]
    return overlaps and NARROWEST_WINDOW * span <= width <= WIDEST_WINDOW * span


def _reaching(windows: Iterable[Range], files: Files) -> tuple[Range, ...]:
    """The windows that overlap the values of all but a few files; faint ones do not count."""
    showing = [seen.values for seen in files.values() if not seen.is_faint]
    lowest, highest = np.sort(np.array(showing).reshape(-1, 2), axis=0).T
    most = MOST_WITHOUT_WINDOW * len(showing)
    return tuple(
        (low, high)
        for low, high in windows
        if np.searchsorted(highest, low) + len(showing) - np.searchsorted(lowest, high, "right")
        <= most
    )


def _scales(files: Files) -> tuple[list[Files], int]:
    """Files in groups of like spread, from the narrowest to the widest.

    Returns:
        The groups, and the number of strays, which are in none. Pictures that show next to
        nothing are in none either, unless all are such.
    """
    varied = sorted((seen.spread, path) for path, seen in files.items() if not seen.is_faint)
    groups: list[dict[str, Glance]] = []
    last = 0.0
    for width, path in varied:
        if width > SCALE_GAP * last:
            groups.append({})
        groups[-1][path] = files[path]
        last = width
    scales = [group for group in groups if len(group) >= FEWEST_OF_A_SCALE]
    strays = len(varied) - sum(map(len, scales))
    if strays > MOST_STRAYS * len(varied):
        scales, strays = [{path: files[path] for _, path in varied}], 0
    return [*scales] or [files], strays


def _joined(groups: Iterable[Files]) -> Files:
    return {path: seen for group in groups for path, seen in group.items()}


def _by_percentiles(name: str, files: Files, samples: Samples, over: str) -> IntensityRange:
    values, weights = samples.pooled(files)
    low, high = percentiles(values, weights)
    if not low < high and len(values):
        low, high = float(values.min()), float(values.max())
    if not low < high:
        raise Constant(f"{name}: every pixel has the same value; give --intensity LOW,HIGH")
    reason = f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} over {over}"
    return IntensityRange(low, high, reason)


def _share(some: int, files: int) -> str:
    return _all(files) if some == files else f"{some} of {files} files"


def _left_out(strays: int) -> str:
    if not strays:
        return ""
    does = "is" if strays == 1 else "are"
    return f"; {_count(strays)} {does} numbered on another scale and did not count"


def _count(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _all(number: int) -> str:
    return "the one file" if number == 1 else f"all {number} files"
