"""`protect` and `fit` from end to end: what a release holds, what it never holds, and repeats."""

import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medshield import planning, pools
from medshield.dataset import examples
from medshield.formats.png.codec import PngCodec
from medshield.manifest import Record
from medshield.methods import adversarial_targeted, error_minimizing
from medshield.methods.error_minimizing import ErrorMinimizing
from medshield.release_run import Outcome
from medshield.tables import outcome_text
from tests.builders import (
    EIGHT,
    PATIENT,
    furthest,
    in_classes,
    jpeg,
    manifest,
    medshield,
    nifti,
    png,
    segmented,
    state,
    tree,
    with_table,
)

TINY = ("--effort", "0.02", "--eps", "8/255", "--image-size", "32")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Games and attacks of a size for tests, all in this process; no promise depends on it."""
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 1)
    monkeypatch.setattr(error_minimizing, "REFINING_STEPS", 2)
    monkeypatch.setattr(adversarial_targeted, "ATTACK_STEPS", 2)
    monkeypatch.setattr(pools, "WORTH_STARTING", math.inf)


ODD_NAMES = (
    *("two words.png", "größe-画像.png", "new\nline.png", "-dash.png", "back\\slash.png"),
    *("quote'\"$HOME`.png", os.fsdecode(b"caf\xe9.png"), "x" * 251 + ".png", "a.png.part"),
)


def protected(source, release, *arguments):
    run = medshield("protect", source, "-o", release, *(arguments or EIGHT))
    assert run.code == 0, run.err
    return release


def assert_sound(source, release):
    """Every protected file is within its bound, by foreign eyes; and `check` agrees."""
    for path, record in manifest(release).items():
        if record["status"] == "protected":
            moved = furthest(source / path, release / path)
            assert 0 < moved <= record["epsilon_stored"]
            assert moved == pytest.approx(record["max_abs_delta"])
            assert record["bytes"] == (release / path).stat().st_size
            assert record["psnr"] > 20
            assert 0 < record["ssim"] <= 1
        elif record["status"] == "copied":
            assert (release / path).read_bytes() == (source / path).read_bytes()
        else:
            assert record["reason"]
            assert not (release / path).exists()
    run = medshield("check", release, "--source", source)
    assert run.code == 0, run.out


def assert_sums(program, release):
    result = subprocess.run(
        [program("sha256sum"), "-c", "--quiet", "SHA256SUMS"],
        cwd=release,
        check=False,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dcm", ".nii.gz"])
def test_a_folder_of_each_format_becomes_a_release(tmp_path, suffix):
    source = in_classes(tmp_path / "images", (suffix,), each=2)
    before = state(source)
    run = medshield("protect", source, *EIGHT)
    assert run.code == 0, run.err
    release = tmp_path / "images-protected"
    assert state(source) == before
    assert sorted(tree(release)) == sorted(
        [*tree(source), "SHA256SUMS", "medshield-manifest.jsonl", "medshield.json"]
    )
    assert {record["status"] for record in manifest(release).values()} == {"protected"}
    assert_sound(source, release)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "images",
        "images-protected",
        "images-protected.private",
    ]


def test_sixteen_bits_and_colour(tmp_path):
    source = tmp_path / "in"
    for number, name in enumerate(("a", "b")):
        (source / name).mkdir(parents=True)
        png(source / name / "grey16.png", number, bits=16)
        png(source / name / "colour.png", number, colour=True)
    release = protected(source, tmp_path / "out")
    radii = {path: record["epsilon_stored"] for path, record in manifest(release).items()}
    assert radii["a/colour.png"] == 8
    assert 1000 < radii["a/grey16.png"] == radii["b/grey16.png"] < 2056  # of the values in use
    assert_sound(source, release)


@pytest.mark.external
def test_mixed_nested_folders_with_odd_names(tmp_path, program):
    source = in_classes(tmp_path / "in", (".png", ".jpg", ".dcm", ".nii.gz"), each=1)
    deep = source / "benign" / "deep er" / "\u202eevil"
    deep.mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        png(deep / name, number)
    png(deep / "a.png", 40)  # whose temporary name must not be a.png.part
    (deep / "notes.txt").write_text("any notes")
    (source / "thumbs.db").write_bytes(b"\0\1\2")
    (source / "._0.png").write_bytes(b"\0\5\x16\7 a Mac was here")
    (source / "link.png").symlink_to(source / "benign" / "0.png")
    (source / "away.png").symlink_to("/etc/passwd")
    (source / "loop").symlink_to("loop")
    before = state(source)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--allow-missing", "--json")
    assert run.code in (0, 3), run.err
    assert state(source) == before
    release = tmp_path / "out"
    records = manifest(release)
    assert set(records) == set(tree(source))
    folder = "benign/deep er/\u202eevil"
    assert records[f"{folder}/notes.txt"]["status"] == "copied"
    for name in (*ODD_NAMES, "a.png"):
        assert records[f"{folder}/{name}"]["status"] == "protected", name
    for name in ("thumbs.db", "._0.png", "away.png", "loop"):
        assert records[name]["status"] == "omitted"
    for path in (path for path in records if records[path]["status"] == "protected"):
        if not path.endswith(".part"):
            assert furthest(source / path, release / path) <= records[path]["epsilon_stored"]
    assert medshield("check", release, "--source", source).code == 0
    assert_sums(program, release)
    text = medshield("scan", source, "--allow-missing").out
    assert "\u202e" not in text  # nothing that a file is called moves a terminal
    assert all(line.startswith("  ") or ":" in line for line in text.splitlines())


def test_labels_masks_and_sidecars_are_copied(tmp_path):
    source = segmented(tmp_path / "in")
    (source / "README.md").write_text("read me")
    (source / "case0.json").write_text("{}")
    release = protected(source, tmp_path / "out")
    statuses = {path: record["status"] for path, record in manifest(release).items()}
    assert statuses["masks/case0.png"] == statuses["README.md"] == "copied"
    assert statuses["case0.json"] == "copied"
    assert statuses["images/case0.png"] == "protected"
    assert json.loads((release / "medshield.json").read_text())["task"] == "segmentation"
    assert_sound(source, release)


def test_segmentation_of_volumes(tmp_path):
    source = segmented(tmp_path / "in", ".nii.gz")
    release = protected(source, tmp_path / "out")
    assert manifest(release)["masks/case0.nii.gz"]["status"] == "copied"
    assert_sound(source, release)


@pytest.mark.parametrize("kind", ["palette", "one bit", "gif", "tif", "bmp"])
def test_masks_may_be_of_kinds_that_images_may_not(tmp_path, kind):
    suffix = f".{kind}" if len(kind) == 3 else ".png"
    source = segmented(tmp_path / "in")
    for path in sorted((source / "masks").iterdir()):
        with Image.open(path) as image:
            mask = image.convert("1" if kind == "one bit" else "P" if kind == "palette" else "L")
        path.unlink()
        mask.save(path.with_suffix(suffix))
    release = protected(source, tmp_path / "out")
    statuses = [record["status"] for record in manifest(release).values()]
    assert statuses == ["protected"] * 3 + ["copied"] * 3
    assert_sound(source, release)


def test_a_mask_that_cannot_be_used_refuses_its_image_alone(tmp_path):
    source = segmented(tmp_path / "in", count=4)
    png(source / "masks" / "case1.png", 3, bits=16)
    (source / "masks" / "case2.png").write_bytes((source / "masks" / "case0.png").read_bytes()[:70])
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(source / "masks" / "case3.png")
    planned = medshield("protect", source, *EIGHT, "--dry-run", "--json")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--json")
    assert planned.code == run.code == 3, run.err
    refused = {entry["path"]: entry["reason"] for entry in run.json["refused"]}
    assert sorted(refused) == ["images/case2.png", "images/case3.png"]
    assert "mask" in refused["images/case2.png"]
    assert "another size" in refused["images/case3.png"]
    assert refused == {
        file["path"]: file["reason"] for file in planned.json["files"] if file["action"] == "refuse"
    }


def test_multilabel(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    rows = ["0.png,1,0,1", "1.png,0,0,0", "2.png,1,1,1", "3.png,0,1,0"]
    for number in range(4):
        png(source / f"{number}.png", number)
    with_table(source, rows, "filename,effusion,mass,nodule")
    release = protected(source, tmp_path / "out")
    assert json.loads((release / "medshield.json").read_text())["task"] == "multilabel"
    assert_sound(source, release)


def test_nothing_that_can_not_move_is_released(tmp_path):
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    run = medshield(
        *("protect", source, "-o", tmp_path / "out", *EIGHT, "--intensity", "2000,3000", "--json")
    )
    assert run.code == 2
    assert "not one pixel moved" in run.json["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_release_keeps_its_secrets(tmp_path):
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    release = protected(source, tmp_path / "out", *EIGHT, "--seed", "771144")
    private = tmp_path / "out.private"
    key = (private / "generator" / "key").read_text().strip()
    assert len(key) == 64
    papers = "".join(
        (release / name).read_text()
        for name in ("medshield.json", "SHA256SUMS", "medshield-manifest.jsonl")
    )
    for secret in (key, "771144", PATIENT, str(tmp_path)):
        assert secret not in papers
    for label in ("benign", "malignant"):
        assert label not in (release / "medshield.json").read_text()
    summary = json.loads((release / "medshield.json").read_text())
    assert summary["method"] == "synthetic"
    assert summary["epsilon"] == "8/255"
    assert summary["counts"] == {"protected": 4}
    assert summary["intensity"]["DICOM CT"]["high"] == 240
    for path in (private, *private.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert json.loads((private / "labels.json").read_text())["classes"] == ["benign", "malignant"]
    assert "scratch" not in {path.name for path in private.iterdir()}


@pytest.mark.parametrize("method", ["synthetic", "em"])
def test_a_seed_repeats_the_bytes_whatever_workers_order_and_place(tmp_path, method):
    names = [f"{number}.png" for number in range(70)]  # more than a block
    labels = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    for folder, order in ((first, names), (second, names[::-1])):
        folder.mkdir(parents=True)
        for name in order:
            png(folder / name, int(name[:-4]))
        with_table(folder, labels)
    settings = ("--method", method, *TINY, "--seed", "5")
    one = protected(first, tmp_path / "one", *settings, "--workers", "1")
    two = protected(second, tmp_path / "two", *settings, "--workers", "3")
    assert tree(one) == tree(two)


@pytest.mark.parametrize(("method", "told"), [("robust", True), ("advt", True), ("em", False)])
def test_who_makes_images_of_another_class_s_looks_is_told_so(tmp_path, method, told):
    source = in_classes(tmp_path / "in", (".png",), each=3)
    run = medshield("protect", source, "-o", tmp_path / "out", "--method", method, *TINY)
    assert run.code == 0, run.err
    assert ("not for diagnosis" in run.out) == told


@pytest.mark.parametrize("colour", [False, True])
def test_masks_of_grey_images_come_with_a_warning(tmp_path, colour):
    source = segmented(tmp_path / "in")
    if colour:
        for path in (source / "images").iterdir():
            png(path, colour=True)
    run = medshield("protect", source, "-o", tmp_path / "out", "--method", "synthetic", *TINY)
    assert run.code == 0, run.err
    assert ("grey images with masks" in run.out) != colour


def test_without_a_seed_two_runs_differ(tmp_path):
    source = in_classes(tmp_path / "in")
    one, two = (tree(protected(source, tmp_path / name)) for name in ("one", "two"))
    assert one["benign/0.png"] != two["benign/0.png"]


@pytest.mark.parametrize("method", ["synthetic", "advt"])
def test_fit_and_protect_give_what_protect_alone_gives(tmp_path, method):
    source = in_classes(tmp_path / "in")
    settings = ("--method", method, *TINY, "--seed", "3")
    alone = protected(source, tmp_path / "alone", *settings)
    run = medshield("fit", source, "-o", tmp_path / "generator", *settings)
    assert run.code == 0, run.err
    files = sorted(path.name for path in (tmp_path / "generator").iterdir())
    assert files == ["generator.json", "key", "weights.safetensors"]
    assert stat.S_IMODE((tmp_path / "generator").stat().st_mode) == 0o700
    applied = protected(source, tmp_path / "applied", "--generator", tmp_path / "generator")
    assert tree(applied) == tree(alone)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """One for three classes."""
    folder = tmp_path_factory.mktemp("generator")
    source = in_classes(folder / "in", classes=("a", "b", "c"))
    assert medshield("fit", source, "-o", folder / "made", *EIGHT).code == 0
    return folder / "made"


def new_images(tmp_path, *labels):
    source = tmp_path / "new"
    source.mkdir()
    for number, _ in enumerate(labels):
        png(source / f"{number}.png", 90 + number)
    return with_table(source, [f"{number}.png,{label}" for number, label in enumerate(labels)])


@pytest.mark.parametrize("labels", ["cacb", "cb", "bbb"])
def test_a_generator_protects_new_images_of_known_classes(tmp_path, generator, labels):
    source = new_images(tmp_path, *labels)
    release = protected(source, tmp_path / "out", "--generator", generator)
    assert_sound(source, release)


def test_a_generator_knows_its_classes_by_their_folders(tmp_path, generator):
    source = in_classes(tmp_path / "new", classes=("b",), each=2)
    release = protected(source, tmp_path / "out", "--generator", generator)
    assert_sound(source, release)
    strange = in_classes(tmp_path / "strange", classes=("b", "z"), each=2)
    run = medshield("protect", strange, "--generator", generator)
    assert run.code == 2
    assert "1 classes are new to the generator, such as z" in run.err


def test_a_generator_takes_colour_where_it_learned_grey(tmp_path, generator):
    source = new_images(tmp_path, "a", "b")
    jpeg(source / "0.png", 3)  # a JPEG, whatever its name
    png(source / "1.png", 3, colour=True)
    release = protected(source, tmp_path / "out", "--generator", generator)
    assert {record["format"] for record in manifest(release).values()} == {"csv", "jpeg", "png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "1 classes are new to the generator, such as z"),
        (["--eps", "4/255"], "the generator was fitted for 8/255"),
        (["--method", "em"], "the generator has its own"),
        (["--task", "segmentation"], "the generator was fitted for classification"),
    ],
)
def test_what_a_generator_can_not_do(tmp_path, generator, arguments, message):
    source = new_images(tmp_path, "a", "z")
    run = medshield("protect", source, "--generator", generator, *arguments)
    assert run.code == 2
    assert message in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A generator with weights."""
    folder = tmp_path_factory.mktemp("learned")
    source = in_classes(folder / "in")
    assert medshield("fit", source, "-o", folder / "made", "--method", "em", *TINY).code == 0
    return folder / "made"


