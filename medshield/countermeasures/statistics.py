"""What a trainer learns of a perturbation from the training set itself, and takes away.

All look for what the targets explain: in the images, or in the logarithm of their Fourier
amplitudes, which stay the same when a pattern moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from medshield.countermeasures.base import Countermeasure
from medshield.countermeasures.filters import neighbours
from medshield.tasks import Segmentation, Task

AT_ONCE = 256
"""Images whose spectra are held in memory at a time."""
FAINTEST = 1e-3
"""Amplitudes below this are taken for this, so that their logarithm says nothing."""
MEDIAN_DEVIATION = 1.4826
"""Standard deviations of a normal distribution in a median absolute deviation."""


class ClassMeans(Countermeasure):
    """Takes from each training image what its targets add to the mean image."""

    name = "class-means"

    def applies_to(self, task: Task, channels: int) -> bool:
        return not isinstance(task, Segmentation)

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        codes = _codes(targets)
        return (images - _added(codes, _effects(codes, images, _unchanged))).clamp(0, 1)


class ClassSpectra(Countermeasure):
    """Takes from each training image what its targets add to the mean logarithmic spectrum."""

    name = "class-spectra"

    def applies_to(self, task: Task, channels: int) -> bool:
        return not isinstance(task, Segmentation)

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        codes = _codes(targets)
        effects = _effects(codes, images, _log_spectra)
        parts = zip(torch.split(images, AT_ONCE), torch.split(codes, AT_ONCE), strict=True)
        return torch.cat([_amplified(part, (-_added(code, effects)).exp()) for part, code in parts])


@dataclass(frozen=True)
class Notch(Countermeasure):
    """Removes the frequencies where the spectra of classes differ in peaks.

    A peak stands out from its surroundings in the plane of frequencies, in what a target adds to
    the mean logarithmic spectrum; without classes, in that spectrum itself. The peaks of all
    classes are removed from all images, so that what is missing tells nothing.

    Attributes:
        height: of a peak, in standard deviations of all frequencies about their surroundings.
        surroundings: px of the plane to each side of a frequency.
        width: px that are removed with a peak, to each side.
        lowest: cycles per image below which nothing is removed: there images differ anyway.
        kept: (height, width), 0 where a frequency is removed; once fitted.
    """

    height: float = 5.0
    surroundings: int = 4
    width: int = 1
    lowest: float = 2.0
    kept: Tensor | None = field(default=None, repr=False, compare=False)
    name = "notch"

    def fitted(self, task: Task, images: Tensor, targets: Tensor) -> Self:
        if isinstance(task, Segmentation):
            codes = torch.ones(len(images), 1, device=images.device)
        else:
            codes = _codes(targets)
        differences = _effects(codes, images, _grey_windowed_log_spectra)
        return replace(self, kept=(~self._peaks(differences[:, 0])).to(images.dtype))

    def on_training_set(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.on_test_images(images)

    def on_test_images(self, images: Tensor) -> Tensor:
        assert self.kept is not None, "it is fitted before it is used"  # noqa: S101
        return torch.cat([_amplified(part, self.kept) for part in torch.split(images, AT_ONCE)])

    def _peaks(self, spectra: Tensor) -> Tensor:
        """Where any of the maps (k, height, width) has a peak, with its surroundings; boolean."""
        reach = self.surroundings
        around = torch.stack(list(neighbours(spectra[:, None], reach, "circular")))
        above = spectra - around.median(0).values[:, 0]
        spread = MEDIAN_DEVIATION * above.abs().flatten(1).median(1).values
        found = above > self.height * spread[:, None, None]
        wide = F.pad(found.any(0).float()[None, None], (self.width,) * 4, mode="circular")
        wide = F.max_pool2d(wide, 2 * self.width + 1, stride=1)[0, 0]
        return wide.bool() & (_cycles(spectra) >= self.lowest)


def _codes(targets: Tensor) -> Tensor:
    """Targets as numbers that are 0 on average, (n, classes or findings)."""
    codes = (F.one_hot(targets) if targets.ndim == 1 else targets).float()
    return codes - codes.mean(0)


def _effects(codes: Tensor, images: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """What each code adds to a measure of the images, by least squares.

    Args:
        codes: (n, k).
        images: (n, channels, height, width).
        measure: of a part of the images.

    Returns:
        (k, ...): with codes of classes, what sets the mean of a class apart from that of all.
    """
    solution = torch.split(torch.linalg.pinv(codes), AT_ONCE, 1)
    parts = zip(solution, torch.split(images, AT_ONCE), strict=True)
    effects: Tensor = sum(
        (torch.tensordot(rows, measure(part), 1) for rows, part in parts), codes.new_zeros(())
    )
    return effects


def _added(codes: Tensor, effects: Tensor) -> Tensor:
    """The effects (k, ...) of the codes (n, k), (n, ...)."""
    added: Tensor = torch.tensordot(codes, effects, 1)
    return added


def _unchanged(images: Tensor) -> Tensor:
    return images


def _log_spectra(images: Tensor) -> Tensor:
    """Logarithms of Fourier amplitudes, of the same shape."""
    amplitudes: Tensor = torch.fft.fft2(images).abs()
    return amplitudes.clamp(min=FAINTEST).log()


def _grey_windowed_log_spectra(images: Tensor) -> Tensor:
    """The same of the mean of the channels under a Hann window, which hides the edges."""
    height, width = images.shape[-2:]
    windows = [torch.hann_window(side, device=images.device) for side in (height, width)]
    grey = images.mean(1, keepdim=True)
    grey = grey - grey.mean((-2, -1), keepdim=True)
    return _log_spectra(grey * torch.outer(*windows))


def _amplified(images: Tensor, gain: Tensor) -> Tensor:
    """Images whose Fourier coefficients are multiplied by a symmetric gain."""
    changed: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    return changed.clamp(0, 1)


def _cycles(spectra: Tensor) -> Tensor:
    """Cycles per image of each frequency of (..., height, width)."""
    height, width = spectra.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=spectra.device)
    columns = torch.fft.fftfreq(width, 1 / width, device=spectra.device)
    return torch.hypot(rows[:, None], columns[None])
