"""A plan that is kept and read again is the same plan."""

import stat

import pytest

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.kept_plan import has_changed, read_plan, write_plan
from medshield.dataset.scan import scan
from medshield.formats import Handling
from tests.builders import dicom, in_classes, nifti, png, segmented, with_table


def of_findings(root):
    root.mkdir()
    for number in range(4):
        png(root / f"{number}.png", number)
    return with_table(
        root, [f"{n}.png,{n % 2},{n // 2},P{n}" for n in range(4)], "filename,a,b,patient_id"
    )


def of_classes(root):
    source = in_classes(root)
    dicom(source / "benign" / "slice.dcm")
    nifti(source / "malignant" / "volume.nii.gz")
    (source / "benign" / "broken.png").write_bytes(b"no image")
    (source / "odd\udce9name.txt").write_text("a sidecar")
    return source


@pytest.mark.parametrize("make", [of_findings, of_classes, segmented])
def test_a_plan_is_read_as_it_was_written(tmp_path, make):
    source = make(tmp_path / "in")
    found = scan(source, AnnotationOptions(), handling=Handling(icons="remove"))
    assert found.annotations
    kept = tmp_path / "plan.jsonl"
    write_plan(found, kept)
    again = read_plan(kept, source)
    assert again.files == found.files
    assert again.ranges == found.ranges
    assert again.handling == found.handling
    for name in ("task", "classes", "masks", "tables", "notes", "labelled", "unlabelled"):
        assert getattr(again.annotations, name) == getattr(found.annotations, name)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert not has_changed(again)


def test_what_changed_since(tmp_path):
    source = in_classes(tmp_path / "in")
    found = scan(source, AnnotationOptions())
    (source / "new.txt").write_text("added")
    assert has_changed(found)
    (source / "new.txt").unlink()
    assert not has_changed(found)
    png(source / "benign" / "0.png", 50)
    assert has_changed(found)


def test_what_is_left_out_may_change(tmp_path):
    source = in_classes(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "log").write_text("one line")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "log.txt").symlink_to(tmp_path / "log")
    found = scan(source, AnnotationOptions())
    (tmp_path / "elsewhere" / "new").write_text("added")
    (tmp_path / "log").write_text("another line, and more")
    assert not has_changed(found)
    (source / "log.txt").unlink()
    assert has_changed(found)
