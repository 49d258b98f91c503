"""Volumes in formats that are not written: recognised, and refused with what to convert them to.

A file of unknown kind is left out of a release without a word on its worth; these are images, so
their owner is told.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.nifti.files import header_names, whole_header
from medshield.formats.nifti.header import find_signature

if TYPE_CHECKING:
    from medshield.formats.series import Frames

Recognise = Callable[[bytes, Path], bool]

_ANALYZE_BYTES = 348
_MGH_TYPES = frozenset({0, 1, 3, 4, 10})
_METAIMAGE = re.compile(rb"(?:\w+ *= *[^\n]*\r?\n)*(?:NDims|ElementDataFile) *=")
_PACKED_NAME = re.compile(r"\.(nii|img|mgh|nrrd)\.(bz2|zst|xz)$", re.IGNORECASE)
_PACKED_MAGIC = (b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0")


class OtherVolume(Codec):
    """Refuses every image of one format.

    Args:
        name: as in the manifest.
        recognise: what `Codec.recognises` does.
        reason: why it is refused, and what to do.
    """

    def __init__(self, name: str, recognise: Recognise, reason: str) -> None:
        self.name = name
        self._recognise = recognise
        self._reason = reason

    def recognises(self, head: bytes, path: Path) -> bool:
        """See `Codec.recognises`."""
        return self._recognise(head, path)

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Raise `RefusedFile`, or `NotAnImage` for a file that holds a header alone."""
        if _is_analyze_header(path):
            raise NotAnImage("the header of an Analyze pair: its voxels are in the .img file")
        raise RefusedFile(self._reason)

    def write(self, image: DecodedImage, stored: Frames, target: Path, radius: float) -> list[str]:
        """Never called, as nothing is decoded."""
        raise RefusedFile(self._reason)


def _analyze(head: bytes, path: Path) -> bool:
    """The header of a pair, or the .img file that one lies beside."""
    if _says_analyze(whole_header(head, path)):
        return True
    return any(_is_analyze(header) for header in header_names(path) if header.is_file())


def _is_analyze(path: Path) -> bool:
    with path.open("rb") as file:
        return _says_analyze(whole_header(file.read(1024), path))


def _is_analyze_header(path: Path) -> bool:
    """Whether a file is such a header and nothing else; one that is compressed can hold more."""
    return path.stat().st_size == _ANALYZE_BYTES and _is_analyze(path)


def _says_analyze(head: bytes) -> bool:
    """By its size (sizeof_hdr, at 0) and number of dimensions (dim[0], at 40); no NIfTI magic."""
    if len(head) < _ANALYZE_BYTES or find_signature(head):
        return False
    return any(
        struct.unpack_from(order + "i", head)[0] == _ANALYZE_BYTES
        and 1 <= struct.unpack_from(order + "h", head, 40)[0] <= 7
        for order in "<>"
    )


def _mgh(head: bytes, path: Path) -> bool:
    """By version 1, four lengths and a known type, all big endian (FreeSurfer's MGH format)."""
    if path.suffix.lower() == ".mgz":
        path = path.with_suffix(".gz")
    content = whole_header(head, path)
    if len(content) < 30:
        return False
    version, *lengths, kind, _, right = struct.unpack_from(">7ih", content)
    return (
        version == 1
        and all(1 <= length <= 1 << 24 for length in lengths)
        and kind in _MGH_TYPES
        and right in (0, 1, -1)
    )


def _nrrd(head: bytes, _path: Path) -> bool:
    return head.startswith(b"NRRD000")


def _metaimage(head: bytes, _path: Path) -> bool:
    return bool(_METAIMAGE.match(head))


def _minc(head: bytes, path: Path) -> bool:
    """NetCDF and HDF5 hold anything, so here the name counts too."""
    return path.suffix.lower() == ".mnc" and head.startswith((b"CDF\x01", b"\x89HDF"))


def _packed(head: bytes, path: Path) -> bool:
    return bool(_PACKED_NAME.search(path.name)) and head.startswith(_PACKED_MAGIC)


OTHER_VOLUMES: tuple[Codec, ...] = (
    OtherVolume(
        "analyze",
        _analyze,
        "Analyze 7.5 is not supported, as it does not say which side is left: convert it to "
        "NIfTI with a program that knows its origin, such as fslchfiletype or SPM",
    ),
    OtherVolume(
        "mgh",
        _mgh,
        "FreeSurfer's MGH and MGZ are not supported: convert it with mri_convert to .nii.gz",
    ),
    OtherVolume("nrrd", _nrrd, "NRRD is not supported: convert it to .nii.gz, as ITK does"),
    OtherVolume(
        "metaimage", _metaimage, "MetaImage is not supported: convert it to .nii.gz, as ITK does"
    ),
    OtherVolume("minc", _minc, "MINC is not supported: convert it with mnc2nii to .nii"),
    OtherVolume(
        "packed-volume",
        _packed,
        "a volume packed with bzip2, xz or zstd is not supported: unpack it, or use gzip",
    ),
)