@pytest.mark.parametrize("damage", ["generator.json", "weights.safetensors", "key", "all"])
def test_a_damaged_generator_is_one_line(tmp_path, learned, damage):
    source = in_classes(tmp_path / "in")
    made = tmp_path / "made"
    shutil.copytree(learned, made)
    for path in made.iterdir():
        if damage in (path.name, "all"):
            path.write_bytes(path.read_bytes()[:20])
    run = medshield("protect", source, "--generator", made)
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "fit it again" in run.err


def interrupted_after(monkeypatch, count):
    """Make the next PNG after so many raise what Ctrl-C raises; returns the list of writes."""
    write, calls = PngCodec.write, []

    def writing(self, image, values, target, radius):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(target)
        return write(self, image, values, target, radius)

    monkeypatch.setattr(PngCodec, "write", writing)
    return calls


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_interrupted_run_is_finished_by_resume(tmp_path, monkeypatch, count):
    source = in_classes(tmp_path / "in", each=4)
    with_table(source, [], "nothing,here", "notes.csv")
    settings = (*EIGHT, "--seed", "2", "--workers", "1")
    whole = protected(source, tmp_path / "whole", *settings)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupted_after(patch, count)
        run = medshield("protect", source, "-o", out, *settings)
    assert run.code == 130
    assert "--resume" in run.err
    assert not out.exists()
    again = medshield("protect", source, "-o", out, *settings)
    assert again.code == 2
    assert "--resume" in again.err
    other = medshield("protect", source, "-o", out, *EIGHT, "--seed", "3", "--resume")
    assert other.code == 2
    assert "other settings (seed)" in other.err
    with monkeypatch.context() as patch:
        calls = interrupted_after(patch, -1)
        patch.setattr(planning, "scan", lambda *_, **__: pytest.fail("scanned again"))
        run = medshield("protect", source, "-o", out, *settings, "--resume", "--workers", "3")
    assert run.code == 0, run.err
    assert len(calls) == 8 - count  # nothing finished was done again
    assert tree(out) == tree(whole)
    assert not (tmp_path / "out.partial").exists()
    assert {path.name for path in (tmp_path / "out.private").iterdir()} == {
        path.name for path in (tmp_path / "whole.private").iterdir()
    }


