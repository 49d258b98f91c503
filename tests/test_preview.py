"""Contact sheets: what is on them, and where they may not be written."""

import os
import resource
import shutil
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from medshield.contact_sheet import GAP, PANEL, Tile, draw
from medshield.formats import DecodedImage, IntensityRange
from medshield.preview import _compared_tile, _scan_tile, spread
from tests.builders import EIGHT, PATIENT, in_classes, medshield, segmented, state
from tests.test_check import forge

GREY = 128


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    source = in_classes(folder / "in", (".png", ".jpg", ".dcm", ".nii.gz"), each=1)
    assert medshield("protect", source, "-o", folder / "out", *EIGHT).code == 0
    return source, folder / "out"


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert not image.info  # no words beside the picture
        return np.array(image)


def test_scan_draws_images_of_every_format_and_class(made, tmp_path):
    source, _ = made
    before = state(source)
    target = tmp_path / "sheet.png"
    run = medshield("scan", source, "--preview", target, "--json")
    assert run.code == 0
    drawn = run.json["preview"]
    assert drawn["path"] == str(target)
    assert len(set(drawn["images"])) == 8
    assert {name.split(".", 1)[1] for name in drawn["images"][:4]} == {
        "png",
        "jpg",
        "dcm",
        "nii.gz",
    }
    sheet = pixels(target)
    assert sheet.shape[1] == 4 * (PANEL + GAP) + GAP
    assert (sheet > 200).any()
    assert state(source) == before


def test_check_draws_source_release_and_difference(made, tmp_path):
    source, release = made
    before = state(release)
    target = tmp_path / "sheet.png"
    run = medshield("check", release, "--source", source, "--preview", target, "--json")
    assert run.code == 0
    assert run.json["preview"]["path"] == str(target)
    assert len(run.json["preview"]["images"]) == 8
    assert pixels(target).shape[1] == 2 * 3 * (PANEL + GAP) + GAP
    assert state(release) == before


def test_the_text_says_which_number_is_which_file_and_that_the_images_are_clean(made, tmp_path):
    source, release = made
    target = tmp_path / "sheet.png"
    run = medshield("check", release, "--source", source, "--preview", target)
    legend = [line.split() for line in run.out.splitlines()[-8:]]
    assert [number for number, _ in legend] == list("12345678")
    assert all((source / name).is_file() for _, name in legend)
    assert PATIENT not in run.out + run.err
    assert target.stat().st_mode & 0o077 == 0


def test_the_same_folder_gives_the_same_sheet(made, tmp_path):
    source, _ = made
    for name in ("one.png", "two.png"):
        assert medshield("scan", source, "--preview", tmp_path / name).code == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_files_with_faults_are_shown_first(made, tmp_path):
    source, made_release = made
    release = tmp_path / "out"
    shutil.copytree(made_release, release)
    shutil.copy(source / "malignant" / "4.png", release / "malignant" / "4.png")  # the clean image
    (release / "malignant" / "5.jpg").write_bytes(b"\xff\xd8\xff no JPEG")
    forge(release)
    target = tmp_path / "sheet.png"
    run = medshield("check", release, "--source", source, "--preview", target, "--json")
    assert run.code == 4
    assert sorted(run.json["preview"]["images"][:2]) == ["malignant/4.png", "malignant/5.jpg"]
    assert (pixels(target) == [0xFF, 0x8A, 0x73]).all(-1).any()  # in the colour of alarm


def test_a_link_out_of_the_release_is_not_followed(made, tmp_path):
    source, made_release = made
    release = tmp_path / "out"
    shutil.copytree(made_release, release)
    path = release / "benign" / "0.png"
    path.unlink()
    path.symlink_to(source / "benign" / "0.png")
    target = tmp_path / "sheet.png"
    run = medshield("check", release, "--source", source, "--preview", target, "--json")
    assert run.code == 4
    assert "benign/0.png" not in run.json["preview"]["images"]


def test_masks_are_not_shown(tmp_path):
    source = segmented(tmp_path / "in")
    run = medshield("scan", source, "--preview", tmp_path / "sheet.png", "--json")
    assert run.json["preview"]["images"] == [f"images/case{i}.png" for i in range(3)]


def test_no_image_no_sheet(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("none")
    run = medshield("scan", tmp_path / "in", "--preview", tmp_path / "sheet.png", "--json")
    assert run.json["preview"] is None
    assert not (tmp_path / "sheet.png").exists()
    text = medshield("scan", tmp_path / "in", "--preview", tmp_path / "sheet.png").out
    assert "no image to show" in text


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("in/sheet.png", "where nothing is written"),
        ("in/benign/sheet.png", "where nothing is written"),
        ("link/sheet.png", "where nothing is written"),
        ("there.png", "already exists"),
        ("dangling.png", "already exists"),
        ("sheet.jpg", "PNG"),
        ("nowhere/sheet.png", "does not exist"),
        ("there.png/sheet.png", "does not exist"),
    ],
)
def test_where_no_sheet_is_written_scan_says_so_before_it_reads(
    tmp_path, place, words, monkeypatch
):
    source = in_classes(tmp_path / "in", each=1)
    (tmp_path / "there.png").write_text("mine")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone")
    before = state(tmp_path)
    monkeypatch.setattr("medshield.dataset.scan.scan", lambda *_, **__: pytest.fail("it read"))
    run = medshield("scan", source, "--preview", tmp_path / place)
    assert run.code == 2
    assert words in run.err
    assert len(run.err.splitlines()) == 1
    assert state(tmp_path) == before


