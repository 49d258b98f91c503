"""How much of the protected images' quality is left, by three measures.

PSNR and SSIM are the manifest's. HaarPSI (Reisenhofer et al. 2018) compares local frequencies, as
an eye does that looks for edges and texture; it is measured here on a sample of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medshield.dataset import examples
from medshield.dataset.scanned import Scan
from medshield.errors import InputError, RefusedFile
from medshield.formats.base import READ_ONLY
from medshield.manifest import Record

SAMPLE = 64
WORST = 5
"""Files that are named as the worst."""
FEWEST_PIXELS = 16
"""A side of HaarPSI's coarsest filter."""


def fidelity(records: Sequence[Record], found: Scan, release: Path) -> dict[str, Any]:
    """Median and worst of PSNR (dB), SSIM and HaarPSI (both at most 1) over the protected files.

    Args:
        records: of the manifest.
        found: the source, with the ranges that the release declares.
        release: its folder.

    Raises:
        InputError: a file of either can't be read.
    """
    protected = [record for record in records if record.status == "protected"]
    values = {name: [getattr(record, name) for record in protected] for name in ("psnr", "ssim")}
    values["haarpsi"] = _haarpsi_of_sample([record.path for record in protected], found, release)
    facts: dict[str, Any] = {}
    for name, each in values.items():
        known = [value for value in each if value is not None]
        if known:
            facts[name] = {"median": float(np.median(known)), "worst": float(min(known))}
    if "haarpsi" in facts:
        facts["haarpsi"]["files"] = len(values["haarpsi"])
    return facts


def worst_files(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The protected files that changed most, by SSIM and then PSNR: path and both measures."""
    known = [one for one in records if one.status == "protected" and one.ssim is not None]
    known.sort(key=lambda one: (one.ssim, one.psnr or 0.0, one.path))
    return [{"path": one.path, "ssim": one.ssim, "psnr": one.psnr} for one in known[:WORST]]


def _haarpsi_of_sample(paths: Sequence[str], found: Scan, release: Path) -> list[float]:
    """HaarPSI of at most SAMPLE files, evenly spaced in the order of their paths."""
    places = np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths))).astype(int)
    known = {file.path: file.kind for file in found.files}
    measured = []
    for path in (sorted(paths)[place] for place in places):
        try:
            clean, released = (
                _middle_frame(root / path, found, known[path]) for root in (found.source, release)
            )
        except (RefusedFile, OSError) as error:
            raise InputError(f"{error}; run `medshield check` on the release") from error
        if min(clean.shape[-2:]) >= FEWEST_PIXELS:
            measured.append(haarpsi(clean, released))
    return measured


def _middle_frame(path: Path, found: Scan, kind: str) -> torch.Tensor:
    """(1, channels, height, width) in [0, 1] of the range, at the file's own size."""
    image = examples.decoded(path, READ_ONLY)
    middle = len(image.stored) // 2
    frame = image.part(slice(middle, middle + 1))
    return torch.from_numpy(frame.pixels(found.ranges[kind]))


def haarpsi(clean: torch.Tensor, released: torch.Tensor) -> float:
    """The Haar wavelet-based perceptual similarity index: 1 for equal images, then less.

    Args:
        clean: (1, 1 or 3, height, width) in [0, 1], sides of at least FEWEST_PIXELS.
        released: the same shape and range.
    """
    import piq

    return float(piq.haarpsi(released, clean, data_range=1.0))
