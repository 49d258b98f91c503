"""Mistakes that reading and writing share: the codec can't see them, the audit must.

Each test breaks a codec on purpose, in the same way for reading and for writing. Measured by the
codec itself, what it then writes keeps its promise; whoever reads the file as its standard says
sees that it does not.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit

from medshield import audit
from medshield.audit.bound import movement
from medshield.formats import IntensityRange, recognise
from medshield.formats.dicom import meaning
from medshield.formats.dicom.pixels import NativeForm
from medshield.formats.jpeg import codec as jpeg_codec
from medshield.formats.jpeg import fit, trial
from medshield.formats.jpeg import pixels as jpeg_pixels
from medshield.formats.nifti import header as nifti_header
from medshield.formats.png import codec as png_codec
from tests import dicom_files
from tests.audit.forms import COLOUR, VOLUME
from tests.formats import test_jpeg as jpeg_files
from tests.formats import test_nifti as nifti_files
from tests.formats import test_png as png_files

RANGE, EPSILON = IntensityRange(-10_000, 70_000, "test"), Fraction(3, 80_000)
WORDS = np.random.default_rng(0).integers(300, 4000, (1, 9, 8, 1)).astype(np.uint16)


def wrong_byte_order_in_dicom(patch, path):
    patch.setattr(NativeForm, "_disk_type", property(lambda self: self.layout.word))
    return dicom_files.native(path, WORDS, ExplicitVRBigEndian)


def planes_for_pixels_in_dicom(patch, path):
    """Only what was decoded from a lossy coding is native, so the source is read rightly."""

    def by_plane(method):
        return lambda self, *arguments: method(
            replace(self, layout=replace(self.layout, by_plane=True)), *arguments
        )

    for name in ("words", "value"):
        patch.setattr(NativeForm, name, by_plane(getattr(NativeForm, name)))
    return dicom_files.coded(
        path,
        COLOUR[None],
        JPEGBaseline8Bit,
        dicom_files.jpeg_baseline,
        PhotometricInterpretation="YBR_FULL_422",
    )


def overlooked_padding_in_dicom(patch, path):
    patch.setattr(meaning, "padding", lambda *_: None)
    WORDS[0, 3:6] = 63
    return dicom_files.native(path, WORDS, PixelPaddingValue=63)


def overlooked_slope_in_dicom(patch, path):
    patch.setattr(meaning, "rescale", lambda *_: (1.0, 0.0))
    return dicom_files.native(path, WORDS, RescaleSlope=2, RescaleIntercept=0)


def wrong_byte_order_in_png(patch, path):
    decode, encode = png_codec.decode_samples, png_codec.encode_samples
    swap = lambda samples: replace(samples, values=samples.values.byteswap())  # noqa: E731
    patch.setattr(png_codec, "decode_samples", lambda *a: swap(decode(*a)))
    patch.setattr(png_codec, "encode_samples", lambda head, samples: encode(head, swap(samples)))
    path.write_bytes(png_files.png(WORDS[0]))
    return path


def wrong_byte_order_in_nifti(patch, path):
    voxel = nifti_header._voxel
    patch.setattr(nifti_header, "_voxel", lambda header, order: voxel(header, "<"))
    path.write_bytes(nifti_files.nifti(VOLUME, order=">"))
    return path


def half_the_contrast_in_jpeg(patch, path):
    decode = jpeg_pixels.decode_pixels
    for module in (jpeg_codec, fit, jpeg_pixels, trial):
        patch.setattr(module, "decode_pixels", lambda layout: decode(layout) // 2)
    path.write_bytes(jpeg_files.jpeg(40, 56, quality=95, subsampling=0))
    return path


MISTAKES = {
    wrong_byte_order_in_dicom: "a pixel moved by ",
    planes_for_pixels_in_dicom: "a pixel moved by ",
    overlooked_padding_in_dicom: "a value moved that had to stay",
    overlooked_slope_in_dicom: "a pixel moved by ",
    wrong_byte_order_in_png: "a pixel moved by ",
    wrong_byte_order_in_nifti: "a pixel moved by ",
    half_the_contrast_in_jpeg: "a pixel moved by ",
}


def noise(image):
    frames, height, width, _ = image.stored.shape
    shape = (frames, image.colour_channels, height // 4 + 1, width // 4 + 1)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], shape) * float(EPSILON)
    return signs.repeat(4, 2).repeat(4, 3)[..., :height, :width]


def faults(mistake, monkeypatch, tmp_path):
    """What the audit says of a file that a codec with this mistake wrote."""
    with monkeypatch.context() as patch:
        source = mistake(patch, tmp_path / "source")
        codec = recognise(source)
        image = codec.decode(source)
        stored = image.moved(noise(image), RANGE, EPSILON)
        codec.write(image, stored, tmp_path / "released", 3.0)
        again = codec.decode(tmp_path / "released")
        step = np.abs(again.stored.astype(float) - image.stored.astype(float))
        assert 0 < step.max() <= 3, "the codec itself must see nothing wrong"
    auditor = audit.recognise(source)
    clean, released = (auditor.read(tmp_path / name) for name in ("source", "released"))
    return list(movement(clean, released, RANGE, EPSILON).faults)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_that_reading_and_writing_share_is_found(mistake, monkeypatch, tmp_path):
    found = faults(mistake, monkeypatch, tmp_path)
    assert any(fault.startswith(MISTAKES[mistake]) for fault in found), found


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_without_the_mistake_nothing_is_found(mistake, monkeypatch, tmp_path):
    def harmless(patch, path):
        with monkeypatch.context() as undone:
            return mistake(undone, path)

    assert faults(harmless, monkeypatch, tmp_path) == []
