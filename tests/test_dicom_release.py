"""Reports and directories beside protected images: what they show, and whom they name."""

import csv
import shutil
import stat
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
)

from medshield.formats.dicom.codec import DicomCodec
from tests.builders import EIGHT, dicom, manifest, medshield, tree, with_table

COUNT = 6
RUN = (*EIGHT, "--seed", "1", "--workers", "2")


def icon_of(dataset):
    """What a viewer shows of a slice, at half its size."""
    small = np.clip((dataset.pixel_array[::2, ::2].astype(float) - 864) * 0.6, 0, 255)
    item = Dataset()
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows, item.Columns = small.shape
    item.BitsAllocated, item.BitsStored, item.HighBit = 8, 8, 7
    item.PixelRepresentation = 0
    item.PixelData = small.astype("u1").tobytes()
    item["PixelData"].VR = "OB"
    return item


def reference(dataset, *, shown):
    item = Dataset()
    item.ReferencedSOPClassUID = CTImageStorage
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    if shown:
        item.IconImageSequence = Sequence([icon_of(dataset)])
    return item


def report(path, references, uid, sop_class=BasicTextSRStorage, **elements):
    """An object without pixels that refers to images."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.840.1", "1.2.840.3"
    dataset.Modality = "SR"
    dataset.ReferencedImageSequence = Sequence(references)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A medium: six slices, a directory with icons, a report with an icon, and a selection."""
    root = tmp_path / "in"
    files, slices = FileSet(), []
    for number in range(COUNT):
        dicom(
            tmp_path / "slice",
            number,
            StudyInstanceUID="1.2.840.1",
            SeriesInstanceUID="1.2.840.2",
            StudyDate="20200101",
            StudyTime="1200",
            StudyID="1",
            SeriesNumber=1,
            InstanceNumber=number,
            PatientID="P1",
        )
        slices.append(pydicom.dcmread(tmp_path / "slice"))
    plain = pydicom.fileset.DIRECTORY_RECORDERS["IMAGE"]

    def with_icon(dataset):
        record = plain(dataset)
        record.IconImageSequence = Sequence([icon_of(dataset)])
        return record

    with monkeypatch.context() as patch:
        patch.setitem(pydicom.fileset.DIRECTORY_RECORDERS, "IMAGE", with_icon)
        for dataset in slices:
            files.add(dataset)
        files.write(root)
    first, second, third = slices[:3]
    report(root / "report", [reference(first, shown=True)], "1.2.840.9.1")
    selected = [reference(second, shown=False), reference(third, shown=False)]
    report(root / "selection", selected, "1.2.840.9.2", KeyObjectSelectionDocumentStorage)
    images = sorted(path for path in root.rglob("IM*"))
    rows = [
        f"{path.relative_to(root).as_posix()},{'ab'[number % 2]}"
        for number, path in enumerate(images)
    ]
    return with_table(root, rows)


def protected(source, out, *options, code=0):
    run = medshield("protect", source, "-o", out, *RUN, *options)
    assert run.code == code, run.err
    checked = medshield("check", out, "--source", source, "--json")
    assert checked.json["faults"] == [], checked.err
    return out


def image_paths(root):
    return sorted(path.relative_to(root) for path in root.rglob("IM*"))


def shown_in_directory(root):
    """By file, the icon of each record; found by following the offsets."""
    directory = pydicom.dcmread(root / "DICOMDIR")
    by_place = {item.seq_item_tell: item for item in directory.DirectoryRecordSequence}
    waiting = [directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity]
    found = {}
    while waiting:
        place = waiting.pop()
        if not place:
            continue
        item = by_place[place]
        waiting.append(item.OffsetOfTheNextDirectoryRecord)
        waiting.append(item.OffsetOfReferencedLowerLevelDirectoryEntity)
        if "ReferencedFileID" in item:
            icons = item.get("IconImageSequence") or [None]
            found["/".join(item.ReferencedFileID)] = icons[0]
    return found


