"""Fixed filters, from the squeezing of Liu et al. 2023 (Image Shortcut Squeezing) to denoising.

The trainer knows about how strong the perturbation is and sets the denoisers accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medshield.countermeasures.base import Filter
from medshield.tasks import Task

AT_ONCE = 16
"""Images whose neighbourhoods are held in memory at a time."""


class Grey(Filter):
    """The mean of the colour channels in place of each."""

    name = "grey"

    def applies_to(self, task: Task, channels: int) -> bool:
        return channels > 1

    def filtered(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True).expand_as(images)


class Blur(Filter):
    """A Gaussian of 1 px."""

    name = "blur"

    def filtered(self, images: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import gaussian_blur  # loads much

        blurred: Tensor = gaussian_blur(images, [5, 5], [1.0, 1.0])
        return blurred


@dataclass(frozen=True)
class Jpeg(Filter):
    """JPEG; quality 10 is the strongest of that paper.

    Attributes:
        quality: of libjpeg, 1 to 95.
    """

    quality: int

    @property
    def name(self) -> str:
        return f"jpeg{self.quality}"

    def filtered(self, images: Tensor) -> Tensor:
        stored = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        coded = np.stack([self._coded(image) for image in stored])
        return torch.from_numpy(coded).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255

    def _coded(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, channels) after coding and decoding."""
        grey = image.shape[2] == 1
        buffer = BytesIO()
        Image.fromarray(image[..., 0] if grey else image).save(buffer, "JPEG", quality=self.quality)
        return np.asarray(Image.open(buffer)).reshape(image.shape)


@dataclass(frozen=True)
class BitDepth(Filter):
    """Fewer grey levels (Xu et al. 2018, Feature Squeezing).

    Attributes:
        bits: 3 makes the steps, 36/255, about as wide as a perturbation of 16/255 reaches.
    """

    bits: int = 3
    name = "bit-depth"

    def filtered(self, images: Tensor) -> Tensor:
        steps = float(2**self.bits - 1)
        return (images * steps).round() / steps


class Median(Filter):
    """The median of 3 x 3 pixels, each channel by itself."""

    name = "median"

    def filtered(self, images: Tensor) -> Tensor:
        return torch.cat([_median(part) for part in torch.split(images, AT_ONCE)])


@dataclass(frozen=True)
class Bilateral(Filter):
    """The mean of near pixels of like colour (Tomasi and Manduchi 1998).

    Attributes:
        reach: of the window, px to each side.
        distance: standard deviation of the weight over distance, px.
        difference: of the weight over the difference of intensities; 0.1 is 3 times 8/255.
    """

    reach: int = 2
    distance: float = 1.5
    difference: float = 0.1
    name = "bilateral"

    def filtered(self, images: Tensor) -> Tensor:
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        offsets = range(-self.reach, self.reach + 1)
        places = [(row, column) for row in offsets for column in offsets]
        for place, near in zip(places, neighbours(images, self.reach), strict=True):
            apart = (near - images).square().mean(1, keepdim=True)
            weight = torch.exp(-apart / (2 * self.difference**2))
            weight = weight * math.exp(-(math.hypot(*place) ** 2) / (2 * self.distance**2))
            total, weights = total + weight * near, weights + weight
        return total / weights


@dataclass(frozen=True)
class Wavelet(Filter):
    """Soft thresholds for wavelet coefficients (BayesShrink: Chang, Yu, Vetterli 2000).

    Attributes:
        noise: the standard deviation that is taken for noise; that paper estimates it from the
            finest band, where a smooth perturbation has nothing, so it is set here.
        wavelet: a name of PyWavelets.
        levels: of the decomposition, where the image is large enough.
    """

    noise: float = 8 / 255
    wavelet: str = "sym4"
    levels: int = 3
    name = "wavelet"

    def filtered(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        bands = pywt.wavedec2(images.cpu().numpy(), self.wavelet, level=self._level(images))
        shrunk = [bands[0], *(tuple(map(self._shrunk, details)) for details in bands[1:])]
        denoised = pywt.waverec2(shrunk, self.wavelet)[..., :height, :width].clip(0, 1)
        return torch.from_numpy(denoised).to(images.device, images.dtype)

    def _level(self, images: Tensor) -> int:
        most = pywt.dwtn_max_level(images.shape[-2:], self.wavelet)
        return min(self.levels, int(most))

    def _shrunk(self, band: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, channels, h, w) coefficients, moved towards 0 by a threshold for each channel."""
        signal = np.sqrt((band.var((-2, -1), keepdims=True) - self.noise**2).clip(1e-8))
        threshold = self.noise**2 / signal
        shrunk: NDArray[np.float32] = np.sign(band) * (np.abs(band) - threshold).clip(0)
        return shrunk.astype(band.dtype)


def _median(images: Tensor) -> Tensor:
    middle: Tensor = torch.stack(list(neighbours(images, 1))).median(0).values
    return middle


def neighbours(images: Tensor, reach: int, edges: str = "reflect") -> Iterator[Tensor]:
    """The images moved by each offset up to `reach` px, row by row."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach,) * 4, mode=edges)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            yield padded[..., row : row + height, column : column + width]
