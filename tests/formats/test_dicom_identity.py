"""New UIDs at every depth and in every encoding, images marked as derived, nothing else moved."""

import io
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medshield.errors import RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Handling
from medshield.formats.dicom.companions import companion
from medshield.formats.dicom.identity import identity_of, uid_of, with_new_identity
from tests.dicom_files import header, saved, smooth

OWN, OTHER = "1.2.826.0.1.3680043.8.498.1", "1.2.3.4"
NEW = {OWN: uid_of(b"own".ljust(16)), OTHER: uid_of(b"other".ljust(16))}
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
PHRASE = "Perturbed by medshield against training without permission"


def image(path, syntax=ExplicitVRLittleEndian, **elements):
    values = smooth((1, 21, 18, 1))
    dataset = header(values, bits=12, **elements)
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    dataset.PixelData = values.astype(order).tobytes()
    dataset["PixelData"].VR = "OW"
    return saved(path, dataset, syntax)


def renewed(path, uids=None, handling=DEFAULT_HANDLING, derived=True):
    raw = path.read_bytes()
    data, notes = with_new_identity(raw, NEW if uids is None else uids, handling, derived=derived)
    return pydicom.dcmread(io.BytesIO(data)), notes


def test_uids_are_valid_and_hang_on_the_secret():
    uids = {uid_of(bytes([number] * 16)) for number in range(200)}
    assert len(uids) == 200
    for uid in uids:
        assert UID(uid).is_valid
        assert len(uid) <= 64
        assert uid.startswith("2.25.")
        number = int(uid.removeprefix("2.25."))
        assert number >> 76 & 0xF == 4  # a version 4 UUID (PS3.5 B.2)
        assert number >> 62 & 0b11 == 0b10


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_image_is_another_instance_of_the_same_series(syntax, tmp_path):
    path = image(
        tmp_path / "image",
        SYNTAXES[syntax],
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID=OTHER,  # a careless writer's
        FrameOfReferenceUID=OWN,
    )
    before = pydicom.dcmread(path)
    after, notes = renewed(path)
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID == NEW[OWN]
    assert after.ReferencedImageSequence[0].ReferencedSOPInstanceUID == NEW[OTHER]
    assert after.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    assert after.DerivationDescription == PHRASE
    assert notes == [
        "(0002,0003) Media Storage SOP Instance UID: changed, "
        "the release's instances have new UIDs",
        "(0008,0018) SOP Instance UID: changed, the release's instances have new UIDs",
        "(0008,1155) Referenced SOP Instance UID: changed, the release's instances have new UIDs",
        "(0008,0008) Image Type: changed, an image with a new UID is marked as derived",
        "(0008,2111) Derivation Description: added, an image with a new UID is marked as derived",
    ]
    for dataset in (before, after):
        del dataset.SOPInstanceUID, dataset.ImageType, dataset.ReferencedImageSequence
    del after.DerivationDescription
    assert before == after


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
def test_every_byte_around_the_changes_stays(syntax, tmp_path):
    raw = image(tmp_path / "image", SYNTAXES[syntax]).read_bytes()
    uids = {OWN: OWN[::-1].replace("1.894", "1.895"), OTHER: "4.3.2.1"}  # of the same length
    data, _ = with_new_identity(raw, uids, DEFAULT_HANDLING, derived=False)
    plain = raw.replace(OWN.encode(), uids[OWN].encode())
    assert data == plain.replace(b"1.2.3.4\0", b"4.3.2.1\0")


