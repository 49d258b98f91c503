"""What people get wrong: one line, the right exit code, and nothing half-written."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from medshield import release_writer
from medshield.formats.dicom.codec import DicomCodec
from medshield.formats.png.codec import PngCodec
from tests.builders import (
    CLASSES,
    EIGHT,
    MAKERS,
    in_classes,
    manifest,
    medshield,
    png,
    state,
    tree,
    with_table,
)


@pytest.fixture
def source(tmp_path):
    return in_classes(tmp_path / "in")


def refused_to_start(tmp_path, *arguments, code=2):
    """Run what must fail: one line, nothing written anywhere."""
    before = state(tmp_path)
    run = medshield(*arguments)
    assert run.code == code, run
    message = run.err.lstrip("\n")  # a terminal shows ^C before it
    assert message.count("\n") == 1, message
    assert message.startswith("medshield: ")
    assert run.out == ""
    after = state(tmp_path)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed <= {str(tmp_path)}  # where something was, and is gone
    return message


@pytest.mark.parametrize("command", ["protect", "fit", "scan"])
@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_a_source_that_is_no_folder_of_images(tmp_path, command, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    settings = [] if command == "scan" else ["-o", tmp_path / "out", *EIGHT]
    message = refused_to_start(tmp_path, command, tmp_path / name, *settings)
    assert str(tmp_path / name) in message
    found = {"empty": "is empty", "missing": "no such folder", "file": "is a file, not a folder"}
    assert found[name] in message


@pytest.mark.parametrize("command", ["check", "verify", "card", "bag"])
@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_release_that_is_no_folder(tmp_path, command, name):
    (tmp_path / "file").write_text("no folder")
    message = refused_to_start(tmp_path, command, tmp_path / name)
    assert str(tmp_path / name) in message
    assert {"missing": "no such folder", "file": "is a file, not a folder"}[name] in message


@pytest.mark.parametrize("command", ["check", "verify", "card", "bag"])
def test_a_release_that_an_interrupted_run_has_not_finished(tmp_path, command):
    (tmp_path / "out.partial").mkdir()
    message = refused_to_start(tmp_path, command, tmp_path / "out")
    assert "out.partial" in message
    assert "medshield protect --resume" in message


def test_shares_of_a_release_whose_name_is_too_long(tmp_path):
    assert "no shares" in refused_to_start(tmp_path, "merge", tmp_path / ("x" * 300))


@pytest.mark.parametrize("command", ["scan", "check", "verify", "card", "bag"])
def test_a_folder_that_the_system_will_not_look_up(tmp_path, command):
    name = "x" * 300  # as one without permission does, which root has everywhere
    message = refused_to_start(tmp_path, command, tmp_path / name)
    assert "File name too long" in message


def test_sources_to_check_against_that_are_none(tmp_path, source):
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 0
    (tmp_path / "file").write_text("no folder")
    for name, found in (("missing", "no such folder"), ("file", "is a file, not a folder")):
        message = refused_to_start(tmp_path, "check", tmp_path / "out", "--source", tmp_path / name)
        assert found in message
        assert "the release was made from" in message


def test_a_folder_without_any_image(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("any notes")
    assert "no image was found" in refused_to_start(tmp_path, "protect", tmp_path / "in", *EIGHT)


def flat(tmp_path, rows=None):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        png(source / f"{number}.png", number)
    return with_table(source, rows) if rows else source


def test_no_labels(tmp_path):
    message = refused_to_start(tmp_path, "protect", flat(tmp_path), *EIGHT)
    assert "no labels and no masks were found" in message
    assert "--labels" in message


def test_one_class_only(tmp_path):
    source = flat(tmp_path, [f"{number}.png,same" for number in range(4)])
    assert "of one class" in refused_to_start(tmp_path, "protect", source, *EIGHT)


def test_labels_that_match_nothing(tmp_path):
    source = flat(tmp_path)
    with_table(tmp_path, ["x.png,a", "y.png,b"], name="truth.csv")
    labels = tmp_path / "truth.csv"
    message = refused_to_start(tmp_path, "protect", source, "--labels", labels, *EIGHT)
    assert "names no image" in message
    message = refused_to_start(tmp_path, "protect", source, "--labels", "none.csv", *EIGHT)
    assert "none.csv is not a file" in message


def test_labels_for_some_images_only(tmp_path):
    source = flat(tmp_path, ["0.png,a", "1.png,b"])
    assert "--allow-missing" in refused_to_start(tmp_path, "protect", source, *EIGHT)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--allow-missing")
    assert run.code == 3
    assert "2.png, 3.png: no label" in run.out
    assert not (tmp_path / "out" / "2.png").exists()


@pytest.mark.parametrize("value", ["0", "1", "2", "abc", "-8/255", "8/0", "nan", "", None])
def test_an_epsilon_that_is_none(tmp_path, source, value):
    settings = [] if value is None else ["--eps", value]
    message = refused_to_start(tmp_path, "protect", source, "--method", "synthetic", *settings)
    assert "--eps" in message


def test_an_epsilon_below_one_stored_unit_of_all_files(tmp_path, source):
    settings = ["--method", "synthetic", "--eps", "1/300"]
    message = refused_to_start(tmp_path, "protect", source, *settings)
    assert "epsilon is less than one stored unit" in message


def test_an_epsilon_below_one_stored_unit_of_some_files(tmp_path):
    source = in_classes(tmp_path / "in", (".png", ".dcm"), each=2)
    settings = ["--method", "synthetic", "--eps", "1/300"]  # 1.3 HU of a window of 400
    run = medshield("protect", source, "-o", tmp_path / "out", *settings)
    assert run.code == 3
    refused = {path for path, r in manifest(tmp_path / "out").items() if r["status"] == "refused"}
    assert refused == {path for path in tree(source) if path.endswith(".png")}


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize("damage", ["truncated", "garbled", "emptied"])
def test_a_damaged_image_is_refused_by_name_and_the_others_are_done(tmp_path, suffix, damage):
    source = in_classes(tmp_path / "in", (suffix,))
    bad = source / "benign" / f"1{suffix}"
    content = bad.read_bytes()
    garbled = bytearray(content)
    garbled[len(content) // 3 :: 7] = os.urandom(len(garbled[len(content) // 3 :: 7]))
    damaged = {"truncated": content[: len(content) * 2 // 3], "garbled": garbled, "emptied": b""}
    if suffix in (".jpg", ".dcm") and damage == "garbled":
        damaged["garbled"] = content[:20] + b"\xff" * (len(content) - 20)
    bad.write_bytes(damaged[damage])
    before = state(source)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--json")
    assert run.code == 3, run
    assert [entry["path"] for entry in run.json["refused"]] == [f"benign/1{suffix}"]
    assert run.json["refused"][0]["reason"]
    assert run.json["counts"] == {"protected": 5, "refused": 1}
    assert not (tmp_path / "out" / "benign" / f"1{suffix}").exists()
    assert state(source) == before
    assert medshield("check", tmp_path / "out", "--source", source).code == 0


def test_only_damaged_images(tmp_path, source):
    for path in source.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    message = refused_to_start(tmp_path, "protect", source, *EIGHT)
    assert "no image can be protected (6 refused; the first: benign/0.png: " in message


def test_files_that_the_system_does_not_hand_out(tmp_path, source, monkeypatch):
    """A disk that fails after the scan refuses that file, not the release."""
    decode = PngCodec.decode
    seen = []

    def failing(self, path, *handling):
        seen.append(path)
        if seen.count(path) > 1 and path == source / "benign" / "0.png":
            raise OSError(errno.EIO, "Input/output error")
        return decode(self, path, *handling)

    monkeypatch.setattr(PngCodec, "decode", failing)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--json")
    assert run.code == 3, run.err
    assert "Input/output error" in run.json["refused"][0]["reason"]


def test_a_folder_that_can_not_be_opened_is_not_passed_over(tmp_path, source, monkeypatch):
    def closed(top, onerror, **_):
        onerror(PermissionError(errno.EACCES, "Permission denied", f"{top}/benign"))
        return iter(())

    monkeypatch.setattr(os, "walk", closed)
    run = medshield("scan", source)
    assert run.code == 2
    assert "benign: the folder can't be opened (Permission denied)" in run.err


@pytest.mark.parametrize("command", ["protect", "fit"])
def test_keys_of_an_earlier_release_are_never_copied_into_this_one(tmp_path, command):
    source = in_classes(tmp_path / "in", (".png",), classes=("a", "b"))
    run = medshield(command, source, "-o", source.with_name("made"), *EIGHT, "--seed", "77")
    assert run.code == 0, run.err
    made = tmp_path / ("made.private" if command == "protect" else "made")
    made.rename(source / made.name)
    message = refused_to_start(tmp_path, "protect", source, "-o", tmp_path / "out", *EIGHT)
    assert "its key must never be released" in message


def test_two_runs_at_once(tmp_path, source, monkeypatch):
    write, second = PngCodec.write, []

    def writing(*arguments):
        if not second:
            second.append(None)
            second[0] = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume")
        return write(*arguments)

    monkeypatch.setattr(PngCodec, "write", writing)
    run = medshield(
        *("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume", "--workers", "1")
    )
    assert run.code == 0, run.err
    assert second[0].code == 2
    assert medshield("check", tmp_path / "out", "--source", source).code == 0


def test_an_existing_target(tmp_path, source):
    (tmp_path / "out").mkdir()
    message = refused_to_start(tmp_path, "protect", source, "-o", tmp_path / "out", *EIGHT)
    assert "already exists" in message
    message = refused_to_start(tmp_path, "fit", source, "-o", tmp_path / "out", *EIGHT)
    assert "already exists" in message
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out.private").mkdir()
    message = refused_to_start(tmp_path, "protect", source, "-o", tmp_path / "out", *EIGHT)
    assert "private folder of an earlier release" in message


@pytest.mark.parametrize("target", ["in", "in/out", "in/a/b", ".", "link/out"])
def test_a_target_inside_the_source(tmp_path, source, monkeypatch, target):
    (tmp_path / "link").symlink_to(source)
    for command in ("protect", "fit"):
        message = refused_to_start(tmp_path, command, source, "-o", tmp_path / target, *EIGHT)
        assert "may not contain each other" in message or "already exists" in message


@pytest.mark.parametrize("name", ["x.partial", "x.private"])
def test_a_source_that_is_called_like_a_companion_of_the_target(tmp_path, name):
    source = in_classes(tmp_path / name)
    message = refused_to_start(
        tmp_path, "protect", source, "-o", tmp_path / "x", *EIGHT, "--resume"
    )
    assert "may not contain each other" in message


def test_a_target_that_can_not_be_written(tmp_path, source):
    (tmp_path / "file").write_text("no folder")
    for command in ("protect", "fit"):
        refused_to_start(tmp_path, command, source, "-o", tmp_path / "file" / "out", *EIGHT)
        long = tmp_path / ("x" * 250)
        for more in ((), ("--resume",)) if command == "protect" else ((),):
            message = refused_to_start(tmp_path, command, source, "-o", long, *EIGHT, *more)
            assert "choose a shorter" in message
        message = refused_to_start(tmp_path, command, source, "-o", "/proc/none/out", *EIGHT)
        assert "can't be written" in message


def test_a_full_target_can_be_resumed(tmp_path, source, monkeypatch):
    settings = (*EIGHT, "--seed", "1", "--workers", "1")
    assert medshield("protect", source, "-o", tmp_path / "whole", *settings).code == 0
    write, calls = PngCodec.write, []

    def full(self, image, values, target, radius):
        calls.append(target)
        if len(calls) > 3:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, image, values, target, radius)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(PngCodec, "write", full)
        run = medshield("protect", source, "-o", out, *settings)
    assert run.code == 2
    assert run.err == (
        f"medshield: {out}: can't be written (No space left on device); free some space, then "
        "run again with --resume\n"
    )
    assert not out.exists()
    assert medshield("protect", source, "-o", out, *settings, "--resume").code == 0
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.external
def test_a_disk_that_is_really_full(tmp_path, program):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [program("mount"), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        source = in_classes(tmp_path / "in", each=40)
        run = medshield("protect", source, "-o", disk / "out", *EIGHT, "--workers", "2")
        assert run.code == 2
        assert "No space left on device" in run.err
        assert run.err.count("\n") == 1
        assert not (disk / "out").exists()
        subprocess.run(
            [program("mount"), "-o", "remount,size=9m", str(disk)], check=True, capture_output=True
        )
        run = medshield("protect", source, "-o", disk / "out", *EIGHT, "--resume")
        assert run.code == 0, run.err
        assert medshield("check", disk / "out", "--source", source).code == 0
        subprocess.run(
            [program("mount"), "-o", "remount,ro", str(disk)], check=True, capture_output=True
        )
        run = medshield("protect", source, "-o", disk / "other", *EIGHT)
        assert run.code == 2
        assert "Read-only file system" in run.err
    finally:
        subprocess.run([program("umount"), str(disk)], check=True)


def test_a_fit_whose_target_is_full_can_be_resumed(tmp_path, source, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ("fit", source, "-o", tmp_path / "g", *EIGHT)
    with monkeypatch.context() as patch:
        patch.setattr("medshield.generator.save", full)
        run = medshield(*arguments)
    assert run.code == 2
    assert "free some space, then run again with --resume" in run.err
    assert not (tmp_path / "g").exists()
    assert medshield(*arguments, "--resume").code == 0


def test_a_log_that_can_not_be_written(tmp_path, source):
    log = tmp_path / "none" / "log"
    assert "can't be written" in refused_to_start(tmp_path, "scan", source, "--log-file", log)
    log = source / "log"
    assert "never written to" in refused_to_start(tmp_path, "scan", source, "--log-file", log)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--method", "best"), ("--task", "regression"), ("--workers", "0"), ("--workers", "x")),
        *(("--device", "tpu"), ("--effort", "0"), ("--effort", "-1"), ("--seed", "x")),
        *(("--intensity", "bright"), ("--intensity", "9,3"), ("--image-size", "5")),
        *(("--label-tag", "patient"), ("--masks", "nowhere"), ("--path-col", "nothing")),
        *(("--label-col", "nothing"), ("--split-col", "nothing"), ("--patient-col", "nothing")),
        *(("--generator", "nowhere"), ("--config", "nowhere"), ("--nonsense", "1")),
    ],
)
def test_unknown_values(tmp_path, source, option, value):
    settings = [] if option in ("--generator", "--method") else ["--method", "synthetic"]
    message = refused_to_start(
        tmp_path, "protect", source, *settings, "--eps", "8/255", option, value
    )
    assert option in message or value in message


def test_cuda_where_there_is_none(tmp_path, source):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    refused_to_start(tmp_path, "protect", source, *EIGHT, "--device", "cuda")


@pytest.mark.parametrize("command", ["scan", "fit", "protect"])
def test_an_interruption_while_reading_leaves_nothing(tmp_path, source, monkeypatch, command):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PngCodec, "decode", interrupted)
    settings = [] if command == "scan" else ["-o", tmp_path / "out", *EIGHT]
    message = refused_to_start(tmp_path, command, source, *settings, code=130)
    assert ("--resume" in message) is (command != "scan")


def test_images_that_fail_when_written_are_refused(tmp_path, monkeypatch):
    """What the written file holds is measured; one that leaves the bound is never released."""
    source = in_classes(tmp_path / "in", (".png", ".dcm"), each=2)

    def too_far(self, image, values, target, radius):
        return write(self, image, values + int(radius) + 1, target, radius)

    write = DicomCodec.write
    monkeypatch.setattr(DicomCodec, "write", too_far)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--json")
    assert run.code == 3
    assert len(run.json["refused"]) == 4
    assert all("left the bound" in entry["reason"] for entry in run.json["refused"])
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_memory_is_bounded_by_a_block(tmp_path, source, monkeypatch):
    settings = (*EIGHT, "--seed", "1")
    assert medshield("protect", source, "-o", tmp_path / "one", *settings).code == 0
    monkeypatch.setattr(release_writer, "MOST_VALUES_A_BLOCK", 1)
    assert medshield("protect", source, "-o", tmp_path / "two", *settings).code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert CLASSES[0] in {path.name for path in Path(tmp_path / "two").iterdir()}
