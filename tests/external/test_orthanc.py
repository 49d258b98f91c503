"""An archive takes a protected file, gives it back as it is, and shows the same picture."""

import io
import shlex
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from medshield.errors import NotAnImage, RefusedFile
from tests.builders import medshield
from tests.dicom_forms import FORMS
from tests.external.programs import files_of_format
from tests.snippets import DOCS, ROOT, blocks
from tests.tools.trial import protect

pytestmark = pytest.mark.external
VIEWS = ("preview", "rendered")
NOT_SHOWN = {"JPEG 2000", "colour, JPEG 2000", "lossy JPEG 2000", "HTJ2K", "shared colours"}
"""What Orthanc stores, and does not decode without a plugin."""


def archived(server, path):
    """Store a file, get it back, look at it, and forget it.

    Returns:
        The bytes that come back and the answer of each view; None and none where the server does
        not take the file.
    """
    stored = server.store(path.read_bytes())
    if stored.status != 200:
        return None, {}
    assert stored.json["Status"] == "Success", path
    identity = stored.json["ID"]
    try:
        returned = server.ask(f"/instances/{identity}/file").body
        views = {name: server.ask(f"/instances/{identity}/{name}") for name in VIEWS}
    finally:
        server.delete(identity)
    return returned, views


def picture(answer):
    with Image.open(io.BytesIO(answer.body)) as image:
        return np.asarray(image).astype(float)


def most_apart(made, source, view):
    """How far apart two pictures of 0 to 255 may be when no value moved further than the radius.

    `rendered` looks through the window; `preview`, and `rendered` without a window, stretch the
    least and the greatest value to 0 and 255, and both of these move, too.
    """
    header = pydicom.dcmread(source, stop_before_pixels=True)
    if made.image.stored.shape[-1] == 3:
        return (
            3 * np.max(made.radius) + 2
        )  # a step in each of Y, Cb and Cr is up to 2.8 steps of blue
    moved = float(np.max(made.radius * np.abs(made.image.slope)))
    if view == "rendered" and "WindowWidth" in header:
        width = header.WindowWidth
        narrowest = min(width) if isinstance(width, pydicom.multival.MultiValue) else width
        return 255 * moved / float(narrowest) + 2
    extent = float(np.ptp(made.image.stored * made.image.slope))
    return 255 * 4 * moved / max(extent - 2 * moved, 1) + 2


def archived_alike(server, source, target):
    """Protect a file and compare what an archive makes of both; how many views it shows.

    None where it takes neither.
    """
    made = protect(source, target)
    original, before = archived(server, source)
    returned, after = archived(server, target)
    if original is None:
        assert returned is None, source
        return None
    assert original == source.read_bytes()
    assert returned == target.read_bytes(), source
    shown = 0
    for name in VIEWS:
        if before[name].status == 200:
            assert after[name].status == 200, (source, name)
            apart = np.abs(picture(before[name]) - picture(after[name]))
            assert apart.max() <= most_apart(made, source, name), (source, name)
            shown += 1
        elif not made.notes:  # a file of another syntax may well be shown at last
            assert after[name].status == before[name].status, (source, name)
    return shown


@pytest.mark.parametrize("form", FORMS)
def test_generated_files(form, orthanc, tmp_path):
    source = FORMS[form](tmp_path / "source.dcm")
    shown = archived_alike(orthanc, source, tmp_path / "target.dcm")
    assert shown == (0 if form in NOT_SHOWN else len(VIEWS))


@pytest.mark.real_data
def test_public_files(orthanc, real_data, tmp_path):
    shown, not_taken = [], []
    for path in files_of_format(real_data / "dicom-odd", "dicom"):
        target = tmp_path / "target.dcm"
        target.unlink(missing_ok=True)
        try:
            views = archived_alike(orthanc, path, target)
        except (RefusedFile, NotAnImage):
            continue
        if views is None:
            not_taken.append(path.name)
        else:
            shown.append(views)
    assert len(shown) > 100
    assert sum(shown) > 1.5 * len(shown)
    assert all("JPEGLSNear" in name or "jls_lossy" in name for name in not_taken)  # no UIDs