def values_of(item):
    return np.frombuffer(item.PixelData, "u1").reshape(item.Rows, item.Columns)


def test_icons_of_a_directory_and_a_report_show_the_protected_images(source, tmp_path):
    out = protected(source, tmp_path / "out")
    before, after = shown_in_directory(source), shown_in_directory(out)
    assert len(after) == COUNT
    assert after.keys() == {path.as_posix() for path in image_paths(out)}
    for path, item in after.items():
        wanted = icon_of(pydicom.dcmread(out / path))
        assert np.abs(values_of(item).astype(int) - values_of(wanted)).mean() < 4
        assert (values_of(item) != values_of(before[path])).mean() > 0.5
    shown, clean = (
        pydicom.dcmread(root / "report").ReferencedImageSequence[0] for root in (out, source)
    )
    assert shown.ReferencedSOPInstanceUID == clean.ReferencedSOPInstanceUID
    assert shown.IconImageSequence != clean.IconImageSequence
    records = manifest(out)
    made = ["(0088,0200) Icon Image Sequence: changed, made from the protected picture"]
    assert records["DICOMDIR"]["notes"] == records["report"]["notes"] == made
    assert records["DICOMDIR"]["status"] == records["report"]["status"] == "copied"
    assert (out / "selection").read_bytes() == (source / "selection").read_bytes()
    assert FileSet(out / "DICOMDIR").is_staged is False


def test_removed_icons_leave_a_directory_whose_records_find_each_other(source, tmp_path):
    out = protected(source, tmp_path / "out", "--icons", "remove")
    assert shown_in_directory(out) == dict.fromkeys(shown_in_directory(source))
    assert "IconImageSequence" not in pydicom.dcmread(out / "report").ReferencedImageSequence[0]
    notes = manifest(out)["DICOMDIR"]["notes"]
    assert notes[0] == "(0088,0200) Icon Image Sequence: removed, it showed the clean picture"
    assert {note.split(": ")[1] for note in notes[1:]} == {"changed, the records lie elsewhere"}


def test_icons_of_companions_are_refused_where_the_user_says_so(source, tmp_path):
    out = protected(source, tmp_path / "out", "--icons", "refuse", code=3)
    records = manifest(out)
    for name in ("DICOMDIR", "report"):
        assert records[name]["status"] == "refused"
        assert "--icons remove" in records[name]["reason"]


def test_an_icon_of_a_refused_image_does_not_slip_out(source, tmp_path):
    broken = next(source.rglob("IM000003"))
    broken.write_bytes(broken.read_bytes()[:-100])
    out = protected(source, tmp_path / "out", code=3)
    records = manifest(out)
    assert records["DICOMDIR"]["status"] == "refused"
    assert "not in the release" in records["DICOMDIR"]["reason"]
    assert records["report"]["status"] == "copied"
    out = protected(source, tmp_path / "other", "--icons", "remove", code=3)
    assert manifest(out)["DICOMDIR"]["reason"].endswith(
        "; it lists 1 file(s) that are not in the release"
    )


def uids_in(path):
    return pydicom.dcmread(path).SOPInstanceUID


