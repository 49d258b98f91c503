"""The recipes of docs/pipelines.md: each block is run, or read by what would read it.

`MEDSHIELD_METHOD` makes every `protect` of the page one that needs no training.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from pydicom.dataset import Dataset

import medshield as package
from medshield.manifest import CARD_FILES, OWN_FILES
from tests.builders import (
    dicom,
    in_classes,
    manifest,
    medshield,
    nifti,
    png,
    tree,
    with_table,
)
from tests.snippets import DOCS, ROOT, anchors, blocks, scripts_of_processes

PAGE = (DOCS / "pipelines.md").read_text(encoding="utf-8")
NAME, DAMAGED = "SECRETNAME", "benign/0.png"
NO_NETWORK = """
import runpy, socket, sys

def refuse(*_):
    raise OSError("there is no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv[0] = "medshield"
runpy.run_module("medshield", run_name="__main__")
"""


def section(heading):
    """The text below a heading, to the next one as high."""
    level = heading.partition(" ")[0]
    (found,) = re.findall(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)",
        PAGE,
        re.DOTALL | re.MULTILINE,
    )
    return found


def only(heading, language):
    """The one block of a language in a section."""
    (block,) = blocks(section(heading), language)
    return block


@pytest.fixture
def shell(tmp_path):
    """A function that runs a script in `tmp_path`, where `verify` ends with a code at once."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = f'PYTHONPATH={ROOT} exec {sys.executable} -m medshield "$@"'
    program = folder / "medshield"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n'
        f'case $1 in verify) exit "$VERIFY_ENDS_WITH";; *) {real};; esac\n'
    )
    program.chmod(0o755)
    places = (folder, Path(sys.executable).parent, os.environ["PATH"])

    def run(script, *, verify=0, **variables):
        environment = {
            **os.environ,
            "PATH": os.pathsep.join(map(str, places)),
            "MEDSHIELD_METHOD": "synthetic",
            "OMP_NUM_THREADS": "1",
            "VERIFY_ENDS_WITH": str(verify),
            **variables,
        }
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.fixture
def typed(tmp_path, shell, monkeypatch):
    """A function that runs a block line by line in `tmp_path`, as if typed, and what it printed.

    medshield runs in this process, which has imported what it needs; all else in a shell.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSHIELD_METHOD", "synthetic")

    def run(block, **variables):
        said = ""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("medshield "):
                ended = medshield(*shlex.split(line)[1:])
                code, said = ended.code, said + ended.out + ended.err
            else:
                ended = shell(line)
                code, said = ended.returncode, said + ended.stdout + ended.stderr
            assert not code, f"{line}: {code}\n{said}"
        return said

    return run


def done(run):
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def python(block, folder, **variables):
    """Run a Python block of the page as a script of its own."""
    return subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def mentions(root, text):
    """The files below a folder whose bytes, or whose name, hold a text."""
    return {
        name for name, content in tree(root).items() if text in name or text.encode() in content
    }


def identified(path, seed, **elements):
    """A slice that names a patient wherever de-identification looks."""
    other = Dataset()
    other.OtherPatientNames = f"{NAME}^NESTED"
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom(
        path,
        seed,
        PatientName=f"{NAME}^{seed // 2}",
        PatientID=f"{NAME}-{seed // 2}",
        OtherPatientNames=f"{NAME}^OTHER",
        ReferringPhysicianName=f"{NAME}^PHYSICIAN",
        ReferencedPatientSequence=[other],
        StudyDate="20200131",
        StudyInstanceUID=f"1.2.3.4.{seed // 2}",
        SeriesInstanceUID=f"1.2.3.5.{seed // 2}",
        FrameOfReferenceUID=f"1.2.3.6.{seed // 2}",
        **elements,
    )


def identified_folder(root, **elements):
    for seed in range(16):
        identified(root / ("benign", "malignant")[seed // 2 % 2] / f"{seed}.dcm", seed, **elements)
    return root


def with_a_damaged_file(root):
    """Two classes of images, one of which is refused."""
    damaged = in_classes(root) / DAMAGED
    damaged.write_bytes(damaged.read_bytes()[:200])
    return root


def patients(root):
    """Patient's identifier by file."""
    return {
        path.relative_to(root): str(pydicom.dcmread(path).PatientID) for path in root.rglob("*.dcm")
    }


