"""File formats: bytes to stored values and back."""

from __future__ import annotations

from pathlib import Path

from medshield.formats.base import Codec, DecodedImage, Handling, IntensityRange
from medshield.formats.dicom.codec import DicomCodec
from medshield.formats.jpeg.codec import JpegCodec
from medshield.formats.nifti.codec import NiftiCodec
from medshield.formats.other_volumes import OTHER_VOLUMES
from medshield.formats.png.codec import PngCodec
from medshield.formats.tiff.codec import TiffCodec

CODECS: tuple[Codec, ...] = (
    PngCodec(),
    JpegCodec(),
    DicomCodec(),
    TiffCodec(),  # after DICOM, whose preamble may make a file both
    NiftiCodec(),
    *OTHER_VOLUMES,
)
HEAD_BYTES = 512


def recognise(path: Path) -> Codec | None:
    """The codec of a file by its first bytes, or None where no codec knows it."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((codec for codec in CODECS if codec.recognises(head, path)), None)


def codec_named(name: str) -> Codec:
    """The codec of a manifest's `format`."""
    return next(codec for codec in CODECS if codec.name == name)


__all__ = [
    "CODECS",
    "Codec",
    "DecodedImage",
    "Handling",
    "IntensityRange",
    "codec_named",
    "recognise",
]
