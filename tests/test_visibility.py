"""How visible a perturbation is, and the bound on that: SSIM of every frame that is written."""

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from medshield import visibility
from medshield.errors import RefusedFile
from medshield.formats import DecodedImage, IntensityRange
from medshield.metrics import ssim_of_frames
from medshield.visibility import Change, Visibility, least_fading
from tests.builders import EIGHT, MAKERS, in_classes, manifest, medshield, stored, texture

RANGE = IntensityRange(0, 255, "test")
EPSILON = Fraction(8, 255)


@pytest.fixture
def clean():
    """Flat and dark at the left, busy and bright at the right; (1, 64, 64, 1)."""
    values = np.full((64, 64), 30.0)
    values[:, 32:] = texture(0, (64, 32), low=90, high=240)
    return values.round().astype(np.uint8)[None, ..., None]


@pytest.fixture
def noise():
    """(1, 1, 64, 64), everywhere at the ends of the ball."""
    rng = np.random.default_rng(1)
    return rng.choice([-1.0, 1.0], (1, 1, 64, 64)) * float(EPSILON)


@pytest.fixture
def change(clean, noise):
    return Change(DecodedImage(clean, "PNG 8-bit"), noise, RANGE, EPSILON)


def visible(clean, delta):
    return Visibility.of(clean[0] / 255, delta[0].transpose(1, 2, 0))


def similarity(change, moved):
    return ssim_of_frames(change.image.stored, moved, 255)


def test_it_is_taken_from_where_it_is_seen_most(clean, noise):
    allowed = visible(clean, noise).tolerance
    assert allowed.min() == 1
    assert np.median(allowed[:, :24]) * 3 < np.median(allowed[:, 40:])


def test_nothing_is_seen_where_nothing_is_perturbed(clean):
    left = np.zeros((1, 1, 64, 64))
    assert (visible(clean, left).tolerance == 1).all()
    left[..., :16] = 0.03
    assert np.isinf(visible(clean, left).tolerance[:, 30:]).all()


def test_no_fading_is_the_identity_and_more_of_it_leaves_less(clean, noise):
    found = visible(clean, noise)
    assert np.array_equal(found.faded(noise, 0), noise)
    left = [np.abs(found.faded(noise, fading)) for fading in np.linspace(0, 6, 13)]
    assert all((less <= more).all() for more, less in pairwise(left))
    assert left[0].max() <= float(EPSILON)
    assert left[-1].max() < left[0].max()


def test_similarity_grows_with_fading(change):
    clean, delta = change.image.stored, change.delta
    found = visible(clean, delta)
    values = [
        similarity(change, clean + 255 * found.faded(delta, fading).transpose(0, 2, 3, 1))[0]
        for fading in np.linspace(0, 6, 13)
    ]
    assert values == sorted(values)
    assert values[0] < 0.75 < 0.99 < values[-1]


@pytest.mark.parametrize("least", [0.75, 0.8, 0.9, 0.95, 0.99])
def test_the_bound_is_kept_and_used(change, least):
    moved = change.moved(np.array([least]))
    found = similarity(change, moved)[0]
    assert least <= found < least + 0.4 * (1 - least)  # whole grey levels are coarse at the end
    assert np.abs(moved.astype(int) - change.image.stored).max() <= 8


def test_a_bound_that_is_kept_anyway_changes_nothing(change):
    full = change.image.moved(change.delta, RANGE, EPSILON)
    assert np.array_equal(change.moved(np.array([0.1])), full)


def test_shaping_keeps_more_than_plain_scaling(change, monkeypatch):
    shaped = np.abs(change.moved(np.array([0.9])).astype(int) - change.image.stored).mean()
    everywhere = Visibility(np.ones((64, 64)), np.ones((64, 64)))
    monkeypatch.setattr(visibility.Visibility, "of", lambda *_: everywhere)
    plain = np.abs(change.moved(np.array([0.9])).astype(int) - change.image.stored).mean()
    assert shaped > 1.2 * plain


def test_few_evaluations_find_the_least_fading():
    calls = []

    def quality(fading):
        calls.append(fading)
        return 1 - 0.35 * np.exp(-1.4 * fading)

    fading = least_fading(quality, 0.9)
    assert 0.9 <= quality(fading) < 0.9021
    assert len(calls) <= visibility.MOST_EVALUATIONS + 1


