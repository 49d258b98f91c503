"""The laws of the DICOM codec: identity, exact pixels, nothing but pixels; and what it refuses."""

import subprocess
import sys
from fractions import Fraction

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
)

from medshield.errors import InputError, MedshieldError, NotAnImage, RefusedFile
from medshield.formats.base import IntensityRange
from medshield.formats.dicom.codec import DicomCodec, read_tag
from tests.builders import outside_pixels
from tests.dicom_files import (
    COLOUR,
    GREY,
    PATIENT,
    TWELVE,
    around_pixels,
    by_pydicom,
    coded,
    header,
    j2k,
    jpeg_baseline,
    jpeg_lossless,
    moved,
    native,
    saved,
    smooth,
)

CODEC = DicomCodec()
fast = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


RCT = {"PhotometricInterpretation": "YBR_RCT"}
LOSSLESS = {
    "signed 12 in 16 with padding": lambda p: native(
        p,
        smooth(GREY, 12, signed=True),
        **TWELVE,
        PixelPaddingValue=-2000,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=[40, 50],
        WindowWidth=[400, 350],
    ),
    "MONOCHROME1": lambda p: native(
        p, smooth(GREY), **TWELVE, PhotometricInterpretation="MONOCHROME1"
    ),
    "big endian": lambda p: native(p, smooth(GREY, 16, signed=True), ExplicitVRBigEndian),
    "implicit": lambda p: native(p, smooth(GREY), ImplicitVRLittleEndian, **TWELVE),
    "deflated": lambda p: native(p, smooth(GREY), DeflatedExplicitVRLittleEndian, **TWELVE),
    "8 bit": lambda p: native(p, smooth(GREY, 8)),
    "8 bit big endian OW": lambda p: native(p, smooth((1, 3, 5, 1), 8), ExplicitVRBigEndian, "OW"),
    "8 bit big endian OB": lambda p: native(p, smooth((1, 3, 5, 1), 8), ExplicitVRBigEndian, "OB"),
    "32 bit": lambda p: native(p, smooth(GREY, 24, signed=True)),
    "odd length": lambda p: native(p, smooth((1, 3, 5, 1), 8)),
    "bytes behind the pixels": lambda p: native(p, smooth(GREY), extra=b"abcdefgh"),
    "colour": lambda p: native(p, smooth(COLOUR, 8)),
    "colour by plane": lambda p: native(p, smooth(COLOUR, 8), PlanarConfiguration=1),
    "multi-frame colour by plane": lambda p: native(
        p, smooth((3, 5, 7, 3), 8), PlanarConfiguration=1
    ),
    "multi-frame": lambda p: native(p, smooth((4, 6, 5, 1))),
    "RLE": lambda p: coded(p, smooth(GREY), RLELossless, by_pydicom(RLELossless, 16)),
    "RLE colour": lambda p: coded(p, smooth(COLOUR, 8), RLELossless, by_pydicom(RLELossless, 8)),
    "RLE multi-frame with offsets": lambda p: coded(
        p, smooth((3, 6, 5, 1)), RLELossless, by_pydicom(RLELossless, 16), table=True
    ),
    "JPEG-LS": lambda p: coded(
        p, smooth(GREY), JPEGLSLossless, by_pydicom(JPEGLSLossless, 12), **TWELVE
    ),
    "JPEG-LS signed": lambda p: coded(
        p,
        smooth(GREY, 16, signed=True),
        JPEGLSLossless,
        by_pydicom(JPEGLSLossless, 16),
    ),
    "JPEG-LS colour": lambda p: coded(
        p, smooth(COLOUR, 8), JPEGLSLossless, by_pydicom(JPEGLSLossless, 8)
    ),
    "near-lossless JPEG-LS without loss": lambda p: coded(
        p, smooth(GREY, 8), JPEGLSNearLossless, by_pydicom(JPEGLSLossless, 8)
    ),
    "JPEG 2000": lambda p: coded(
        p, smooth(GREY), JPEG2000Lossless, j2k(reversible=True, bitspersample=12), **TWELVE
    ),
    "JPEG 2000 signed": lambda p: coded(
        p, smooth((1, 40, 50, 1), 16, signed=True), JPEG2000Lossless, j2k(reversible=True)
    ),
    "JPEG 2000 colour": lambda p: coded(
        p, smooth(COLOUR, 8), JPEG2000Lossless, j2k(reversible=True, mct=True), **RCT
    ),
    "JPEG 2000 either way, reversible": lambda p: coded(
        p, smooth(COLOUR, 8), JPEG2000, j2k(reversible=True, mct=False)
    ),
    "JPEG lossless": lambda p: coded(
        p,
        smooth(GREY, 16, signed=True).view("u2"),
        JPEGLosslessSV1,
        jpeg_lossless,
        PixelRepresentation=1,
    ),
    "JPEG lossless colour": lambda p: coded(p, smooth(COLOUR, 8), JPEGLosslessSV1, jpeg_lossless),
    "near-lossless JPEG-LS": lambda p: coded(
        p,
        smooth(GREY, 8),
        JPEGLSNearLossless,
        by_pydicom(JPEGLSNearLossless, 8, jls_error=2),
    ),
    "JPEG 2000 of grey with loss": lambda p: coded(
        p, smooth((1, 40, 50, 1), 8), JPEG2000, j2k(level=30, reversible=False)
    ),
    "JPEG 2000 of colours with loss": lambda p: coded(
        p, smooth((1, 40, 50, 3), 8), JPEG2000, j2k(level=30, reversible=False, mct=False)
    ),
}
LOSSY = {
    "JPEG": lambda p: coded(
        p, smooth(GREY, 8), JPEGBaseline8Bit, jpeg_baseline, LossyImageCompression="01"
    ),
    "JPEG colour": lambda p: coded(
        p,
        smooth(COLOUR, 8),
        JPEGBaseline8Bit,
        jpeg_baseline,
        PhotometricInterpretation="YBR_FULL_422",
        LossyImageCompression="01",
    ),
    "JPEG 12 bit": lambda p: coded(
        p,
        smooth(GREY),
        JPEGExtended12Bit,
        lambda frame: imagecodecs.jpeg8_encode(frame, level=95, bitspersample=12),
        **TWELVE,
    ),
    "JPEG 2000": lambda p: coded(
        p,
        smooth(COLOUR, 8),
        JPEG2000,
        j2k(level=30, reversible=False, mct=True),
        PhotometricInterpretation="YBR_ICT",
    ),
}


