"""How much of a perturbation is seen, and how to take from it where it is seen most.

Structural similarity of a window (Wang et al. 2004) splits without loss into

    (1 - m^2 / (mu^2 + mu'^2 + C1)) * (1 - v / (sigma^2 + sigma'^2 + C2))

with m and v the mean and the variance of the perturbation there, and mu and sigma those of the
image before and after. So the same amplitude costs most where the image is flat or dark, and
least in busy, bright places. Taking the square root of that cost as the divisor makes a
perturbation about equally visible everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield.errors import RefusedFile
from medshield.formats import DecodedImage, IntensityRange
from medshield.formats.series import Frames, MadeFrames, held, same, single
from medshield.metrics import SSIM_WINDOW, ssim_of_frames

C1, C2 = 0.01**2, 0.03**2
"""Constants of structural similarity, for intensities as fractions of the range."""
MOST_EVALUATIONS = 6
MOST_WRITES = 4
SLACK = 0.02
"""Share of the visibility that is allowed and may be left unused."""
WRITTEN_SLACK = 0.1
"""The same of a file whose coding changes what it is given: each step costs a coding."""
FAINTEST = 30.0
"""A fading that leaves nothing of any perturbation: a millionth of its amplitude."""
_NO_CHANGE = 1e-12
_PIXELS_ENOUGH = 1 << 18
_HALVINGS = 40
UNDEFINED = (
    "its structural similarity is not defined (a side under 7 px, NaN or infinite values), so "
    "--min-ssim can't be kept; leave it out for this file"
)
NO_ROOM = (
    "not one pixel of a frame can move under --min-ssim, so it would be the clean image; lower "
    "--min-ssim"
)
Floats = NDArray[np.floating[Any]]
Write = Callable[[Frames], tuple[Frames, list[str]]]


def comparable(
    image: DecodedImage, changed: NDArray[Any], intensity: IntensityRange
) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Colours of an image in memory before and after, and the width of the range in their units.

    In stored units, or in the world's where every frame has stored units of its own.
    """
    clean, released = (
        values[..., : image.colour_channels] for values in (image.stored[:], changed)
    )
    width = width_in_units(image, intensity)
    if isinstance(image.slope, np.ndarray):
        scale = np.abs(image.slope)
        return clean * scale, released * scale, width
    return clean, released, width


def width_in_units(image: DecodedImage, intensity: IntensityRange) -> float:
    """The width of the range in the units of `comparable`."""
    if isinstance(image.slope, np.ndarray):
        return intensity.width
    return intensity.width / abs(image.slope)


