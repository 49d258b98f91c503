"""Every file of a folder gets a plan, and the plan says why."""

import json
import os
from collections import Counter
from fractions import Fraction

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medshield import pools
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.dataset.walk import walk
from medshield.errors import InputError
from medshield.formats import IntensityRange

EIGHT = Fraction(8, 255)
PATIENT = "Q7SECRET"


def save_png(path, side=12, colour=False, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (np.arange(side * side).reshape(side, side) + start) % 256
    if colour:
        values = np.stack([values, values // 2, values], -1)
    Image.fromarray(values.astype(np.uint8)).save(path, "PNG")


def save_ct(path, window=(40, 400), patient=PATIENT):
    """A CT slice of 12 x 10 px with one window, as (centre, width)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = f"{patient}^NAME", patient, "CT"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 10, 12, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    if window:
        dataset.WindowCenter, dataset.WindowWidth = window
    dataset.PixelData = (np.arange(120, dtype="<u2") * 20).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four 8-bit images in folders of their names."""
    source = tmp_path / "source"
    for number in range(4):
        for start, name in enumerate(("benign", "malignant")):
            save_png(source / name / f"{number}.png", start=start)
    return source


def plans(found):
    return {file.path: file for file in found.files}


def look(source, **options):
    return scan(source, AnnotationOptions(), **options)


# Walking


def test_walk_gives_every_file_with_forward_slashes(folder):
    found = dict(walk(folder))
    assert sorted(found) == [f"{c}/{n}.png" for c in ("benign", "malignant") for n in range(4)]
    assert set(found.values()) == {""}


def test_links_are_followed_only_to_files_inside(folder, tmp_path):
    save_png(tmp_path / "elsewhere" / "out.png")
    (folder / "benign" / "inside.png").symlink_to(folder / "malignant" / "0.png")
    (folder / "benign" / "outside.png").symlink_to(tmp_path / "elsewhere" / "out.png")
    (folder / "benign" / "nowhere.png").symlink_to(folder / "missing.png")
    (folder / "again").symlink_to(folder / "benign")
    (folder / "loop").symlink_to(folder)
    found = dict(walk(folder))
    assert found["benign/inside.png"] == ""
    assert "leads out" in found["benign/outside.png"]
    assert found["benign/nowhere.png"]
    assert "folder" in found["again"]
    assert "folder" in found["loop"]
    assert not any(path.startswith(("again/", "loop/")) for path in found)


def test_what_a_link_leads_out_to_is_left_out(folder, tmp_path):
    save_png(tmp_path / "elsewhere.png")
    (folder / "benign" / "out.png").symlink_to(tmp_path / "elsewhere.png")
    file = plans(look(folder))["benign/out.png"]
    assert file.action == "omit"
    assert "leads out" in file.reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_opened(folder):
    os.mkfifo(folder / "pipe")
    assert "neither" in plans(look(folder))["pipe"].reason


# Plans


def test_images_are_protected(folder):
    found = look(folder)
    assert {file.action for file in found.files} == {"protect"}
    assert found.problem == ""
    assert found.annotations.classes == ("benign", "malignant")
    file = plans(found)["malignant/2.png"]
    assert (file.format, file.shape, file.reason) == ("png", (1, 12, 12, 1), "")
    assert file.annotation.label == 1


def test_files_are_sorted_and_do_not_depend_on_the_number_of_workers(folder):
    one, three = look(folder, workers=1), look(folder, workers=3)
    assert one == three
    assert [file.path for file in one.files] == sorted(file.path for file in one.files)


@pytest.mark.parametrize(
    ("name", "action", "reason"),
    [
        ("notes.txt", "copy", "sidecar"),
        ("sub/meta.JSON", "copy", "sidecar"),
        ("LICENSE", "copy", "sidecar"),
        ("readme", "copy", "sidecar"),
        (".bidsignore", "copy", "sidecar"),
        ("CITATION.cff", "copy", "sidecar"),
        ("sub-01_task-rest_physio.tsv.gz", "copy", "sidecar"),
        ("volume.raw.gz", "omit", "unknown kind"),
        ("Thumbs.db", "omit", "unknown kind"),
        (".DS_Store", "omit", "unknown kind"),
        ("model.pt", "omit", "unknown kind"),
        ("benign/x.tiff", "refuse", "named like an image"),
        ("benign/x.png", "refuse", "named like an image"),
        ("benign/x.JPG", "refuse", "named like an image"),
        ("benign/x.nii.gz", "refuse", "named like an image"),
        ("benign/x.dcm", "refuse", "named like an image"),
    ],
)
def test_files_that_hold_no_image(folder, name, action, reason):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"these are only words\n")
    file = plans(look(folder))[name]
    assert file.action == action
    assert reason in file.reason
    assert file.kind == ""
    assert file.epsilon_stored == 0


def test_an_empty_file_named_like_an_image_is_refused(folder):
    (folder / "benign" / "empty.png").touch()
    assert plans(look(folder))["benign/empty.png"].action == "refuse"


def test_an_image_by_another_name_is_known_by_its_content(folder):
    save_png(folder / "benign" / "plain.png")
    (folder / "benign" / "plain.png").rename(folder / "benign" / "photo.jpg")
    save_png(folder / "benign" / "other.png")
    (folder / "benign" / "other.png").rename(folder / "benign" / "noextension")
    found = plans(look(folder))
    for name in ("photo.jpg", "noextension"):
        file = found[f"benign/{name}"]
        assert (file.action, file.format) == ("protect", "png")


def test_a_damaged_image_is_refused_and_the_rest_goes_on(folder):
    path = folder / "benign" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    found = look(folder)
    assert Counter(file.action for file in found.files) == {"protect": 7, "refuse": 1}
    file = plans(found)["benign/1.png"]
    assert file.action == "refuse"
    assert file.reason
    assert "\n" not in file.reason
    assert "1.png" not in file.reason


def test_masks_are_copied_and_their_images_protected(tmp_path):
    for number in range(5):
        save_png(tmp_path / "images" / f"{number}.png")
        mask = np.zeros((12, 12), np.uint8)
        mask[3:7, 2:9] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    found = look(tmp_path, epsilon=EIGHT)
    assert found.annotations.task == "segmentation"
    for path, file in plans(found).items():
        if path.startswith("masks/"):
            assert (file.action, file.reason, file.annotation) == ("copy", "a mask", None)
        else:
            assert file.action == "protect"
            assert file.annotation.mask == path.replace("images/", "masks/")
    assert found.to_json()["class_counts"] == {"images with a mask": 5}


def test_without_labels_the_problem_is_told_and_the_plans_too(tmp_path):
    for number in range(3):
        save_png(tmp_path / f"{number}.png")
    found = look(tmp_path)
    assert found.annotations is None
    assert "--labels" in found.problem
    assert len(found.files) == 3


def test_an_image_without_a_label_is_refused_where_that_is_allowed(tmp_path):
    for number in range(4):
        save_png(tmp_path / f"{number}.png")
    rows = ["filename,label", "0.png,a", "1.png,b", "2.png,a"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert "no label" in look(tmp_path).problem
    found = scan(tmp_path, AnnotationOptions(allow_missing=True))
    assert found.problem == ""
    file = plans(found)["3.png"]
    assert file.action == "refuse"
    assert "no label" in file.reason


def test_classes_of_an_earlier_run_keep_their_numbers(folder):
    known = ("absent", "malignant", "benign")
    found = look(folder, known_classes=known)
    assert found.annotations.classes == known
    assert plans(found)["benign/0.png"].annotation.label == 2


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), save_png])
def test_no_folder_or_nothing_in_it_is_an_error(tmp_path, make):
    make(tmp_path / "source")
    with pytest.raises(InputError, match=r"no such folder|empty|is a file"):
        look(tmp_path / "source")


