"""Releases of volumes that lie in two files, and of volumes that are no images."""

import nibabel
import numpy as np
import pytest

from tests.builders import EIGHT, furthest, in_classes, manifest, medshield, texture


def pair(folder, name, seed):
    values = np.stack([texture(seed * 10 + k, high=900) for k in range(3)], -1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), folder / name)


@pytest.fixture
def source(tmp_path):
    """Two classes of single files and of pairs, one of these compressed."""
    source = in_classes(tmp_path / "in", (".nii.gz",), each=2)
    for seed, name in enumerate(("benign/one.img", "malignant/two.img", "benign/three.img.gz")):
        pair(source, name, seed)
    return source


def protected(source, release):
    run = medshield("protect", source, "-o", release, *EIGHT)
    assert run.code == 0, run
    return manifest(release)


def test_of_a_pair_the_voxels_are_protected_and_the_header_is_copied(source, tmp_path):
    release = tmp_path / "out"
    records = protected(source, release)
    for name, header in (
        ("benign/one.img", "benign/one.hdr"),
        ("benign/three.img.gz", "benign/three.hdr.gz"),
    ):
        assert records[name]["status"] == "protected"
        moved = np.abs(
            np.asarray(nibabel.load(release / name).dataobj, float)
            - np.asarray(nibabel.load(source / name).dataobj, float)
        )
        assert 0 < moved.max() == records[name]["max_abs_delta"]
        assert records[header]["status"] == "copied"
        assert (release / header).read_bytes() == (source / header).read_bytes()
    assert medshield("check", release, "--source", source).code == 0


def test_half_a_pair_is_no_image(source):
    (source / "benign/one.hdr").unlink()
    (source / "malignant/two.img").unlink()
    run = medshield("scan", source, "--json")
    files = {file["path"]: file for file in run.json["files"]}
    assert files["benign/one.img"]["action"] == "refuse"
    assert ".hdr file" in files["benign/one.img"]["reason"]
    assert files["malignant/two.hdr"]["action"] == "copy"


def test_volumes_of_labels_are_copied_wherever_they_lie(source, tmp_path):
    labels = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    labels.header.set_intent("label")
    nibabel.save(labels, source / "benign" / "atlas.nii.gz")
    release = tmp_path / "out"
    records = protected(source, release)
    assert records["benign/atlas.nii.gz"]["status"] == "copied"
    assert furthest(source / "benign/atlas.nii.gz", release / "benign/atlas.nii.gz") == 0
    assert medshield("check", release, "--source", source).code == 0


def test_a_statistic_has_a_range_of_its_own(source):
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=(8, 8, 3)).astype(np.float32)
        image = nibabel.Nifti1Image(values, np.eye(4))
        image.header.set_intent("z score")
        nibabel.save(image, source / "benign" / f"z{seed}.nii")
    ranges = medshield("scan", source, "--json").json["intensity"]
    assert set(ranges) == {"NIfTI", "NIfTI statistic"}
    assert ranges["NIfTI statistic"]["high"] < 5 < ranges["NIfTI"]["high"]


def test_a_displacement_field_is_copied(source, tmp_path):
    field = nibabel.Nifti1Image(np.ones((4, 4, 4, 1, 3), np.float32), np.eye(4))
    field.header.set_intent("displacement vector")
    nibabel.save(field, source / "benign" / "warp.nii.gz")
    release = tmp_path / "out"
    record = protected(source, release)["benign/warp.nii.gz"]
    assert (record["status"], record["reason"]) == (
        "copied",
        "a displacement field: distances, and no picture",
    )
    assert medshield("check", release, "--source", source).code == 0
