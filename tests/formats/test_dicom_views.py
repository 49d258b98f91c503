"""Values shown through a table or as other colours: the bound holds on what is shown."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medshield.audit.base import Allowed
from medshield.audit.dicom import DicomAuditor
from medshield.errors import RefusedFile
from medshield.formats.base import IntensityRange
from medshield.formats.dicom.codec import DicomCodec
from tests.dicom_files import (
    COLOUR,
    GREY,
    TWELVE,
    around_pixels,
    by_pydicom,
    coded,
    jpeg_lossless,
    moved,
    native,
    smooth,
)

CODEC = DicomCodec()
PALETTE = {"PhotometricInterpretation": "PALETTE COLOR"}
YBR = {"PhotometricInterpretation": "YBR_FULL"}
some = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def palette(entries, first=0, bits=None, big=False):
    """The header elements of a palette with these entries, shaped (entries, 3)."""
    size = entries.dtype.itemsize
    elements = {}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        keyword = f"{colour}PaletteColorLookupTable"
        data = entries[:, channel].astype(f"{'>' if big else '<'}u{size}").tobytes()
        elements[f"{keyword}Descriptor"] = [len(entries) % 65536, first, bits or size * 8]
        elements[f"{keyword}Data"] = data
    return PALETTE | elements


def steps(entries=256, bits=8, step=3):
    """A palette where next indices differ by a few of the table's own units."""
    index = np.arange(entries)
    channels = [index * step, index * step + 40, 255 - index]
    scale = 1 if bits == 8 else 256
    return (np.stack(channels, axis=1) % 256 * scale).astype(f"u{bits // 8}")


def as_shown(path):
    """What pydicom shows, in the shape of `DecodedImage.stored`."""
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    elif "ModalityLUTSequence" in dataset:
        values = apply_modality_lut(values, dataset)
    return values.reshape(CODEC.decode(path).stored.shape)


NOT_BY_DCMTK = {"Modality", "JPEG-LS", "multi-frame"}


def released(source, target, radius):
    """Everything moved by up to `radius`; what was wanted, and what pydicom shows before, after."""
    target.unlink(missing_ok=True)
    image = CODEC.decode(source)
    wanted = moved(image, radius)
    CODEC.write(image, wanted, target, float(radius))
    before, after = as_shown(source), as_shown(target)
    assert np.array_equal(before, image.stored)
    assert np.array_equal(after, CODEC.decode(target).stored)
    assert np.abs(after.astype(int) - before).max() <= radius
    return wanted.astype(int), before.astype(int), after.astype(int)


SHOWN = {
    "8-bit palette": (lambda p: native(p, smooth(GREY, 8), **palette(steps())), 8),
    "16-bit palette": (lambda p: native(p, smooth(GREY, 8), **palette(steps(bits=16))), 2056),
    "16-bit palette of 12-bit indices": (
        lambda p: native(p, smooth(GREY), **TWELVE, **palette(steps(4096, 16))),
        2056,
    ),
    "short palette that starts late": (
        lambda p: native(p, smooth(GREY, 8), **palette(steps(100), first=30)),
        8,
    ),
    "8-bit entries in 16-bit words": (
        lambda p: native(p, smooth(GREY, 8), **palette(steps().astype("u2"))),
        8,
    ),
    "multi-frame palette by RLE": (
        lambda p: coded(
            p, smooth((3, 9, 8, 1), 8), RLELossless, by_pydicom(RLELossless, 8), **palette(steps())
        ),
        8,
    ),
    "YBR_FULL": (lambda p: native(p, smooth(COLOUR, 8), **YBR), 8),
    "YBR_FULL by plane": (
        lambda p: native(p, smooth((2, 8, 6, 3), 8), **YBR, PlanarConfiguration=1),
        8,
    ),
    "YBR_FULL by RLE": (
        lambda p: coded(p, smooth(COLOUR, 8), RLELossless, by_pydicom(RLELossless, 8), **YBR),
        8,
    ),
    "YBR_FULL by JPEG-LS": (
        lambda p: coded(p, smooth(COLOUR, 8), JPEGLSLossless, by_pydicom(JPEGLSLossless, 8), **YBR),
        8,
    ),
    "YBR_FULL by JPEG lossless": (
        lambda p: coded(p, smooth(COLOUR, 8), JPEGLosslessSV1, jpeg_lossless_ybr, **YBR),
        8,
    ),
    "YBR_FULL_422": (lambda p: half(p, smooth((2, 8, 6, 3), 8)), 8),
    "big endian YBR_FULL_422": (lambda p: half(p, smooth(COLOUR, 8), ExplicitVRBigEndian), 8),
    "Modality LUT": (
        lambda p: native(p, smooth(GREY), **TWELVE, ModalityLUTSequence=lut(curve())),
        8,
    ),
    "Modality LUT of signed values": (
        lambda p: native(
            p,
            smooth(GREY, 12, signed=True),
            **TWELVE,
            ModalityLUTSequence=lut(curve(), first=-2048),
        ),
        8,
    ),
}