def test_a_few_places_that_are_seen_most_do_not_mislead_the_search(change):
    """One dark corner has a tolerance far below all others."""
    clean = np.full((1, 64, 64, 1), 150, np.uint8) + change.image.stored // 4
    clean[:, :12, :12] = 0
    delta = np.full((1, 1, 64, 64), float(EPSILON))
    delta[..., 12:, 12:] = change.delta[..., 12:, 12:]
    corner = Change(DecodedImage(clean, "PNG 8-bit"), delta, RANGE, EPSILON)
    assert 0.9 <= similarity(corner, corner.moved(np.array([0.9])))[0] < 0.91


def test_a_quality_in_steps_is_found_too():
    assert least_fading(lambda fading: 1.0 if fading > 9 else 0.5, 0.9) > 9


def test_each_frame_has_its_own_fading(change):
    flat = np.full_like(change.image.stored, 30)
    frames = np.concatenate([flat, change.image.stored])
    image = DecodedImage(frames, "NIfTI")
    both = Change(image, np.concatenate([change.delta] * 2), RANGE, EPSILON)
    found = similarity(both, both.moved(np.array([0.9, 0.9])))
    assert (found >= 0.9).all()
    assert (found < 0.95).all()


def test_what_cannot_move_or_be_measured_is_refused(change):
    coarse = DecodedImage(change.image.stored, "PNG 8-bit", lowest=0, highest=255)
    with pytest.raises(RefusedFile, match="not one pixel"):
        Change(coarse, change.delta, RANGE, EPSILON).moved(np.array([1 - 1e-9]))
    small = DecodedImage(change.image.stored[:, :6], "PNG 8-bit")
    with pytest.raises(RefusedFile, match="not defined"):
        Change(small, change.delta[:, :, :6], RANGE, EPSILON).moved(np.array([0.9]))


@pytest.mark.parametrize("lossy", [0.6, 1.5])
def test_a_coding_that_swallows_or_adds_is_corrected(change, lossy):
    clean = change.image.stored

    def write(planned):
        kept = np.round((planned.astype(float) - clean) * lossy)
        return (clean + kept).astype(np.uint8), ["a note"]

    written, notes = change.written_unseen(write, 0.9)
    assert (
        0.9 <= similarity(change, written)[0] < 0.93
    )  # without a correction: 0.966, or less than 0.9
    assert notes == ["a note"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dcm", ".nii.gz"])
def test_a_release_keeps_the_bound_and_check_sees_it(tmp_path, suffix):
    source = in_classes(tmp_path / "in", (suffix,), each=2)
    noisy = ("--method", "random-noise", "--eps", "16/255", "--image-size", "32", "--seed", "1")
    free = medshield("protect", source, "-o", tmp_path / "free", *noisy)
    run = medshield("protect", source, "-o", tmp_path / "out", *noisy, "--min-ssim", "0.97")
    assert (free.code, run.code) == (0, 0), run.err
    assert json.loads((tmp_path / "out" / "medshield.json").read_text())["min_ssim"] == 0.97
    assert "min_ssim" not in json.loads((tmp_path / "free" / "medshield.json").read_text())
    worst = min(record["ssim"] for record in manifest(tmp_path / "free").values())
    bounded = [record["ssim"] for record in manifest(tmp_path / "out").values()]
    assert worst < 0.97 <= min(bounded)
    assert medshield("check", tmp_path / "out", "--source", source).code == 0


def test_check_finds_a_file_below_the_declared_similarity(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    release = tmp_path / "out"
    assert medshield("protect", source, "-o", release, *EIGHT, "--min-ssim", "0.5").code == 0
    summary = release / "medshield.json"
    summary.write_text(summary.read_text().replace('"min_ssim": 0.5', '"min_ssim": 0.9999'))
    faults = [fault["fault"] for fault in medshield("check", release, "--json").json["faults"]]
    assert sum("in the manifest is below" in fault for fault in faults) == 4
    run = medshield("check", release, "--source", source, "--json")
    faults = [fault["fault"] for fault in run.json["faults"]]
    assert sum("a frame's similarity is" in fault for fault in faults) == 4


def test_a_file_whose_similarity_is_not_defined_is_refused(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    MAKERS[".png"](source / "benign" / "more.png", 7)
    Image.fromarray(stored(source / "benign" / "more.png")[:6]).save(source / "benign" / "low.png")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--min-ssim", "0.9")
    assert run.code == 3
    record = manifest(tmp_path / "out")["benign/low.png"]
    assert record["status"] == "refused"
    assert "--min-ssim" in record["reason"]


@pytest.mark.parametrize("value", ["0", "1", "1.5", "much"])
def test_min_ssim_lies_between_0_and_1(tmp_path, value):
    run = medshield("protect", tmp_path, "--min-ssim", value)
    assert run.code == 2
    assert "--min-ssim" in run.err
