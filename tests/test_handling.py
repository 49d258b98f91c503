"""--icons, --drop-signatures and --uid, from the command line to the released bytes."""

import json

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medshield.formats.dicom.codec import DicomCodec
from tests.builders import EIGHT, dicom, in_classes, manifest, medshield

SIGNATURE = Sequence([Dataset()])


@pytest.fixture
def source(tmp_path):
    """Six slices, of which one has an icon and one a signature."""
    root = in_classes(tmp_path / "in", (".dcm",))
    plain = pydicom.dcmread(root / "benign" / "0.dcm")
    item = Dataset()
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"):
        setattr(item, keyword, plain[keyword].value)
    small = ((plain.pixel_array[::2, ::2] - 874) * 0.6).astype("u1")
    item.Rows, item.Columns = small.shape
    item.BitsAllocated, item.BitsStored, item.HighBit = 8, 8, 7
    item.PixelData = small.tobytes()
    dicom(root / "benign" / "0.dcm", 0, IconImageSequence=Sequence([item]))
    dicom(root / "malignant" / "3.dcm", 3, DigitalSignaturesSequence=SIGNATURE)
    return root


def statuses(release):
    return {path: record["status"] for path, record in manifest(release).items()}


def test_icons_are_made_again_and_signed_files_refused(source, tmp_path):
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 3, run.err
    records = manifest(tmp_path / "out")
    icon, signed = records["benign/0.dcm"], records["malignant/3.dcm"]
    assert icon["status"] == "protected"
    assert icon["notes"] == [
        "(0088,0200) Icon Image Sequence: changed, made from the protected picture"
    ]
    assert signed["status"] == "refused"
    assert "--drop-signatures" in signed["reason"]
    told = json.loads((tmp_path / "out" / "medshield.json").read_text())["handling"]
    assert told == {"uid": "keep", "icons": "regenerate", "drop_signatures": False}


def test_icons_removed_and_signatures_dropped(source, tmp_path):
    options = ("--icons", "remove", "--drop-signatures")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, *options)
    assert run.code == 0, run.err
    assert set(statuses(tmp_path / "out").values()) == {"protected"}
    assert "IconImageSequence" not in pydicom.dcmread(tmp_path / "out" / "benign" / "0.dcm")
    signed = pydicom.dcmread(tmp_path / "out" / "malignant" / "3.dcm")
    assert "DigitalSignaturesSequence" not in signed
    told = json.loads((tmp_path / "out" / "medshield.json").read_text())["handling"]
    assert told == {"uid": "keep", "icons": "remove", "drop_signatures": True}


def test_scan_and_fit_know_the_options(source, tmp_path):
    plan = medshield("scan", source, "--icons", "refuse", "--drop-signatures", "--json")
    refused = [file["path"] for file in plan.json["files"] if file["action"] == "refuse"]
    assert refused == ["benign/0.dcm"]
    target = tmp_path / "generator"
    run = medshield("fit", source, "-o", target, *EIGHT, "--icons", "refuse", "--json")
    assert [file["path"] for file in run.json["refused"]] == ["benign/0.dcm", "malignant/3.dcm"]
    assert medshield("fit", source, "-o", target, *EIGHT, "--uid", "new").code == 2


def interrupted(monkeypatch, *arguments):
    """Run until the third DICOM file is written, then do as Ctrl-C does."""
    write, calls = DicomCodec.write, []

    def writing(self, image, stored, target, radius):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(target)
        return write(self, image, stored, target, radius)

    with monkeypatch.context() as patch:
        patch.setattr(DicomCodec, "write", writing)
        assert medshield(*arguments).code == 130


@pytest.mark.parametrize("other", [["--icons", "remove"], ["--drop-signatures"]])
def test_a_run_is_resumed_with_the_same_options_only(source, tmp_path, monkeypatch, other):
    run = ("protect", source, "-o", tmp_path / "out", *EIGHT, "--seed", "1", "--workers", "1")
    interrupted(monkeypatch, *run)
    again = medshield(*run, *other, "--resume")
    assert again.code == 2
    assert "other settings (handling" in again.err
    assert medshield(*run, "--resume").code == 3