def jpeg_lossless_ybr(frame):
    """Components as they are, named 1, 2, 3: a reader takes names of R, G, B for RGB."""
    coded = bytearray(jpeg_lossless(frame))
    start, scan = coded.index(b"\xff\xc3"), coded.index(b"\xff\xda")
    coded[start + 10 : start + 19 : 3] = coded[scan + 5 : scan + 11 : 2] = b"\1\2\3"
    return bytes(coded)


def half(path, values, syntax=ExplicitVRLittleEndian):
    """A native YBR_FULL_422 file: pairs of pixels with the chroma of the first."""
    frames, rows, columns, _ = values.shape
    pairs = values.reshape(-1, 6)[:, [0, 3, 1, 2]]
    return native(
        path,
        pairs.reshape(frames, rows, columns, 2),
        syntax,
        vr="OB",
        PhotometricInterpretation="YBR_FULL_422",
        PlanarConfiguration=0,
        SamplesPerPixel=3,
    )


def curve():
    return (np.arange(4096) ** 2 // 9000 + 100).astype("u2")


def lut(table, first=0, bits=16):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table), first, bits])
    item.ModalityLUTType = "OD"
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return Sequence([item])


@pytest.mark.parametrize("form", SHOWN)
def test_bound_holds_on_what_pydicom_shows(form, tmp_path):
    make, radius = SHOWN[form]
    wanted, before, after = released(make(tmp_path / "source"), tmp_path / "target", radius)
    assert np.mean(np.any(before != after, axis=-1)) > 0.3
    # It went where it should: nearer to what was wanted than what was there.
    assert np.sum((after - wanted) ** 2) < np.sum((before - wanted) ** 2)


@pytest.mark.parametrize("form", SHOWN)
def test_unchanged_view_gives_the_source_byte_for_byte(form, tmp_path):
    source = SHOWN[form][0](tmp_path / "source")
    image = CODEC.decode(source)
    assert CODEC.write(image, image.stored.copy(), tmp_path / "target", 0.0) == []
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("form", SHOWN)
def test_every_byte_around_shown_pixels_stays(form, tmp_path):
    make, radius = SHOWN[form]
    source = make(tmp_path / "source")
    released(source, tmp_path / "target", radius)
    assert around_pixels(source) == around_pixels(tmp_path / "target")


