"""Damage that decoders pass over in silence, each found by the fuzz run of tests/tools."""

import tracemalloc
import zlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from pydicom.uid import JPEGLosslessSV1

from medshield.audit.bound import frame_radius
from medshield.errors import RefusedFile
from medshield.formats import IntensityRange, codec_named, limits
from medshield.formats.jpeg.rate import Rate
from tests.dicom_files import coded, jpeg_lossless, native, smooth
from tests.generated import dicom_form


def test_lossless_jpeg_whose_decoder_only_warns(tmp_path):
    path = coded(tmp_path / "in.dcm", smooth((1, 40, 40, 1), 8), JPEGLosslessSV1, jpeg_lossless)
    assert codec_named("dicom").decode(path).stored.shape == (1, 40, 40, 1)
    content = path.read_bytes()
    scan = content.index(b"\xff\xda") + 40
    path.write_bytes(content[:scan] + b"\xfb\xfb\xfb\xfb" + content[scan + 4 :])
    with pytest.raises(RefusedFile):
        codec_named("dicom").decode(path)


def test_pixel_representation_that_the_standard_does_not_know(tmp_path):
    path = native(tmp_path / "in.dcm", smooth((1, 8, 8, 1), 8))
    sign = dicom_form.Form().short(0x00280103, 0)
    content = path.read_bytes()
    assert content.count(sign) == 1
    path.write_bytes(content.replace(sign, dicom_form.Form().short(0x00280103, 0xFF00)))
    with pytest.raises(RefusedFile, match="Pixel Representation is 65280"):
        codec_named("dicom").decode(path)


def test_deflated_dicom_is_counted_before_it_is_kept(tmp_path, monkeypatch):
    deflater = zlib.compressobj(wbits=-15)
    body = deflater.compress(bytes(3 << 20)) + deflater.flush()
    syntax = dicom_form.Form().element(0x00020010, "UI", dicom_form.DEFLATED.encode())
    path = tmp_path / "in.dcm"
    monkeypatch.setattr(limits, "MOST_STORED_BYTES", 1 << 20)
    head = dicom_form.with_group_length(dicom_form.Form(), 2, syntax)
    path.write_bytes(bytes(128) + b"DICM" + head + body)
    with pytest.raises(RefusedFile, match="declares"):
        codec_named("dicom").decode(path)


def test_a_short_tiff_that_declares_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((1, 9), np.uint8), compression="zlib")
    content = path.read_bytes()
    wide, wider = (b"\0\1\4\0\1\0\0\0" + n.to_bytes(4, "little") for n in (9, 0x7F000000))
    assert wide in content  # ImageWidth, one LONG
    path.write_bytes(content.replace(wide, wider))
    tracemalloc.start()
    with pytest.raises(RefusedFile, match="end too early"):
        codec_named("tiff").decode(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_damaged_lzw_of_tiff_ends_in_a_refusal(tmp_path):
    """Codes that are not in the table yet, which some decoders follow out of their memory."""
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.arange(6, dtype=np.uint8).reshape(1, 6), compression="lzw")
    with tifffile.TiffFile(path) as file:
        (start,), (length,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes.fromhex("804c08d052").ljust(length, b"\0")
    path.write_bytes(content)
    for _ in range(200):
        with pytest.raises(RefusedFile, match="can't be decoded"):
            codec_named("tiff").decode(path)


def test_tiff_strip_with_a_wrong_checksum(tmp_path):
    path = tmp_path / "in.tif"
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tifffile.imwrite(path, values, compression="zlib")
    with tifffile.TiffFile(path) as file:
        (start,), (length,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    content = bytearray(path.read_bytes())
    assert codec_named("tiff").decode(path).stored.size == 64
    content[start + length - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RefusedFile, match="damaged TIFF"):
        codec_named("tiff").decode(path)


def test_coefficients_beyond_what_the_standard_allows_have_a_price():
    values = np.full((2, 1, 1, 8, 8), 20_000, np.int16)
    Rate(SimpleNamespace(original=[values], steps=[np.ones((8, 8))], energy=[1.0]))


def test_a_slope_that_is_next_to_nothing_bounds_the_audit_too():
    assert frame_radius(IntensityRange(0, 100, ""), Fraction(8, 255), 5e-324, True) > 1e300
