"""A source and its release in each format, small enough to sabotage every byte of them."""

import gzip
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from medshield import audit
from medshield.audit.bound import movement
from medshield.errors import MedshieldError
from medshield.formats import IntensityRange, recognise
from tests import dicom_files
from tests.formats import test_jpeg as jpeg_files
from tests.formats import test_nifti as nifti_files
from tests.formats import test_png as png_files

RANGE, EPSILON = IntensityRange(0, 255, "test"), Fraction(3, 255)
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(20, 200, (5, 7, 1)).astype(np.uint8)
COLOUR = RANDOM.integers(20, 200, (5, 7, 3)).astype(np.uint8)
VOLUME = RANDOM.integers(20, 200, (4, 3, 2)).astype(np.int16)
TEXT = [(b"gAMA", bytes(4)), (b"tEXt", b"a\0b")]


def _write(name, content):
    return lambda folder: _put(folder / name, content)


def _put(path, content):
    path.write_bytes(content)
    return path


def _dicom(values, *arguments, **elements):
    return lambda folder: dicom_files.native(folder / "a.dcm", values, *arguments, **elements)


def _coded(values, syntax, encode, **elements):
    return lambda folder: dicom_files.coded(folder / "a.dcm", values, syntax, encode, **elements)


def _jpeg():
    content = jpeg_files.jpeg(16, 24, comment=b"a comment", restart_marker_blocks=1)
    return jpeg_files.insert(content, 0xE2, jpeg_files.ICC[:40]) + b"trailer"


_COLOURS = {"PhotometricInterpretation": "YBR_FULL_422", "LossyImageCompression": "00"}
SOURCES = {
    "PNG": _write("a.png", png_files.png(COLOUR, before=TEXT, rest=b"rest")),
    "PNG palette": _write(
        "a.png",
        png_files.png(
            GREY, before=[(b"PLTE", bytes(range(256)) * 3), (b"tRNS", b"\xff\0")], colour=3
        ),
    ),
    "JPEG": _write("a.jpg", _jpeg()),
    "DICOM": _dicom(GREY[None].astype(np.uint16), bits=12, extra=b"more"),
    "DICOM implicit": _dicom(GREY[None].astype(np.int16), ImplicitVRLittleEndian, bits=12),
    "DICOM big endian": _dicom(GREY[None].astype(np.uint16), ExplicitVRBigEndian),
    "DICOM deflated": _dicom(GREY[None].astype(np.uint16), DeflatedExplicitVRLittleEndian),
    "DICOM RLE": _coded(
        GREY[None].astype(np.uint16), RLELossless, dicom_files.by_pydicom(RLELossless, 16)
    ),
    "DICOM JPEG": _coded(COLOUR[None], JPEGBaseline8Bit, dicom_files.jpeg_baseline, **_COLOURS),
    "NIfTI": _write("a.nii", nifti_files.nifti(VOLUME, extension=(6, b"comment"), tail=b"tail")),
    "NIfTI gzip": _write("a.nii.gz", gzip.compress(nifti_files.nifti(VOLUME), mtime=77)),
}


@dataclass(frozen=True)
class Pair:
    """A source and what was released of it.

    Attributes:
        source, released: files of the same name in two folders.
        notes: of the manifest.
    """

    source: Path
    released: Path
    notes: tuple[str, ...]

    def faults(self):
        """Everything that the audit finds wrong with the released file."""
        return list(self._found())

    def is_sound(self):
        """Whether it finds nothing; quicker where there is something."""
        return next(self._found(), None) is None

    def _found(self):
        auditor = audit.recognise(self.source)
        allowed = audit.Allowed(notes=self.notes)
        try:
            yield from auditor.differences(self.source, self.released, allowed)
            clean, released = (auditor.read(path) for path in (self.source, self.released))
        except MedshieldError as error:
            yield f"can't be read: {error}"
            return
        if clean.values.shape == released.values.shape:
            yield from movement(clean, released, RANGE, EPSILON).faults
        else:
            yield "another size"


def pair(form, folder):
    """Protect the source of a form with noise of 3 grey levels."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    source = SOURCES[form](folder / "in")
    codec = recognise(source)
    image = codec.decode(source)
    frames, height, width, _ = image.stored.shape
    shape = (frames, image.colour_channels, height, width)
    delta = np.random.default_rng(1).choice([-1.0, 1.0], shape) * float(EPSILON)
    released = folder / "out" / source.name
    notes = codec.write(image, image.moved(delta, RANGE, EPSILON), released, 3.0)
    return Pair(source, released, tuple(notes))
