"""Folders, tables, weights, generators, papers and options that were made to do harm.

Each ends in one line, and what is sound beside it is done. (What single files may hold is in
`tests/formats/test_limits.py`.)
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from medshield import release_writer
from medshield.dataset import examples
from medshield.formats.png.codec import PngCodec
from medshield.generator import Generator
from tests.builders import CLASSES, EIGHT, in_classes, medshield, nifti, png, segmented, tree
from tests.builders import manifest as lines_of
from tests.tools import hostile

DEEP = "[" * 100_000
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def never_waits():
    """A pipe that nobody writes to would be waited for without an end."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def source(tmp_path):
    return in_classes(tmp_path / "in")


def failed(run, code=2):
    assert run.code == code, run
    assert run.err.count("\n") == 1, run.err
    assert "unexpected" not in run.err


def test_what_is_no_file_is_never_opened(tmp_path, source):
    folder = source / CLASSES[0]
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "passwords.csv").symlink_to("/etc/passwd")
    (folder / "up.png").symlink_to("../../../../../../etc/hostname")
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # the address of a socket is short
    listening.bind("socket.png")
    os.chdir(here)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    listening.close()
    assert run.code == 0, run.err
    records = lines_of(tmp_path / "out")
    omitted = {path for path, record in records.items() if record["status"] == "omitted"}
    odd = ("pipe.png", "loop", "itself.png", "zero.dcm", "passwords.csv", "up.png", "socket.png")
    assert omitted == {f"{CLASSES[0]}/{name}" for name in odd}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert len(tree(tmp_path / "out")) == 6 + 3


def test_a_header_that_lies_outside_is_not_read(tmp_path, source):
    (tmp_path / "outside").mkdir()
    nifti(tmp_path / "outside" / "a.hdr", 1)
    (source / CLASSES[0] / "a.img").write_bytes((tmp_path / "outside" / "a.img").read_bytes())
    (source / CLASSES[0] / "a.hdr").symlink_to(tmp_path / "outside" / "a.hdr")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 3, run.err
    record = lines_of(tmp_path / "out")[f"{CLASSES[0]}/a.img"]
    assert record["status"] == "refused"
    assert "its header file is a symbolic link that leads out" in record["reason"]


def test_archives_are_not_followed(tmp_path, source):
    with zipfile.ZipFile(source / "more.zip", "w") as archive:
        archive.write(source / CLASSES[0] / "0.png", "../../0.png")
    with tarfile.open(source / "more.tar.gz", "w:gz") as archive:
        archive.add(source / CLASSES[0] / "0.png", "../../0.png")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 0, run.err
    records = lines_of(tmp_path / "out")
    assert {records[name]["status"] for name in ("more.zip", "more.tar.gz")} == {"omitted"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "out.private"}


TRICKS = ["../../../../etc/passwd", "/etc/passwd", "../outside.png", "..", "a\0b", "x" * 5000]


def test_paths_in_a_table_lead_nowhere(tmp_path, source):
    png(tmp_path / "outside.png", 9)
    rows = [f"{path.relative_to(source)},{path.parent.name}" for path in source.rglob("*.png")]
    text = "\n".join(["filename,label", *rows, *(f"{trick},{CLASSES[0]}" for trick in TRICKS)])
    (source / "labels.csv").write_text(text)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--allow-missing")
    assert run.code == 0, run.err
    protected = {path for path, r in lines_of(tmp_path / "out").items() if r["status"] != "copied"}
    assert protected == {str(path.relative_to(source)) for path in source.rglob("*.png")}
    assert "root:" not in run.out + run.err


def test_masks_that_lead_out_are_not_read(tmp_path):
    source = segmented(tmp_path / "in")
    png(tmp_path / "outside.png", 9)
    mask = source / "masks" / "case0.png"
    mask.unlink()
    mask.symlink_to(tmp_path / "outside.png")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--allow-missing")
    assert run.code == 3, run.err
    assert lines_of(tmp_path / "out")["images/case0.png"]["status"] == "refused"
    for folder in (tmp_path, "..", "/etc", source / ".."):
        failed(medshield("scan", source, "--masks", folder))


