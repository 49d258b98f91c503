"""Edits at any depth, in every encoding: what pydicom would have written, and no other byte."""

import io
import struct

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medshield.errors import RefusedFile
from medshield.formats.dicom.container import DicomFile
from medshield.formats.dicom.edits import Edits
from medshield.formats.dicom.elements import walk
from medshield.formats.limits import MOST_DICOM_LEVELS

INSTANCE = 0x00081155
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def report(undefined):
    """Sequences in sequences in sequences."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = "1.2.3.4"
    reference.TextValue = "stays"
    series = Dataset()
    series.ReferencedSOPSequence = Sequence([reference, Dataset()])
    series.SeriesInstanceUID = "1.2.3"
    study = Dataset()
    study.ReferencedSeriesSequence = Sequence([series])
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3.9"
    dataset.PatientName = "Müller"
    dataset.CurrentRequestedProcedureEvidenceSequence = Sequence([study])
    dataset.Impressions = "one"
    for sequence, items in (
        (dataset.CurrentRequestedProcedureEvidenceSequence, [study]),
        (study.ReferencedSeriesSequence, [series]),
        (series.ReferencedSOPSequence, [reference]),
    ):
        sequence.is_undefined_length = undefined
        for item in items:
            item.is_undefined_length_sequence_item = undefined
    return dataset


def stored(dataset, syntax):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dataset.save_as(
        stream,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return stream.getvalue()


def spot(file, tag):
    return next(spot for spot in walk(file.elements) if spot.element.tag == tag)


def read(raw):
    return pydicom.dcmread(io.BytesIO(raw))


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nested_values_become_longer_and_shorter(syntax, undefined):
    for uid in ("1.2.3.4.5.6.7.8", "1.2"):
        dataset = report(undefined)
        file = DicomFile.parse(stored(dataset, SYNTAXES[syntax]))
        edits = Edits(file)
        edits.replace(spot(file, INSTANCE), uid.encode())
        inner = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        inner.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = uid
        wanted = DicomFile.parse(stored(dataset, SYNTAXES[syntax])).content
        found = DicomFile.parse(edits.result()).content
        assert len(found) == len(file.content) + len(uid) + len(uid) % 2 - 8
        assert found == wanted


@pytest.mark.parametrize("order", ["<", ">"])
def test_group_lengths_count_on_at_every_level(order):
    """pydicom leaves Group Length out, so this is made by hand."""

    def element(group, number, vr, value):
        return struct.pack(f"{order}HH2sH", group, number, vr, len(value)) + value

    def group_length(count):
        return element(0x0008, 0, b"UL", struct.pack(f"{order}I", count))

    def data_set(uid):
        inner = element(0x0008, 0x1155, b"UI", uid)
        inner = group_length(len(inner)) + inner + element(0x0040, 0xA160, b"LO", b"no")
        item = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(inner)) + inner
        outer = struct.pack(f"{order}HH2sHI", 0x0008, 0x1115, b"SQ", 0, len(item)) + item
        return group_length(len(outer)) + outer + element(0x0010, 0x0020, b"LO", b"id")

    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2"
    syntax = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
    meta = stored(dataset, syntax)[: DicomFile.parse(stored(dataset, syntax)).meta[-1].end]
    file = DicomFile.parse(meta + data_set(b"1.2.3.4\0"))
    edits = Edits(file)
    edits.replace(spot(file, INSTANCE), b"1.2.3.4.5.6.7.8.9")
    assert edits.result() == meta + data_set(b"1.2.3.4.5.6.7.8.9\0")


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_elements_are_removed_and_put_in(syntax, undefined):
    file = DicomFile.parse(stored(report(undefined), SYNTAXES[syntax]))
    edits = Edits(file)
    inner = spot(file, INSTANCE)
    edits.remove(inner)
    edits.insert(0x00081160, "IS", b"7 ", inner.steps)
    edits.insert(0x00080016, "UI", CTImageStorage.encode())
    edits.insert(0x00080008, "CS", b"DERIVED ")
    edits.insert(0x40084000, "ST", b"last")
    found = read(edits.result())
    assert found.ImageType == "DERIVED"
    assert found.SOPClassUID == CTImageStorage
    item = found.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    reference = item.ReferencedSOPSequence[0]
    assert "ReferencedSOPInstanceUID" not in reference
    assert reference.ReferencedFrameNumber == 7
    assert reference.TextValue == "stays"
    assert [element.tag for element in found] == sorted(element.tag for element in found)
    assert item.SeriesInstanceUID == "1.2.3"


def test_nothing_to_do_gives_the_file_itself():
    file = DicomFile.parse(stored(report(True), DeflatedExplicitVRLittleEndian))
    assert Edits(file).result() is file.raw


def test_the_meta_information_counts_on():
    file = DicomFile.parse(stored(report(True), ExplicitVRBigEndian))
    edits = Edits(file)
    own = next(spot for spot in walk(file.meta) if spot.element.tag == 0x00020003)
    edits.replace(own, b"1.2.3.4.5.6.7.8.9.10")
    found = read(edits.result())
    assert found.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4.5.6.7.8.9.10"
    meta_length = 12 + found.file_meta.FileMetaInformationGroupLength
    assert DicomFile.parse(edits.result()).meta[-1].end == 132 + meta_length
    assert found.PatientName == "Müller"


def test_a_sequence_of_unknown_vr_in_a_big_endian_file():
    """What is inside a UN of undefined length is implicit little endian (PS3.5 6.2.2)."""
    uid = struct.pack("<HHI", 0x0008, 0x1155, 8) + b"1.2.3.4\0"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(uid)) + uid
    for length, end in ((0xFFFFFFFF, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)), (len(item), b"")):
        unknown = struct.pack(">HH2sHI", 0x0051, 0x1010, b"UN", 0, length) + item + end
        plain = report(True)
        del plain.CurrentRequestedProcedureEvidenceSequence
        raw = stored(plain, ExplicitVRBigEndian)
        file = DicomFile.parse(raw + unknown)
        edits = Edits(file)
        edits.replace(spot(file, INSTANCE), b"1.2.3.4.5.6.7.8")
        grown = DicomFile.parse(edits.result())
        assert spot(grown, INSTANCE).element.value_of(grown.content) == b"1.2.3.4.5.6.7.8\0"
        assert grown.elements[-1].end == len(grown.content) == len(file.content) + 8
        assert edits.result()[: len(raw)] == raw


def test_a_value_too_long_for_its_length_field_is_refused():
    file = DicomFile.parse(stored(report(True), ExplicitVRLittleEndian))
    with pytest.raises(RefusedFile, match="longer than its length field can say"):
        Edits(file).replace(spot(file, INSTANCE), b"1." * 40_000)


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
def test_hostile_nesting_is_refused(syntax):
    """A file of a few kilobytes must not make the reader run out of stack."""
    order = ">" if syntax == "big endian" else "<"
    sequence = struct.pack(f"{order}HH", 0x0008, 0x1115)
    if syntax != "implicit":
        sequence += b"SQ\0\0"
    sequence += b"\xff" * 4 + struct.pack(f"{order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    plain = report(True)
    del plain.CurrentRequestedProcedureEvidenceSequence
    raw = stored(plain, SYNTAXES[syntax])
    with pytest.raises(RefusedFile, match=f"more than {MOST_DICOM_LEVELS} deep"):
        DicomFile.parse(raw + sequence * 5000)