def test_the_table_of_the_page_leads_to_every_recipe():
    linked = re.findall(r"^\| \[.*?\]\(#(.*?)\)", PAGE, re.MULTILINE)
    headings = [*anchors("\n".join(re.findall(r"^## .*", PAGE, re.MULTILINE)))]
    assert linked == headings


def test_dicognito_then_protect_leaves_no_name_anywhere(tmp_path, typed):
    source = identified_folder(tmp_path / "dicoms")
    said = typed(only("### dicognito", "sh"), MEDSHIELD_LOG_FILE=f"{tmp_path}/log")
    release, private = tmp_path / "release", tmp_path / "release.private"
    assert {record["status"] for record in manifest(release).values()} == {"protected"}
    verified = medshield(
        *("verify", release, "--cells", "small_convnet", "--epochs", "1", "--image-size", "32"),
        *("--seeds", "1", "--workers", "1", "--junit", tmp_path / "verify.xml"),
    )
    assert verified.code in (4, 5), verified.err
    assert (private / "verify" / "report.html").is_file()
    assert not mentions(release, NAME)
    assert not mentions(private, NAME)
    said += verified.out + verified.err + (tmp_path / "log").read_text()
    assert NAME not in said + (tmp_path / "verify.xml").read_text()
    before, after = patients(source), patients(release)
    assert before.keys() == after.keys()
    assert len(set(after.values())) == 8
    assert len({(before[path], after[path]) for path in before}) == 8


def test_what_dicognito_leaves_is_what_the_page_says(tmp_path, typed):
    for seed in range(4):
        path = tmp_path / "dicoms" / "ab"[seed % 2] / f"{NAME}-{seed}.dcm"
        identified(path, seed, StudyDescription=f"{NAME} CT", PatientComments=f"{NAME} came")
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x0009, "TEST", create=True).add_new(1, "LO", f"{NAME} private")
        dataset.save_as(path)
    typed(only("### dicognito", "sh"))
    release = tmp_path / "release"
    for path in release.rglob("*.dcm"):
        assert path.name.startswith(NAME)
        dataset = pydicom.dcmread(path)
        left = [element.tag for element in dataset.iterall() if NAME in str(element.value)]
        assert {dataset[tag].keyword or "private" for tag in left} == {
            "StudyDescription",
            "PatientComments",
            "private",
        }
    assert NAME in (release / "medshield-manifest.jsonl").read_text()


def test_a_file_that_says_it_has_text_in_its_pixels_stops_the_recipe(tmp_path, shell):
    identified_folder(tmp_path / "dicoms", BurnedInAnnotation="YES")
    run = shell(only("### dicognito", "sh"))
    assert run.returncode == 1
    assert "burned" in run.stderr.lower()
    assert not (tmp_path / "release").exists()


def test_who_writes_a_file_after_protect_breaks_the_release(tmp_path):
    identified_folder(tmp_path / "dicoms")
    release = tmp_path / "release"
    medshield(
        *("protect", tmp_path / "dicoms", "-o", release, "--method", "synthetic"),
        *("--eps", "8/255", "--quiet"),
    )
    assert medshield("check", release).code == 0
    late = ["-m", "dicognito", "--in-place", "--quiet", str(release)]
    subprocess.run([sys.executable, *late], check=True, capture_output=True)
    assert medshield("check", release).code == 4


def test_deid_blacks_out_and_takes_names_out_before_protect(tmp_path, typed):
    source = identified_folder(tmp_path / "dicoms", StudyDescription=NAME, PatientComments=NAME)
    (tmp_path / "deid.recipe").write_text(only("### deid", "text"))
    (tmp_path / "deidentify.py").write_text(only("### deid", "python"))
    said = typed(only("### deid", "sh"), MEDSHIELD_LOG_FILE=f"{tmp_path}/log")
    release, private = tmp_path / "release", tmp_path / "release.private"
    assert not mentions(release, NAME)
    assert not mentions(private, NAME)
    assert NAME not in said + (tmp_path / "log").read_text()
    before, after = patients(source), patients(release)
    assert len(set(after.values())) == 8
    assert len({(before[path], after[path]) for path in before}) == 8
    for path in before:
        clean, black, made = (
            pydicom.dcmread(tmp_path / folder / path)
            for folder in ("dicoms", "deidentified", "release")
        )
        assert not black.pixel_array[:24].any()
        assert (black.pixel_array[24:] == clean.pixel_array[24:]).all()
        for name in ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert made[name].value == black[name].value != clean[name].value
        assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID
        assert "StudyDate" not in made
        assert made.PatientName == made.PatientID


