"""A thumbnail made again from another picture, as whoever made it made it.

How a thumbnail was made is nowhere written down: how it was scaled, with margins or without, and
through which window. So the clean picture is scaled in each of the usual ways, and the way that
explains the clean thumbnail best, with the curve from the one's values to the other's, is then
applied to the protected picture. No pixel of the clean thumbnail is carried over but margins of
one colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.series import Frames

LEAST_EXPLAINED = 0.5
"""The share of a thumbnail's variance that its picture must explain: an unrelated picture explains
some hundredths, its own nine tenths and more."""
_MOST_KNOTS = 32
_PIXELS_A_KNOT = 16
_OTHER_METHODS = ("linear", "corner", "centre", "ends")
"""Between the neighbours, or the one pixel at a new pixel's corner or centre, or at equal steps
from the first to the last."""
_MOST_FRAMES = 64
"""Of a picture with more, these many are tried: its neighbours show nearly what a frame shows."""


@dataclass(frozen=True)
class _Way:
    """One way of scaling a plane: `rows @ plane @ columns.T` fills a part of the thumbnail."""

    top: int
    left: int
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @property
    def part(self) -> tuple[slice, slice]:
        height, width = len(self.rows), len(self.columns)
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def scaled(self, picture: NDArray[np.float64]) -> NDArray[np.float64]:
        """(height, width, channels), of the part that it fills."""
        result: NDArray[np.float64] = np.einsum(
            "yh,hwc,xw->yxc", self.rows, picture, self.columns, optimize=True
        )
        return result


@dataclass(frozen=True)
class _Fit:
    explained: float
    frame: int
    way: _Way
    curves: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]


def made_again(
    thumbnail: NDArray[np.float64], clean: Frames, protected: Frames
) -> NDArray[np.float64] | None:
    """The thumbnail of the protected picture.

    Args:
        thumbnail: (height, width, channels) of the clean picture: any numbers, 1 or 3 channels.
        clean: (frames, height, width, channels), stored values.
        protected: like `clean`.

    Returns:
        Like `thumbnail`, not yet rounded; None where it does not show any frame of the picture.
        A thumbnail of one colour shows nothing, and is given back.
    """
    if float(np.ptp(thumbnail, axis=(0, 1)).max()) == 0:
        return thumbnail
    fit = _best(thumbnail, clean)
    if fit is None or fit.explained < LEAST_EXPLAINED:
        return None
    result = thumbnail.copy()
    scaled = fit.way.scaled(_plane(protected, fit.frame, thumbnail.shape[-1]))
    result[fit.way.part] = _mapped(scaled, fit.curves)
    return result


def _best(thumbnail: NDArray[np.float64], clean: Frames) -> _Fit | None:
    """The frame first, by the most usual scaling; then the way of scaling."""
    channels = thumbnail.shape[-1]
    plain = list(_ways(thumbnail.shape, clean.shape, ("area",)))
    count = len(clean)
    frames = {0, count // 2, *range(0, count, max(1, count // _MOST_FRAMES))}
    firsts = (
        fit
        for frame in sorted(frames)
        for way in plain
        if (fit := _fitted(thumbnail, _plane(clean, frame, channels), frame, way))
    )
    best = max(firsts, key=lambda fit: fit.explained, default=None)
    if best is None:
        return None
    plane = _plane(clean, best.frame, channels)
    others = (
        fit
        for way in _ways(thumbnail.shape, clean.shape, _OTHER_METHODS)
        if (fit := _fitted(thumbnail, plane, best.frame, way))
    )
    return max((best, *others), key=lambda fit: fit.explained)


def _plane(frames: Frames, number: int, channels: int) -> NDArray[np.float64]:
    """(height, width, channels) of a frame: grey for grey thumbnails, else its colours."""
    frame = frames[number : number + 1][0]
    colour = np.nan_to_num(frame[..., : 3 if frame.shape[-1] >= 3 else 1].astype(np.float64))
    if channels == 1 and colour.shape[-1] == 3:
        colour = np.asarray(colour @ np.array([[0.299], [0.587], [0.114]]), np.float64)
    return np.broadcast_to(colour, (*colour.shape[:2], channels))


def _ways(
    thumbnail: tuple[int, ...], picture: tuple[int, ...], methods: tuple[str, ...]
) -> Iterator[_Way]:
    """Filling the thumbnail; or in proportion, in its middle or its corner."""
    height, width = thumbnail[:2]
    scale = min(height / picture[1], width / picture[2])
    fitting = {
        (max(1, round_(picture[1] * scale)), max(1, round_(picture[2] * scale)))
        for round_ in (int, round)
    }
    places = {(0, 0, height, width)}
    for inner_height, inner_width in fitting:
        top, left = height - inner_height, width - inner_width
        corners = (0, 0), (top // 2, left // 2), (top - top // 2, left - left // 2)
        places |= {(*corner, inner_height, inner_width) for corner in corners}
    for top, left, inner_height, inner_width in sorted(places):
        for method in methods:
            rows = _weights(method, inner_height, picture[1])
            yield _Way(top, left, rows, _weights(method, inner_width, picture[2]))


def _weights(method: str, new: int, old: int) -> NDArray[np.float64]:
    """(new, old): what each old value gives to each new one."""
    step = old / new
    index = np.arange(old)[None, :]
    start = np.arange(new)[:, None] * step
    if method == "area":
        overlap = np.minimum(index + 1, start + step) - np.maximum(index, start)
        weights = np.clip(overlap, 0, None)
    elif method == "linear":
        centre = np.clip(start + step / 2 - 0.5, 0, old - 1)
        weights = np.clip(1 - np.abs(index - centre), 0, None)
    else:
        between_ends = np.arange(new)[:, None] * ((old - 1) / max(1, new - 1))
        taken = {"corner": start, "centre": start + step / 2, "ends": between_ends}[method]
        weights = (index == np.floor(taken)).astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / total, np.float64)


def _fitted(
    thumbnail: NDArray[np.float64], plane: NDArray[np.float64], frame: int, way: _Way
) -> _Fit | None:
    """How well a way explains the thumbnail; None where its margins are not of one colour."""
    outside = np.ones(thumbnail.shape[:2], bool)
    outside[way.part] = False
    if outside.any() and np.ptp(thumbnail[outside], axis=0).max() > 0:
        return None
    inside, scaled = thumbnail[way.part], way.scaled(plane)
    curves = tuple(
        _curve(scaled[..., channel].ravel(), inside[..., channel].ravel())
        for channel in range(inside.shape[-1])
    )
    missed = float(((_mapped(scaled, curves) - inside) ** 2).sum())
    total = float(((thumbnail - thumbnail.mean(axis=(0, 1))) ** 2).sum())
    return _Fit(1 - missed / total, frame, way, curves)


def _curve(
    values: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots of a curve through the mean of `wanted` in groups of like values.

    The groups are small at both ends, where a window may cut off all but a few pixels.
    """
    total = len(values)
    count = max(2, min(_MOST_KNOTS, total // _PIXELS_A_KNOT))
    near = 4 * 2 ** np.arange(12)
    ends = near[near < total // count]
    cuts = {*ends, *(total - ends), *(total * np.arange(1, count) // count)}
    order = np.argsort(values, kind="stable")
    groups = [part for part in np.split(order, sorted(cuts)) if len(part)]
    x = np.array([values[part].mean() for part in groups])
    y = np.array([wanted[part].mean() for part in groups])
    knots, where = np.unique(x, return_inverse=True)
    means = np.bincount(where, y) / np.bincount(where)
    return knots, means


def _mapped(
    scaled: NDArray[np.float64],
    curves: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...],
) -> NDArray[np.float64]:
    mapped = [np.interp(scaled[..., channel], *curve) for channel, curve in enumerate(curves)]
    return np.stack(mapped, axis=-1)
