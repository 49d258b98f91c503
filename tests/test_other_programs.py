"""The command behind docs/comparison.md: it sees what a program changed that it did not mean to."""

import gzip
import io
import os
import signal

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.builders import dicom, nifti
from tests.tools import others
from tests.tools.others import Program


def rewritten(edit):
    def write(path):
        dataset = pydicom.dcmread(path)
        edit(dataset)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()

    return Program(write, lambda tag, kind: kind == "PN")


@pytest.fixture
def folder(tmp_path):
    dicom(tmp_path / "slice.dcm", PatientName="A^B", StudyDescription="as it was")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_program_that_only_changes_what_it_names(folder):
    def edit(dataset):
        dataset.PatientName = "C^D"

    counts, errors = others.tally(folder, rewritten(edit))
    assert counts["DICOM"]["written"] == 1
    assert counts["DICOM"]["elements with another value"] == 1
    assert counts["DICOM"]["files changed beyond its rules"] == 0
    assert counts["DICOM"]["pixels kept to the byte"] == counts["DICOM"]["with pixels"] == 1
    assert counts["other"] == {"files": 1}
    assert errors == {"other: InvalidDicomError": 1}


def test_what_was_not_named_is_counted(folder):
    def edit(dataset):
        dataset.StudyDescription = "otherwise"
        dataset.PixelData = bytes(len(dataset.PixelData))
        del dataset.PatientName
        dataset.StationName = "new"

    counts, _ = others.tally(folder, rewritten(edit))
    found = counts["DICOM"]
    assert found["elements with another value, beyond its rules"] == 1
    assert found["elements removed"] == 1
    assert found["elements removed, beyond its rules"] == 0
    assert found["elements added"] == 1
    assert found["files changed beyond its rules"] == 1
    assert found["pixels kept to the byte"] == 0


def test_spaces_and_unknown_representations(folder):
    path = folder / "slice.dcm"
    data = path.read_bytes()
    name = b"\x10\0\x10\0PN\x04\0A^B "
    assert data.count(name) == 1
    path.write_bytes(data.replace(name, b"\x10\0\x10\0UN\0\0\x04\0\0\0A^B "))

    def edit(dataset):
        dataset.PatientName = "C^D"
        dataset.StudyDescription = " as it was"

    found = others.tally(folder, rewritten(edit))[0]["DICOM"]
    assert found["elements with another value"] == 2
    assert found["elements with another value, beyond its rules"] == 1
    assert found["elements with another value, beyond its rules, by spaces alone"] == 1


def test_a_folder_that_was_written_before(folder, tmp_path, capsys):
    copy = tmp_path.parent / f"{tmp_path.name}-written"
    copy.mkdir()
    (copy / "slice.dcm").write_bytes((folder / "slice.dcm").read_bytes())
    assert others.main(["folder", str(folder), "--written", str(copy)]) == 0
    said = capsys.readouterr().out
    assert "1 written" in said
    assert "other: FileNotFoundError" in said
    assert "another value" not in said


def test_nifti_headers_types_and_values(tmp_path):
    nifti(tmp_path / "volume.nii.gz")

    def write(path):
        image = nib.load(path)
        made = nib.Nifti1Image(image.get_fdata().astype(np.float32), image.affine)
        return gzip.compress(made.to_bytes())

    counts, errors = others.tally(tmp_path, Program(write, lambda tag, kind: False))
    assert not errors
    assert counts["NIfTI"]["same values"] == 1
    assert counts["NIfTI"]["same header bytes"] == 0
    assert counts["NIfTI"]["same data type"] == 0


def test_a_program_that_ends_its_process_stops_nothing(folder):
    (folder / "deadly.dcm").write_bytes((folder / "slice.dcm").read_bytes())

    def write(path):
        if path.name == "deadly.dcm":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.suffix == ".txt":
            raise ValueError
        return path.read_bytes()

    counts, errors = others.tally(folder, Program(others.apart(write), lambda tag, kind: False))
    assert counts["DICOM"]["written"] == 1
    assert errors == {"DICOM: ChildProcessError": 1, "other: RuntimeError": 1}