def test_an_archive_that_keeps_what_it_has_keeps_the_clean_original(orthanc, tmp_path):
    source, target = FORMS["implicit"](tmp_path / "source.dcm"), tmp_path / "target.dcm"
    protect(source, target)
    identity = orthanc.store(source.read_bytes()).json["ID"]
    again = orthanc.store(target.read_bytes())
    kept = orthanc.ask(f"/instances/{identity}/file").body
    orthanc.delete(identity)
    assert (again.status, again.json["Status"]) == (200, "AlreadyStored")
    assert kept == source.read_bytes()


def instances(server):
    """The data set of each instance in the archive, by its SOP Instance UID."""
    found = {}
    for identity in server.ask("/instances").json:
        dataset = pydicom.dcmread(io.BytesIO(server.ask(f"/instances/{identity}/file").body))
        found[dataset.SOPInstanceUID] = dataset
    return found


@pytest.fixture
def archive(orthanc):
    """The server, and afterwards an empty one."""
    yield orthanc
    for identity in orthanc.ask("/instances").json:
        orthanc.delete(identity)


@pytest.fixture
def recipe(archive, program, tmp_path, monkeypatch):
    """A function that runs what docs/pipelines.md tells to do, on sample_data/ct."""
    source = ROOT / "sample_data" / "ct"
    lines = next(
        block.replace("\\\n", " ").splitlines()
        for block in blocks((DOCS / "pipelines.md").read_text(encoding="utf-8"), "sh")
        if "dcmsend" in block
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSHIELD_METHOD", "synthetic")

    def run(*replaced):
        for line in lines:
            words = shlex.split(line)
            words = [str(source) if word == "./dicoms" else word for word in words]
            words = [dict(replaced).get(word, word) for word in words]
            if words[0] == "medshield":
                assert medshield(*words[1:]).code == 0
        place = ["127.0.0.1", str(archive.dicom_port)]
        start = words.index("pacs.example.org")
        words[start : start + 2] = place
        subprocess.run([program(words[0]), *words[1:]], check=True, capture_output=True)
        paths = sorted((tmp_path / "release").rglob("*.dcm"))
        return source, [pydicom.dcmread(path) for path in paths]

    return run


def test_a_release_is_sent_to_an_archive_whole_and_as_it_was_written(recipe, archive, tmp_path):
    source, released = recipe()
    found = instances(archive)
    assert found.keys() == {dataset.SOPInstanceUID for dataset in released}
    assert len({dataset.file_meta.TransferSyntaxUID for dataset in released}) == 5
    for dataset in released:
        kept = found[dataset.SOPInstanceUID]
        syntax, kept_as = dataset.file_meta.TransferSyntaxUID, kept.file_meta.TransferSyntaxUID
        assert kept_as == syntax or not (kept_as.is_compressed or syntax.is_compressed)
        assert kept.PixelData == dataset.PixelData
    assert "SUCCESS" in (tmp_path / "sent.txt").read_text().upper()
    originals = {pydicom.dcmread(path).SOPInstanceUID for path in source.rglob("*.dcm")}
    assert not originals & found.keys()


def test_with_the_same_uids_the_archive_says_success_and_keeps_the_originals(recipe, archive):
    for path in (ROOT / "sample_data" / "ct").rglob("*.dcm"):
        assert archive.store(path.read_bytes()).status == 200
    before = instances(archive)
    _, released = recipe(("new", "keep"))
    after = instances(archive)
    assert after.keys() == before.keys() == {dataset.SOPInstanceUID for dataset in released}
    assert all(after[uid].PixelData == before[uid].PixelData for uid in before)
    assert all(after[d.SOPInstanceUID].PixelData != d.PixelData for d in released)


def test_storescu_leaves_files_behind_as_the_page_says(archive, program, tmp_path):
    release = tmp_path / "release"
    options = ["--method", "synthetic", "--eps", "8/255", "--uid", "new"]
    medshield("protect", ROOT / "sample_data" / "ct", "-o", release, *options)
    send = [program("storescu"), "--call", "ORTHANC", "--scan-directories", "--recurse"]
    to = ["127.0.0.1", str(archive.dicom_port), str(release)]
    assert subprocess.run([*send, *to], capture_output=True).returncode == 1
    assert subprocess.run([*send, "--no-halt", *to], capture_output=True).returncode == 0
    assert len(list(release.rglob("*.dcm"))) - len(instances(archive)) == 18