@dataclass(frozen=True)
class Visibility:
    """Where a perturbation is seen.

    Attributes:
        cost: (height, width) about the similarity that is lost in the window around a pixel.
        tolerance: (height, width) how strong it may be from place to place to be equally visible
            everywhere: at least 1, and 1 where it is seen most; infinite where nothing is
            perturbed nearby.
    """

    cost: NDArray[np.float64]
    tolerance: NDArray[np.float64]

    @classmethod
    def of(cls, clean: Floats, delta: Floats) -> Visibility:
        """The visibility of a perturbation.

        Args:
            clean: (height, width, channels), as fractions of the intensity range, any offset.
            delta: the same shape and units.
        """
        cost = np.zeros(clean.shape[:2])
        energy = np.zeros(clean.shape[:2])
        for channel in range(clean.shape[2]):
            mean, variance = _moments(clean[..., channel])
            shift, spread = _moments(delta[..., channel])
            cost += shift**2 / (2 * mean**2 + C1) + spread / (2 * variance + C2)
            energy += shift**2 + spread
        around, energy = _averaged(cost), _averaged(energy)
        with np.errstate(divide="ignore", invalid="ignore"):
            allowed = np.sqrt(energy / np.maximum(around, _NO_CHANGE * energy))
        allowed = np.where(energy > _NO_CHANGE, allowed, np.inf)
        least = allowed.min()
        return cls(cost, allowed / least if np.isfinite(least) else np.ones_like(allowed))

    def faded(self, delta: Floats, fading: float) -> Floats:
        """The perturbation, weakened where it is seen most, and at last everywhere.

        Args:
            delta: (..., height, width).
            fading: 0 leaves all as it is; otherwise the logarithm of the share of the visible
                that is taken away.

        Returns:
            The same shape and dtype, nowhere stronger than `delta`.
        """
        factor = np.minimum(1.0, self._limit(fading) * self.tolerance)
        weakened: Floats = (delta * factor).astype(delta.dtype)
        return weakened

    def _limit(self, fading: float) -> float:
        """How much remains where it is seen most, 1 or less: by halving, on some of the pixels."""
        if fading <= 0:
            return 1.0
        step = max(1, self.cost.size // _PIXELS_ENOUGH)
        cost, tolerance = (part.ravel()[::step] for part in (self.cost, self.tolerance))
        goal = float(cost.sum()) * exp(-fading)
        weakest = float(self.tolerance[np.isfinite(self.tolerance)].max())
        low, high = -fading / 2 - log(weakest), 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if float(np.sum(cost * np.minimum(1.0, exp(middle) * tolerance) ** 2)) > goal:
                high = middle
            else:
                low = middle
        return exp(low)


def _moments(values: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance in the window around each pixel of a plane."""
    exact = values.astype(np.float64)
    mean = _averaged(exact)
    return mean, np.maximum(_averaged(exact**2) - mean**2, 0.0)


def _averaged(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import uniform_filter

    averaged: NDArray[np.float64] = uniform_filter(plane, SSIM_WINDOW)
    return averaged


def least_fading(quality: Callable[[float], float], least: float) -> float:
    """The least fading whose quality is at least `least`, to within SLACK of what that allows.

    The logarithm of what is lost falls about as fast as the fading grows: false position finds
    the place in a few steps.

    Args:
        quality: of a fading; below `least` at 0, and 1 once nothing is left.
        least: below 1.
    """
    goal = log(1 - least)
    seen, unseen = 0.0, FAINTEST
    seen_loss = _log_loss(quality(seen))
    unseen_loss: float | None = None
    for _ in range(MOST_EVALUATIONS - 1):
        between = _guess(seen, seen_loss, unseen, unseen_loss, goal + log(1 - SLACK / 2))
        loss = _log_loss(quality(between))
        if loss > goal:
            seen, seen_loss = between, loss
        else:
            unseen, unseen_loss = between, loss
            if loss > goal + log(1 - SLACK):
                break
    step = 0.5
    while unseen_loss is None and seen + step < FAINTEST:  # odd steps: integers, few colours
        if _log_loss(quality(seen + step)) <= goal:
            return seen + step
        step *= 2
    return unseen


def _log_loss(quality: float) -> float:
    return log(max(1 - quality, 1e-12))


def _guess(
    seen: float, seen_loss: float, unseen: float, unseen_loss: float | None, goal: float
) -> float:
    """Where the line meets the goal, kept off the ends of the bracket."""
    if unseen_loss is None:
        return min(seen + max(seen_loss - goal, 0.02), (seen + unseen) / 2)
    share = (seen_loss - goal) / max(seen_loss - unseen_loss, 1e-9)
    return seen + min(max(share, 0.05), 0.95) * (unseen - seen)


@dataclass(frozen=True)
class Change:
    """A perturbation of an image, to be made no more visible than is allowed.

    Attributes:
        image: as decoded.
        delta, intensity, epsilon: as of `DecodedImage.moved`.
    """

    image: DecodedImage
    delta: Frames
    intensity: IntensityRange
    epsilon: Fraction

    def written_unseen(self, write: Write, least: float) -> tuple[Frames, list[str]]:
        """Write the image so that each frame of what is read back keeps its similarity.

        A coding that changes what it is given (JPEG) swallows some of a perturbation, or adds to
        it; then what is aimed at is corrected by what came of it.

        Args:
            write: writes stored values; returns what is read back, and notes.
            least: structural similarity that each frame keeps, in (0, 1).

        Returns:
            What was read back, and the notes.

        Raises:
            RefusedFile: the similarity of a frame is not defined, or none of its pixels can move.
        """
        allowed = np.full(len(self.image.stored), 1 - least)
        last: Frames | None = None
        best: Frames | None = None
        for _ in range(MOST_WRITES):
            planned = self.moved(1 - allowed)
            if last is not None and same(planned, last):
                break
            last = planned
            written, notes = write(planned)
            if written.shape != planned.shape or same(written, planned):
                return written, notes
            loss = 1 - self._similarity(written)
            if np.all(loss <= 1 - least):
                best = planned
                if np.all(loss >= (1 - least) * (1 - WRITTEN_SLACK)):
                    return written, notes
            correction = (1 - least) * (1 - WRITTEN_SLACK / 2) / np.maximum(loss, 1e-9)
            allowed = np.minimum(allowed * np.clip(correction, 0.25, 4), 1 - 1e-9)
        if best is None:
            raise RefusedFile(NO_ROOM)
        return (written, notes) if best is last else write(best)

    def full(self) -> Frames:
        """The stored values with the whole perturbation."""

        def moved(frames: slice) -> NDArray[Any]:
            part = self.image.part(frames)
            return part.moved(self.delta[frames], self.intensity, self.epsilon)

        stored = self.image.stored
        return held(MadeFrames(stored.shape, stored.dtype, moved))

    def _similarity(self, written: Frames) -> NDArray[np.float64]:
        """Of each frame to what it was."""
        each = [
            ssim_of_frames(*comparable(part, written[run], self.intensity))
            for run, part in self.image.parts()
        ]
        return np.concatenate(each)

    def moved(self, least: NDArray[np.float64]) -> Frames:
        """The stored values, each frame's perturbation faded to its `least` similarity (frames,).

        Raises:
            RefusedFile: as of `written_unseen`; of an image too large to hold, when its frames
                are asked for.
        """

        def faded(frames: slice) -> NDArray[Any]:
            each = [
                replace(self, image=self.image.part(one), delta=self.delta[one])._moved(
                    float(least[one][0])
                )
                for one in single(frames)
            ]
            return np.concatenate(each)

        stored = self.image.stored
        return held(MadeFrames(stored.shape, stored.dtype, faded))

    def _moved(self, least: float) -> NDArray[Any]:
        """The same of a single frame."""
        given = self.delta[:]
        full = self.image.moved(given, self.intensity, self.epsilon)
        clean, changed, width = comparable(self.image, full, self.intensity)
        whole = float(ssim_of_frames(clean, changed, width)[0])
        if np.isnan(whole):
            raise RefusedFile(UNDEFINED)
        if whole >= least:
            return full
        clean = clean[0].astype(np.float64)
        visibility = Visibility.of(clean / width, (changed[0] - clean) / width)

        def moved(fading: float) -> NDArray[Any]:
            delta = visibility.faded(given, fading)
            return self.image.moved(delta, self.intensity, self.epsilon)

        def quality(fading: float) -> float:
            if fading == 0:
                return whole
            return float(ssim_of_frames(*comparable(self.image, moved(fading), self.intensity))[0])

        fading = least_fading(quality, least)
        result = moved(fading)
        kept = fading < FAINTEST or quality(fading) >= least
        if not kept or same(result, self.image.stored):
            raise RefusedFile(NO_ROOM)
        return result
