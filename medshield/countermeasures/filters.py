"""Fixed filters: grey, blur, JPEG (Liu et al. 2023, Image Shortcut Squeezing)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from medshield.countermeasures.base import Filter
from medshield.tasks import Task


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