def bids(root):
    """A valid data set of eight people."""
    root.mkdir()
    facts = {"Name": "test", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(facts))
    (root / "README.md").write_text("Made-up volumes for a test.\n" * 10)
    (root / "CITATION.cff").write_text(
        "cff-version: 1.2.0\nmessage: cite this\ntitle: test\n"
        "authors:\n  - family-names: A\n    given-names: B\n"
    )
    rows = ["participant_id\tage\tdiagnosis"]
    for number in range(1, 9):
        name = f"sub-{number:02d}"
        (root / name / "anat").mkdir(parents=True)
        nifti(root / name / "anat" / f"{name}_T1w.nii.gz", number)
        (root / name / "anat" / f"{name}_T1w.json").write_text('{"MagneticFieldStrength": 3}')
        rows.append(f"{name}\t{50 + number}\t{('CN', 'AD')[number % 2]}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def bids_errors(root):
    """What the validator calls an error: pairs of code and path."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    run = subprocess.run([program, "--format", "json", root], capture_output=True, text=True)
    report = json.loads(run.stdout)
    found = {
        (issue["code"], issue.get("location", ""))
        for issue in report["issues"]["issues"]
        if issue["severity"] == "error"
    }
    assert report["summary"]["dataTypes"] == ["anat"]
    assert bool(found) == bool(run.returncode)
    return found


def test_a_bids_data_set_goes_in_and_a_valid_one_comes_out(tmp_path, typed):
    source = bids(tmp_path / "bids")
    assert not bids_errors(source)
    typed(only("## BIDS", "sh"), MEDSHIELD_CARD="true")
    release = tmp_path / "bids-protected"
    names = (source / ".bidsignore").read_text().split()
    assert {name.removeprefix("/") for name in names} == OWN_FILES | {*CARD_FILES}
    assert all((release / name.removeprefix("/")).is_file() for name in names)
    assert not bids_errors(source)
    assert not bids_errors(release)
    lines = manifest(release)
    assert lines.keys() == tree(source).keys()
    images = {name for name in lines if name.endswith(".nii.gz")}
    assert len(images) == 8
    for name, line in lines.items():
        assert line["status"] == ("protected" if name in images else "copied")
    found = package.scan(source).to_json()
    assert found["class_counts"] == {"AD": 4, "CN": 4}
    assert found["patients"] == 8

    (release / ".bidsignore").unlink()
    errors = bids_errors(release)
    assert {code for code, _ in errors} == {"NOT_INCLUDED", "SIDECAR_WITHOUT_DATAFILE"}
    assert {path for _, path in errors} == set(names)
    for name in names:
        (release / name.removeprefix("/")).unlink()
    assert not bids_errors(release)


def nnunet(root, channels=1, tests=0):
    """A raw data set of nnU-Net: four cases, and some images to test on."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for case in range(4 + tests):
        folder = "imagesTr" if case < 4 else "imagesTs"
        for channel in range(channels):
            nifti(root / folder / f"case_{case:03}_{channel:04}.nii.gz", case + 10 * channel)
        mask = np.zeros((40, 36, 3), np.uint8)
        mask[8 : 20 + case, 6:20] = 1
        if case < 4:
            nifti(root / "labelsTr" / f"case_{case:03}.nii.gz", values=mask)
    facts = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def assert_nnunet_can_use(root):
    """The rules of nnU-Net's `dataset_format.md`, and of its `verify_dataset_integrity`."""
    assert re.fullmatch(r"Dataset\d{3}_\w+", root.name)
    facts = json.loads((root / "dataset.json").read_text())
    assert {"channel_names", "labels", "numTraining", "file_ending"} <= facts.keys()
    ending, channels = facts["file_ending"], len(facts["channel_names"])
    assert sorted(facts["labels"].values()) == list(range(len(facts["labels"])))
    cases = {path.name.removesuffix(ending) for path in (root / "labelsTr").iterdir()}
    assert len(cases) == facts["numTraining"]
    images = {path.name for path in (root / "imagesTr").iterdir()}
    assert images == {f"{case}_{number:04}{ending}" for case in cases for number in range(channels)}
    for case in cases:
        label = nibabel.load(root / "labelsTr" / f"{case}{ending}")
        assert {*np.unique(label.dataobj)} <= {*facts["labels"].values()}
        for number in range(channels):
            image = nibabel.load(root / "imagesTr" / f"{case}_{number:04}{ending}")
            assert image.shape == label.shape
            assert (image.affine == label.affine).all()
            assert np.isfinite(image.get_fdata()).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_release_of_nnunet_s_raw_data_is_one(tmp_path, typed, channels):
    name = re.search(r"Dataset\d{3}_\w+", only("## nnU-Net", "sh"))[0]
    source = nnunet(tmp_path / name, channels)
    assert_nnunet_can_use(source)
    typed(only("## nnU-Net", "sh"))
    release = tmp_path / "release" / name
    assert_nnunet_can_use(release)
    assert (release / "dataset.json").read_bytes() == (source / "dataset.json").read_bytes()
    protected = {n for n, line in manifest(release).items() if line["status"] == "protected"}
    assert protected == {n for n in tree(source) if n.startswith("imagesTr/")}
    if importlib.util.find_spec("nnunetv2"):
        check = (
            "import sys\n"
            "from nnunetv2.experiment_planning.verify_dataset_integrity import *\n"
            "if __name__ == '__main__': verify_dataset_integrity(sys.argv[1], 1)\n"
        )
        script = tmp_path / "integrity.py"
        script.write_text(check)
        folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "/tmp")
        run = subprocess.run(
            [sys.executable, script, release],
            env=os.environ | folders,
            capture_output=True,
            text=True,
        )
        assert "verify_dataset_integrity Done" in done(run).stdout