def written(path, image, stored, radius=3):
    notes = CODEC.write(image, stored, path, float(radius))
    return CODEC.decode(path), notes


@pytest.mark.parametrize("form", LOSSLESS)
def test_unchanged_values_give_the_source_byte_for_byte(form, tmp_path):
    source = LOSSLESS[form](tmp_path / "source")
    image = CODEC.decode(source)
    assert CODEC.write(image, image.stored.copy(), tmp_path / "target", 0.0) == []
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("form", LOSSLESS)
def test_values_come_back_exactly_in_the_same_syntax(form, tmp_path):
    source = LOSSLESS[form](tmp_path / "source")
    image = CODEC.decode(source)
    wanted = moved(image, 3)
    again, notes = written(tmp_path / "target", image, wanted)
    assert notes == []
    assert np.mean(wanted != image.stored) > 0.9
    assert np.array_equal(again.stored, wanted)
    assert again.stored.dtype == image.stored.dtype
    assert np.abs(again.stored.astype(int) - image.stored.astype(int)).max() <= 3
    assert again.details == image.details
    assert outside_pixels(source, tmp_path / "target") == []


@pytest.mark.parametrize("form", [form for form in LOSSLESS if form != "deflated"])
def test_every_byte_around_the_pixels_stays(form, tmp_path):
    source = LOSSLESS[form](tmp_path / "source")
    image = CODEC.decode(source)
    written(tmp_path / "target", image, moved(image, 3))
    assert around_pixels(source) == around_pixels(tmp_path / "target")


@pytest.mark.parametrize("form", LOSSLESS)
def test_pydicom_reads_the_values_that_the_codec_reads(form, tmp_path):
    source = LOSSLESS[form](tmp_path / "source")
    image = CODEC.decode(source)
    written(tmp_path / "target", image, moved(image, 3))
    for path in (source, tmp_path / "target"):
        read = CODEC.decode(path).stored
        assert np.array_equal(pydicom.dcmread(path).pixel_array.reshape(read.shape), read)


def test_deflated_data_set_stays_but_for_the_pixels(tmp_path):
    source = LOSSLESS["deflated"](tmp_path / "source")
    image = CODEC.decode(source)
    written(tmp_path / "target", image, moved(image, 3))
    assert len((tmp_path / "target").read_bytes()) % 2 == 0
    before, after = (pydicom.dcmread(path) for path in (source, tmp_path / "target"))
    assert before.file_meta == after.file_meta
    del before.PixelData, after.PixelData
    assert before == after


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_becomes_native_and_says_so(form, tmp_path):
    source = LOSSY[form](tmp_path / "source")
    image = CODEC.decode(source)
    wanted = moved(image, 3)
    again, notes = written(tmp_path / "target", image, wanted)
    assert np.array_equal(again.stored, wanted)
    assert again.details["transfer syntax"] == "Explicit VR Little Endian"
    assert outside_pixels(source, tmp_path / "target", notes) == []

    before, after = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "target")
    assert after.LossyImageCompression == "01"
    assert np.array_equal(after.pixel_array.reshape(wanted.shape), wanted)
    changed = {
        element.tag
        for dataset, other in ((before, after), (before.file_meta, after.file_meta))
        for element in (*dataset, *other)
        if dataset.get(element.tag) != other.get(element.tag)
    } - {0x7FE00010}
    assert {str(tag).replace(", ", ",").upper() for tag in changed} == {n[:11] for n in notes}
    assert changed <= {0x00020000, 0x00020010, 0x00280004, 0x00280006, 0x00282110}
    length = after.file_meta.FileMetaInformationGroupLength
    assert (tmp_path / "target").read_bytes()[144 + length :][:2] == b"\x08\x00"


