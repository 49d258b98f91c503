"""Scores of predictions, fast enough to be bootstrapped thousands of times."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SSIM_WINDOW = 7
"""Side of the square that structural similarity is measured in, px."""
_STRIP = 32
"""Rows of windows that are measured at a time."""
_MOST_IN_32_BITS = isqrt((1 << 31) // (2 * SSIM_WINDOW**2 + 1))
"""What a value may be so that the squares of two, summed over a window, are below 2^31: 4,656."""
_ADDED_AT_ONCE = 1 << 16


def balanced_accuracy(decided: Array, targets: Array) -> float:
    """Mean recall over the classes that occur in `targets`; both (n,) integers."""
    total = np.bincount(targets)
    right = np.bincount(targets[decided == targets], minlength=len(total))
    return float(np.mean(right[total > 0] / total[total > 0]))


def auroc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve (Mann-Whitney, ties count half); NaN with one class only.

    Args:
        scores: (n,) larger means more likely positive.
        positive: (n,) truth in {0, 1}.
    """
    positive = positive > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    from scipy.stats import rankdata  # as slow to load as all the rest of `check`

    ranks = rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / positives / negatives)


def macro_auroc(scores: Array, truth: Array) -> float:
    """Mean one-against-rest AUROC over classes that have both kinds; both (n, classes)."""
    each = [auroc(scores[:, k], truth[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(each)) if not np.all(np.isnan(each)) else float("nan")


def average_precision(scores: Array, positive: Array) -> float:
    """Area under the precision-recall steps; tied scores form one step; NaN without positives."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order] > 0.5)
    if not len(hits) or not hits[-1]:
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(hits) - 1)
    precision = hits[ends] / (ends + 1)
    recall = hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: Array, truth: Array) -> float:
    """Mean average precision over the classes that have positives; both (n, classes)."""
    each = [average_precision(scores[:, k], truth[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(each)) if not np.all(np.isnan(each)) else float("nan")


def auroc_from_counts(negatives: Array, positives: Array) -> Array:
    """AUROC from histograms over the same ascending score bins, ties within a bin count half.

    Args:
        negatives: (..., bins).
        positives: the same shape.

    Returns:
        (...); NaN where there is one class only.
    """
    below = np.cumsum(negatives, -1) - negatives
    wins = np.sum(positives * (below + negatives / 2), -1)
    return _divided(wins, negatives.sum(-1) * positives.sum(-1))


def balanced_accuracy_of_draws(decided: Array, targets: Array, weights: Array) -> Array:
    """Balanced accuracy of many samples drawn from the same examples at once.

    Args:
        decided: (n,) integers.
        targets: (n,) integers.
        weights: (draws, n) how often each example was drawn.

    Returns:
        (draws,); a class that a draw misses does not count in it.
    """
    recalls = []
    for one in np.unique(targets):
        rows = targets == one
        total = weights[:, rows].sum(1)
        right = weights[:, rows] @ (decided[rows] == one).astype(np.float64)
        recalls.append(_divided(right, total))
    return nanmean(np.stack(recalls))


def auroc_of_draws(scores: Array, positive: Array, weights: Array) -> Array:
    """`auroc` of many samples drawn from the same examples at once; NaN where it has one class.

    Args:
        scores: (n,).
        positive: (n,) truth in {0, 1}.
        weights: (draws, n) how often each example was drawn.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * (positive[order] > 0.5), starts, 1)
    negatives = np.add.reduceat(ordered * (positive[order] <= 0.5), starts, 1)
    return auroc_from_counts(negatives, positives)


def nanmean(values: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    count = known.sum(0)
    return _divided(np.where(known, values, 0).sum(0), count)


def _divided(over: Array, under: Array) -> Array:
    """The quotients; NaN where nothing is below the line."""
    unknown = np.full(np.shape(over), np.nan)
    found: Array = np.divide(over, under, out=unknown, where=under > 0)
    return found


def psnr(original: Array, changed: Array, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal arrays."""
    return psnr_of_runs([squared_errors(original, changed)], original.size, data_range)


def squared_errors(original: Array, changed: Array) -> NDArray[np.float64]:
    """Of each value, flat."""
    errors: NDArray[np.float64] = (original.astype(np.float64) - changed.astype(np.float64)) ** 2
    return errors.ravel()


def psnr_of_runs(errors: Iterable[Array], number: int, data_range: float) -> float:
    """`psnr` of an image that is measured some frames at a time.

    The errors are added up as NumPy adds up an array of all of them (halves of halves), so that
    the result is the same to the last bit, however the frames come.

    Args:
        errors: `squared_errors` of runs of frames.
        number: how many there are in all.
        data_range: as of `psnr`.
    """
    error = _sum_of_halves(_Row(errors), number) / number
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


class _Row:
    """Numbers that come in arrays of any length, taken in arrays of other lengths."""

    def __init__(self, arrays: Iterable[Array]) -> None:
        self._arrays = iter(arrays)
        self._rest: Array = np.empty(0)

    def taken(self, number: int) -> Array:
        """The next ones."""
        parts = [self._rest[:number]]
        self._rest = self._rest[number:]
        missing = number - len(parts[0])
        while missing:
            array = next(self._arrays)
            parts.append(array[:missing])
            missing, self._rest = missing - len(parts[-1]), array[missing:]
        return np.concatenate(parts)


def _sum_of_halves(row: _Row, number: int) -> float:
    """The sum of the next numbers; NumPy halves in the same places, down to 128 numbers."""
    if number <= _ADDED_AT_ONCE:
        return float(np.add.reduce(row.taken(number)))
    half = number // 2
    half -= half % 8
    return _sum_of_halves(row, half) + _sum_of_halves(row, number - half)


def ssim(original: Array, changed: Array, data_range: float) -> float:
    """Mean structural similarity over frames; arguments as of `ssim_of_frames`."""
    return float(np.mean(ssim_of_frames(original, changed, data_range)))


def ssim_of_frames(original: Array, changed: Array, data_range: float) -> NDArray[np.float64]:
    """Structural similarity of each frame (Wang et al. 2004); NaN under 7 px a side.

    Args:
        original: (frames, height, width, channels).
        changed: the same shape.
        data_range: width of the intensity range, in the units of the arrays.

    Returns:
        (frames,) at most 1.
    """
    if min(original.shape[1:3]) < SSIM_WINDOW:
        return np.full(len(original), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN, and the ends of float64
        each = [
            _similarity(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), data_range)
            for a, b in zip(original, changed, strict=True)
        ]
    return np.array(each, np.float64)


def _similarity(one: Array, other: Array, data_range: float) -> float:
    """Mean structural similarity of two images, (channels, height, width).

    Over windows that lie inside, with unbiased variances, as scikit-image has it; the tests hold it
    against that. Sums of windows are made of sums of two and four, in strips of rows that fit a
    processor's cache, which takes a fifth of its time.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    area = SSIM_WINDOW**2
    height, width = one.shape[1] - SSIM_WINDOW + 1, one.shape[2] - SSIM_WINDOW + 1
    kind = np.int32 if _fits(one) and _fits(other) else np.float64
    total = 0.0
    for start in range(0, height, _STRIP):
        rows = slice(start, start + _STRIP + SSIM_WINDOW - 1)
        x: Array = one[:, rows].astype(kind)
        y: Array = other[:, rows].astype(kind)
        sums = _window_sums(np.stack([x, y, x * x + y * y, x * y])) / area
        squares, product = sums[0] ** 2 + sums[1] ** 2, sums[0] * sums[1]
        unbiased = area / (area - 1)
        spread, shared = unbiased * (sums[2] - squares), unbiased * (sums[3] - product)
        total += float(
            np.sum((2 * product + c1) * (2 * shared + c2) / ((squares + c1) * (spread + c2)))
        )
    return float(total / (len(one) * height * width))


def _fits(values: Array) -> bool:
    """Whether sums of squares over a window fit 32 bits, which take half of float64's time."""
    if not np.issubdtype(values.dtype, np.integer):
        return False
    return max(abs(int(values.min())), abs(int(values.max()))) <= _MOST_IN_32_BITS


def _window_sums(values: Array) -> Array:
    """Sums over all windows of SSIM_WINDOW px a side, of the last two axes."""
    for axis in (-2, -1):
        values = np.moveaxis(values, axis, 0)
        count = len(values) - SSIM_WINDOW + 1
        twos = values[:-1] + values[1:]
        fours = twos[:-2] + twos[2:]
        values = np.moveaxis(fours[:count] + twos[4:][:count] + values[6:], 0, axis)
    return values
