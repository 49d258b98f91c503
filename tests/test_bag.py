"""A bag of a release: by the eyes of the Library of Congress's own reader, and whole or not."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bagit
import pytest

from medshield import bagging as module
from tests.builders import EIGHT, in_classes, medshield, png, state, tree

ROOT = Path(__file__).resolve().parents[1]
TAGS = {
    *("bagit.txt", "bag-info.txt", "manifest-sha256.txt", "manifest-sha512.txt"),
    *("tagmanifest-sha256.txt", "tagmanifest-sha512.txt"),
}


@pytest.fixture
def release(tmp_path):
    source = in_classes(tmp_path / "in", (".png", ".dcm"), each=2)
    for number, name in enumerate(("new\nline.png", "größe 画像.png", "back\\slash.png")):
        png(source / "benign" / name, 20 + number)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--card")
    assert run.code == 0, run.err
    return tmp_path / "out"


def test_a_bag_is_valid_and_holds_the_release(tmp_path, release):
    before = state(release)
    run = medshield("bag", release, "--info", "Source-Organization: A Hospital")
    assert run.code == 0, run.err
    made = tmp_path / "out-bag"
    found = bagit.Bag(str(made))
    assert found.validate()
    assert found.version_info == (1, 0)
    assert found.info["Source-Organization"] == "A Hospital"
    assert set(found.algorithms) == {"sha256", "sha512"}
    assert {path.name for path in made.iterdir()} == TAGS | {"data"}
    assert tree(made / "data") == tree(release)
    files = tree(release).values()
    assert found.info["Payload-Oxum"] == f"{sum(map(len, files))}.{len(files)}"
    run = medshield("check", made / "data", "--source", tmp_path / "in")
    assert run.code == 0, run.out
    after = state(release)
    assert {k: v for k, v in after.items() if v[3]} == {k: v for k, v in before.items() if v[3]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "out-bag", "out.private"]


def test_a_bag_in_place_of_the_release_in_it(tmp_path, release):
    assert medshield("bag", release).code == 0
    for command in ("check", "verify"):
        run = medshield(command, tmp_path / "out-bag")
        assert run.code == 2
        assert f"a bag; the release in it is {tmp_path / 'out-bag' / 'data'}" in run.err


def test_other_programs_agree(tmp_path, release, program):
    assert medshield("bag", release).code == 0
    made = tmp_path / "out-bag"
    for name in ("sha256", "sha512"):
        for manifest in (f"tagmanifest-{name}.txt", f"manifest-{name}.txt"):
            # `sha256sum` does not know how bags write line ends in names
            lines = (made / manifest).read_text().splitlines(True)
            known = "".join(x for x in lines if "%0A" not in x and "\\" not in x)
            subprocess.run(
                [program(f"{name}sum"), "-c", "--quiet", "--strict"],
                cwd=made,
                input=known.encode(),
                check=True,
            )
    done = subprocess.run(
        [sys.executable, "-m", "bagit", "--validate", made], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert medshield("bag", release, "-o", tmp_path / "again").code == 0
    assert tree(tmp_path / "again") == tree(made)  # no clock in it


def test_manifests_encode_what_the_standard_says_and_only_that(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    for number, name in enumerate(("100%.png", "a%0Ab.png", "c\rd.png", "e\nf.png", "ü .png")):
        png(source / "benign" / name, 30 + number)
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 0
    assert medshield("bag", tmp_path / "out").code == 0
    lines = (tmp_path / "out-bag" / "manifest-sha512.txt").read_bytes().decode().split("\n")[:-1]
    wanted = ("100%25.png", "a%250Ab.png", "c%0Dd.png", "e%0Af.png", "ü .png")
    written = [line.split("  ", 1)[1] for line in lines]
    assert {f"data/benign/{name}" for name in wanted} <= set(written)
    for line in lines:
        digest, name = line.split("  ", 1)
        plain = re.sub("%(0A|0D|25)", lambda found: chr(int(found[1], 16)), name)
        content = (tmp_path / "out-bag" / plain).read_bytes()
        assert hashlib.sha512(content).hexdigest() == digest


def test_files_are_linked_or_else_copied(tmp_path, release, monkeypatch):
    run = medshield("bag", release, "--json")
    assert run.json["linked"] is True
    image = "benign/0.png"
    assert (tmp_path / "out-bag" / "data" / image).samefile(release / image)

    def elsewhere(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(module.os, "link", elsewhere)
    run = medshield("bag", release, "-o", tmp_path / "copied", "--json")
    assert run.json["linked"] is False
    assert not (tmp_path / "copied" / "data" / image).samefile(release / image)
    assert tree(tmp_path / "copied") == tree(tmp_path / "out-bag")


KILLED = """
import os, signal, sys
from medshield import bagging as bag, cli
place, count = sys.argv.pop(1), int(sys.argv.pop(1))
true = {"data": bag._link_or_copy, "tags": bag.Path.write_bytes, "end": bag.os.sync}[place]
def deadly(*arguments):
    global count
    count -= 1
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*arguments)
if place == "data":
    bag._link_or_copy = deadly
