"""Icons are made again from the protected picture, removed or refused; signatures are dropped."""

import io
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut
from pydicom.pixels.encoders.base import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats.base import Handling
from medshield.formats.dicom.codec import DicomCodec
from medshield.formats.dicom.container import DicomFile

CODEC = DicomCodec()
REMOVE, REFUSE = Handling(icons="remove"), Handling(icons="refuse")
DROP = Handling(drop_signatures=True)
HEIGHT, WIDTH = 120, 96
RADIUS = 40


def scene(seed=0, height=HEIGHT, width=WIDTH):
    """A smooth picture of blobs, 0 to 1, unlike any other seed's."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    blobs = (
        np.exp(-((y - rng.random()) ** 2 + (x - rng.random()) ** 2) / rng.uniform(0.005, 0.05))
        for _ in range(9)
    )
    total = sum(blobs)
    return total / total.max()


def shrunk(picture, height=30, width=24):
    """Area means."""
    rows, columns = picture.shape[0] // height, picture.shape[1] // width
    return picture.reshape(height, rows, width, columns).mean(axis=(1, 3))


def module(values, photometric, bits, signed=False):
    dataset = Dataset()
    dataset.SamplesPerPixel = 3 if photometric in ("RGB", "YBR_FULL_422") else 1
    dataset.PhotometricInterpretation = photometric
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(signed)
    return dataset


def icon(small, photometric="MONOCHROME2", bits=8, big_endian=False):
    """An icon of a picture from 0 to 1, in one of the forms that icons have."""
    levels = np.round(small * (2**bits - 1))
    item = module(levels, photometric, bits)
    if photometric == "MONOCHROME1":
        levels = 2**bits - 1 - levels
    elif photometric == "RGB":
        levels = np.stack([levels, levels[::-1] * 0 + 7, 255 - levels], -1)
    elif photometric == "PALETTE COLOR":
        entries = np.arange(256, dtype=f"{'>' if big_endian else '<'}u2")
        for colour, table in (("Red", entries * 257), ("Green", entries * 0), ("Blue", entries)):
            setattr(item, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            data = table.astype(entries.dtype).tobytes()
            setattr(item, f"{colour}PaletteColorLookupTableData", data)
    if bits == 1:
        data = np.packbits(levels.astype("u1"), bitorder="little").tobytes()
    else:
        data = levels.astype(f"{'>' if big_endian else '<'}u{bits // 8}").tobytes()
    item.PixelData = data + b"\0" * (len(data) % 2)
    item["PixelData"].VR = "OW" if bits == 16 else "OB"
    return item


def file(path, items, syntax=ExplicitVRLittleEndian, picture=None, coded=None, **elements):
    """A CT slice with these icons; 16 bits, or what `coded` gives."""
    picture = scene() if picture is None else picture
    dataset = module(picture, "MONOCHROME2", 8 if coded else 16)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID, dataset.Modality = "1.2.3.4", "CT"
    if items is not None:
        dataset.IconImageSequence = Sequence(items)
    big_endian = syntax == ExplicitVRBigEndian
    values = np.round(picture * 1500 + 300).astype(">u2" if big_endian else "<u2")
    dataset.PixelData = coded(picture) if coded else values.tobytes()
    dataset["PixelData"].VR = "OB" if coded else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(
        path,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=not big_endian,
    )
    return path


def protected(source, target, handling=Handling(), radius=RADIUS):  # noqa: B008
    """Protect a file with a coarse pattern that a thumbnail shows."""
    image = CODEC.decode(source, handling)
    _, height, width, _ = image.stored.shape
    y, x = np.ogrid[:height, :width]
    pattern = np.where((y // 8 + x // 8) % 2, radius, -radius)[None, :, :, None]
    highest = int(image.stored.max())
    wanted = np.clip(image.stored.astype(int) + pattern, 0, highest).astype(image.stored.dtype)
    target.unlink(missing_ok=True)
    notes = CODEC.write(image, wanted, target, radius)
    assert np.array_equal(CODEC.decode(target, handling).stored, wanted)
    return notes, wanted[0, ..., 0]


def icon_pixels(path, sequence="IconImageSequence"):
    """By pydicom, which knows nothing of this project: the levels that are shown."""
    dataset = pydicom.dcmread(path)
    item = dataset[sequence].value[0]
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    if not item["PixelData"].is_undefined_length and item.file_meta.TransferSyntaxUID.is_compressed:
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.set_original_encoding(*dataset.original_encoding)
    values = item.pixel_array
    if item.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(values, item)[..., 0] / 257
    return values.astype(float)


FORMS = {
    "grey": {},
    "inverted": {"photometric": "MONOCHROME1"},
    "palette": {"photometric": "PALETTE COLOR"},
    "colour": {"photometric": "RGB"},
    "16 bits": {"bits": 16},
}
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("form", FORMS)
def test_an_icon_shows_the_protected_picture(form, syntax, tmp_path):
    big_endian = syntax == "big endian"
    item = icon(shrunk(scene()), **FORMS[form], big_endian=big_endian)
    source = file(tmp_path / "source", [item], SYNTAXES[syntax])
    notes, written = protected(source, tmp_path / "target")
    assert notes == ["(0088,0200) Icon Image Sequence: changed, made from the protected picture"]
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    if form == "colour":
        assert np.array_equal(before[..., 1], after[..., 1])  # the same everywhere, as it was
        before, after = before[..., 0], after[..., 0]
    # What the same scaling and the same window make of the protected picture.
    wanted = shrunk((written.astype(float) - 300) / 1500) * before.max()
    if form == "inverted":
        wanted = before.max() - wanted
    scale = before.max() / 255
    assert np.abs(after - wanted).mean() < 3 * scale
    assert np.abs(before - wanted).mean() > 2 * np.abs(after - wanted).mean()
    assert (before != after).mean() > 0.5


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
def test_every_byte_but_pixels_stays(syntax, tmp_path):
    item = icon(shrunk(scene()), big_endian=syntax == "big endian")
    source = file(tmp_path / "source", [item], SYNTAXES[syntax])
    protected(source, tmp_path / "target")
    before, after = (DicomFile.parse((tmp_path / n).read_bytes()) for n in ("source", "target"))
    small = before.holders[0].items[0].elements[-1]
    for start, end in (
        (0, small.value),
        (small.end, before.pixels.value),
        (before.pixels.end, None),
    ):
        assert before.raw[start:end] == after.raw[start:end]
    assert len(before.raw) == len(after.raw)


def test_an_icon_of_one_bit_takes_the_nearest(tmp_path):
    picture = scene()
    picture = np.where(np.abs(picture - 0.5) < 0.1, 0.5, picture)  # much is near the threshold
    source = file(tmp_path / "source", [icon(shrunk(picture), bits=1)], picture=picture)
    protected(source, tmp_path / "target", radius=300)
    after = icon_pixels(tmp_path / "target")
    assert set(np.unique(after)) == {0, 1}
    assert 0 < (icon_pixels(source) != after).mean() < 0.4


@pytest.mark.parametrize("margin", ["middle", "corner"])
def test_margins_stay(margin, tmp_path):
    square = np.full((30, 30), 4 / 255)
    square[:, 3:27] = shrunk(scene()) if margin == "middle" else square[:, 3:27]
    if margin == "corner":
        square[:, :24] = shrunk(scene())
    source = file(tmp_path / "source", [icon(square)])
    protected(source, tmp_path / "target")
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    outside = (slice(None), slice(27, None))
    assert (after[outside] == 4).all()
    assert (before != after).mean() > 0.5


def test_a_window_is_found_out(tmp_path):
    small = np.clip(shrunk(scene()) * 3 - 1, 0, 1)  # two thirds of the range are cut off
    source = file(tmp_path / "source", [icon(small)])
    _, written = protected(source, tmp_path / "target")
    after = icon_pixels(tmp_path / "target")
    wanted = np.clip(shrunk((written.astype(float) - 300) / 1500) * 3 - 1, 0, 1) * 255
    assert np.abs(after - wanted).mean() < 6


def test_the_frame_that_it_shows_is_found(tmp_path):
    frames = [scene(seed) for seed in range(5)]
    source = file(
        tmp_path / "source",
        [icon(shrunk(frames[3]))],
        picture=frames[0],
        NumberOfFrames=5,
        PixelData=b"".join(np.round(f * 1500 + 300).astype("<u2").tobytes() for f in frames),
    )
    image = CODEC.decode(source)
    wanted = image.stored.copy()
    wanted[3, :60] += 200
    CODEC.write(image, wanted, tmp_path / "target", 200.0)
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    assert (after[:15] - before[:15]).mean() > 15
    assert np.abs(after[15:] - before[15:]).mean() < 2


def by_rle(dataset, values):
    options = {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "bits_allocated": 8,
        "bits_stored": 8,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": str(dataset.PhotometricInterpretation),
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    encoder = get_encoder(RLELossless)
    return encapsulate([encoder.encode(values.tobytes(), encoding_plugin="pydicom", **options)])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "PALETTE COLOR"])
def test_a_coded_icon_is_coded_again(photometric, tmp_path):
    item = icon(shrunk(scene()), photometric)
    small = np.frombuffer(item.PixelData, "u1").reshape(30, 24)
    item.PixelData = by_rle(item, small)
    item["PixelData"].is_undefined_length = True

    def coded(picture):
        return by_rle(module(picture, "MONOCHROME2", 8), np.round(picture * 255).astype("u1"))

    source = file(tmp_path / "source", [item], RLELossless, coded=coded)
    notes, _ = protected(source, tmp_path / "target", radius=9)
    assert [note[:11] for note in notes] == ["(0088,0200)"]
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    assert (before != after).mean() > 0.5
    assert np.abs(before - after).mean() < 12


def jpeg(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="JPEG", quality=90)
    data = stream.getvalue()
    return encapsulate([data + b"\0" * (len(data) % 2)])


@pytest.mark.parametrize("native", [True, False])
def test_a_lossy_icon_is_decoded(native, tmp_path):
    item = icon(shrunk(scene()))
    if not native:
        item.PixelData = jpeg(np.frombuffer(item.PixelData, "u1").reshape(30, 24))
        item["PixelData"].is_undefined_length = True

    def coded(picture):
        return jpeg(np.round(picture * 200).astype("u1"))

    source = file(tmp_path / "source", [item], JPEGBaseline8Bit, coded=coded)
    image = CODEC.decode(source)
    wanted = np.clip(image.stored.astype(int) + 9, 0, 255).astype("u1")
    notes = CODEC.write(image, wanted, tmp_path / "target", 9.0)
    assert "(0088,0200) Icon Image Sequence: changed, made from the protected picture" in notes
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    assert 4 < (after - before).mean() < 16
    CODEC.decode(tmp_path / "target")


def nested(item, keyword="ReferencedImageSequence"):
    holder = Dataset()
    holder.ReferencedSOPInstanceUID = "1.2.3.4"
    holder.IconImageSequence = Sequence([item])
    return {keyword: Sequence([holder])}


def test_an_icon_deeper_inside_is_found(tmp_path):
    source = file(tmp_path / "source", None, **nested(icon(shrunk(scene()))))
    before = source.read_bytes()
    protected(source, tmp_path / "target")
    small = DicomFile.parse(before).holders[0].items[0].elements[-1].items[0].elements[-1]
    after = (tmp_path / "target").read_bytes()
    assert before[: small.value] == after[: small.value]
    assert before[small.value : small.end] != after[small.value : small.end]


def test_icons_are_removed(tmp_path):
    item = icon(shrunk(scene()))
    item.IconImageSequence = Sequence([icon(shrunk(scene(), 10, 8))])  # the icon of an icon
    source = file(tmp_path / "source", [item, icon(shrunk(scene(7)))], **nested(item))
    notes, _ = protected(source, tmp_path / "target", REMOVE)
    assert notes == ["(0088,0200) Icon Image Sequence: removed, it showed the clean picture"]
    before, after = (pydicom.dcmread(tmp_path / name) for name in ("source", "target"))
    del before.IconImageSequence, before.ReferencedImageSequence[0].IconImageSequence
    del before.PixelData, after.PixelData
    assert before == after


def strange(**elements):
    item = icon(shrunk(scene()))
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


UNSUITABLE = {
    "does not show the picture": icon(shrunk(scene(seed=5))),
    "form that can't be made again": strange(BitsAllocated=32),
    "form that can't be made again; ": strange(Rows=4000),
    "fewer pixels than it says": strange(Rows=1000),
    "palette can't be read": strange(PhotometricInterpretation="PALETTE COLOR"),
}


@pytest.mark.parametrize("reason", UNSUITABLE)
def test_refused_with_what_to_do_instead(reason, tmp_path):
    source = file(tmp_path / "source", [UNSUITABLE[reason]])
    with pytest.raises(RefusedFile, match=f"{reason}.*--icons remove"):
        CODEC.decode(source)
    protected(source, tmp_path / "target", REMOVE)
    assert "IconImageSequence" not in pydicom.dcmread(tmp_path / "target")


def test_an_icon_too_coarse_to_show_the_difference_is_refused(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH))
    picture[:60] = 1
    source = file(tmp_path / "source", [icon(shrunk(picture), bits=1)], picture=picture)
    image = CODEC.decode(source)
    wanted = image.stored + np.uint16(1)
    with pytest.raises(RefusedFile, match="too coarse"):
        CODEC.write(image, wanted, tmp_path / "target", 1.0)


def test_an_icon_of_one_colour_shows_nothing_and_stays(tmp_path):
    source = file(tmp_path / "source", [icon(np.full((8, 8), 0.5))])
    notes, _ = protected(source, tmp_path / "target")
    assert notes == []


def test_icons_are_refused_where_the_user_says_so(tmp_path):
    source = file(tmp_path / "source", [icon(shrunk(scene()))])
    with pytest.raises(RefusedFile, match="--icons regenerate"):
        CODEC.decode(source, REFUSE)
    CODEC.decode(file(tmp_path / "without", None), REFUSE)


def test_unchanged_pixels_leave_the_icon_and_the_signature(tmp_path):
    source = file(tmp_path / "source", [icon(shrunk(scene()))], **SIGNED)
    image = CODEC.decode(source, DROP)
    assert CODEC.write(image, image.stored, tmp_path / "target", 0.0) == []
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_report_with_an_icon_is_no_image(tmp_path):
    report = nested(icon(shrunk(scene())), "CurrentRequestedProcedureEvidenceSequence")
    path = file(tmp_path / "report", None, SOPClassUID=BasicTextSRStorage, **report)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(NotAnImage):
        CODEC.decode(path)
    with pytest.raises(RefusedFile, match="--icons remove"):
        CODEC.decode(path, REFUSE)


def signature():
    item = Dataset()
    item.MACIDNumber = 7
    return Sequence([item])


SIGNED = {"DigitalSignaturesSequence": signature(), "MACParametersSequence": signature()}


def test_signatures_are_refused_or_dropped(tmp_path):
    source = file(tmp_path / "source", None, **SIGNED)
    with pytest.raises(RefusedFile, match="--drop-signatures"):
        CODEC.decode(source)
    notes, _ = protected(source, tmp_path / "target", DROP)
    assert notes == [
        "(4FFE,0001) MAC Parameters Sequence: removed, it signed what is changed",
        "(FFFA,FFFA) Digital Signatures Sequence: removed, it signed what is changed",
    ]
    before, after = (pydicom.dcmread(tmp_path / name) for name in ("source", "target"))
    del before.DigitalSignaturesSequence, before.MACParametersSequence
    del before.PixelData, after.PixelData
    assert before == after


def test_only_a_signature_over_a_change_is_dropped(tmp_path):
    item, other = icon(shrunk(scene())), Dataset()
    item.DigitalSignaturesSequence = signature()
    other.TextValue, other.DigitalSignaturesSequence = "as it was", signature()
    source = file(tmp_path / "source", [item], ReferencedStudySequence=Sequence([other]))
    with pytest.raises(RefusedFile, match="--drop-signatures"):
        CODEC.decode(source)
    protected(source, tmp_path / "target", DROP)
    after = pydicom.dcmread(tmp_path / "target")
    assert "DigitalSignaturesSequence" not in after.IconImageSequence[0]
    assert "DigitalSignaturesSequence" in after.ReferencedStudySequence[0]


@pytest.mark.real_data
@pytest.mark.external
def test_a_real_icon(real_data, program, tmp_path):
    source = real_data / "dicom-odd" / "pydicom" / "examples_overlay.dcm"
    protected(source, tmp_path / "target", radius=20)
    before, after = (icon_pixels(path) for path in (source, tmp_path / "target"))
    assert (before[:13] == after[:13]).all()  # a margin above
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    assert (before != after).mean() > 0.3
    dciodvfy = program("dciodvfy")
    said = [
        subprocess.run([dciodvfy, path], capture_output=True, check=False).stderr
        for path in (source, tmp_path / "target")
    ]
    assert said[0] == said[1]


def test_a_window_that_cuts_off_nearly_all_is_found_out(tmp_path):
    brightest = np.sort(shrunk(scene()).ravel())[-12]
    small = np.clip((shrunk(scene()) - brightest) / (1 - brightest), 0, 1)
    assert (small > 0).mean() < 0.02
    source = file(tmp_path / "source", [icon(small)])
    protected(source, tmp_path / "target")
    before, after = (icon_pixels(tmp_path / name) for name in ("source", "target"))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.8
    assert (before != after).any()