def test_new_uids_are_the_same_wherever_they_are_referenced(source, tmp_path):
    report(source / "nobody", [reference(stranger(), shown=False)], "1.2.840.9.3")
    out = protected(source, tmp_path / "out", "--uid", "new")
    new = {}
    for path in [*image_paths(source), "report", "selection", "nobody"]:
        before, after = (pydicom.dcmread(root / path) for root in (source, out))
        new[str(before.SOPInstanceUID)] = str(after.SOPInstanceUID)
        assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID
        assert after.SOPInstanceUID.startswith("2.25.")
        assert after.StudyInstanceUID == before.StudyInstanceUID
        assert after.SeriesInstanceUID == before.SeriesInstanceUID
    assert len(set(new.values())) == COUNT + 3
    for path in ("report", "selection"):
        before, after = (pydicom.dcmread(root / path) for root in (source, out))
        for item, was in zip(
            after.ReferencedImageSequence, before.ReferencedImageSequence, strict=True
        ):
            assert item.ReferencedSOPInstanceUID == new[was.ReferencedSOPInstanceUID]
    outside = pydicom.dcmread(out / "nobody").ReferencedImageSequence[0]
    assert outside.ReferencedSOPInstanceUID == "1.2.840.77"  # not in the release
    listed = FileSet(out / "DICOMDIR")
    assert {str(found.SOPInstanceUID) for found in listed} == {
        new[str(found.SOPInstanceUID)] for found in FileSet(source / "DICOMDIR")
    }
    assert all((out / found.path).is_file() for found in listed)
    assert shown_in_directory(out).keys() == shown_in_directory(source).keys()
    images = image_paths(out)
    for path in images:
        assert pydicom.dcmread(out / path).ImageType[0] == "DERIVED"
        assert furthest_of(source / path, out / path) > 0
    private = tmp_path / "out.private" / "uids.csv"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    rows = list(csv.DictReader(private.open()))
    assert {row["source_uid"]: row["released_uid"] for row in rows}.items() >= new.items()
    assert not any(
        old.encode() + b"\0" in content
        for old in new
        for name, content in tree(out).items()
        if name != "labels.csv"
    )


def furthest_of(source, released):
    before, after = (pydicom.dcmread(path).pixel_array.astype(int) for path in (source, released))
    return np.abs(before - after).max()


def stranger():
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.840.77"
    return dataset


def test_kept_uids_change_nothing(source, tmp_path):
    out = protected(source, tmp_path / "out", "--icons", "remove")
    for path in image_paths(out):
        before, after = (pydicom.dcmread(root / path) for root in (source, out))
        del before.PixelData, after.PixelData
        assert before == after
    assert not (tmp_path / "out.private" / "uids.csv").exists()


def test_a_signed_report_is_refused_and_its_references_stay(source, tmp_path):
    signature = {"DigitalSignaturesSequence": Sequence([Dataset()])}
    report(source / "signed", [], "1.2.840.9.7", **signature)
    itself = Dataset()
    itself.SOPInstanceUID = "1.2.840.9.7"
    report(source / "about it", [reference(itself, shown=False)], "1.2.840.9.8")
    out = protected(source, tmp_path / "out", "--uid", "new", code=3)
    assert manifest(out)["signed"]["status"] == "refused"
    assert not (out / "signed").exists()
    item = pydicom.dcmread(out / "about it").ReferencedImageSequence[0]
    assert item.ReferencedSOPInstanceUID == "1.2.840.9.7"
    out = protected(source, tmp_path / "other", "--uid", "new", "--drop-signatures")
    assert "DigitalSignaturesSequence" not in pydicom.dcmread(out / "signed")
    item = pydicom.dcmread(out / "about it").ReferencedImageSequence[0]
    assert item.ReferencedSOPInstanceUID == uids_in(out / "signed")
    assert (protected(source, tmp_path / "kept") / "signed").read_bytes() == (
        source / "signed"
    ).read_bytes()


def test_a_file_that_is_refused_late_keeps_its_uid_in_references(source, tmp_path, monkeypatch):
    """Only once the images are written is it known which of them are in the release."""
    flat = next(source.rglob("IM000001"))
    dataset = pydicom.dcmread(flat)
    dataset.PixelData = np.full(
        dataset.pixel_array.shape, 4000, "<u2"
    ).tobytes()  # beyond its window
    dataset.save_as(flat)
    report(source / "about it", [reference(dataset, shown=False)], "1.2.840.9.9")
    out = protected(source, tmp_path / "out", "--uid", "new", "--icons", "remove", code=3)
    assert manifest(out)[flat.relative_to(source).as_posix()]["status"] == "refused"
    item = pydicom.dcmread(out / "about it").ReferencedImageSequence[0]
    assert item.ReferencedSOPInstanceUID == dataset.SOPInstanceUID