elif place == "tags":
    bag.Path.write_bytes = deadly
else:
    bag.os.sync = deadly
cli.main()
"""


@pytest.mark.parametrize("where", [("data", 0), ("data", 3), ("tags", 1), ("tags", 5), ("end", 0)])
def test_a_killed_run_leaves_nothing_that_looks_like_a_bag(tmp_path, release, where):
    place, count = where
    arguments = [place, str(count), "bag", str(release), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out-bag").exists()
    left = tmp_path / "out-bag.bagging"
    assert left.is_dir()
    if place != "end":
        with pytest.raises(bagit.BagError):
            bagit.Bag(str(left))
    run = medshield("bag", release)
    assert run.code == 0, run.err
    assert not left.exists()
    assert bagit.Bag(str(tmp_path / "out-bag")).validate()
    assert medshield("check", release).code == 0


def test_two_at_once_leave_each_other_alone(tmp_path, release):
    from medshield.places import locked

    left = tmp_path / "out-bag.bagging"
    left.mkdir()
    with locked(left):
        run = medshield("bag", release)
    assert run.code == 2
    assert "another run is writing there" in run.err
    assert not (tmp_path / "out-bag").exists()


def damaged_image(release):
    path = release / "benign" / "0.png"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def damaged_sums(release):
    path = release / "SHA256SUMS"
    path.write_text(path.read_text()[:-9])


def linked_folder(release):
    (release / "more").symlink_to(release / "benign")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged_image, "benign/0.png: its checksum differs from SHA256SUMS"),
        (lambda release: (release / "benign" / "0.png").unlink(), "benign/0.png: in the folder or"),
        (lambda release: (release / "more.txt").write_text("?"), "more.txt: in the folder or in"),
        (damaged_sums, "in the folder or in SHA256SUMS, but not in both"),
        (lambda release: (release / "SHA256SUMS").unlink(), "SHA256SUMS: can't be read"),
        (lambda release: (release / "medshield.json").unlink(), "medshield.json: missing"),
        (linked_folder, "more: in the folder or in SHA256SUMS"),
        (lambda release: shutil.rmtree(release), "no such folder"),
    ],
)
def test_a_release_that_is_not_sound_is_put_in_no_bag(tmp_path, release, damage, words):
    damage(release)
    run = medshield("bag", release)
    assert run.code == 2
    assert len(run.err.strip().splitlines()) == 1
    assert words in run.err
    assert not [p for p in tmp_path.iterdir() if "bag" in p.name]


def test_targets_that_can_not_be_used(tmp_path, release):
    for target, words in (
        (release / "bag", "may not contain each other"),
        (tmp_path / "in", "already exists; a finished bag is never overwritten"),
    ):
        run = medshield("bag", release, "-o", target)
        assert (run.code, words in run.err) == (2, True), run.err
    strange = tmp_path / "out-bag.bagging"
    strange.mkdir()
    (strange / "thesis.doc").write_text("ten years")
    run = medshield("bag", release)
    assert (run.code, "holds thesis.doc, which no unfinished bag does" in run.err) == (2, True)
    assert (strange / "thesis.doc").exists()


@pytest.mark.parametrize(
    "line", ["no colon", ": no label", "No-Text:", "Two: lines\nBag-Count: 1", "payload-oxum: 1.1"]
)
def test_lines_of_information_that_are_none(tmp_path, release, line):
    run = medshield("bag", release, "--info", line)
    assert run.code == 2
    assert "--info" in run.err
    assert not (tmp_path / "out-bag").exists()


def test_names_that_no_bag_can_hold(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    png(source / "benign" / os.fsdecode(b"caf\xe9.png"), 5)
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--card").code == 0
    run = medshield("bag", tmp_path / "out")
    assert run.code == 2
    assert "names that are not UTF-8 (benign/caf\\udce9.png), which no bag can hold" in run.err