def test_progress_counts_every_file(folder):
    (folder / "notes.txt").touch()
    steps = []
    look(folder, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(number, 9) for number in range(1, 10)]


def test_nothing_is_written(folder):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}

    before = state()
    look(folder, epsilon=EIGHT)
    assert state() == before


# Ranges and radii


def test_the_radius_is_told_in_stored_units(folder):
    found = look(folder, epsilon=EIGHT)
    assert {file.epsilon_stored for file in found.files} == {8}
    assert {file.epsilon_stored for file in look(folder).files} == {0}


def test_the_contract_s_example_of_a_ct_window(tmp_path):
    for number in range(3):
        for name in ("a", "b"):
            save_ct(tmp_path / name / f"{number}.dcm")
    found = look(tmp_path, epsilon=EIGHT)
    (intensity,) = found.ranges.values()
    assert intensity.width == pytest.approx(400, abs=1)
    assert {file.epsilon_stored for file in found.files} == {12}
    full = look(tmp_path, epsilon=EIGHT, intensity="stored")
    assert {file.epsilon_stored for file in full.files} == {128}


def test_a_radius_below_one_stored_unit_is_refused(folder):
    found = look(folder, epsilon=Fraction(1, 256))
    assert {file.action for file in found.files} == {"refuse"}
    assert all("--eps" in file.reason for file in found.files)
    assert {file.action for file in look(folder, epsilon=Fraction(1, 255)).files} == {"protect"}


