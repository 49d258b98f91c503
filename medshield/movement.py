"""How far the pixels of a written file moved, measured on what it decodes to.

One pass over source and result tells everything, a run of frames at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medshield.errors import RefusedFile
from medshield.formats import DecodedImage, IntensityRange
from medshield.formats.base import PerFrame
from medshield.formats.series import Frames
from medshield.metrics import psnr_of_runs, squared_errors, ssim_of_frames
from medshield.visibility import comparable, width_in_units

NOTHING_MOVED = (
    "not one pixel moved, so the file would be the clean image: everything lies outside the "
    "intensity range, or epsilon is too small; widen --intensity or raise --eps"
)


@dataclass(frozen=True)
class Movement:
    """What became of an image.

    Attributes:
        furthest: the greatest change, in stored units.
        psnr: dB over the intensity range.
        ssim: mean over frames; NaN where it is not defined.
    """

    furthest: float
    psnr: float
    ssim: float

    @classmethod
    def of(
        cls, image: DecodedImage, written: Frames, intensity: IntensityRange, radius: PerFrame
    ) -> Movement:
        """Compare an image with what was written of it.

        Args:
            image: the source.
            written: the stored values of the written file.
            intensity: the declared range.
            radius: epsilon in stored units, see `DecodedImage.epsilon_stored`.

        Raises:
            RefusedFile: another shape; a value that is further from the source than epsilon (of
                its frame), or that had to stay; or no change at all.
        """
        if written.shape != image.stored.shape:
            raise RefusedFile("the written file decodes to another size; report this file's kind")
        seen: list[_OfRun] = []

        def errors() -> Iterator[NDArray[np.float64]]:
            for run, part in image.parts():
                bound = radius[run] if isinstance(radius, np.ndarray) else radius
                seen.append(_OfRun.of(part, written[run], intensity, bound))
                clean, released, _ = comparable(part, written[run], intensity)
                yield squared_errors(clean, released)

        values = prod(written.shape[:-1]) * image.colour_channels
        psnr = psnr_of_runs(errors(), values, width_in_units(image, intensity))
        furthest = max(run.furthest for run in seen)
        if not all(run.keeps_undefined for run in seen):
            raise RefusedFile("the written file has other undefined (NaN) values; report its kind")
        if not all(run.keeps_bound for run in seen):
            raise RefusedFile(
                "the written file left the bound when decoded; its coding can't hold it"
            )
        if furthest == 0:
            raise RefusedFile(NOTHING_MOVED)
        if not all(run.keeps_fixed for run in seen):
            raise RefusedFile(
                "its coding (JPEG, or a palette) can't leave values outside the intensity range "
                "as they are while others move; give the whole range, such as --intensity 0,255"
            )
        ssim = float(np.mean(np.concatenate([run.similarity for run in seen])))
        return cls(furthest, psnr, ssim)


@dataclass(frozen=True)
class _OfRun:
    """The same of some frames, and whether they are what was promised.

    Attributes:
        furthest: as of `Movement`.
        similarity: structural, of each frame.
        keeps_undefined: the same values are undefined (NaN) as before.
        keeps_bound: no value is further from the source than epsilon.
        keeps_fixed: no value moved that lies outside the range, or is frozen. A codec is not told
            the range, so where values are bound to others (by JPEG's quantiser, by a palette),
            those outside a narrow range may move with those inside.
    """

    furthest: float
    similarity: NDArray[np.float64]
    keeps_undefined: bool
    keeps_bound: bool
    keeps_fixed: bool

    @classmethod
    def of(
        cls,
        image: DecodedImage,
        written: NDArray[Any],
        intensity: IntensityRange,
        radius: PerFrame,
    ) -> _OfRun:
        original = image.stored[:]
        same = written == original
        keeps_undefined = True
        if not image.is_integer:
            undefined, before = np.isnan(written), np.isnan(original)
            same |= undefined & before  # infinities too: they differ by NaN
            keeps_undefined = np.array_equal(undefined, before)
        with np.errstate(invalid="ignore"):
            moved = np.abs(written.astype(np.float64) - original.astype(np.float64))
        moved[same] = 0.0
        return cls(
            furthest=float(np.max(moved, initial=0.0)),
            similarity=ssim_of_frames(*comparable(image, written, intensity)),
            keeps_undefined=keeps_undefined,
            keeps_bound=bool(np.all(moved <= radius)),
            keeps_fixed=not np.any(~same & image.fixed(intensity)),
        )
