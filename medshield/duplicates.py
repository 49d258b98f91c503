"""Images that stand in two parts of a split: the same ones, and ones that look the same.

An image that victims trained on and are tested on makes a release look less protected than it
is, and the clean arm better. Groups keep a patient's images together; this finds what groups
do not know, such as a file that was exported twice under two names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

from medshield.augmentation import resized
from medshield.dataset.examples import Examples

SIDE = 32
"""Px of the grey thumbnail that is hashed."""
KEPT = 16
"""Lowest frequencies of its cosine transform, along each axis, that the hash holds."""
NEAR = 0.08
"""Share of bits in which a second export of an image may differ from the first."""
AT_ONCE = 4096


@dataclass(frozen=True)
class Duplicates:
    """Test images that have a twin among those that victims train or choose their epoch on.

    Attributes:
        same: equal in every pixel at the working size.
        near: others that a perceptual hash does not tell apart.
        test: images in the test part.
    """

    same: int
    near: int
    test: int

    @property
    def note(self) -> str:
        """A sentence for the report; empty where there are none."""
        if not self.same + self.near:
            return ""
        return (
            f"duplicates across the split: of {self.test} test images {self.same} are also in the "
            f"training or validation part, and {self.near} more look the same by a perceptual "
            "hash; give --patient-col, or take them out of the source"
        )


def across(examples: Examples, split: dict[str, NDArray[np.int64]]) -> Duplicates:
    """Look for twins of test images in the other parts."""
    images, test = examples.images, split["test"]
    others = np.concatenate([split["train"], split["val"]])
    digests = [hashlib.blake2b(image.contiguous().numpy().data).digest() for image in images]
    known = {digests[row] for row in others}
    same = np.array([digests[row] in known for row in test])
    codes = hashes(images)
    near = _nearest(codes[test], codes[others]) <= NEAR
    return Duplicates(int(same.sum()), int((near & ~same).sum()), len(test))


def hashes(images: Tensor) -> NDArray[np.float32]:
    """A perceptual hash of each image: the signs of its lowest frequencies (Zauner 2010).

    Args:
        images: (n, channels, height, width).

    Returns:
        (n, bits) of 1 and -1; brightness and contrast do not matter, nor does what a JPEG loses.
    """
    grey = images.mean(1, keepdim=True)
    rows = [
        dctn(resized(part, SIDE, SIDE)[:, 0].numpy(), axes=(1, 2))[:, :KEPT, :KEPT]
        for part in torch.split(grey, AT_ONCE)
    ]
    low = np.concatenate(rows).reshape(len(images), -1)[:, 1:]  # less the mean brightness
    return np.where(low > np.median(low, 1, keepdims=True), 1, -1).astype(np.float32)


def _nearest(codes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of bits in which each code differs from the nearest of the others."""
    nearest = np.full(len(codes), 1.0, np.float32)
    for start in range(0, len(others), AT_ONCE):
        agreement = codes @ others[start : start + AT_ONCE].T / codes.shape[1]
        nearest = np.minimum(nearest, (1 - agreement.max(1)) / 2)
    return nearest