def test_images_that_are_too_coarse_for_the_radius_are_refused_before_anything_is_written(folder):
    grey = Image.fromarray(np.eye(12, dtype=bool))
    grey.save(folder / "benign" / "one bit.png", bits=1)
    colours = Image.fromarray(np.eye(12, dtype=np.uint8), "P")
    colours.putpalette([0, 0, 0, 90, 0, 0])
    colours.save(folder / "benign" / "palette.png", bits=1)
    reasons = {file.path: file.reason for file in look(folder, epsilon=EIGHT).with_action("refuse")}
    assert "one stored unit of this file, which is 1 of the" in reasons["benign/one bit.png"]
    assert "step between colours of this file, which is 0.353" in reasons["benign/palette.png"]
    refused = look(folder, epsilon=Fraction(90, 255)).with_action("refuse")
    assert [file.path for file in refused] == ["benign/one bit.png"]


def test_ranges_of_an_earlier_run_win(folder):
    (kind,) = look(folder).ranges
    earlier = {kind: IntensityRange(0, 127.5, "earlier"), "another": IntensityRange(0, 1, "")}
    found = look(folder, epsilon=EIGHT, known_ranges=earlier)
    assert found.ranges == {kind: earlier[kind]}
    assert {file.epsilon_stored for file in found.files} == {4}


def test_channels_are_three_if_one_image_has_colour(folder):
    assert look(folder).channels == 1
    save_png(folder / "benign" / "colour.png", colour=True)
    assert look(folder).channels == 3


def test_a_refused_image_in_colour_does_not_count(folder):
    path = folder / "benign" / "colour.png"
    save_png(path, colour=True)
    path.write_bytes(path.read_bytes()[:-30])
    assert look(folder).channels == 1


# What is printed


def test_patients_are_counted_and_never_named(tmp_path):
    for number in range(4):
        for name in ("a", "b"):
            save_ct(tmp_path / name / f"{number}.dcm", patient=f"{PATIENT}{number}")
    (tmp_path / "b" / "broken.dcm").write_bytes((tmp_path / "b" / "0.dcm").read_bytes()[:-50])
    found = look(tmp_path, epsilon=EIGHT)
    printed = json.dumps(found.to_json())
    assert found.to_json()["patients"] == 4
    assert PATIENT not in printed
    assert PATIENT not in repr(found)


def test_patients_of_a_table_are_not_named_either(tmp_path):
    rows = ["filename,label,patient_id"]
    for number in range(6):
        save_png(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{PATIENT}{number // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = look(tmp_path)
    assert found.to_json()["patients"] == 3
    assert PATIENT not in json.dumps(found.to_json()) + repr(found)


def test_the_summary_adds_up(folder):
    (folder / "notes.txt").touch()
    (folder / "what.bin").touch()
    (folder / "benign" / "x.tif").touch()
    summary = look(folder, epsilon=EIGHT).to_json()
    assert summary["actions"] == {"copy": 1, "omit": 1, "protect": 8, "refuse": 1}
    assert summary["class_counts"] == {"benign": 4, "malignant": 4}
    assert summary["formats"] == {"png": 8}
    assert summary["sizes"] == {"12 x 12": 8}
    assert len(summary["files"]) == 11
    (intensity,) = summary["intensity"].values()
    assert (intensity["low"], intensity["high"]) == (0, 255)
    assert intensity["reason"]


def test_processes_look_as_one_does(folder, monkeypatch):
    (folder / "notes.txt").touch()
    (folder / "broken.png").write_bytes(b"no image")
    alone = look(folder, workers=3)
    monkeypatch.setattr(pools, "WORTH_STARTING", 0.0)
    monkeypatch.setattr(pools, "CHUNK", 2)
    begun, pool_of = [], pools.pool_of
    monkeypatch.setattr(pools, "pool_of", lambda count: begun.append(count) or pool_of(count))
    assert look(folder, workers=3) == alone
    assert begun == [3]
