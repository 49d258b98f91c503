"""`protect` and `check` on images whose frames have a slope each, as enhanced PET has."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medshield.formats.nifti import NiftiCodec
from tests.builders import EIGHT, in_classes, manifest, medshield, stored
from tests.test_check import rewrite

SLOPES = np.array([0.5, 1.0, 4.0]).reshape(3, 1, 1, 1)


@pytest.fixture(autouse=True)
def scaled(monkeypatch):
    """Let every volume be read as if its three planes were scaled differently."""
    decode = NiftiCodec.decode
    monkeypatch.setattr(
        NiftiCodec,
        "decode",
        lambda self, path, *rest: replace(decode(self, path, *rest), slope=SLOPES),
    )


def planes(path):
    return stored(path).astype(float).transpose(2, 0, 1)


def test_each_frame_moves_by_its_own_radius(tmp_path):
    source = in_classes(tmp_path / "in", (".nii.gz",))
    release = tmp_path / "out"
    run = medshield("protect", source, "-o", release, *EIGHT, "--intensity=0,1000")
    assert run.code == 0, run
    for path, record in manifest(release).items():
        moved = np.abs(planes(release / path) - planes(source / path)).max((1, 2))
        assert (moved > 0).all()
        assert (moved <= [62, 31, 7]).all()  # 8/255 of 1000 is 31.4 of the world's units
        assert record["epsilon_stored"] == 62
        assert record["max_abs_delta"] == moved.max()
    assert medshield("check", release, "--source", source).code == 0


def test_check_holds_each_frame_to_its_own_radius(tmp_path):
    source = in_classes(tmp_path / "in", (".nii.gz",))
    release = tmp_path / "out"
    medshield("protect", source, "-o", release, "--method", "synthetic", "--eps", "64/255")
    papers = json.loads((release / "medshield.json").read_text())
    papers["epsilon"] = "32/255"
    (release / "medshield.json").write_text(json.dumps(papers))
    rewrite(release, list(manifest(release).values()))
    run = medshield("check", release, "--source", source, "--json")
    told = [found["fault"] for found in run.json["faults"]]
    assert run.code == 4
    assert sum("a pixel moved by" in fault for fault in told) == 6


def test_a_frame_that_cannot_move_refuses_the_file(tmp_path):
    source = in_classes(tmp_path / "in", (".nii.gz",))
    run = medshield("scan", source, "--eps", "8/255", "--intensity=0,100", "--json")
    assert run.json["actions"] == {"refuse": 6}
    assert "less than one stored unit" in run.json["files"][0]["reason"]