def test_images_that_nnunet_tests_on_are_refused_as_the_page_says(tmp_path, monkeypatch):
    name = re.search(r"Dataset\d{3}_\w+", only("## nnU-Net", "sh"))[0]
    nnunet(tmp_path / name, tests=1)
    monkeypatch.chdir(tmp_path)
    protect = [*shlex.split(only("## nnU-Net", "sh").splitlines()[0])[1:], "--method", "synthetic"]
    stopped = medshield(*protect)
    assert stopped.code == 2
    assert "--allow-missing" in stopped.err
    assert medshield(*protect, "--allow-missing").code == 3
    release = tmp_path / "release" / name
    assert manifest(release)["imagesTs/case_004_0000.nii.gz"]["status"] == "refused"
    assert_nnunet_can_use(release)


@pytest.mark.parametrize("form", ["folders", "metadata.csv", "metadata.csv of each part"])
def test_hugging_face_loads_a_release_as_it_does_the_source(tmp_path, typed, form):
    source = tmp_path / "images"
    if form == "folders":
        in_classes(source)
    else:
        for part in ("train", "test"):
            (source / part).mkdir(parents=True)
        names = [f"{part}/{part}{i}.png" for part in ("train", "test") for i in range(4)]
        for seed, name in enumerate(names):
            png(source / name, seed)
        rows = {name: "ab"[number % 2] for number, name in enumerate(names)}
        if form == "metadata.csv":
            lines = [f"{name},{label}" for name, label in rows.items()]
            with_table(source, lines, "file_name,label", "metadata.csv")
        else:
            for part in ("train", "test"):
                found = [n for n in names if n.startswith(part)]
                lines = [f"{n.partition('/')[2]},{rows[n]}" for n in found]
                with_table(source / part, lines, "file_name,label", "metadata.csv")
    typed(only("## Hugging Face: imagefolder", "sh"), MEDSHIELD_CARD="true")
    block = only("## Hugging Face: imagefolder", "python")
    more = (
        "for name in ('images', 'images-protected'):\n"
        "    for split, rows in load_dataset('imagefolder', data_dir=name).items():\n"
        "        print(name, split, [(row['label'], row['image'].size) for row in rows])\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    lines = done(python(block + more, tmp_path, **offline)).stdout.splitlines()
    count = len(lines) - 1
    assert count == (2 if form == "folders" else 4)
    before, after = lines[1 : 1 + count // 2], lines[1 + count // 2 :]
    assert [line.replace("images ", "images-protected ", 1) for line in before] == after
    assert sum(line.count("(36, 40)") for line in after) == (6 if form == "folders" else 8)


@pytest.mark.external
def test_snakemake_runs_the_rules_and_stops_at_each_code(tmp_path, shell, program):
    """A file that is refused is no reason to stop; a verdict that is none, and a fault, are."""
    snakemake = program("snakemake")
    source, release = with_a_damaged_file(tmp_path / "images"), tmp_path / "images-protected"
    (tmp_path / "Snakefile").write_text(only("## Snakemake", "snakemake"))
    command = shlex.join([snakemake, "--cores", "2", "--quiet", "all"])

    def ends_with(code):
        (tmp_path / "calls").unlink(missing_ok=True)
        run = shell(command, verify=code, XDG_CACHE_HOME=f"{tmp_path}/cache", HOME=str(tmp_path))
        calls = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
        return run.returncode, calls, run.stdout + run.stderr

    code, calls, said = ends_with(5)
    assert (code, calls) == (1, ["protect", "check", "verify"]), said
    assert not (tmp_path / "images-protected.verified").exists()
    assert set(manifest(release)) == set(tree(source))
    assert manifest(release)[DAMAGED]["status"] == "refused"

    (tmp_path / "images-protected.checked").unlink()
    changed = release / "malignant" / "3.png"
    content = changed.read_bytes()
    changed.write_bytes(b"another")
    assert ends_with(0)[:2] == (1, ["check"])
    changed.write_bytes(content)
    assert ends_with(0)[:2] == (0, ["check", "verify"])
    assert (tmp_path / "images-protected.verified").exists()


def nextflow_scripts(tmp_path):
    """The scripts of the processes by name, with what Nextflow would fill in."""
    values = {"source": f"{tmp_path}/images", "release": f"{tmp_path}/out", "task.cpus": "2"}
    return {
        name: re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], script)
        for name, script in scripts_of_processes(only("## Nextflow", "nextflow")).items()
    }


