"""Fixed filters: grey, blur, JPEG (Liu et al. 2023, Image Shortcut Squeezing)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.v2.functional import gaussian_blur

from medshield.countermeasures.base import Countermeasure


class Grey(Countermeasure):
    """The mean of the colour channels in place of each; leaves grey images as they are."""

    name = "grey"

    def on_train_batch(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True).expand_as(images)


class Blur(Countermeasure):
    """A Gaussian of 1 px."""

    name = "blur"

    def on_train_batch(self, images: Tensor) -> Tensor:
        blurred: Tensor = gaussian_blur(images, [5, 5], [1.0, 1.0])
        return blurred


class Jpeg(Countermeasure):
    """JPEG at quality 10, the strongest of that paper."""

    name = "jpeg10"
    quality = 10

    def on_train_batch(self, images: Tensor) -> Tensor:
        mode = ImageReadMode.GRAY if images.shape[1] == 1 else ImageReadMode.RGB
        stored = (images * 255).round().to(torch.uint8).cpu()
        coded = [decode_jpeg(encode_jpeg(image, self.quality), mode) for image in stored]
        return torch.stack(coded).to(images.device, images.dtype) / 255
