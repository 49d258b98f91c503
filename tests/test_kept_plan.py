"""What is kept of a run and read again is the same, or told to be damaged."""

import json
import stat

import pytest

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.kept_plan import has_changed, read_plan, write_plan
from medshield.dataset.scan import scan
from medshield.formats import Handling
from tests.builders import (
    EIGHT,
    dicom,
    in_classes,
    medshield,
    nifti,
    png,
    segmented,
    tree,
    with_table,
)


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
    assert list(again.files) == list(found.files)
    assert again.ranges == found.ranges
    assert again.handling == found.handling
    for name in ("task", "classes", "notes", "labelled"):
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


def last_label_changed(content):
    assert content.count(b'"label": 1') == 2
    head, tail = content.rsplit(b'"label": 1', 1)
    return head + b'"label": 0' + tail


DAMAGES = {
    "emptied": lambda _: b"",
    "cut": lambda content: content[:-20],
    "without its end": lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
    "zeros": lambda content: bytes(len(content)),
    "no text": lambda content: b"\xff" + content,
    "brackets": lambda _: b"[" * 100_000,
    "a list": lambda _: b"[]\n",
}
OF_PLAN = {
    **DAMAGES,
    "without its first file": lambda content: b"".join(
        line for at, line in enumerate(content.splitlines(keepends=True)) if at != 1
    ),
    "a label": last_label_changed,
}
BEGUN = (*EIGHT, "--seed", "2", "--image-size", "32")


@pytest.mark.parametrize(
    ("name", "damage"),
    [("config.json", how) for how in DAMAGES] + [("plan.jsonl", how) for how in OF_PLAN],
)
def test_what_is_damaged_is_one_line_and_nothing_is_lost(tmp_path, name, damage):
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    run = medshield("protect", source, "-o", out, *BEGUN, "--shard", "1/2")
    assert run.code == 0, run.err
    kept = tmp_path / "out.private" / name
    whole = kept.read_bytes()
    kept.write_bytes(OF_PLAN[damage](whole))
    before = tree(tmp_path)
    for command in (
        ("protect", source, "-o", out, *BEGUN, "--resume"),
        ("protect", source, "-o", out, *BEGUN, "--shard", "2/2"),
        ("merge", out),
    ):
        run = medshield(*command)
        assert run.code == 2
        assert run.err.strip().splitlines() == [
            f"medshield: {kept}: damaged; restore it, or remove out.private and out.partial "
            "to start again"
        ]
    assert tree(tmp_path) == before
    kept.write_bytes(whole)
    assert medshield("protect", source, "-o", out, *BEGUN, "--resume").code == 0


def test_merge_tells_of_settings_that_are_missing_or_none(tmp_path):
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    assert medshield("protect", source, "-o", out, *BEGUN, "--shard", "1/1").code == 0
    kept = tmp_path / "out.private" / "config.json"
    whole = json.loads(kept.read_text())
    for values in ({}, {**whole, "annotations": 3}, {**whole, "epsilon": "x"}, {**whole, "new": 1}):
        kept.write_text(json.dumps(values))
        run = medshield("merge", out)
        assert run.code == 2
        assert f"{kept}: damaged; restore it" in run.err
    kept.write_text(json.dumps(whole))
    assert medshield("merge", out).code == 0


@pytest.mark.parametrize("name", ["config.json", "plan.jsonl", "key"])
@pytest.mark.parametrize("command", [("fit",), ("protect", "--shard", "1/1")])
def test_a_fit_that_was_interrupted_keeps_its_checkpoint_whatever_is_damaged(
    tmp_path, monkeypatch, name, command
):
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    command = (command[0], source, "-o", out, *command[1:], *BEGUN)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medshield.generator.Generator.save", stopped)
        assert medshield(*command).code == 130
    folder = out.with_suffix(".partial" if command[0] == "fit" else ".private")
    (folder / "fitting.safetensors").write_bytes(b"a checkpoint")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-9])
    again = (*command, "--resume") if command[0] == "fit" else command
    run = medshield(*again)
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert str(folder / name) in run.err
    assert (folder / "fitting.safetensors").is_file()
    (folder / name).write_bytes(whole)
    run = medshield(*again)
    assert run.code == 0, run.err
