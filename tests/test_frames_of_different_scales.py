"""`protect` and `check` on images whose frames have a slope each, as enhanced MR and PET have."""

import json

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from tests.builders import CLASSES, EIGHT, dicom, manifest, medshield, stored, texture
from tests.test_check import rewrite

SLOPES = (0.5, 1.0, 4.0)


def enhanced(path, seed):
    """Three frames of one signal, each stored on a scale of its own."""
    dicom(path, seed, Modality="MR", WindowCenter=None, WindowWidth=None)
    dataset = pydicom.dcmread(path)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(SLOPES)
    dataset.PerFrameFunctionalGroupsSequence = [frame_of(slope) for slope in SLOPES]
    signal = texture(seed, low=100, high=900)
    frames = [np.round(signal / slope).astype("<u2") for slope in SLOPES]
    dataset.PixelData = np.stack(frames).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def frame_of(slope):
    transformation = Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0
    transformation.RescaleType = "US"
    frame = Dataset()
    frame.PixelValueTransformationSequence = [transformation]
    return frame


@pytest.fixture
def source(tmp_path):
    for seed in range(4):
        folder = tmp_path / "in" / CLASSES[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        enhanced(folder / f"{seed}.dcm", seed)
    return tmp_path / "in"


def test_each_frame_moves_by_its_own_radius(source, tmp_path):
    release = tmp_path / "out"
    run = medshield("protect", source, "-o", release, *EIGHT, "--intensity=0,1000")
    assert run.code == 0, run
    for path, record in manifest(release).items():
        before, after = (stored(folder / path).astype(float) for folder in (source, release))
        moved = np.abs(after - before).max((1, 2))
        assert (moved > 0).all()
        assert (moved <= [62, 31, 7]).all()  # 8/255 of 1000 is 31.4 of the world's units
        assert record["epsilon_stored"] == 62
        assert record["max_abs_delta"] == moved.max()
    assert medshield("check", release, "--source", source).code == 0


def test_the_range_is_that_of_the_signal_whatever_the_slopes(source):
    (found,) = medshield("scan", source, "--json").json["intensity"].values()
    assert 100 <= found["low"] < 250
    assert 750 < found["high"] <= 902


def test_check_holds_each_frame_to_its_own_radius(source, tmp_path):
    release = tmp_path / "out"
    medshield("protect", source, "-o", release, "--method", "synthetic", "--eps", "64/255")
    papers = json.loads((release / "medshield.json").read_text())
    papers["epsilon"] = "32/255"
    (release / "medshield.json").write_text(json.dumps(papers))
    rewrite(release, list(manifest(release).values()))
    run = medshield("check", release, "--source", source, "--json")
    told = [found["fault"] for found in run.json["faults"]]
    assert run.code == 4
    assert any("bound" in fault for fault in told), told


def test_a_frame_that_cannot_move_refuses_the_file(source):
    run = medshield("scan", source, "--eps", "8/255", "--intensity=0,100", "--json")
    assert run.json["actions"] == {"refuse": 4}
    assert "less than" in run.json["files"][0]["reason"]
