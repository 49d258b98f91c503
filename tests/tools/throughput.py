"""How fast decode, write and re-check are, against plainly reading and copying the bytes.

    python -m tests.tools.throughput [--repeats 7] [--scale 1.0] [-o docs/fidelity.md]

Each format is measured on one generated file of clinical size, in this process, on one thread.
A round is: read and copy the bytes; then decode, move every value by plus or minus epsilon, write,
decode what was written and compare. Time is the processor's, so that what else the machine does
does not count; the system has the files cached.
"""

import argparse
import gzip
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medshield.formats import IntensityRange, recognise
from tests.dicom_forms import anatomy, save
from tests.tools.tables import renew, table, versions
from tests.tools.trial import EPSILON, own_range, random_signs


@dataclass(frozen=True)
class Timing:
    """Processor seconds of each round for one file.

    Attributes:
        name: the format.
        file_bytes, pixel_bytes: of the file, and of its stored values.
        copying, protecting: seconds of each round.
    """

    name: str
    file_bytes: int
    pixel_bytes: int
    copying: tuple[float, ...]
    protecting: tuple[float, ...]


def _dicom_of(side: int, syntax: UID, sop_class: UID = CTImageStorage):
    def make(path: Path, scale: float) -> None:
        n = max(32, round(side * scale))
        values = anatomy((1, n, n, 1), 4095).astype("<u2")
        save(path, values, syntax, 12, sop_class)

    return make


def _png_of(bits: int):
    def make(path: Path, scale: float) -> None:
        n = max(32, round(1000 * scale))
        values = anatomy((n, n), (1 << bits) - 1).astype(f"u{bits // 8}")
        Image.fromarray(values).save(path)

    return make


def _jpeg(path: Path, scale: float) -> None:
    n = max(32, round(1000 * scale))
    planes = [anatomy((n, n), 255, seed, noise=0.02) for seed in range(3)]
    Image.fromarray(np.stack(planes, -1).astype("u1")).save(path, quality=90)


def _nifti(path: Path, scale: float) -> None:
    n = max(16, round(128 * scale))
    volume = nibabel.Nifti1Image(anatomy((n, n, n), 4000).astype("<i2"), np.eye(4))
    content = volume.to_bytes()
    path.write_bytes(gzip.compress(content, 6) if path.suffix == ".gz" else content)


def _tiff(path: Path, scale: float) -> None:
    n = max(32, round(1000 * scale))
    Image.fromarray(anatomy((n, n), 65535).astype("u2")).save(path, compression="tiff_lzw")


FILES: dict[str, tuple[str, Callable[[Path, float], None]]] = {
    "DICOM CT 512, uncompressed": ("ct.dcm", _dicom_of(512, ExplicitVRLittleEndian)),
    "DICOM CT 512, RLE": ("ct.dcm", _dicom_of(512, RLELossless)),
    "DICOM CT 512, JPEG-LS": ("ct.dcm", _dicom_of(512, JPEGLSLossless)),
    "DICOM CT 512, JPEG 2000": ("ct.dcm", _dicom_of(512, JPEG2000Lossless)),
    "DICOM CT 512, JPEG lossless": ("ct.dcm", _dicom_of(512, JPEGLosslessSV1)),
    "DICOM radiograph 2000, uncompressed": (
        "cr.dcm",
        _dicom_of(2000, ExplicitVRLittleEndian, ComputedRadiographyImageStorage),
    ),
    "DICOM radiograph 2000, JPEG 2000": (
        "cr.dcm",
        _dicom_of(2000, JPEG2000Lossless, ComputedRadiographyImageStorage),
    ),
    "JPEG colour 1000": ("photo.jpg", _jpeg),
    "PNG grey 8 bit 1000": ("grey.png", _png_of(8)),
    "PNG grey 16 bit 1000": ("wide.png", _png_of(16)),
    "TIFF grey 16 bit 1000, LZW": ("wide.tif", _tiff),
    "NIfTI int16 128 x 128 x 128, .nii": ("volume.nii", _nifti),
    "NIfTI int16 128 x 128 x 128, .nii.gz": ("volume.nii.gz", _nifti),
}


