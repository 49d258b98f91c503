"""The intensity range that `scan` prints for folders as hospitals have them."""

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import MRImageStorage

from tests.builders import dicom, medshield, texture

STROKE, SOFT_TISSUE = (20, 60), (-160, 240)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def scanned(folder):
    """(low, high) of the one range that a folder has, and the reason."""
    run = medshield("scan", folder, "--json")
    (found,) = run.json["intensity"].values()
    return (found["low"], found["high"]), found["reason"]


def test_ct_with_several_windows(folder):
    for seed in range(3):
        dicom(folder / f"{seed}.dcm", seed, WindowCenter=[40, 300], WindowWidth=[400, 1500])
    ends, reason = scanned(folder)
    assert ends == SOFT_TISSUE
    assert reason == "the narrowest of 2 display windows in all 3 files"


def test_ct_of_which_each_series_has_its_window(folder):
    dicom(folder / "head.dcm", 0, WindowCenter=40, WindowWidth=40)
    dicom(folder / "body.dcm", 1)
    ends, _ = scanned(folder)
    assert ends == STROKE


def test_ct_with_a_window_that_is_none(folder):
    for seed in range(3):
        dicom(folder / f"{seed}.dcm", seed, WindowCenter=0, WindowWidth=65535)
    (low, high), reason = scanned(folder)
    assert -150 <= low < high <= 230
    assert "too wide" in reason


def test_mr_without_a_window(folder):
    for seed in range(3):
        dicom(
            folder / f"{seed}.dcm",
            seed,
            SOPClassUID=MRImageStorage,
            Modality="MR",
            WindowCenter=None,
            WindowWidth=None,
            RescaleIntercept=0,
        )
    (low, high), reason = scanned(folder)
    assert 874 <= low < high <= 1254
    assert reason == "percentiles 0.5 and 99.5 over all 3 files; no file declares a range"


def test_twelve_bits_in_png_of_sixteen(folder):
    for seed in range(3):
        values = texture(seed, low=0, high=4095).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{seed}.png")
    (low, high), _ = scanned(folder)
    assert 0 <= low < high <= 4095
    assert high > 3000


def test_png_of_eight_bits(folder):
    for seed in range(2):
        values = texture(seed, low=0, high=40).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{seed}.png")
    assert scanned(folder) == ((0, 255), "8-bit values, in all 2 files")


def save_volume(path, values, slope=None):
    image = nibabel.Nifti1Image(values, np.eye(4))
    if slope:
        image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)


def test_pet_floats(folder):
    """Standardised uptake values, one patient with a very bright bladder."""
    for seed in range(7):
        values = np.random.default_rng(seed).gamma(1, 1.5, (12, 12, 12)).astype(np.float32)
        save_volume(folder / f"{seed}.nii.gz", values * (500 if seed == 6 else 1))
    (low, high), reason = scanned(folder)
    assert 0 <= low < 0.1
    assert 6 < high < 12
    assert "1 file is numbered on another scale and did not count" in reason


def test_masks_do_not_count(folder):
    (folder.parent / "masks").mkdir()
    for seed in range(3):
        values = np.random.default_rng(seed).integers(500, 900, (8, 8, 8)).astype(np.int16)
        save_volume(folder / f"{seed}.nii.gz", values)
        save_volume(folder.parent / "masks" / f"{seed}.nii.gz", (values > 800).astype(np.int16))
    (low, high), reason = scanned(folder.parent)
    assert 500 <= low < high <= 900
    assert "all 3 files" in reason


def test_the_text_says_range_reason_and_radius_of_each_kind(folder):
    for seed in range(3):
        units = {"RescaleSlope": 0.5, "RescaleIntercept": -512} if seed else {}
        dicom(folder / f"{seed}.dcm", seed, **units)
    lines = medshield("scan", folder, "--eps", "8/255").out.splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert "intensity DICOM CT: -160 to 240 (the display window of all 3 files)" in told
    assert "radius DICOM CT: 25 stored units in 2 files, 12 in 1" in told