def test_one_hostile_file_of_each_kind_among_sound_ones(tmp_path, source):
    """In a process that has little memory; each is refused by itself, and the others are done."""
    made = {
        "nested.dcm": hostile.nested_sequences(10_000),
        "zeros.dcm": hostile.zeros_and_one(1 << 20),
        "items.dcm": hostile.many_items(600_000),
        "exif.jpg": hostile.jpeg(
            hostile.segment(0xE1, b"Exif\0\0" + hostile.overlapping_exif(65_000, 5_000))
        ),
        "exif.png": hostile.small_png(
            hostile.png.chunk(b"eXIf", hostile.overlapping_exif(1_000_000, 60_000))
        ),
        "texts.png": hostile.small_png(hostile.texts(50, 16 << 20)),
        "scans.jpg": hostile.progressive_jpeg(4000, 5000),
        "fill.jpg": hostile.jpeg(b"\xff" * (8 << 20)),
        "cycle.tif": hostile.cyclic_tiff(),
        "nested.tif": hostile.nested_tiff(5000),
        "strips.tif": hostile.overlapping_tiff(500, 1_000_000),
    }
    for name, content in made.items():
        (source / CLASSES[0] / name).write_bytes(content)
    code = """
import resource, sys
from medshield import cli
resource.setrlimit(resource.RLIMIT_AS, (3 << 30,) * 2)
cli.main()
"""
    words = [sys.executable, "-c", code, "scan", str(source), "--workers", "1", "--json", "-q"]
    run = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert run.returncode == 3, run.stderr
    plans = {Path(file["path"]).name: file for file in json.loads(run.stdout)["files"]}
    assert {name for name in made if plans[name]["action"] != "refuse"} == set()
    assert all("\n" not in plans[name]["reason"] for name in made)
    assert sum(file["action"] == "protect" for file in plans.values()) == 6


def test_files_that_there_is_no_memory_for_are_refused_alone(tmp_path, source, monkeypatch):
    decode, write = PngCodec.decode, PngCodec.write

    def decoding(self, path, *arguments):
        if path.name == "0.png":
            raise MemoryError
        return decode(self, path, *arguments)

    def writing(self, image, *arguments):
        if image.stored[0, 0, 0, 0] == first:
            raise MemoryError
        return write(self, image, *arguments)

    first = decode(PngCodec(), source / CLASSES[1] / "4.png").stored[0, 0, 0, 0]
    monkeypatch.setattr(PngCodec, "decode", decoding)
    monkeypatch.setattr(PngCodec, "write", writing)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 3, run.err
    refused = [r for r in lines_of(tmp_path / "out").values() if r["status"] == "refused"]
    assert {record["path"] for record in refused} == {f"{CLASSES[0]}/0.png", f"{CLASSES[1]}/4.png"}
    assert all("not enough memory" in record["reason"] for record in refused)