def test_the_scripts_of_nextflow_s_processes_end_as_they_should(tmp_path, shell):
    with_a_damaged_file(tmp_path / "images")
    scripts = nextflow_scripts(tmp_path)
    assert list(scripts) == ["PROTECT", "CHECK", "VERIFY"]
    done(shell(scripts["PROTECT"]))  # medshield ended with 3
    assert manifest(tmp_path / "out")[DAMAGED]["status"] == "refused"
    assert shell(scripts["PROTECT"]).returncode == 2  # a finished release is never overwritten
    done(shell(scripts["CHECK"]))
    for code in (0, 4, 5):
        assert shell(scripts["VERIFY"], verify=code).returncode == code
    (tmp_path / "out" / "malignant" / "3.png").write_bytes(b"another")
    assert shell(scripts["CHECK"]).returncode == 4


def instructions():
    """The lines of the Containerfile, each an instruction and what follows it."""
    block = only("## A container", "dockerfile").replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in block.splitlines()]


def test_the_container_runs_as_nobody_special_and_fetches_nothing_but_packages():
    lines = instructions()
    first, image = lines[0]
    assert first == "FROM"
    assert re.fullmatch(r"docker\.io/library/python:3\.1[1-3]-slim", image)
    names = [name for name, _ in lines]
    assert "ADD" not in names
    (user,) = [value for name, value in lines if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert (("ENTRYPOINT", '["medshield"]')) in lines
    installs = [value.split() for name, value in lines if name == "RUN" and "pip install" in value]
    torch, own = installs
    assert torch[-2:] == ["torch", "torchvision"]
    assert torch[torch.index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert own == ["pip", "install", "--no-cache-dir", "/src"]
    tags = re.findall(r"medshield:(\S+)", only("## A container", "console"))
    assert set(tags) == {package.__version__}


def test_what_the_container_copies_is_enough_to_install_from(tmp_path):
    source = tmp_path / "src"
    for name, value in instructions():
        if name == "COPY":
            *files, target = value.split()
            place = tmp_path / target.removeprefix("/")
            for file in files:
                if (ROOT / file).is_dir():
                    shutil.copytree(ROOT / file, place)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, place)
    build = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    target = tmp_path / "site"
    subprocess.run([*build, "--target", target, source], check=True, capture_output=True)
    installed = {name for name in tree(target / "medshield") if not name.endswith(".pyc")}
    assert installed == {n for n in tree(ROOT / "medshield") if not n.endswith(".pyc")}


def test_what_runs_in_the_container_needs_no_network_and_no_home(tmp_path):
    in_classes(tmp_path / "images", each=12)
    runs = only("## A container", "console").splitlines()[1:]
    small = {"MEDSHIELD_CELLS": "small_convnet", "MEDSHIELD_EPOCHS": "1", "MEDSHIELD_SEEDS": "1"}
    environment = {
        **os.environ,
        **small,
        "PYTHONPATH": str(ROOT),
        "MEDSHIELD_METHOD": "synthetic",
        "MEDSHIELD_IMAGE_SIZE": "32",
        "MEDSHIELD_WORKERS": "1",
        "HOME": "/dev/null/none",
        "OMP_NUM_THREADS": "1",
    }
    codes = []
    for line in runs:
        words = shlex.split(line)
        assert words[words.index("--network") + 1] == "none"
        image = next(i for i, word in enumerate(words) if word.startswith("medshield:"))
        run = subprocess.run(
            [sys.executable, "-c", NO_NETWORK, *words[image + 1 :]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        codes.append(run.returncode)
        assert run.returncode in (0, 4, 5), run.stderr
    assert codes[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"images", "out"}


def steps():
    """The steps of the workflow's one job by name."""
    (job,) = yaml.safe_load(only("## A workflow on a code host", "yaml"))["jobs"].values()
    return {step["name"]: step for step in job["steps"]}


def test_the_workflow_is_one(tmp_path):
    path = tmp_path / "gate.yml"
    path.write_text(only("## A workflow on a code host", "yaml"))
    program = Path(sys.executable).with_name("check-jsonschema")
    done(
        subprocess.run(
            [program, "--builtin-schema", "vendor.github-workflows", path],
            capture_output=True,
            text=True,
        )
    )
    assert yaml.safe_load(path.read_text())["permissions"] == {}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "::notice::protected"),
        (4, "::error::not protected"),
        (5, "::error::verify could not tell"),
        (2, "::error::verify ended with 2"),
    ],
)
def test_the_workflow_lets_only_what_is_protected_pass(shell, code, said):
    names = {"RELEASE": "release", "SOURCE": "source", "RUNNER_TEMP": "temporary"}
    run = shell(steps()["Verify"]["run"], verify=code, **names)
    assert run.returncode == code
    assert said in run.stdout


def test_the_workflow_stops_at_a_file_that_changed(tmp_path, shell, typed):
    in_classes(tmp_path / "images")
    names = {"RELEASE": "images-protected", "SOURCE": "images"}
    typed("medshield protect images --eps 8/255")
    done(shell(steps()["Check every file"]["run"], **names))
    (tmp_path / "images-protected" / "benign" / "0.png").write_bytes(b"another")
    assert shell(steps()["Check every file"]["run"], **names).returncode == 4


def test_the_workflow_shows_the_report_and_keeps_no_picture(tmp_path, shell):
    names = {"RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    show = steps()["Show the report"]
    assert show["if"] == "always()"
    done(shell(show["run"], **names))
    assert not (tmp_path / "summary").exists()
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "report.md").write_text("the report\n")
    done(shell(show["run"], **names))
    assert (tmp_path / "summary").read_text() == "the report\n"
    kept = steps()["Keep the report"]["with"]["path"].split("\n")
    assert [Path(line).name for line in kept if line] == ["report.md", "verify.xml"]
