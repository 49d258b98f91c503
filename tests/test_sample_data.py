"""The sample data: made anew the same, complete, readable, and nobody's."""

import csv
import filecmp
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample_data"
IMAGES = {"radiographs": 480, "ct": 48, "volumes": 8, "photos": 12}
LABELS = {"normal", "nodule", "effusion"}
MASKS = SAMPLE_DATA / "volumes" / "masks"


def rows_of(name):
    with (SAMPLE_DATA / name / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder):
    return sorted(
        path.relative_to(folder)
        for name in IMAGES
        for path in (folder / name).rglob("*")
        if path.is_file()
    )


def test_the_script_gives_what_is_committed(tmp_path):
    script = SAMPLE_DATA / "make_sample_data.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=120)
    committed = files_in(SAMPLE_DATA)
    assert files_in(tmp_path) == committed
    same, different, unreadable = filecmp.cmpfiles(tmp_path, SAMPLE_DATA, committed, shallow=False)
    assert len(same) == len(committed), (different, unreadable)


def test_it_is_small_enough_for_a_repository():
    assert sum((SAMPLE_DATA / path).stat().st_size for path in files_in(SAMPLE_DATA)) < 5_000_000


@pytest.mark.parametrize(("name", "count"), IMAGES.items())
def test_every_image_has_one_label(name, count):
    folder = SAMPLE_DATA / name
    listed = [folder / row["filename"] for row in rows_of(name)]
    present = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"]
    assert len(set(listed)) == count
    assert sorted(listed) == sorted(path for path in present if path.parent != MASKS)


@pytest.mark.parametrize("name", IMAGES)
def test_a_patient_is_in_one_split_and_each_split_that_trains_or_tests_has_each_label(name):
    rows = rows_of(name)
    patients = {row["patient_id"] for row in rows}
    assert len({(row["patient_id"], row["split"]) for row in rows}) == len(patients)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    for split in ("train", "test"):
        assert {row["label"] for row in rows if row["split"] == split} == LABELS


def test_no_patient_is_in_two_sets():
    patients = [{row["patient_id"] for row in rows_of(name)} for name in IMAGES]
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_radiographs_are_balanced_and_split_60_15_25():
    counts = Counter((row["split"], row["label"]) for row in rows_of("radiographs"))
    expected = {"train": 96, "val": 24, "test": 40}
    assert counts == {(split, label): n for split, n in expected.items() for label in LABELS}


def test_radiographs_are_not_told_apart_by_their_brightness():
    rows = rows_of("radiographs")
    films = [np.asarray(Image.open(SAMPLE_DATA / "radiographs" / row["filename"])) for row in rows]
    assert {(film.shape, film.dtype.name) for film in films} == {((64, 64), "uint8")}
    measures = np.array([(film.mean(), film.std()) for film in films])
    labels = np.array([row["label"] for row in rows])
    train, test = (np.array([row["split"] == split for row in rows]) for split in ("train", "test"))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(measures[train], labels[train])
    assert balanced_accuracy_score(labels[test], model.predict(measures[test])) < 0.6


def test_ct_slices_are_signed_12_bit_in_five_transfer_syntaxes():
    syntaxes = Counter()
    for row in rows_of("ct"):
        dataset = pydicom.dcmread(SAMPLE_DATA / "ct" / row["filename"])
        stored = dataset.pixel_array
        syntaxes[dataset.file_meta.TransferSyntaxUID] += 1
        assert stored.shape == (64, 64)
        assert (dataset.BitsStored, dataset.PixelRepresentation) == (12, 1)
        # The corners lie outside the round field; air and body inside keep to CT numbers.
        assert stored[0, 0] == dataset.PixelPaddingValue == -2000
        assert stored[stored != dataset.PixelPaddingValue].min() >= -1024
        assert stored.max() <= 2047
        assert stored[20:44, 20:44].max() > 0
    assert len(syntaxes) == 5
    assert syntaxes.most_common(1)[0][0] == pydicom.uid.ExplicitVRLittleEndian


def test_ct_headers_name_nobody():
    identifiers = []
    for row in rows_of("ct"):
        dataset = pydicom.dcmread(SAMPLE_DATA / "ct" / row["filename"])
        assert dataset.PatientID == row["patient_id"]
        assert dataset.PatientID.startswith("SYN-")
        assert not dataset.PatientBirthDate
        assert not str(dataset.PatientName).isascii()
        assert dataset.StudyDate == "20000229"
        assert all(
            element.value.is_valid and element.value.startswith(("2.25.", "1.2.840.10008."))
            for element in dataset
            if element.VR == "UI"
        )
        identifiers.append(dataset.SOPInstanceUID)
    assert len(set(identifiers)) == len(identifiers)


def test_volumes_are_scaled_and_their_masks_cover_the_bright_organ():
    for row in rows_of("volumes"):
        image = nibabel.load(SAMPLE_DATA / "volumes" / row["filename"])
        mask = nibabel.load(MASKS / Path(row["filename"]).name)
        organ = np.asanyarray(mask.dataobj)
        signal = image.get_fdata()
        assert image.get_data_dtype() == np.int16
        assert (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        assert signal.shape == organ.shape == (40, 40, 12)
        assert set(np.unique(organ)) == {0, 1}
        assert signal[organ == 1].mean() > 2 * signal[organ == 0].mean()
        assert np.array_equal(image.affine, mask.affine)


def test_photos_have_a_camera_and_no_thumbnail():
    modes, progressive = Counter(), 0
    for row in rows_of("photos"):
        with Image.open(SAMPLE_DATA / "photos" / row["filename"]) as photo:
            photo.load()
            exif = photo.getexif()
            modes[photo.mode] += 1
            progressive += "progressive" in photo.info
        assert photo.size == (96, 96)
        assert exif[0x010F] == "Made up"
        assert not exif.get_ifd(1)
    assert modes == {"RGB": 11, "L": 1}
    assert progressive == 1