def test_check_writes_no_sheet_into_the_release_and_needs_the_source(made, tmp_path):
    source, release = made
    inside = medshield("check", release, "--source", source, "--preview", release / "sheet.png")
    assert (inside.code, "where nothing is written" in inside.err) == (2, True)
    alone = medshield("check", release, "--preview", tmp_path / "sheet.png")
    assert (alone.code, "needs --source" in alone.err) == (2, True)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_one_line(made, tmp_path):
    source, _ = made
    (tmp_path / "closed").mkdir(mode=0o500)
    run = medshield("scan", source, "--preview", tmp_path / "closed" / "sheet.png")
    assert (run.code, "can't be written to" in run.err) == (2, True)


def test_a_sheet_that_finds_no_room_is_one_line_and_leaves_nothing(made, tmp_path):
    source, _ = made
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        run = medshield("scan", source, "--preview", tmp_path / "sheet.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.code, "File too large" in run.err) == (2, True)
    assert not (tmp_path / "sheet.png").exists()


def test_spread_takes_turns_by_the_first_key_then_by_the_second():
    items = ["a1x", "a1y", "a2x", "b1x", "b1y"]
    assert spread(items, [lambda s: s[0], lambda s: s[1]]) == ["a1x", "b1x", "a2x", "b1y", "a1y"]


RANGE = IntensityRange(0, 200, "for the test")


def compared(clean, moved, radius=8.0, **facts):
    before, after = (
        DecodedImage(values[None, ..., None], "test", **facts) for values in (clean, moved)
    )
    return _compared_tile("first", before, after, RANGE, radius)


def test_the_difference_is_grey_for_none_white_for_plus_and_black_for_minus_the_bound():
    clean = np.full((2, 2), 100, np.uint8)
    tile = compared(
        clean, clean + np.array([[0, 8], [0, 4]], np.uint8) - np.array([[8], [0]], np.uint8)
    )
    shown = tile.panels[2][:: PANEL // 2, :: PANEL // 2, 0]
    np.testing.assert_array_equal(shown, [[0, GREY], [GREY, 191]])
    assert "greatest change 8 of 8 stored units; difference x 12.5" in tile.lines[1]
    assert not tile.alarm


@pytest.mark.parametrize("facts", [{"inverted": True}, {"slope": -1.0, "intercept": 200.0}])
def test_white_is_brighter_whichever_way_the_file_counts(facts):
    clean = np.full((2, 2), 100, np.uint8)
    tile = compared(clean, clean - np.uint8(8), **facts)
    assert (tile.panels[2] == 255).all()
    assert (tile.panels[1] > tile.panels[0]).all()


def test_one_changed_pixel_of_a_large_image_is_seen():
    clean = np.full((1030, 700), 100, np.uint8)
    moved = clean.copy()
    moved[1029, 699] -= 8
    tile = compared(clean, moved)
    assert all(panel.shape == (206, 140, 3) for panel in tile.panels)
    assert tile.panels[2][-1, -1, 0] == 0
    assert (tile.panels[2] == GREY).sum() == tile.panels[2].size - 3
    assert "5 x 5 blocks" in tile.lines[1]


def test_large_images_are_averaged_and_small_ones_enlarged():
    stripes = np.tile(np.array([0, 200], np.uint8), (512, 256))
    assert (abs(compared(stripes, stripes).panels[0].astype(int) - GREY) <= 1).all()
    assert compared(stripes[:10, :20], stripes[:10, :20]).panels[0].shape == (120, 240, 3)


@pytest.mark.parametrize(("change", "alarm"), [(0, True), (8, False), (9, True)])
def test_what_did_not_move_or_moved_too_far_is_marked(change, alarm):
    clean = np.full((4, 4), 100, np.uint8)
    assert compared(clean, clean + np.uint8(change)).alarm is alarm


def test_undefined_values_are_no_change():
    clean = np.array([[np.nan, 100.0], [50.0, np.inf]])
    moved = clean + np.array([[0, 8.0], [0, 0]])
    tile = compared(clean, moved)
    assert (tile.panels[2][:, : PANEL // 2] == GREY).all()
    assert "greatest change 8 of 8" in tile.lines[1]


def test_frames_that_are_scaled_differently_have_a_bound_each():
    clean = np.full((3, 2, 2, 1), 50, np.int16)
    slope = np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1, 1)
    image, moved = (
        DecodedImage(values, "test", slope=slope)
        for values in (clean, clean + np.array([8, 4, 2], np.int16).reshape(3, 1, 1, 1))
    )
    radius = image.epsilon_stored(RANGE, Fraction(8, 200))
    tile = _compared_tile("first", image, moved, RANGE, radius)
    assert (tile.panels[2] == 255).all()
    assert "greatest change in this frame 4 of 4 stored units; difference x 12.5" in tile.lines[1]
    assert not tile.alarm
    assert _compared_tile("first", moved, image, RANGE, radius / 2).alarm


def test_the_middle_frame_of_a_volume_is_shown(tmp_path):
    from medshield.dataset.annotation_options import AnnotationOptions
    from medshield.dataset.scan import scan
    from tests.builders import nifti

    values = np.zeros((8, 9, 5), np.int16)
    values[..., 2] = 1000
    nifti(tmp_path / "v.nii.gz", values=values)
    found = scan(tmp_path, AnnotationOptions(), intensity="0,1000")
    tile = _scan_tile(1, found.files[0], found)
    assert (tile.panels[0] == 255).all()
    assert tile.lines == ("1   NIfTI", "8 x 9, frame 3 of 5, grey", "black 0, white 1000")


def test_a_sheet_has_room_for_every_tile():
    panel = np.full((10, 10, 3), 255, np.uint8)
    one, five = (
        draw(["t"], [Tile((panel, None), ("a", "b"))] * n, across=2, headings=["x", "y"])
        for n in (1, 5)
    )
    assert one[:4] == b"\x89PNG"
    assert len(five) > len(one)
