"""Volumes that are not supported are told by their content, and refused with what to do."""

import bz2
import gzip
import struct

import nibabel
import numpy as np
import pytest

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats import recognise

VOLUME = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
METAIMAGE = b"ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementDataFile = LOCAL\n"


def saved(path, data):
    path.write_bytes(data)
    return path


def analyze(folder, zipped=""):
    nibabel.save(nibabel.AnalyzeImage(VOLUME, np.eye(4)), folder / f"scan.img{zipped}")
    return folder / f"scan.hdr{zipped}", folder / f"scan.img{zipped}"


def mgh(folder, name):
    nibabel.save(nibabel.MGHImage(VOLUME, np.eye(4)), folder / name)
    return folder / name


MAKERS = {
    "MGH": lambda folder: mgh(folder, "scan.mgh"),
    "MGZ": lambda folder: mgh(folder, "scan.mgz"),
    "Analyze": lambda folder: analyze(folder)[1],
    "Analyze 7": lambda folder: analyze(folder, zipped=".gz")[1],
    "NRRD": lambda folder: saved(folder / "scan.nrrd", b"NRRD0004\ntype: short\n"),
    "MetaImage": lambda folder: saved(folder / "scan.mha", METAIMAGE),
    "MINC": lambda folder: saved(folder / "scan.mnc", b"\x89HDF\r\n\x1a\n"),
    "bzip2": lambda folder: saved(folder / "scan.nii.bz2", bz2.compress(bytes(400))),
}


@pytest.mark.parametrize("case", MAKERS)
def test_refused_by_name_with_what_to_do(tmp_path, case):
    path = MAKERS[case](tmp_path)
    codec = recognise(path)
    with pytest.raises(RefusedFile, match=case) as refusal:
        codec.decode(path)
    assert any(word in str(refusal.value) for word in ("convert", "unpack"))


def test_the_header_of_an_analyze_pair_holds_no_pixels(tmp_path):
    header, voxels = analyze(tmp_path)
    with pytest.raises(NotAnImage, match="header"):
        recognise(header).decode(header)
    header.write_bytes(header.read_bytes() + voxels.read_bytes())
    with pytest.raises(RefusedFile, match="Analyze"):
        recognise(header).decode(header)


@pytest.mark.parametrize("order", "<>")
def test_an_analyze_header_of_either_byte_order(tmp_path, order):
    head = bytearray(348)
    struct.pack_into(order + "i", head, 0, 348)
    struct.pack_into(order + "h", head, 40, 3)
    assert recognise(saved(tmp_path / "scan.hdr", bytes(head))).name == "analyze"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("scan.mgh", bytes(400)),
        ("scan.mgz", gzip.compress(bytes(400), mtime=0)),
        ("scan.hdr", struct.pack("<i", 348) + bytes(344)),
        ("scan.hdr", b"#?RADIANCE\n" + bytes(400)),
        ("scan.mnc", bytes(400)),
        ("scan.h5", b"\x89HDF\r\n\x1a\n"),
        ("notes.bz2", bz2.compress(b"notes")),
        ("scan.nii.bz2", bytes(400)),
        ("notes.txt", b"Name = value\nOther = value\n"),
    ],
)
def test_what_only_has_the_name_is_not_taken_for_it(tmp_path, name, data):
    assert recognise(saved(tmp_path / name, data)) is None


@pytest.mark.real_data
def test_nibabels_own(real_data):
    folder = real_data / "nifti-odd" / "nibabel" / "nibabel" / "tests" / "data"
    with pytest.raises(RefusedFile, match="mri_convert"):
        recognise(folder / "test.mgz").decode(folder / "test.mgz")
    with pytest.raises(NotAnImage, match="Analyze"):
        recognise(folder / "analyze.hdr").decode(folder / "analyze.hdr")