@pytest.mark.parametrize("form", SHOWN)
def test_audit_sees_the_same_and_nothing_else_changed(form, tmp_path):
    make, radius = SHOWN[form]
    source, target = make(tmp_path / "source"), tmp_path / "target"
    image = CODEC.decode(source)
    notes = CODEC.write(image, moved(image, radius), target, float(radius))
    auditor = DicomAuditor()
    assert list(auditor.differences(source, target, Allowed(notes=tuple(notes)))) == []
    for path in (source, target):
        assert np.array_equal(auditor.read(path).values, CODEC.decode(path).stored)
        assert auditor.read(path).kind == image.kind


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("first", [0, -2048])
def test_modality_table_as_every_writer_encodes_it(syntax, vr, first, tmp_path):
    """Implicit encoding leaves open whether its numbers are words, and whether they are signed."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first else "US", [4096, first, 16])
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    words = curve().astype(f"{order}u2").tobytes()
    item.add_new("LUTData", vr, words if vr == "OW" else [int(entry) for entry in curve()])
    values = smooth(GREY, 12, signed=bool(first))
    table = Sequence([item])
    source = native(tmp_path / "source", values, syntax, **TWELVE, ModalityLUTSequence=table)
    _, before, after = released(source, tmp_path / "target", 8)
    assert np.array_equal(before, curve()[values.astype(int) - first])
    assert np.mean(before != after) > 0.9


def test_modality_table_of_12_bit_entries(tmp_path):
    """Which pydicom by itself does not apply (PS3.3 C.11.1.1: 8 to 16 bits)."""
    elements = {"ModalityLUTSequence": lut(curve(), bits=12)}
    source = native(tmp_path / "source", smooth(GREY), **TWELVE, **elements)
    assert np.array_equal(CODEC.decode(source).stored, curve()[smooth(GREY)])
    assert np.array_equal(DicomAuditor().read(source).values, curve()[smooth(GREY)])


def test_palette_takes_the_nearest_entry_within_the_bound(tmp_path):
    """Against a search through all entries, for every pixel."""
    entries = np.random.default_rng(3).integers(0, 60, (256, 3)).astype("u1")
    source = native(tmp_path / "source", smooth(GREY, 8), **palette(entries))
    wanted, before, after = released(source, tmp_path / "target", 8)
    for want, old, new in zip(*(a.reshape(-1, 3) for a in (wanted, before, after)), strict=True):
        allowed = entries[np.abs(entries.astype(int) - old).max(axis=1) <= 8].astype(int)
        least = np.sum((allowed - want) ** 2, axis=1).min()
        assert np.sum((new - want) ** 2) == least


def test_palette_says_what_it_shows(tmp_path):
    image = CODEC.decode(SHOWN["8-bit palette"][0](tmp_path / "a"))
    assert (image.kind, image.declared) == ("DICOM CT colour", ((0.0, 255.0),))
    image = CODEC.decode(SHOWN["16-bit palette"][0](tmp_path / "b"))
    assert (image.kind, image.declared) == ("DICOM CT colour 16-bit", ((0.0, 65535.0),))
    image = CODEC.decode(SHOWN["8-bit entries in 16-bit words"][0](tmp_path / "c"))
    assert (image.kind, image.declared) == ("DICOM CT colour", ((0.0, 255.0),))


def test_big_endian_palette_is_read_in_its_own_order(tmp_path):
    entries = steps(bits=16)
    entries += np.arange(256, dtype="u2")[:, None]
    source = native(
        tmp_path / "source",
        smooth(GREY, 8),
        ExplicitVRBigEndian,
        "OB",
        **palette(entries, big=True),
    )
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, entries[smooth(GREY, 8)[..., 0]])


def test_segmented_palette(tmp_path):
    segments = np.array([0, 2, 10, 20, 1, 127, 147, 1, 127, 20], "<u2")  # two, up, down again
    elements = PALETTE.copy()
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = segments.tobytes()
    source = native(tmp_path / "source", smooth(GREY, 8), **elements)
    _, before, after = released(source, tmp_path / "target", 8)
    assert np.mean(before != after) > 0.9


def test_padding_index_stays_and_no_other_becomes_it(tmp_path):
    entries = np.repeat(np.arange(256, dtype="u1")[:, None], 3, axis=1)
    source = native(tmp_path / "source", smooth(GREY, 8), **palette(entries), PixelPaddingValue=11)
    released(source, tmp_path / "target", 8)
    before, after = (pydicom.dcmread(tmp_path / name).pixel_array for name in ("source", "target"))
    assert np.array_equal(before == 11, after == 11)
    assert np.any(before == 11)


def test_palette_says_beforehand_how_coarse_it_is_and_afterwards_what_stayed(tmp_path):
    entries = (np.arange(256)[:, None] % 4 * [80, 60, 85]).astype("u1")
    entries[0] += 5  # one of 64 values of its colour
    values = np.resize(np.arange(256, dtype="u1"), (1, 16, 16, 1))
    source = native(tmp_path / "source", values, **palette(entries))
    image = CODEC.decode(source)
    assert image.step == 5
    notes = CODEC.write(image, moved(image, 8), tmp_path / "target", 8.0)
    assert notes == [
        "table: 75.0 % of the pixels stay, as no other of its entries lies within epsilon"
    ]


def test_grey_picture_takes_no_colours_of_its_palette(tmp_path):
    entries = np.repeat(np.arange(0, 256, 2, dtype="u1")[:, None], 3, axis=1)
    entries = np.concatenate([entries, entries + np.array([1, 0, 0], "u1")])
    values = smooth(GREY, 8) // 2
    image = CODEC.decode(native(tmp_path / "source", values, **palette(entries)))
    assert image.is_grey
    wanted = image.stored.astype(int) + np.array([4, 1, 2])
    CODEC.write(image, wanted.astype("u1"), tmp_path / "one", 8.0)
    assert CODEC.decode(tmp_path / "one").is_grey


def test_palette_with_nothing_near_is_refused(tmp_path):
    entries = (np.arange(256)[:, None] % 4 * [80, 60, 85]).astype("u1")
    source = native(tmp_path / "source", smooth(GREY, 8), **palette(entries))
    image = CODEC.decode(source)
    assert image.step == 85
    with pytest.raises(RefusedFile, match="nothing in it can be moved"):
        CODEC.write(image, moved(image, 8), tmp_path / "target", 8.0)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (PALETTE, "Palette Color Lookup Table Descriptor is missing"),
        (palette(steps()) | {"PixelRepresentation": 1}, "signed indices"),
        (palette(steps()) | {"RedPaletteColorLookupTableData": b"\0\1"}, "can't be decoded"),
        ({"ModalityLUTSequence": [Dataset()]}, "no whole table"),
        ({"ModalityLUTSequence": lut(curve()[:9])} | {"Rows": 22}, "header says"),
        (YBR, "samples a pixel"),
    ],
)
def test_damaged_tables_are_refused(elements, reason, tmp_path):
    with pytest.raises(RefusedFile, match=reason):
        CODEC.decode(native(tmp_path / "source", smooth(GREY, 8), **elements))


@pytest.mark.parametrize("photometric", ["YBR_FULL", "HSV", "CMYK", "YBR_PARTIAL_422", "YBR_RCT"])
def test_colours_that_readers_show_differently_are_refused(photometric, tmp_path):
    values = smooth(COLOUR, 16)
    source = native(tmp_path / "source", values, PhotometricInterpretation=photometric)
    with pytest.raises(RefusedFile, match=photometric):
        CODEC.decode(source)


def test_odd_columns_of_shared_chroma_are_refused(tmp_path):
    odd = half(tmp_path / "source", smooth((1, 4, 6, 3), 8))
    odd.write_bytes(odd.read_bytes().replace(b"\x28\0\x11\0US\2\0\6\0", b"\x28\0\x11\0US\2\0\5\0"))
    with pytest.raises(RefusedFile, match="odd number of columns"):
        CODEC.decode(odd)


@pytest.mark.parametrize("form", ["YBR_FULL", "8-bit palette"])
def test_colours_outside_a_range_of_ones_own_stay(form, tmp_path):
    """One channel that has to stay keeps its pixel, as the others would move it."""
    image = CODEC.decode(SHOWN[form][0](tmp_path / "source"))
    intensity = IntensityRange(50.0, 200.0, "given")
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (1, 3, 21, 18))
    wanted = image.moved(signs, intensity, Fraction(8, 150))
    CODEC.write(image, wanted, tmp_path / "target", 8.0)
    moving = CODEC.decode(tmp_path / "target").stored != image.stored
    assert moving.any()
    assert not moving[image.outside(intensity)].any()


def test_grey_stays_grey_in_ybr(tmp_path):
    values = smooth(COLOUR, 8)
    values[..., 1:] = 128
    source = native(tmp_path / "source", values, **YBR)
    image = CODEC.decode(source)
    assert image.is_grey
    delta = np.random.default_rng(1).choice([-8, 8], GREY)
    wanted = np.clip(image.stored.astype(int) + delta, 0, 255).astype("u1")
    CODEC.write(image, wanted, tmp_path / "target", 8.0)
    assert np.array_equal(CODEC.decode(tmp_path / "target").stored, wanted)


@given(data=st.data(), radius=st.integers(1, 20), shared=st.booleans())
@some
def test_ybr_bound_holds_in_exact_arithmetic(tmp_path, data, radius, shared):
    """Before rounding and clipping too, so that any viewer's own rounding keeps it."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = rng.integers(0, 256, (1, 16, 16, 3)).astype("u1")
    source = tmp_path / "source"
    half(source, values) if shared else native(source, values, **YBR)
    released(source, tmp_path / "target", radius)
    raw = [pydicom.pixels.pixel_array(tmp_path / n, raw=True) for n in ("source", "target")]
    step = raw[1].astype(float) - raw[0]
    shown = step @ np.array([[1, 1, 1], [0, -0.344136286, 1.772], [1.402, -0.714136286, 0]])
    assert np.abs(shown).max() <= radius + 1e-6