def test_lossy_colours_are_those_that_pydicom_shows(tmp_path):
    source = LOSSY["JPEG colour"](tmp_path / "source")
    shown = pydicom.pixels.pixel_array(source)
    assert np.array_equal(CODEC.decode(source).stored[0], shown)


def test_unchanged_lossy_file_stays_as_it_is(tmp_path):
    source = LOSSY["JPEG"](tmp_path / "source")
    image = CODEC.decode(source)
    assert CODEC.write(image, image.stored, tmp_path / "target", 0.0) == []
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_elements_out_of_order_are_found_all_the_same(tmp_path):
    source = LOSSY["JPEG colour"](tmp_path / "source")
    content = source.read_bytes()
    place = content.index(b"\x28\0\2\0")
    source.write_bytes(content[:place] + b"\1\x70\x10\0LO\4\0free" + content[place:])
    image = CODEC.decode(source)
    again, _ = written(tmp_path / "target", image, moved(image, 3))
    assert np.array_equal(again.stored, moved(image, 3))
    assert pydicom.dcmread(tmp_path / "target").PhotometricInterpretation == "RGB"


def test_group_lengths_count_the_new_bytes(tmp_path):
    values = smooth(GREY, 8)
    dataset = header(values, PhotometricInterpretation="MONOCHROME2")
    dataset.PixelData = encapsulate([jpeg_baseline(values[0, ..., 0])])
    dataset["PixelData"].is_undefined_length = True
    source = saved(tmp_path / "source", dataset, JPEGBaseline8Bit)
    raw = source.read_bytes()
    for group in (0x0028, 0x7FE0):  # pydicom does not write them
        tag = group.to_bytes(2, "little")
        rows = raw.index(tag + (b"\x02\0US" if group == 0x0028 else b"\x10\0OB"))
        end = raw.index(b"\xe0\x7f\x10\0OB") if group == 0x0028 else raw.index(b"\xfc\xff\xfc\xff")
        count = (end - rows).to_bytes(4, "little")
        raw = raw[:rows] + tag + b"\0\0UL\x04\0" + count + raw[rows:]
    source.write_bytes(raw)
    image = CODEC.decode(source)
    _, notes = written(tmp_path / "target", image, moved(image, 3))
    assert [note[:11] for note in notes] == [
        "(0002,0000)", "(0002,0010)", "(0028,0000)", "(0028,2110)", "(7FE0,0000)",
    ]  # fmt: skip
    assert outside_pixels(source, tmp_path / "target", notes) == []
    raw = (tmp_path / "target").read_bytes()
    start = raw.index(b"\x28\0\0\0UL\x04\0")
    end = raw.index(b"\xe0\x7f\0\0UL\x04\0")
    assert int.from_bytes(raw[start + 8 : start + 12], "little") == end - start - 12
    stop = raw.index(b"\xfc\xff\xfc\xff")
    assert int.from_bytes(raw[end + 8 : end + 12], "little") == stop - end - 12


@pytest.mark.parametrize("table", [True, False])
def test_offset_table_stays_of_its_kind(table, tmp_path):
    values = smooth((3, 20, 30, 1))
    source = coded(
        tmp_path / "source", values, RLELossless, by_pydicom(RLELossless, 16), table=table
    )
    image = CODEC.decode(source)
    written(tmp_path / "target", image, moved(image, 3))
    data = pydicom.dcmread(tmp_path / "target").PixelData
    offsets = np.frombuffer(data[8 : 8 + int.from_bytes(data[4:8], "little")], "<u4")
    assert len(offsets) == (3 if table else 0)
    for offset in offsets:
        assert data[8 + 4 * len(offsets) + offset :][:4] == b"\xfe\xff\x00\xe0"
    assert len(list(generate_frames(data, number_of_frames=3))) == 3