def test_a_block_that_there_is_no_memory_for_is_made_file_by_file(tmp_path, source, monkeypatch):
    settings = (*EIGHT, "--seed", "2", "--workers", "1")
    assert medshield("protect", source, "-o", tmp_path / "whole", *settings).code == 0
    perturb, asked = Generator.perturb, []

    def perturbing(self, images, targets, names, progress):
        asked.append(len(names))
        if len(names) > 1:
            raise MemoryError
        return perturb(self, images, targets, names, progress)

    monkeypatch.setattr(Generator, "perturb", perturbing)
    run = medshield("protect", source, "-o", tmp_path / "out", *settings)
    assert run.code == 0, run.err
    assert asked == [len(asked) - 1] + [1] * (len(asked) - 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("at", ["grid", "size of its own"])
def test_a_file_that_pytorch_has_no_memory_for_is_refused_alone(tmp_path, source, monkeypatch, at):
    whole = f"{CLASSES[0]}/0.png"
    first = PngCodec().decode(source / whole).stored[0, 0, 0, 0]
    grid_of, native_of = examples.image_tensor, release_writer._at_native_size

    def on_grid(image, *arguments):
        if at == "grid" and image.stored[0, 0, 0, 0] == first:
            torch.empty(1 << 60)
        return grid_of(image, *arguments)

    def at_native_size(delta, image):
        if at != "grid" and image.stored[0, 0, 0, 0] == first:
            torch.empty(1 << 60)
        return native_of(delta, image)

    monkeypatch.setattr(examples, "image_tensor", on_grid)
    monkeypatch.setattr(release_writer, "_at_native_size", at_native_size)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--workers", "1")
    assert run.code == 3, run.err
    refused = [r for r in lines_of(tmp_path / "out").values() if r["status"] == "refused"]
    assert [record["path"] for record in refused] == [whole]
    assert "not enough memory" in refused[0]["reason"]


def test_another_fault_of_pytorch_still_ends_the_run(tmp_path, source, monkeypatch):
    monkeypatch.setattr(Generator, "perturb", lambda *_: torch.ones(2) @ torch.ones(3))
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--workers", "1")
    assert run.code == 1
    assert not (tmp_path / "out").exists()


def test_a_kind_of_constant_files_does_not_stop_the_others(tmp_path, source):
    values = torch.full((40, 36, 3), 7, dtype=torch.int16).numpy()
    nifti(source / CLASSES[0] / "constant.nii.gz", values=values)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 3, run.err
    record = lines_of(tmp_path / "out")[f"{CLASSES[0]}/constant.nii.gz"]
    assert "the same value" in record["reason"]
    run = medshield("protect", source, "-o", tmp_path / "again", *EIGHT, "--resume")
    assert run.code == 3, run.err


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.pt"])
@pytest.mark.parametrize("by", ["pickle", "torch"])
def test_weights_are_never_run(tmp_path, source, name, by):
    path, mark = tmp_path / name, tmp_path / "it was run"
    if by == "pickle":
        path.write_bytes(pickle.dumps({"weight": Malicious(mark)}))
    else:
        torch.save({"weight": Malicious(mark)}, path)
    words = ("--method", "robust", "--eps", "8/255", "--surrogate-weights", path)
    failed(medshield("protect", source, "-o", tmp_path / "out", *words))
    assert not mark.exists()


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A generator that was fitted."""
    root = tmp_path_factory.mktemp("learned")
    source = in_classes(root / "in")
    assert medshield("fit", source, "-o", root / "generator", *EIGHT).code == 0
    return root / "generator"


TAMPERED = {
    "size": [10**9, -1, 0, 1.5, "32", None, True, [32]],
    "channels": [10**9, 0, "3", None, 2],
    "method": ["../../etc/passwd", "__class__", 5, None, [], {}],
    "task": ["os.system", None, []],
    "classes": [5, None, "x" * 10, [[]]],
    "epsilon": ["1e-999999999", "9" * 100_000, 5, None, "2", "nan"],
    "pretrained": ["../../etc/passwd", {"a": 1}, 7],
    "intensity": [[], {"PNG 8-bit": 5}, {"PNG 8-bit": ["a"]}, None],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_generator_that_was_tampered_with(tmp_path, source, learned, name):
    folder = tmp_path / "generator"
    folder.mkdir()
    for path in learned.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    description = json.loads((learned / "generator.json").read_text())
    for value in TAMPERED[name]:
        (folder / "generator.json").write_text(json.dumps(description | {name: value}))
        run = medshield("protect", source, "-o", tmp_path / "out", "--generator", folder)
        failed(run)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [DEEP, '{"size": ' + DEEP, "null", "5", "9" * 10_000])
def test_a_generator_whose_description_is_none(tmp_path, source, learned, content):
    folder = tmp_path / "generator"
    folder.mkdir()
    for path in learned.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "generator.json").write_text(content)
    failed(medshield("protect", source, "-o", tmp_path / "out", "--generator", folder))


CONFIGS = {
    "deep": "a = " + DEEP,
    "deep tables": "a = " + "{b = " * 50_000,
    "large": "# " + "x" * (1 << 14),
    "dotted": ".".join("a" * 8_000) + " = 1",
    "nested option": "eps = [[[[1]]]]",
    "table in the place of an option": "[protect.eps]\na = 1",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_options_that_are_deep_or_large(tmp_path, source, name):
    path = tmp_path / "options.toml"
    path.write_text(CONFIGS[name])
    failed(medshield("protect", source, "-o", tmp_path / "out", "--config", path))


@pytest.mark.parametrize("option", ["--config", "--labels"])
def test_an_endless_file_of_options_or_labels(source, option):
    failed(medshield("scan", source, option, "/dev/zero"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A source and its release."""
    root = tmp_path_factory.mktemp("sound")
    source = in_classes(root / "in", each=6)
    assert medshield("protect", source, "-o", root / "out", *EIGHT).code == 0
    return source, root / "out"


@pytest.fixture
def release(tmp_path, sound):
    """A copy of the release without its private folder."""
    for path, content in tree(sound[1]).items():
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / path).write_bytes(content)
    return tmp_path / "out"