@pytest.mark.parametrize("stop", ["write", "companion", "with_new_identity"])
def test_an_interrupted_run_gives_the_same_release(source, tmp_path, monkeypatch, stop):
    options = ("--uid", "new", "--workers", "1")
    whole = protected(source, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupt(patch, stop, after=2)
        run = medshield("protect", source, "-o", tmp_path / "out", *RUN, *options)
    assert run.code == 130
    out = protected(source, tmp_path / "out", *options, "--resume")
    assert tree(out) == tree(whole)
    for name in ("uids.csv", "SOURCE_SHA256SUMS"):
        private = [tmp_path / f"{place}.private" / name for place in ("out", "whole")]
        assert private[0].read_bytes() == private[1].read_bytes()


def interrupt(patch, stop, after):
    """Do as Ctrl-C does when a function is called once more than `after` times."""
    owner = DicomCodec if stop == "write" else __import__("medshield.dicom_release", fromlist=["x"])
    original, calls = getattr(owner, stop), []

    def interrupted(*arguments, **options):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(arguments)
        return original(*arguments, **options)

    patch.setattr(owner, stop, interrupted)


def test_another_choice_of_uids_does_not_resume_a_run(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "write", after=2)
        assert medshield("protect", source, "-o", tmp_path / "out", *RUN).code == 130
    run = medshield("protect", source, "-o", tmp_path / "out", *RUN, "--uid", "new", "--resume")
    assert run.code == 2
    assert "other settings (uid)" in run.err


def test_the_same_key_gives_the_same_uids_and_another_key_others(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    first = protected(source, tmp_path / "first", "--uid", "new")
    second = protected(copy, tmp_path / "second", "--uid", "new")
    other = tmp_path / "other"
    run = medshield("protect", source, "-o", other, *EIGHT, "--uid", "new")
    assert run.code == 0, run.err
    path = image_paths(first)[0]
    assert uids_in(first / path) == uids_in(second / path) != uids_in(other / path)


@pytest.mark.real_data
@pytest.mark.external
def test_a_directory_with_icons_by_dcmtk(real_data, program, tmp_path):
    """Real slices, of four series and 16 x 16 px, with the icons that dcmmkdir draws of them."""
    source = tmp_path / "in"
    folder = real_data / "dicom-odd" / "pydicom" / "dicomdirtests"
    for name in ("CR1", "CR2", "CR3", "CT2"):
        (source / name).mkdir(parents=True)
        for path in (folder / "77654033" / name).iterdir():
            (source / name / path.name).write_bytes(path.read_bytes())
    names = [path.relative_to(source).as_posix() for path in sorted(source.glob("*/*"))]
    with_table(source, [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)])
    dcmmkdir = program("dcmmkdir")
    make = [dcmmkdir, "-q", "+D", source / "DICOMDIR", "+X", "+id", source, "-W", "-Nec"]
    subprocess.run([*make, *names], check=True, capture_output=True)
    options = (*RUN[:2], "--eps", "16/255", "--seed", "1", "--intensity", "stored", "--uid", "new")
    run = medshield("protect", source, "-o", tmp_path / "out", *options)
    assert run.code == 0, run.err
    assert medshield("check", tmp_path / "out", "--source", source).code == 0
    before, after = (shown_in_directory(root) for root in (source, tmp_path / "out"))
    assert len(after) == len(names) == 7
    assert before.keys() == after.keys()
    for name, item in before.items():
        old, new = values_of(item), values_of(after[name])
        assert old.shape == new.shape == (64, 64)
        assert np.ptp(old) == 0 or (old != new).mean() > 0.01
    listed = {str(found.SOPInstanceUID) for found in FileSet(tmp_path / "out" / "DICOMDIR")}
    assert listed == {str(uids_in(tmp_path / "out" / name)) for name in names}