def copy(source: Path, target: Path) -> None:
    """Read and write the bytes."""
    target.write_bytes(source.read_bytes())


def protect(source: Path, target: Path, delta: np.ndarray, intensity: IntensityRange) -> None:
    """Decode, move, write, decode again and compare, as `medshield protect` does.

    Raises:
        AssertionError: what was written does not keep the bound, or nothing moved.
    """
    codec = recognise(source)
    assert codec is not None
    image = codec.decode(source)
    radius = image.epsilon_stored(intensity, EPSILON)
    codec.write(image, image.moved(delta, intensity, EPSILON), target, float(np.max(radius)))
    again = codec.read_back(image, target)
    moved = np.abs(again.stored.astype(np.float64) - image.stored.astype(np.float64))
    assert moved.max() > 0
    assert (moved <= radius).all()


def timed(name: str, source: Path, repeats: int) -> Timing | None:
    """The rounds of one file, after one that does not count; None where no codec takes it."""
    codec = recognise(source)
    if codec is None:
        return None
    image = codec.decode(source)
    intensity, delta = own_range(source), random_signs(image, name, EPSILON)
    seconds: dict[str, list[float]] = {"copying": [], "protecting": []}
    work = {"copying": copy, "protecting": lambda s, t: protect(s, t, delta, intensity)}
    for round_number in range(repeats + 1):
        for way, do in work.items():
            target = source.with_name(f"{way}-{round_number}-{source.name}")
            started = time.process_time()
            do(source, target)
            seconds[way].append(time.process_time() - started)
            target.unlink()
    return Timing(
        name,
        source.stat().st_size,
        image.stored.nbytes,
        tuple(seconds["copying"][1:]),
        tuple(seconds["protecting"][1:]),
    )


def rows(timings: Sequence[Timing]) -> str:
    """The table: medians, and the spread between the quartiles."""

    def line(timing: Timing) -> tuple[str, ...]:
        protecting = statistics.median(timing.protecting)
        pairs = zip(timing.protecting, timing.copying, strict=True)
        ratios = [slow / fast for slow, fast in pairs]
        first, _, third = statistics.quantiles(timing.protecting, n=4)
        return (
            timing.name,
            f"{timing.file_bytes / 1e6:.2f}",
            f"{statistics.median(timing.copying) * 1e3:.1f}",
            f"{protecting * 1e3:.0f}",
            f"{first * 1e3:.0f}-{third * 1e3:.0f}",
            f"{timing.pixel_bytes / 1e6 / protecting:.1f}",
            f"{1 / protecting:.1f}",
            f"{statistics.median(ratios):.0f}",
        )

    header = ("file", "MB", "copy, ms", "protect, ms", "quartiles, ms", "pixel MB/s", "files/s",
              "protect / copy")  # fmt: skip
    return table(header, map(line, timings))


def device() -> str:
    """The processor, as far as the system names it."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} logical processors"


def main(arguments: Sequence[str]) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.throughput", description=__doc__)
    parser.add_argument("--repeats", default=7, type=int)
    parser.add_argument("--scale", default=1.0, type=float, help="of the images' sides")
    parser.add_argument("-o", "--output", type=Path, help="document whose block is renewed")
    options = parser.parse_args(arguments)
    timings = []
    for name, (file_name, make) in FILES.items():
        folder = Path(tempfile.mkdtemp())
        try:
            make(folder / file_name, options.scale)
            timing = timed(name, folder / file_name, options.repeats)
        finally:
            shutil.rmtree(folder)
        if timing is not None:
            timings.append(timing)
    how = f"one thread, processor time, medians of {options.repeats} rounds"
    text = f"{device()}; {versions()}; {how}.\n\n{rows(timings)}"
    if options.output:
        renew(options.output, "throughput", text)
    else:
        sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