def test_supplemental_palette_colours_stay(tmp_path):
    """Values from the table's first on are colours beside grey ones (PS3.3 C.7.6.19)."""
    elements = palette(steps(1000), first=3000) | {
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelPresentation": "MIXED",
    }
    source = native(tmp_path / "source", smooth(GREY), **TWELVE, **elements)
    image = CODEC.decode(source)
    CODEC.write(image, moved(image, 9), tmp_path / "target", 9.0)
    before, after = (pydicom.dcmread(tmp_path / name).pixel_array for name in ("source", "target"))
    coloured = before >= 3000
    assert np.array_equal(before[coloured], after[coloured])
    assert np.array_equal(coloured, after >= 3000)
    grey = (before > 9) & (before < 2990)
    assert np.all(before[grey] != after[grey])


def test_window_is_through_the_modality_table(tmp_path):
    elements = {"ModalityLUTSequence": lut(curve()), "WindowCenter": 500, "WindowWidth": 400}
    image = CODEC.decode(native(tmp_path / "source", smooth(GREY), **TWELVE, **elements))
    assert (image.slope, image.intercept) == (1.0, 0.0)
    assert image.declared == ((300.0, 700.0),)
    assert image.kind == "DICOM CT through a table"
    inside = image.outside(IntensityRange(300.0, 700.0, "test"))
    assert np.array_equal(inside, (image.stored < 300) | (image.stored > 700))


@pytest.mark.external
@pytest.mark.parametrize("form", [form for form in SHOWN if not NOT_BY_DCMTK & {*form.split()}])
def test_bound_holds_on_what_dcmtk_shows(form, program, tmp_path):
    """Another viewer, with a conversion of its own, here to 8 bits."""
    make, radius = SHOWN[form]
    source, target = make(tmp_path / "source"), tmp_path / "target"
    released(source, target, radius)
    reader = program("dcmj2pnm")
    shown = [ppm(reader, path) for path in (source, target)]
    limit = radius if radius < 256 else radius // 256 + 1
    assert np.abs(shown[1] - shown[0]).max() <= limit


def ppm(reader, path):
    target = Path(f"{path}.ppm")
    subprocess.run([reader, "+op", path, target], check=True, timeout=60, capture_output=True)
    return np.asarray(Image.open(target)).astype(int)