LINES = [
    DEEP,
    '{"path": ' + DEEP,
    '{"path": "a.png", "status": "protected", "format": "png", "notes": 5}',
    '{"path": "a.png", "status": "protected", "format": [], "sha256": {}}',
    '{"path": "a.png", "status": "copied", "format": "csv", "sha256": 5}',
    '{"path": "a.png", "status": [], "format": "csv"}',
    '{"path": "\\ud800", "status": "copied", "format": "csv", "sha256": "00"}',
    '{"path": "../in/benign/0.png", "status": "copied", "format": "png", "sha256": "00"}',
    '{"path": "/dev/zero", "status": "protected", "format": "png", "sha256": "00"}',
    '{"path": "x\\u0000y", "status": "omitted", "format": "png"}',
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_of_the_manifest_that_was_tampered_with(release, sound, line):
    path = release / "medshield-manifest.jsonl"
    path.write_text(path.read_text() + line + "\n")
    for more in ((), ("--source", sound[0])):
        run = medshield("check", release, *more)
        assert run.code == 4, run
        assert "unexpected" not in run.err
    run = medshield("verify", release, "--source", sound[0], "--dry-run")
    assert run.code in (0, 2)  # paths that are not in the source are not looked at
    assert "unexpected" not in run.err


SUMMARIES = {
    "epsilon": ["1e-999999999", 5, None, "9" * 100_000],
    "intensity": [5, None, {"PNG 8-bit": {"low": "a"}}, {"PNG 8-bit": []}, []],
    "task": ["os.system", 5, None],
    "method": [5, None, []],
    "min_ssim": ["x", -1, [], 1e400],
    "handling": [5, "x", [1]],
    "counts": [5, None],
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_that_was_tampered_with(release, sound, name):
    path = release / "medshield.json"
    known = json.loads(path.read_text())
    for value in SUMMARIES[name]:
        path.write_text(json.dumps(known | {name: value}))
        run = medshield("check", release, "--source", sound[0])
        assert run.code == 4, run
        run = medshield("verify", release, "--source", sound[0], "--dry-run")
        assert run.code in (0, 2), run
        assert "unexpected" not in run.err
    path.write_text(DEEP)
    assert medshield("check", release).code == 4
    failed(medshield("verify", release, "--source", sound[0], "--dry-run"))


def test_a_release_with_links_and_pipes(release, sound, tmp_path):
    for make in (
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(sound[0] / CLASSES[0] / "0.png"),
        os.mkfifo,
    ):
        path = release / CLASSES[0] / "0.png"
        path.unlink()
        make(path)
        for more in ((), ("--source", sound[0])):
            run = medshield("check", release, *more)
            assert run.code == 4, run
        failed(medshield("verify", release, "--source", sound[0], "--dry-run"))


def test_a_private_folder_whose_configuration_was_tampered_with(tmp_path, release, sound):
    private = tmp_path / "out.private"
    private.mkdir()
    for content in (DEEP, "5", "{}", '{"source": 5}', '{"source": "/dev/zero"}'):
        (private / "config.json").write_text(content)
        failed(medshield("verify", release, "--dry-run"))