@given(
    bits=st.tuples(st.sampled_from([8, 16, 32]), st.integers(2, 32)).filter(lambda b: b[1] <= b[0]),
    signed=st.booleans(),
    shape=st.tuples(*[st.integers(1, 4)] * 3, st.sampled_from([1, 3])),
    plane=st.booleans(),
    big=st.booleans(),
    data=st.data(),
)
@fast
def test_native_words_of_any_layout(tmp_path, bits, signed, shape, plane, big, data):
    """Any bits in any word: the values are those of pydicom, and the unused bits stay."""
    allocated, stored = bits
    words = np.frombuffer(
        data.draw(st.binary(min_size=(n := int(np.prod(shape)) * allocated // 8), max_size=n)),
        f"u{allocated // 8}",
    ).reshape(shape)
    source = native(
        tmp_path / "source",
        words,
        ExplicitVRBigEndian if big else ExplicitVRLittleEndian,
        bits=stored,
        PixelRepresentation=int(signed),
        **({"PlanarConfiguration": int(plane)} if shape[-1] == 3 else {}),
    )
    image = CODEC.decode(source)
    expected = pydicom.pixels.pixel_array(source, raw=True).reshape(shape)
    assert np.array_equal(image.stored, expected)
    again, _ = written(tmp_path / "target", image, wanted := moved(image, 1))
    assert np.array_equal(again.stored, wanted)
    assert outside_pixels(source, tmp_path / "target") == []
    (tmp_path / "target").unlink()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_overlay_in_unused_bits_stays(syntax, tmp_path):
    overlay = np.zeros(GREY, "u2")
    overlay[0, 5:9, 3:12] = 0x8000
    words = smooth(GREY) | overlay
    if syntax == RLELossless:
        encode = by_pydicom(RLELossless, 16)
        source = coded(tmp_path / "source", words, syntax, encode, **TWELVE)
    else:
        source = native(tmp_path / "source", words, **TWELVE)
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, smooth(GREY))
    again, _ = written(tmp_path / "target", image, wanted := moved(image, 3))
    assert np.array_equal(again.stored, wanted)
    dataset = pydicom.dcmread(tmp_path / "target")
    dataset.BitsStored, dataset.HighBit = 16, 15  # so that pydicom does not clear them
    assert np.array_equal(dataset.pixel_array.reshape(GREY) & 0xF000, overlay)


def test_sign_stays_extended_into_unused_bits(tmp_path):
    values = np.resize(np.array([-1, 0, 1], "i2"), GREY)
    source = native(tmp_path / "source", values, **TWELVE)
    image = CODEC.decode(source)
    written(tmp_path / "target", image, wanted := moved(image, 3))
    data = np.frombuffer(pydicom.dcmread(tmp_path / "target").PixelData, "<i2").reshape(GREY)
    assert np.array_equal(data, wanted)


def test_padding_stays_and_is_never_made(tmp_path):
    values = np.resize(np.arange(-5, 6, dtype="i2"), GREY)
    source = native(tmp_path / "source", values, PixelPaddingValue=0, PixelPaddingRangeLimit=2)
    image = CODEC.decode(source)
    assert np.array_equal(image.frozen, (values >= 0) & (values <= 2))
    wanted = moved(image, 2)
    assert np.array_equal(wanted[image.frozen], values[image.frozen])
    assert ((wanted >= 0) & (wanted <= 2) & ~image.frozen).any()
    again, _ = written(tmp_path / "target", image, wanted)
    padding = (again.stored >= 0) & (again.stored <= 2)
    assert np.array_equal(padding, image.frozen)
    assert np.abs(again.stored - values).max() == 2


def test_padding_written_as_an_unsigned_number(tmp_path):
    source = native(tmp_path / "source", smooth(GREY, 16, signed=True), PixelPaddingValue=-2000)
    raw = source.read_bytes().replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US")
    source.write_bytes(raw)
    image = CODEC.decode(source)
    assert np.array_equal(image.frozen, image.stored == -2000)


def test_smallest_and_largest_hold_where_they_are_true(tmp_path):
    values = smooth(GREY)
    limits = {"SmallestImagePixelValue": 0, "LargestImagePixelValue": int(values.max()) + 1}
    image = CODEC.decode(native(tmp_path / "a", values, **TWELVE, **limits))
    assert (image.lowest, image.highest) == (0, values.max() + 1)
    limits["LargestImagePixelValue"] = 10
    image = CODEC.decode(native(tmp_path / "b", values, **TWELVE, **limits))
    assert (image.lowest, image.highest) == (0, 4095)


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels(keyword, tmp_path):
    kind = "f4" if keyword == "FloatPixelData" else "f8"
    values = np.linspace(-3, 5, 30).astype(kind).reshape(1, 5, 6, 1)
    values[0, 0, 0], values[0, 1, 1] = np.nan, -3
    dataset = header(values)
    for unwanted in ("BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[unwanted]
    setattr(dataset, keyword, values.tobytes())
    setattr(dataset, keyword.replace("Data", "PaddingValue"), -3.0)
    source = saved(tmp_path / "source", dataset)
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, values, equal_nan=True)
    assert np.array_equal(image.frozen, np.isnan(values) | (values == -3))
    wanted = moved(image, 1)
    again, _ = written(tmp_path / "target", image, wanted)
    assert np.array_equal(again.stored, wanted, equal_nan=True)
    assert not np.array_equal(wanted, values, equal_nan=True)
    assert outside_pixels(source, tmp_path / "target") == []


def test_what_the_header_says_of_the_values(tmp_path):
    image = CODEC.decode(LOSSLESS["signed 12 in 16 with padding"](tmp_path / "ct"))
    assert image.kind == "DICOM CT"
    assert (image.slope, image.intercept) == (1.0, -1024.0)
    assert image.declared == ((-160.0, 240.0), (-125.0, 225.0))
    assert (image.lowest, image.highest) == (-2048, 2047)
    assert image.patient == PATIENT
    assert PATIENT not in repr(image)
    assert not image.inverted
    assert image.details == {
        "transfer syntax": "Explicit VR Little Endian",
        "photometric interpretation": "MONOCHROME2",
        "bits stored": "12",
    }
    assert CODEC.decode(LOSSLESS["MONOCHROME1"](tmp_path / "inverted")).inverted
    colour = CODEC.decode(LOSSLESS["colour"](tmp_path / "colour"))
    assert (colour.kind, colour.declared) == ("DICOM CT colour", ((0.0, 255.0),))
    plain = CODEC.decode(native(tmp_path / "plain", smooth(GREY, 8), Modality="Dr. Who"))
    assert (plain.kind, plain.declared) == ("DICOM", ((0.0, 255.0),))
    deep = CODEC.decode(native(tmp_path / "deep", smooth(GREY), **TWELVE))
    assert deep.declared == ()


def functional(**groups):
    item = Dataset()
    for name, elements in groups.items():
        inner = Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(item, name, Sequence([inner]))
    return item


def enhanced(path, *per_frame):
    shared = functional(FrameVOILUTSequence={"WindowCenter": 40, "WindowWidth": 400})
    return native(
        path,
        smooth((2, 6, 5, 1)),
        **TWELVE,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(per_frame),
    )


def test_functional_groups(tmp_path):
    scale = {"RescaleSlope": 2, "RescaleIntercept": -5}
    window = {"WindowCenter": 0, "WindowWidth": 10}
    frame = functional(PixelValueTransformationSequence=scale, FrameVOILUTSequence=window)
    image = CODEC.decode(enhanced(tmp_path / "same", frame, frame))
    assert (image.slope, image.intercept) == (2.0, -5.0)
    assert image.declared == ((-160.0, 240.0), (-5.0, 5.0))


def test_frames_with_slopes_of_their_own(tmp_path):
    """Each frame moves by its own radius (PS3.3 C.7.6.16.2.9)."""
    scales = ({"RescaleSlope": slope, "RescaleIntercept": -5} for slope in (2, 0.5))
    frames = [functional(PixelValueTransformationSequence=scale) for scale in scales]
    source = enhanced(tmp_path / "source", *frames)
    image = CODEC.decode(source)
    assert image.slope.ravel().tolist() == [2, 0.5]
    assert image.intercept.ravel().tolist() == [-5, -5]
    intensity = IntensityRange(-5000.0, 9000.0, "test")
    delta = np.full((2, 1, 6, 5), 20 / intensity.width)
    wanted = image.moved(delta, intensity, Fraction(20, 14000))
    again, _ = written(tmp_path / "target", image, wanted)
    step = pydicom.dcmread(tmp_path / "target").pixel_array.astype(int)
    step -= pydicom.dcmread(source).pixel_array
    assert np.unique(step[0]).tolist() == [10]
    assert step[1].max() == 40
    assert np.array_equal(again.stored, wanted)


@pytest.mark.parametrize(
    ("whole", "first", "second", "reason"),
    [
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, 2, 3, "than the whole image"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, 2, 2, "than the whole image"),
        ({}, 2, 0, "Rescale Slope is 0"),
        ({}, 2, None, None),
    ],
)
def test_slopes_that_contradict_each_other(whole, first, second, reason, tmp_path):
    frames = [
        functional(PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": 0})
        if slope is not None
        else Dataset()
        for slope in (first, second)
    ]
    source = native(
        tmp_path / "source",
        smooth((2, 6, 5, 1)),
        **whole,
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    if reason is None:
        assert CODEC.decode(source).slope == 2
        return
    with pytest.raises(RefusedFile, match=reason):
        CODEC.decode(source)


def picture():
    item = header(smooth((1, 4, 4, 1), 8))
    item.PixelData = b"\0" * 16
    return Sequence([item])


def hidden_deeper():
    item = Dataset()
    item.ReferencedImageSequence = picture()
    return Sequence([item])


SIGNATURE = Sequence([Dataset()])
REFUSED = {
    "its photometric interpretation is ARGB": {"PhotometricInterpretation": "ARGB"},
    "missing or unknown": {"PhotometricInterpretation": "SOME SECRET"},
    "Rescale Slope is 0": {"RescaleSlope": 0, "RescaleIntercept": 1},
    r"\(0008,1140\) Referenced Image Sequence holds": {"ReferencedImageSequence": picture()},
    r"\(0008,1115\) Referenced Series Sequence holds": {
        "ReferencedSeriesSequence": hidden_deeper()
    },
    "would break the signature": {"DigitalSignaturesSequence": SIGNATURE},
    r"\(4FFE,0001\) MAC Parameters Sequence signs": {"MACParametersSequence": SIGNATURE},
    "only samples in a word's lowest bits are read alike": {"BitsStored": 12, "HighBit": 15},
    "its pixels are single bits": {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
    "the header says": {"Rows": 22},
    "its pixels have": {"Rows": 10},
    "Rows is missing": {"Rows": None},
    "its rows, columns or frames are 0": {"Columns": 0},
    "samples a pixel": {"SamplesPerPixel": 3},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_by_name(reason, tmp_path):
    source = native(tmp_path / "source", smooth(GREY), **REFUSED[reason])
    with pytest.raises(RefusedFile, match=reason) as refusal:
        CODEC.decode(source)
    assert "SECRET" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_more_that_is_refused_by_name(tmp_path):
    source = native(tmp_path / "source", smooth(GREY))
    raw = source.read_bytes()
    rle = LOSSLESS["RLE"](tmp_path / "rle").read_bytes()
    deflated = LOSSLESS["deflated"](tmp_path / "deflated").read_bytes()
    offsets = header(smooth(GREY), ExtendedOffsetTable=b"\1" * 8)
    offsets.PixelData = encapsulate([by_pydicom(RLELossless, 16)(smooth(GREY)[0, ..., 0])])
    offsets["PixelData"].is_undefined_length = True
    explicit, video = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.102\0"
    cases = {
        "no preamble": raw[132:],
        "no .*Transfer Syntax UID": raw[:132] + raw[raw.index(b"\x08\0\x05\0CS") :],
        "truncated": raw[:-300],
        "it is truncated": raw[: raw.index(b"\x28\0\x10\0US") + 5],
        "deflated data set is truncated": deflated[:-50],
        "deflated data set is damaged": deflated[:450] + bytes(40) + deflated[490:],
        "transfer syntax .*MPEG-4.* is not supported": rle.replace(
            b"1.2.840.10008.1.2.5\0".ljust(20, b"\0"), video[:20]
        ).replace(b"UI\x14\0" + video[:20], b"UI\x18\0" + video),
        "its pixels are coded": rle.replace(b"1.2.840.10008.1.2.5\0", explicit),
        "TIFF": b"II*\0\x90\x01\0\0" + raw[8:],
        "no value representation": raw.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0\0\0"),
        "Extended Offset Table does not say": saved(
            tmp_path / "eot", offsets, RLELossless
        ).read_bytes(),
        "no encoder of JPEG 2000": coded(
            tmp_path / "32",
            smooth(GREY, 26),
            JPEG2000Lossless,
            j2k(reversible=True, bitspersample=26),
        ).read_bytes(),
        "a coded frame has 18 columns, 21 rows": coded(
            tmp_path / "size", smooth(GREY), JPEGLSLossless, by_pydicom(JPEGLSLossless, 16), Rows=20
        ).read_bytes(),
        "does not start with the headers": coded(
            tmp_path / "no headers", smooth(GREY), JPEGLSLossless, lambda _: b"\0" * 80
        ).read_bytes(),
        "its header declares": native(
            tmp_path / "bomb", smooth(GREY), Rows=65535, Columns=65535
        ).read_bytes(),
        r"can't be decoded \(ValueError\)": native(
            tmp_path / "slope", smooth(GREY), RescaleSlope="1.5"
        )
        .read_bytes()
        .replace(b"DS\4\x001.5 ", b"DS\4\0oops"),
    }
    for reason, data in cases.items():
        source.write_bytes(data)
        with pytest.raises(RefusedFile, match=reason):
            CODEC.decode(source)


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path):
    """Any byte may be wrong and a file may end anywhere."""
    rng = np.random.default_rng(5)
    target = tmp_path / "damaged"
    for form in ("signed 12 in 16 with padding", "implicit", "RLE", "JPEG-LS", "deflated"):
        raw = LOSSLESS[form](tmp_path / "source").read_bytes()
        for _ in range(40):
            data = bytearray(raw)
            data[rng.integers(132, len(raw))] = rng.integers(256)
            target.write_bytes(data if rng.random() < 0.5 else raw[: rng.integers(len(raw))])
            try:
                CODEC.decode(target)
            except MedshieldError:
                continue


def test_nothing_of_the_header_is_said_aloud(tmp_path):
    """In a process of its own, as it is what reaches a terminal that counts."""
    source = native(tmp_path / "source", smooth(GREY), PatientID="x" * 100 + PATIENT)
    raw = source.read_bytes().replace(b"ISO_IR 192", b"SECRET_192")
    source.write_bytes(raw.replace(b"LO\x10", b"DA\x10"))
    code = (
        "import sys; from pathlib import Path; from medshield.formats.dicom.codec import *\n"
        "DicomCodec().decode(Path(sys.argv[1])); read_tag(Path(sys.argv[1]), 'PatientID')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source], capture_output=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_encoder_that_lies_is_found_out(tmp_path, monkeypatch):
    image = CODEC.decode(LOSSLESS["JPEG 2000"](tmp_path / "source"))
    real = imagecodecs.jpeg2k_encode
    monkeypatch.setattr(imagecodecs, "jpeg2k_encode", lambda a, **kw: real(a ^ 1, **kw))
    with pytest.raises(RefusedFile, match="does not give its values back"):
        CODEC.write(image, moved(image, 3), tmp_path / "target", 3.0)
    monkeypatch.setattr(imagecodecs, "jpeg2k_encode", None)
    with pytest.raises(RefusedFile, match=r"encoder of JPEG 2000 .* failed"):
        CODEC.write(image, moved(image, 3), tmp_path / "target", 3.0)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("uid", [SegmentationStorage, RTDoseStorage])
def test_masks_and_doses_are_no_images(uid, tmp_path):
    with pytest.raises(NotAnImage):
        CODEC.decode(native(tmp_path / "source", smooth(GREY), SOPClassUID=uid))


def test_no_pixel_data_is_no_image(tmp_path):
    dataset = header(smooth(GREY), SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.88.11"))
    with pytest.raises(NotAnImage, match=r"no pixel data \(Basic Text SR"):
        CODEC.decode(saved(tmp_path / "report", dataset))
    dataset.SourceImageSequence = picture()
    with pytest.raises(RefusedFile, match="Source Image Sequence"):
        CODEC.decode(saved(tmp_path / "report with a picture", dataset))


def test_recognises(tmp_path):
    source = native(tmp_path / "source", smooth(GREY))
    raw = source.read_bytes()
    assert CODEC.recognises(raw[:512], source)
    start = raw.index(b"\x08\0\x05\0CS")
    assert CODEC.recognises(raw[132:644], source)
    assert CODEC.recognises(raw[start : start + 512], source)
    implicit = native(tmp_path / "implicit", smooth(GREY), ImplicitVRLittleEndian).read_bytes()
    start = implicit.index(b"\x08\0\x05\0\x0a\0\0\0")
    assert CODEC.recognises(implicit[start : start + 512], source)
    for other in (b"", b"\x89PNG\r\n\x1a\n" + bytes(500), bytes(512), b"\x08\0\x03\x93XX" * 50):
        assert not CODEC.recognises(other, source)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("0008,0060", "CT"),
        ("(0010,0020)", PATIENT),
        ("00080008", "ORIGINAL\\PRIMARY\\AXIAL"),
        ("Modality", "CT"),
        ("0002,0010", "1.2.840.10008.1.2.1"),
        ("PatientName", "Müller^Ångström"),
        ("Rows", "21"),
        ("BodyPartExamined", None),
        ("ReferencedImageSequence", None),
    ],
)
def test_read_tag(tag, value, tmp_path):
    source = LOSSLESS["signed 12 in 16 with padding"](tmp_path / "source")
    assert read_tag(source, tag) == value


@pytest.mark.parametrize("tag", ["Modalität", "0008", "0008,006G", "", "0008,0060,1"])
def test_malformed_tag_is_a_usage_mistake(tag, tmp_path):
    with pytest.raises(InputError, match="GGGG,EEEE"):
        read_tag(native(tmp_path / "source", smooth(GREY)), tag)


def test_tag_of_another_file_is_none(tmp_path):
    (tmp_path / "text").write_text("no DICOM file")
    assert read_tag(tmp_path / "text", "Modality") is None


# Real files: what is refused among them, and why.
REFUSED_IN_PUBLIC = {
    "ExplVR_BigEndNoMeta.dcm": "no preamble",
    "ExplVR_LitEndNoMeta.dcm": "no preamble",
    "JPEG2000-embedded-sequence-delimiter.dcm": "a coded frame has",
    "MR_truncated.dcm": "truncated",
    "SC_rgb_jpeg.dcm": "no value representation",
    "DICOMDIR-nooffset": "truncated",
    "meta_missing_tsyntax.dcm": "Transfer Syntax UID",
    "nested_priv_SQ.dcm": "photometric interpretation",
    "rtplan_truncated.dcm": "truncated",
    "rtstruct.dcm": "no preamble",
}


def public_files(real_data):
    """The public files that the codec recognises; of the hundred alike, one."""
    for path in sorted((real_data / "dicom-odd").rglob("*")):
        alike = "TINY_ALPHA" in path.parts and path.name not in ("DICOMDIR", "IM000000")
        if path.is_file() and not alike and CODEC.recognises(path.read_bytes()[:512], path):
            yield path


def public_images(real_data):
    for path in public_files(real_data):
        try:
            yield path, CODEC.decode(path)
        except (NotAnImage, RefusedFile):
            continue


def some_steps(image):
    """3 stored units, or as many that the entries of a 16-bit palette are within each other's."""
    coarse = image.container.view is not None and image.stored.dtype == np.uint16
    return 3 * 256 if coarse else 3


@pytest.mark.real_data
def test_public_files_are_exact_or_refused_by_name(real_data, tmp_path):
    refused, exact = {}, 0
    for path in public_files(real_data):
        target = tmp_path / "target"
        target.unlink(missing_ok=True)
        try:
            image = CODEC.decode(path)
            CODEC.write(image, image.stored, target, 0.0)
            assert target.read_bytes() == path.read_bytes(), path
            radius = some_steps(image)
            again, notes = written(target, image, wanted := moved(image, radius), radius)
        except NotAnImage:
            continue
        except RefusedFile as reason:
            refused[path.name] = str(reason)
            continue
        if image.container.view is not None:
            step = np.abs(again.stored.astype(int) - image.stored)
            assert 0 < step.max() <= radius, path
        else:
            if padding := image.container.padding:
                wanted = np.where(padding.covers(wanted), image.stored, wanted)
            assert np.array_equal(again.stored, wanted), path
        assert outside_pixels(path, target, notes) == [], path
        exact += 1
    for name, reason in refused.items():
        sys.stdout.write(f"{name}: {reason}\n")
    assert refused.keys() == REFUSED_IN_PUBLIC.keys()
    assert all(REFUSED_IN_PUBLIC[name] in reason for name, reason in refused.items())
    assert exact == 119


def said_by(program, path, *options):
    """The lines that a program says of a file, less the file's own name."""
    done = subprocess.run([program, *options, path], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).replace(bytes(path), b"FILE").splitlines()
    return [line.decode("latin-1").strip() for line in lines]


def dumped(program, path, notes):
    """dcmdump's lines, less those of Pixel Data, of comments and of the elements in `notes`."""
    skipped = ("(7fe0,00", "(fffe,e0", "#", *(note[:11].lower() for note in notes))
    lines = said_by(program, path, "-q", "+L")
    return [line for line in lines if line and not line.startswith(skipped)]


@pytest.mark.real_data
@pytest.mark.external
def test_dcmdump_and_dciodvfy_see_the_same_file(real_data, program, tmp_path):
    dcmdump, dciodvfy = program("dcmdump"), program("dciodvfy")
    target = tmp_path / "target"
    seen = set()
    for path, image in public_images(real_data):
        form = (path.parts[-2], image.details["transfer syntax"], image.stored.shape[-1])
        if form in seen:
            continue  # the programs take their time; one of each kind will do
        seen.add(form)
        target.unlink(missing_ok=True)
        radius = some_steps(image)
        notes = CODEC.write(image, moved(image, radius), target, float(radius))
        assert dumped(dcmdump, path, notes) == dumped(dcmdump, target, notes), path
        if image.details["transfer syntax"].startswith("Deflated"):
            continue  # dciodvfy does not inflate
        known = said_by(dciodvfy, path)
        assert [line for line in said_by(dciodvfy, target) if line not in known] == [], path


@pytest.mark.external
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("JPEG lossless", "dcmdjpeg"),
        ("JPEG lossless colour", "dcmdjpeg"),
        ("JPEG-LS", "dcmdjpls"),
        ("JPEG-LS signed", "dcmdjpls"),
        ("JPEG-LS colour", "dcmdjpls"),
        ("near-lossless JPEG-LS without loss", "dcmdjpls"),
        ("RLE", "dcmdrle"),
        ("RLE colour", "dcmdrle"),
        ("RLE multi-frame with offsets", "dcmdrle"),
        ("JPEG 2000", "gdcmconv"),
        ("JPEG 2000 signed", "gdcmconv"),
        ("JPEG 2000 colour", "gdcmconv"),
    ],
)
def test_other_decoders_read_the_coded_values(form, name, program, tmp_path):
    decoder = [program(name), *(["--raw"] if name == "gdcmconv" else [])]
    image = CODEC.decode(LOSSLESS[form](tmp_path / "source"))
    written(tmp_path / "target", image, wanted := moved(image, 3))
    subprocess.run([*decoder, tmp_path / "target", tmp_path / "plain"], check=True, timeout=60)
    plain = pydicom.dcmread(tmp_path / "plain").pixel_array
    assert np.array_equal(plain.reshape(wanted.shape), wanted)
