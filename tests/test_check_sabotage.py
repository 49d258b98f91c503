"""`check` against a release in which someone put a clean picture back, with papers that agree."""

import io
import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medshield.manifest import sha256
from tests.builders import EIGHT, dicom, in_classes, manifest, medshield, texture
from tests.test_check import assert_only, faults, forge, rewrite

ICON = "(0088,0200) Icon Image Sequence, item 1, (7FE0,0010) Pixel Data"


def icon_of(path):
    """The picture of a DICOM file at half its size, as an icon."""
    picture = pydicom.dcmread(path)
    item = Dataset()
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"):
        setattr(item, keyword, picture[keyword].value)
    small = ((picture.pixel_array[::2, ::2] - 874) * 0.6).astype("u1")
    item.Rows, item.Columns = small.shape
    item.BitsAllocated, item.BitsStored, item.HighBit = 8, 8, 7
    item.PixelData = small.tobytes()
    return Sequence([item])


def with_thumbnail(path, seed):
    """A JPEG whose EXIF carries a small copy of it."""
    picture = Image.fromarray(texture(seed, (80, 72, 3)).astype("u1"))
    thumbnail = io.BytesIO()
    picture.resize((36, 40)).save(thumbnail, "JPEG", quality=60)
    data = thumbnail.getvalue()
    entries = ((513, 4, 1, 56), (514, 4, 1, len(data)))
    second = b"\2\0" + b"".join(
        b"".join(n.to_bytes(size, "little") for n, size in zip(entry, (2, 2, 4, 4), strict=True))
        for entry in entries
    )
    exif = b"II*\0\x08\0\0\0" + bytes(2) + (14).to_bytes(4, "little")
    exif = exif + second + bytes(4)
    exif = exif.ljust(56, b"\0") + data
    picture.save(path, "JPEG", quality=92, exif=b"Exif\0\0" + exif)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source with an icon, a thumbnail and twins, and its release."""
    folder = tmp_path_factory.mktemp("sabotage")
    source = in_classes(folder / "in", (".dcm", ".png"), each=1)
    iconic = source / "benign" / "0.dcm"
    dicom(iconic, 0, IconImageSequence=icon_of(iconic), ImageComments="none")
    with_thumbnail(source / "benign" / "4.jpg", 4)
    with_thumbnail(source / "malignant" / "5.jpg", 5)
    (source / "notes.txt").write_text("any notes")
    run = medshield("protect", source, "-o", folder / "out", *EIGHT)
    assert run.code == 0, run.err
    assert medshield("check", folder / "out", "--source", source).code == 0
    return source, folder / "out"


@pytest.fixture
def release(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def source(made):
    return made[0]


def swap(release, source, name, start, end):
    """Put the source's bytes back into the released file, from one place to another."""
    path = release / name
    content = bytearray(path.read_bytes())
    content[start:end] = (source / name).read_bytes()[start:end]
    path.write_bytes(content)
    forge(release)


def test_a_clean_icon(release, source):
    data = (source / "benign" / "0.dcm").read_bytes()
    start = data.index(b"\xe0\x7f\x10\0")
    assert data[start : start + 6] == b"\xe0\x7f\x10\0OW" or b"OB" in data[start : start + 6]
    swap(release, source, "benign/0.dcm", start, start + 12 + 20 * 18)
    found = faults(release, "--source", source)
    assert {path for path, _ in found} == {"benign/0.dcm"}
    assert any(f"{ICON}: still shows the clean image" in fault for _, fault in found)


def test_an_icon_is_no_excuse_for_what_is_beside_it(release, source):
    path = release / "benign" / "0.dcm"
    content = path.read_bytes().replace(b"none", b"NONE")
    path.write_bytes(content)
    forge(release)
    words = f"byte {content.index(b'NONE'):,} in (0020,4000) Image Comments"
    assert_only(faults(release, "--source", source), "benign/0.dcm", words)


def test_a_clean_thumbnail(release, source):
    name = "benign/4.jpg"
    data = (source / name).read_bytes()
    start = data.index(b"\xff\xd8\xff", 2)
    swap(release, source, name, start, data.index(b"\xff\xd9", start) + 2)
    found = faults(release, "--source", source)
    assert_only(found, name, "still shows the clean image")