@pytest.mark.parametrize("method", ["em", "advt"])
def test_a_resumed_run_gives_the_same_with_other_neighbours_in_a_batch(
    tmp_path, monkeypatch, method
):
    source = in_classes(tmp_path / "in")
    settings = ("--method", method, *TINY, "--seed", "2", "--workers", "1")
    whole = protected(source, tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        medshield("protect", source, "-o", tmp_path / "out", *settings)
    protected(source, tmp_path / "out", *settings, "--resume")
    assert tree(tmp_path / "out") == tree(whole)


def test_without_a_seed_a_resumed_run_keeps_its_key(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(ErrorMinimizing, "_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run = medshield("protect", source, "-o", tmp_path / "out", "--method", "em", *TINY)
    assert run.code == 130
    key = (tmp_path / "out.private" / "key").read_text()
    run = medshield("protect", source, "-o", tmp_path / "out", "--method", "em", *TINY, "--resume")
    assert run.code == 0, run.err
    assert (tmp_path / "out.private" / "generator" / "key").read_text() == key
    assert_sound(source, tmp_path / "out")


@pytest.mark.parametrize("change", ["written", "added", "removed"])
def test_a_source_that_changed_is_not_resumed(tmp_path, monkeypatch, change):
    source = in_classes(tmp_path / "in")
    with monkeypatch.context() as patch:
        interrupted_after(patch, 2)
        medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    if change == "removed":
        (source / "benign" / "0.png").unlink()
    else:
        png(source / "benign" / ("0.png" if change == "written" else "new.png"), 50)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume")
    assert run.code == 2
    assert "the source changed" in run.err


def test_a_damaged_file_of_an_interrupted_run_is_done_again(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in")
    settings = (*EIGHT, "--seed", "2", "--workers", "1")
    whole = protected(source, tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        medshield("protect", source, "-o", tmp_path / "out", *settings)
    (tmp_path / "out.partial" / "benign" / "1.png").write_bytes(b"half")
    journal = tmp_path / "out.private" / "progress.jsonl"
    journal.write_text(journal.read_text()[:-30])  # as a crash leaves it
    protected(source, tmp_path / "out", *settings, "--resume")
    assert tree(tmp_path / "out") == tree(whole)


def test_resume_with_nothing_to_resume_starts_from_the_beginning(tmp_path):
    source = in_classes(tmp_path / "in")
    release = protected(source, tmp_path / "out", *EIGHT, "--resume")
    run = medshield("protect", source, "-o", release, *EIGHT, "--resume")
    assert run.code == 2
    assert "already exists" in run.err


KILLED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from medshield import cli
from medshield.formats.png.codec import PngCodec
write, done = PngCodec.write, []
def writing(*arguments):
    done.append(1)
    if len(done) == 4:
        os.kill(os.getpid(), int(sys.argv.pop()))
        time.sleep(0.3)
    return write(*arguments)
PngCodec.write = writing
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_no_release(tmp_path, number):
    source = in_classes(tmp_path / "in", each=4)
    settings = (*EIGHT, "--seed", "2", "--workers", "1")
    whole = protected(source, tmp_path / "whole", *settings)
    out = tmp_path / "out"
    command = ["protect", str(source), "-o", str(out), *settings]
    result = subprocess.run(
        [sys.executable, "-c", KILLED.replace("sys.argv.pop()", str(int(number))), *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in result.stderr
    assert not out.exists()
    protected(source, out, *settings, "--resume")
    assert tree(out) == tree(whole)


@pytest.mark.parametrize(("given", "told"), [("3/255", "3/255"), ("0.05", "0.05")])
def test_epsilon_is_told_as_it_is_spoken_of(tmp_path, given, told):
    source = in_classes(tmp_path / "in")
    release = protected(source, tmp_path / "out", "--method", "synthetic", "--eps", given)
    assert json.loads((release / "medshield.json").read_text())["epsilon"] == told
    assert medshield("check", release, "--source", source).code == 0


def test_float_volumes_keep_their_undefined_values(tmp_path):
    source = tmp_path / "in"
    for number, name in enumerate("ab"):
        (source / name).mkdir(parents=True)
        for copy in range(2):
            values = np.random.default_rng(2 * number + copy).normal(size=(20, 20, 2))
            values[:3] = np.nan
            nifti(source / name / f"{copy}.nii", values=values.astype(np.float32))
    release = protected(source, tmp_path / "out")
    assert medshield("check", release, "--source", source).code == 0


def test_what_lies_outside_a_narrow_range_stays_or_the_file_is_refused(tmp_path):
    source = in_classes(tmp_path / "in", (".png", ".jpg"), each=2)
    out = tmp_path / "out"
    strong = ("--method", "synthetic", "--eps", "32/255")  # a colour JPEG is too coarse for less
    run = medshield("protect", source, "-o", out, "--intensity", "100,150", *strong)
    assert run.code == 3
    lines = manifest(out)
    assert {line["status"] for path, line in lines.items() if path.endswith(".png")} == {
        "protected"
    }
    for path, line in lines.items():
        if path.endswith(".jpg"):
            assert (line["status"], "outside the intensity range" in line["reason"]) == (
                "refused",
                True,
            )
    assert medshield("check", out, "--source", source).code == 0


def source_lost_at(monkeypatch, source, away, number):
    """Let a network folder vanish (its mount point stays) when so many images were decoded."""
    decoded, calls = examples.decoded, []

    def decoding(path, handling):
        calls.append(path)
        if len(calls) == number:
            source.rename(away)
            source.mkdir()
        return decoded(path, handling)

    monkeypatch.setattr(examples, "decoded", decoding)


@pytest.mark.parametrize("method", ["synthetic", "em"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_that_vanishes_stops_the_run_and_loses_nothing(
    tmp_path, monkeypatch, method, workers
):
    source = in_classes(tmp_path / "in", each=4)
    settings = ("--method", method, *TINY, "--seed", "2", "--workers", workers)
    whole = protected(source, tmp_path / "whole", *settings)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        source_lost_at(patch, source, tmp_path / "away", 3)
        run = medshield("protect", source, "-o", out, *settings)
    assert run.code == 2
    assert run.err.count("\n") == 1 + run.err.count(" of ")  # one line beside progress
    assert f"{source}: the source can't be read any more" in run.err
    assert "--resume" in run.err
    assert not out.exists()
    source.rmdir()
    (tmp_path / "away").rename(source)
    protected(source, out, *settings, "--resume")
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("suffix", [".png", ".txt"])
def test_a_file_that_changes_meanwhile_is_not_released(tmp_path, monkeypatch, suffix):
    source = in_classes(tmp_path / "in")
    (source / "notes.txt").write_text("as it was scanned")
    changing = source / ("benign/1.png" if suffix == ".png" else "notes.txt")
    plan_for = planning.plan_for

    def planned(*arguments):
        found = plan_for(*arguments)
        with changing.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr("medshield.kept_run.plan_for", planned)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--seed", "2")
    assert run.code == 3, run.err
    record = manifest(tmp_path / "out")[changing.relative_to(source).as_posix()]
    assert record["status"] == "refused"
    assert "changed" in record["reason"]
    assert not (tmp_path / "out" / record["path"]).exists()


def test_the_median_of_an_even_number_lies_in_the_middle(tmp_path):
    source = in_classes(tmp_path / "in")
    assert medshield("protect", source, *EIGHT).code == 0
    records = [
        Record(name, "protected", "png", psnr=psnr, ssim=0.9)
        for name, psnr in (("a.png", 30.0), ("b.png", 40.0))
    ]
    summary = json.loads((tmp_path / "in-protected" / "medshield.json").read_text())
    text = outcome_text(Outcome(tmp_path / "in-protected", tuple(records), summary))
    assert "median PSNR 35 dB, median SSIM 0.9\n" in text
