"""`check` against releases that someone tampered with."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

from medshield.manifest import checksum_line, sha256
from tests.builders import EIGHT, in_classes, manifest, medshield, segmented, state, with_table

PAPERS = ("medshield.json", "medshield-manifest.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source of three formats with a table, and its release."""
    folder = tmp_path_factory.mktemp("check")
    source = in_classes(folder / "in", (".png", ".dcm", ".nii.gz"), each=1)
    (source / "notes.txt").write_text("any notes")
    assert medshield("protect", source, "-o", folder / "out", *EIGHT).code == 0
    return source, folder / "out"


@pytest.fixture
def release(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def source(made):
    return made[0]


def faults(release, *arguments):
    """(path, fault) of a release that must fail."""
    run = medshield("check", release, *arguments, "--json")
    assert run.code == 4, run
    assert run.json["passed"] is False
    return [(found["path"], found["fault"]) for found in run.json["faults"]]


def assert_only(found, path, words):
    assert [name for name, _ in found] == [path], found
    assert words in found[0][1]


def forge(release, changes=None, drop=()):
    """Make the papers agree with the files again, as one would who tampers with care."""
    records = [record for path, record in manifest(release).items() if path not in drop]
    for record in records:
        record.update((changes or {}).get(record["path"], {}))
        path = release / record["path"]
        if record["sha256"] and path.is_file():
            record.update(sha256=sha256(path), bytes=path.stat().st_size)
    rewrite(release, records)


def rewrite(release, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    (release / "medshield-manifest.jsonl").write_text(text)
    lines = [checksum_line(r["sha256"], r["path"]) for r in records if r["sha256"]]
    lines += [checksum_line(sha256(release / name), name) for name in PAPERS]
    (release / "SHA256SUMS").write_text("".join(lines))


def test_a_sound_release_passes(release, source):
    before = state(release)
    for arguments in ((), ("--source", source)):
        run = medshield("check", release, *arguments, "--json")
        assert run.code == 0
        assert run.json["passed"]
        assert run.json["checked"] == {"copied": 1, "protected": 6}
        assert run.json["compared_with_source"] is bool(arguments)
    assert state(release) == before
    assert "sound" in medshield("check", release).out


def test_sizes_are_those_of_the_source_times_a_number(release, source):
    sizes = medshield("check", release, "--source", source, "--json").json["size_ratio"]
    assert {name: told["files"] for name, told in sizes.items()} == {
        "dicom": 2,
        "nifti": 2,
        "png": 2,
    }
    assert sizes["dicom"]["median"] == 1  # uncompressed
    pngs = [path.relative_to(source) for path in source.rglob("*.png")]
    ratios = [(release / png).stat().st_size / (source / png).stat().st_size for png in pngs]
    assert sizes["png"]["median"] == pytest.approx(sum(ratios) / 2)
    told = medshield("check", release, "--source", source).out
    assert "dicom: 1.00 times the source's in the median" in told
    assert medshield("check", release, "--json").json["size_ratio"] == {}


def test_a_flipped_byte(release):
    path = release / "benign" / "1.dcm"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert_only(faults(release), "benign/1.dcm", "checksum differs")


def test_a_missing_file(release):
    (release / "benign" / "0.png").unlink()
    assert_only(faults(release), "benign/0.png", "missing from the release")


def test_an_extra_file(release):
    (release / "extra.png").write_bytes(b"?")
    assert_only(faults(release), "extra.png", "not in the manifest")


def test_a_changed_header_under_good_checksums(release, source):
    path = release / "benign" / "1.dcm"
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "SOMEONE-ELSE"
    dataset.save_as(path)
    forge(release)
    assert medshield("check", release).code == 0  # nothing to compare with
    found = faults(release, "--source", source)
    assert {name for name, _ in found} == {"benign/1.dcm"}
    assert any("changed outside the pixels" in fault for _, fault in found)
    assert not any("SOMEONE" in fault for _, fault in found)


def test_a_pixel_beyond_the_bound(release, source):
    path = release / "benign" / "0.png"
    with Image.open(path) as image:
        values = np.array(image)
    with Image.open(source / "benign" / "0.png") as image:
        clean = int(np.array(image)[3, 3])
    values[3, 3] = clean + 20 if clean < 128 else clean - 20
    Image.fromarray(values).save(path)
    forge(release, {"benign/0.png": {"max_abs_delta": 8.0}})
    found = faults(release, "--source", source)
    assert any("moved by 20 stored units; the bound is 8" in fault for _, fault in found)


def test_a_radius_that_epsilon_does_not_give(release, source):
    forge(release, {"benign/0.png": {"epsilon_stored": 30.0}})
    found = faults(release, "--source", source)
    assert_only(found, "benign/0.png", "not what epsilon and the range give")
    forge(release, {"benign/0.png": {"epsilon_stored": 2.0}})
    assert_only(faults(release), "benign/0.png", "moved further than the bound")


def test_a_padding_value_that_moved(tmp_path):
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    path = source / "benign" / "0.dcm"
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array.copy()
    values[5, 5] = 3000  # far outside the window
    dataset.PixelData = values.tobytes()
    dataset.save_as(path)
    release = tmp_path / "out"
    assert medshield("protect", source, "-o", release, *EIGHT).code == 0
    dataset = pydicom.dcmread(release / "benign" / "0.dcm")
    values = dataset.pixel_array.copy()
    assert values[5, 5] == 3000
    values[5, 5] = 3001
    dataset.PixelData = values.tobytes()
    dataset.save_as(release / "benign" / "0.dcm")
    forge(release)
    found = faults(release, "--source", source)
    assert any("a value moved that had to stay" in fault for _, fault in found)


def test_a_copied_file_that_was_altered(release, source):
    (release / "notes.txt").write_text("other notes")
    assert_only(faults(release), "notes.txt", "checksum differs")
    forge(release)
    assert_only(faults(release, "--source", source), "notes.txt", "not byte for byte")


def test_a_clean_image_passed_off_as_protected(release, source):
    shutil.copyfile(source / "benign" / "0.png", release / "benign" / "0.png")
    forge(release)
    found = faults(release, "--source", source)
    assert_only(found, "benign/0.png", "the clean image")
    forge(release, {"benign/0.png": {"max_abs_delta": 0.0}})
    assert_only(faults(release), "benign/0.png", "nothing moved")


def test_a_clean_image_passed_off_as_a_copy(release, source):
    shutil.copyfile(source / "benign" / "0.png", release / "benign" / "0.png")
    forge(release, {"benign/0.png": {"status": "copied", "reason": "a sidecar"}})
    found = dict(faults(release))
    assert "an image that was copied as it is" in found["benign/0.png"]
    assert "counts" in found["medshield.json"]


def test_masks_are_no_clean_images(tmp_path):
    source = segmented(tmp_path / "in")
    release = tmp_path / "out"
    assert medshield("protect", source, "-o", release, *EIGHT).code == 0
    assert medshield("check", release, "--source", source).code == 0
    assert medshield("check", release).code == 0


def test_a_refused_file_that_is_there_all_the_same(tmp_path):
    source = in_classes(tmp_path / "in")
    (source / "benign" / "0.png").write_bytes(b"no image")
    release = tmp_path / "out"
    assert medshield("protect", source, "-o", release, *EIGHT).code == 3
    assert medshield("check", release, "--source", source).code == 0
    shutil.copyfile(source / "benign" / "0.png", release / "benign" / "0.png")
    assert "refused, and yet in the release" in str(faults(release))


def test_a_forgotten_record(release):
    (release / "benign" / "0.png").unlink()
    forge(release, drop=("benign/0.png",))
    assert_only(faults(release), "medshield.json", "counts")


@pytest.mark.parametrize("path", ["../in/benign/0.png", "/etc/hostname", "a/../../x", ".", "a\0b"])
def test_paths_that_lead_out_are_not_followed(release, path):
    forge(release, {"benign/0.png": {"path": path, "sha256": "0" * 64}})
    found = dict(faults(release))
    assert "leads out of the release" in found[path]


def test_links_are_not_followed(release, source):
    (release / "benign" / "0.png").unlink()
    (release / "benign" / "0.png").symlink_to(source / "benign" / "0.png")
    forge(release, {"benign/0.png": {"sha256": sha256(source / "benign" / "0.png")}})
    assert "symbolic link" in dict(faults(release))["benign/0.png"]
    shutil.rmtree(release / "malignant")
    (release / "malignant").symlink_to(source / "malignant")
    assert "symbolic link" in dict(faults(release))["malignant/3.png"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("medshield-manifest.jsonl", b"{ not json\n", "line 1 is damaged"),
        ("medshield-manifest.jsonl", b"[]\n", "line 1 is damaged"),
        ("medshield-manifest.jsonl", b'{"path": 3, "status": "copied", "format": ""}\n', "line 1"),
        ("medshield-manifest.jsonl", b"\xff\xfe", "can't be read"),
        ("medshield-manifest.jsonl", None, "missing"),
        ("medshield.json", b'{"epsilon": "8/255"', "damaged"),
        ("medshield.json", b"[1]", "damaged"),
        ("medshield.json", b'{"epsilon": "9", "intensity": {}}', "epsilon"),
        ("medshield.json", b'{"epsilon": "8/255", "intensity": []}', "intensity"),
        ("medshield.json", None, "missing"),
        ("SHA256SUMS", b"", "does not agree"),
        ("SHA256SUMS", None, "missing"),
    ],
)
def test_damaged_papers(release, source, name, content, fault):
    (release / name).unlink()
    if content is not None:
        (release / name).write_bytes(content)
    found = faults(release, "--source", source)
    assert any(path == name and fault in words for path, words in found), found


@pytest.mark.parametrize(
    "values", [{"format": "bmp"}, {"status": "lost"}, {"bytes": "many"}, {"bytes": 1}]
)
def test_a_record_that_makes_no_sense(release, source, values):
    rewrite(release, [r | values for r in manifest(release).values()])
    found = faults(release, "--source", source)
    assert {path for path, _ in found} >= {"benign/0.png"} or "is damaged" in str(found)


def test_a_path_named_twice(release):
    records = list(manifest(release).values())
    rewrite(release, [*records, records[0]])
    assert "2 lines of the manifest" in dict(faults(release))[records[0]["path"]]


def test_a_source_that_is_another_one(release, tmp_path):
    other = in_classes(tmp_path / "other", each=1)
    found = faults(release, "--source", other)
    assert "missing from the source" in dict(found)["benign/2.nii.gz"]


def test_no_release_is_a_usage_error(tmp_path, source, release):
    for folder, found in (
        (tmp_path / "none", "no such folder"),
        (source, "not a release"),
        (release / "notes.txt", "is a file, not a folder"),
    ):
        run = medshield("check", folder)
        assert run.code == 2
        assert run.err.startswith(f"medshield: {folder}: {found}")
    run = medshield("check", release, "--source", tmp_path / "none")
    assert run.code == 2


def test_many_faults_are_counted_and_ten_are_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    rows = []
    for number in range(12):
        Image.fromarray(np.full((33, 33), number * 9 + 60, np.uint8)).save(source / f"{number}.png")
        rows.append(f"{number}.png,{number % 2}")
    with_table(source, rows)
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 0
    for path in (tmp_path / "out").glob("*.png"):
        path.unlink()
    run = medshield("check", tmp_path / "out")
    assert run.code == 4
    assert run.out.splitlines()[0].endswith("12 faults (12 protected, 1 copied)")
    assert "and 2 more; --json names all" in run.out
