"""An archive takes a protected file, gives it back as it is, and shows the same picture."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image

from medshield.errors import NotAnImage, RefusedFile
from tests.dicom_forms import FORMS
from tests.external.programs import files_of_format
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