def test_nothing_to_rename_gives_the_file_itself(tmp_path):
    raw = image(tmp_path / "image").read_bytes()
    data, notes = with_new_identity(raw, {"1.9": "2.25.9"}, DEFAULT_HANDLING, derived=False)
    assert data is raw
    assert notes == []


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_uids_in_private_places_and_in_lists(syntax, tmp_path):
    dataset = header(smooth((1, 21, 18, 1)), bits=12)
    block = dataset.private_block(0x0011, "MEDSHIELD TEST", create=True)
    block.add_new(1, "UN", OTHER.encode() + b"\0")
    block.add_new(2, "UI", ["1.9", OTHER, OWN])
    block.add_new(3, "LO", OTHER)  # text, which may mean anything
    block.add_new(4, "UN", OTHER.encode() + b".7")  # another UID that starts the same
    inner = Dataset()
    inner.add_new(0x00110010, "LO", "MEDSHIELD TEST")
    inner.add_new(0x00111001, "UI", OTHER)
    block.add_new(5, "SQ", Sequence([inner]))
    path = saved(tmp_path / "image", dataset, SYNTAXES[syntax])
    after, _ = renewed(path, derived=False)

    def value(number, data=None):
        found = (data or after)[0x0011, number].value
        return found.rstrip(b"\0").decode() if isinstance(found, bytes) else found

    assert value(0x1001) == NEW[OTHER]
    listed = value(0x1002)
    listed = listed.split("\\") if isinstance(listed, str) else listed
    assert listed == ["1.9", NEW[OTHER], NEW[OWN]]
    # Implicit encoding says of a private element only that it may be a UID.
    assert value(0x1003) == (NEW[OTHER] if syntax == "implicit" else OTHER)
    assert value(0x1004) == f"{OTHER}.7"
    inside = after[0x0011, 0x1005].value
    if syntax != "implicit":
        assert value(0x1001, inside[0]) == NEW[OTHER]


TYPES = {
    "absent": (None, ["DERIVED", "SECONDARY"]),
    "empty": ("", ["DERIVED", "SECONDARY"]),
    "original": (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"]),
    "derived": (["DERIVED", "SECONDARY", "MPR"], ["DERIVED", "SECONDARY", "MPR"]),
    "mixed": (["MIXED", "PRIMARY", "VOLUME", "NONE"], ["DERIVED", "PRIMARY", "VOLUME", "NONE"]),
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("case", TYPES)
def test_image_type(case, syntax, tmp_path):
    given, wanted = TYPES[case]
    path = image(tmp_path / "image", SYNTAXES[syntax], ImageType=given)
    if given is None:
        dataset = pydicom.dcmread(path)
        del dataset.ImageType
        dataset.save_as(path)
    after, notes = renewed(path)
    assert after.ImageType == wanted
    noted = [note.split(", ")[0] for note in notes if "Image Type" in note]
    verb = {"absent": ["added"], "derived": []}.get(case, ["changed"])
    assert noted == [f"(0008,0008) Image Type: {word}" for word in verb]


def test_frame_types_say_the_same(tmp_path):
    frame_type = Dataset()
    frame_type.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    group = Dataset()
    group.CTImageFrameTypeSequence = Sequence([frame_type])
    path = image(tmp_path / "image", SharedFunctionalGroupsSequence=Sequence([group]))
    after, notes = renewed(path)
    found = after.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType
    assert found == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert any(note.startswith("(0008,9007) Frame Type: changed") for note in notes)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", PHRASE),
        ("Lossy compression", f"Lossy compression; {PHRASE}"),
        ("x" * 1000, PHRASE),  # both are longer than the 1024 characters that it may have
    ],
)
def test_derivation_description(given, wanted, tmp_path):
    after, _ = renewed(image(tmp_path / "image", DerivationDescription=given))
    assert after.DerivationDescription == wanted


def test_no_way_leads_back_to_the_source(tmp_path):
    path = image(tmp_path / "image")
    data, _ = with_new_identity(path.read_bytes(), NEW, DEFAULT_HANDLING, derived=True)
    assert OWN.encode() not in data
    assert "SourceImageSequence" not in pydicom.dcmread(io.BytesIO(data))


def test_signatures_are_refused_or_dropped(tmp_path):
    signature = Sequence([Dataset()])
    path = image(tmp_path / "image", DigitalSignaturesSequence=signature)
    assert identity_of(path.read_bytes()).signed
    with pytest.raises(RefusedFile, match="--drop-signatures"):
        renewed(path, derived=False)
    after, notes = renewed(path, handling=Handling(drop_signatures=True), derived=False)
    assert "DigitalSignaturesSequence" not in after
    assert "(FFFA,FFFA) Digital Signatures Sequence: removed, it signed what is changed" in notes


def test_identity_of_a_file_that_contradicts_itself(tmp_path):
    path = image(tmp_path / "image")
    assert identity_of(path.read_bytes()).uids == (OWN,)
    other = path.read_bytes().replace(OWN.encode(), OWN[:-1].encode() + b"7", 1)
    assert identity_of(other).uids == (OWN[:-1] + "7", OWN)
    with pytest.raises(RefusedFile):
        identity_of(path.read_bytes()[:200])