def test_bytes_beside_a_thumbnail(release, source):
    path = release / "benign" / "4.jpg"
    content = bytearray(path.read_bytes())
    content[content.index(b"II*\0") + 9] ^= 1  # in the directory
    path.write_bytes(content)
    forge(release)
    assert_only(faults(release, "--source", source), "benign/4.jpg", "in segment 2 APP1")


def test_the_clean_file_under_another_name(release, source):
    """As a sidecar, with a line in the manifest, a right checksum and right counts."""
    shutil.copyfile(source / "benign" / "0.dcm", release / "readme.txt")
    path = release / "readme.txt"
    line = {"path": "readme.txt", "status": "copied", "format": "txt", "reason": "a sidecar"}
    line |= {"sha256": sha256(path), "bytes": path.stat().st_size, "notes": []}
    summary = json.loads((release / "medshield.json").read_text())
    summary["counts"]["copied"] += 1
    (release / "medshield.json").write_text(json.dumps(summary))
    rewrite(release, [*manifest(release).values(), line])
    found = [fault for path, fault in faults(release, "--source", source) if path == "readme.txt"]
    assert "byte for byte the clean file benign/0.dcm of the source" in found
    assert "missing from the source, so it can't be compared" in found
    assert ("readme.txt", "an image that was copied as it is, clean") in faults(release)


def test_the_clean_file_of_another_image(release, source):
    """Protected images that changed places are told by name, too."""
    shutil.copyfile(source / "malignant" / "3.png", release / "benign" / "1.png")
    forge(release)
    found = faults(release, "--source", source)
    assert any("the clean file malignant/3.png of the source" in fault for _, fault in found)


def test_a_copy_may_be_there_twice(tmp_path):
    source = in_classes(tmp_path / "in", (".png",), each=2)
    for name in ("notes.txt", "more.txt"):
        (source / name).write_text("the same notes")
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 0
    assert medshield("check", tmp_path / "out", "--source", source).code == 0


def test_a_note_that_is_not_true(release, source):
    """What the manifest says was changed must have been, or it is an excuse kept for later."""
    notes = ["(0008,0060) Modality: changed, for no reason"]
    forge(release, {"malignant/2.dcm": {"notes": notes}})
    words = "(0008,0060) Modality: the manifest says that it changed, and it did not"
    assert_only(faults(release, "--source", source), "malignant/2.dcm", words)


def test_a_note_excuses_nothing_that_no_rule_allows(release, source):
    path = release / "malignant" / "2.dcm"
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x60\0CS\2\0CT", b"\x08\0\x60\0CS\2\0MR"))
    notes = ["(0008,0060) Modality: changed, its coding was lossy"]
    forge(release, {"malignant/2.dcm": {"notes": notes}})
    found = [fault for _, fault in faults(release, "--source", source)]
    assert any("in (0008,0060) Modality" in fault for fault in found)


def test_every_place_is_named_where_many_changed(release, source):
    path = release / "malignant" / "2.dcm"
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.Modality = "SOMEONE", "MR"
    dataset.PixelData = np.full(dataset.pixel_array.shape, 9, "<u2").tobytes()
    dataset.save_as(path)
    forge(release)
    found = [fault for _, fault in faults(release, "--source", source)]
    for words in ("(0008,0060) Modality", "(0010,0010) Patient's Name", "a pixel moved by "):
        assert any(words in fault for fault in found), found
    assert "SOMEONE" not in str(found)


def test_a_reference_with_its_old_uid(tmp_path):
    """New UIDs must be the same wherever an instance is named, and no old one may stay."""
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    other = Dataset()
    other.ReferencedSOPInstanceUID = "1.2.3.1"  # of 0.dcm
    dicom(source / "malignant" / "2.dcm", 2, ReferencedImageSequence=Sequence([other]))
    release = tmp_path / "out"
    assert medshield("protect", source, "-o", release, *EIGHT, "--uid", "new").code == 0
    assert medshield("check", release, "--source", source).code == 0
    path = release / "malignant" / "2.dcm"
    dataset = pydicom.dcmread(path)
    new = dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    old = b"1.2.3.1".ljust(len(new), b"\0")
    path.write_bytes(path.read_bytes().replace(new.encode(), old))
    forge(release)
    found = [fault for _, fault in faults(release, "--source", source)]
    assert any("a UID that is another one in" in fault for fault in found)
    assert any("(0008,1155) Referenced SOP Instance UID" in fault for fault in found)
