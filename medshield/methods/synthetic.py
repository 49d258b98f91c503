"""`synthetic`: a keyed texture per class, no training.

The paper that names this method (Liu et al., Securing Biomedical Images from Unauthorized
Training with Anti-Learning Perturbation) paints one random patch per class. A victim that flips
and shifts its images forgets fixed patches; a texture it does not: its statistics are the same
wherever it is cut out. So each class has a secret band of spatial frequencies, and each image a
random texture from its class's band, different in every image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medshield.methods.base import Setting, UntrainedMethod

LOWEST_CYCLES = 2.5
HIGHEST_CYCLES = 9.0
BANDWIDTH = 0.22
"""Standard deviation of a band around its centre, in units of the centre frequency."""
MASK_CYCLES = 0.12
"""Centre frequency of the texture of a foreground, cycles per pixel of the grid."""
KEYED = 0.1
"""How far the key moves a centre frequency, as a share of it."""
OPPOSED = (1.0, -1.0, 1.0)
"""Signs of red, green and blue."""
CONTRAST = 4.0
"""How hard a texture is pushed towards plus and minus epsilon; larger is nearer to two-valued."""


@dataclass(frozen=True)
class Band:
    """A class's secret: where in the spectrum its texture lives.

    Attributes:
        cycles: centre frequency, cycles per image.
        lobes: 0 for every direction alike, +1 for horizontal and vertical, -1 for the diagonals;
            all three look the same after a flip.
    """

    cycles: float
    lobes: int


def keyed_bands(count: int, setting: Setting) -> list[Band]:
    """One band per class, dealt out by the key over the spectrum; of masks, over its fine end."""
    rng = setting.key.numpy("synthetic", "bands")
    if setting.task.name == "segmentation":
        finest = MASK_CYCLES * setting.size * (1 + KEYED * rng.uniform(-1, 1))
        return [Band(finest / 2**halvings, 0) for halvings in range(count)]
    lobes = [0] if count <= 3 else [1, -1]
    rings = math.ceil(count / len(lobes))
    top = min(HIGHEST_CYCLES * max(1.0, rings / 3), setting.size / 3.5)
    ratio = (top / LOWEST_CYCLES) ** (1 / max(1, rings - 1))
    centres = [LOWEST_CYCLES * ratio**i * (1 + KEYED * rng.uniform(-1, 1)) for i in range(rings)]
    bands = [Band(centre, lobe) for centre in centres for lobe in lobes]
    return [bands[i] for i in rng.permutation(len(bands))[:count]]


class Synthetic(UntrainedMethod):
    """Class-wise band-limited textures with a random phase per image."""

    name = "synthetic"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        count = setting.task.condition_channels  # of masks: foreground, and images without any
        if setting.task.name == "multilabel":
            count += 1  # for images without any finding
        self.spectra = torch.stack([self._spectrum(b) for b in keyed_bands(count, setting)])

    def _spectrum(self, band: Band) -> Tensor:
        """Amplitudes over the plane of rfft2, (size, size // 2 + 1)."""
        size = self.setting.size
        rows = torch.fft.fftfreq(size)[:, None] * size
        columns = torch.fft.rfftfreq(size)[None] * size
        radius = (rows**2 + columns**2).sqrt()
        ring = torch.exp(-((radius / band.cycles - 1) ** 2) / (2 * BANDWIDTH**2))
        if band.lobes:
            ring = ring * (1 + band.lobes * torch.cos(4 * torch.atan2(rows, columns))) / 2
        return ring

    def _delta(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        size = self.setting.size
        noise = torch.stack(
            [
                torch.randn(size, size, generator=self.setting.key.torch("synthetic", name))
                for name in names
            ]
        )
        waves = torch.fft.rfft2(noise)[:, None] * self.spectra[None]
        textures = torch.fft.irfft2(waves, s=(size, size))
        textures = textures / textures.std((2, 3), keepdim=True)
        shares = self.setting.task.conditions(targets, size)
        if self.setting.task.name == "segmentation":
            shares = shares[:, 1:]  # the foreground
        if len(self.spectra) > shares.shape[1]:
            without = (shares.sum((1, 2, 3), keepdim=True) == 0).to(shares)
            shares = torch.cat([shares, without.expand_as(shares[:, :1])], 1)
        mixed = (textures.to(images) * shares).sum(1, keepdim=True)
        shape = torch.tanh(CONTRAST * mixed) * self.setting.budget.radius
        if self.setting.channels == 1:
            return shape
        is_grey = (images == images[:, :1]).flatten(1).all(1)[:, None, None, None]
        opposed = torch.tensor(OPPOSED).to(images)[:, None, None]
        return torch.where(is_grey, shape, shape * opposed)