def tree(directory):
    """The records of a directory by following its offsets: type, file, instance, below."""
    by_place = {item.seq_item_tell: item for item in directory.DirectoryRecordSequence}

    def below(place):
        found = []
        while place:
            item = by_place[place]
            found.append(
                (
                    item.DirectoryRecordType,
                    item.get("ReferencedFileID"),
                    item.get("ReferencedSOPInstanceUIDInFile"),
                    below(item.OffsetOfReferencedLowerLevelDirectoryEntity),
                )
            )
            place = item.OffsetOfTheNextDirectoryRecord
        return found

    return below(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)


def instances(records):
    for _, _, instance, inner in records:
        if instance:
            yield instance
        yield from instances(inner)


DIRECTORIES = [
    "DICOMDIR",
    "DICOMDIR-bigEnd",
    "DICOMDIR-implicit",
    "DICOMDIR-reordered",
    "TINY_ALPHA/DICOMDIR",
]


@pytest.mark.real_data
@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_real_directory_leads_to_the_same_records(name, real_data):
    path = real_data / "dicom-odd" / "pydicom" / "dicomdirtests" / name
    before = tree(pydicom.dcmread(path))
    old = list(instances(before))
    assert len(old) > 25
    uids = {uid: f"2.25.{10 ** (number % 40)}{number}" for number, uid in enumerate(old)}
    data, notes = with_new_identity(path.read_bytes(), uids, DEFAULT_HANDLING, derived=False)
    after = tree(pydicom.dcmread(io.BytesIO(data)))

    def renamed(records):
        return [(a, b, uids.get(c, c), renamed(d)) for a, b, c, d in records]

    assert after == renamed(before)
    assert {note[:11] for note in notes} >= {"(0004,1511)", "(0004,1400)"}


@pytest.mark.real_data
def test_a_directory_that_shows_nothing_stays_as_it_is(real_data):
    folder = real_data / "dicom-odd" / "pydicom" / "dicomdirtests"
    for path in (folder / name for name in (*DIRECTORIES, "DICOMDIR-empty.dcm")):
        raw = path.read_bytes()
        data, notes = companion(raw, DEFAULT_HANDLING, lambda _: None)
        assert data is raw
        assert notes == []


def said_by(program, path):
    done = subprocess.run([program, path], capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).replace(bytes(path), b"FILE").splitlines()


@pytest.mark.real_data
@pytest.mark.external
def test_dciodvfy_finds_no_new_fault(real_data, program, tmp_path):
    dciodvfy = program("dciodvfy")
    target = tmp_path / "target"
    folder = real_data / "dicom-odd" / "pydicom"
    names = ["CT_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_rle.dcm", "MR_small_implicit.dcm"]
    names += ["JPEG2000.dcm", "examples_ybr_color.dcm", "no_meta_group_length.dcm"]
    others = ["test-SR.dcm", "rtplan.dcm", "liver_1frame.dcm", "dicomdirtests/DICOMDIR"]
    for path in (folder / name for name in (*names, *others)):
        raw = path.read_bytes()
        uids = {uid: uid_of(uid.encode()[-16:].ljust(16)) for uid in identity_of(raw).uids}
        derived = path.name in map(str, map(Path, names))
        data, notes = with_new_identity(raw, uids, DEFAULT_HANDLING, derived=derived)
        assert notes, path
        target.write_bytes(data)
        known = said_by(dciodvfy, path)
        assert [line for line in said_by(dciodvfy, target) if line not in known] == [], path


def test_pydicom_reads_the_renewed_directory_as_a_file_set(tmp_path):
    files = FileSet()
    for number in range(3):
        dataset = header(smooth((1, 21, 18, 1)), bits=12)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", f"1.2.{number}"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "1200", "1"
        dataset.SeriesNumber = dataset.InstanceNumber = number
        files.add(dataset)
    files.write(tmp_path)
    path = tmp_path / "DICOMDIR"
    uids = {f"1.2.3.{number}": uid_of(bytes([number] * 16)) for number in range(3)}
    data, _ = with_new_identity(path.read_bytes(), uids, DEFAULT_HANDLING, derived=False)
    path.write_bytes(data)
    again = FileSet(path)
    assert sorted(found.SOPInstanceUID for found in again) == sorted(uids.values())
