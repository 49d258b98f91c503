"""The commands behind docs/protection.md: they run, and they measure what they say."""

import numpy as np
import pytest
import torch
from PIL import Image

from medshield import denoising, sample
from medshield.dataset.examples import Examples
from medshield.tasks import Classification
from tests.builders import in_classes, segmented
from tests.tools.protection import cleaning, correlation, resolution, study
from tests.tools.protection.__main__ import main

QUICK = ("--method", "synthetic", "--victim", "small_convnet", "--epochs", "1", "--workers", "1")
TASK = Classification(("benign", "malignant"))
TARGETS = torch.tensor([0, 1] * 8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sample, "BOOTSTRAP_DRAWS", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return in_classes(tmp_path_factory.mktemp("set") / "in", each=12)


def noise(seed, count=16, side=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, side, side, generator=generator)


def examples(images, targets=TARGETS):
    names = tuple(map(str, range(len(images))))
    return Examples(images, targets, names, np.arange(len(images)), np.full(len(images), ""))


def rows_of(text, first):
    """The cells of every table row whose first cell begins so."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line] for line in lines if line[0].startswith(first)]


def test_secrecy_compares_keys_and_cleans(folder, tmp_path):
    document = tmp_path / "protection.md"
    document.write_text("before\n<!-- begin secrecy -->\nold\n<!-- end secrecy -->\nafter\n")
    arguments = ("--seeds", "1", "--keys", "2", "--effort", "0.002", "-o", str(document))
    assert main(["secrecy", str(folder), *QUICK, *arguments]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert str(folder) not in text
    assert rows_of(text, "random noise")
    ways = {cells[0].partition(", ")[2]: cells[-2:] for cells in rows_of(text, "synthetic, ")}
    assert ways["protected"] == ["1.00", "1.00"]
    assert set(ways) == {
        "protected",
        "own average removed",
        "own class averages removed",
        "the secret key's class averages removed",
        "denoised with own pairs",
        "denoised with the secret key's pairs",
    }


def test_unseen_images_make_no_difference_to_what_learns_nothing(folder, capsys):
    assert main(["unseen", str(folder), *QUICK, "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    seen, unseen = rows_of(text, "synthetic, ")
    assert seen[1:] == unseen[1:]
    differences = [cells[-1] for cells in rows_of(text, "synthetic") if cells[0] == "synthetic"]
    assert len(differences) == 4
    assert all(text == "unknown" or text.startswith("0.00 [-") for text in differences)


def test_keys_are_spread(folder, capsys):
    assert main(["keys", str(folder), *QUICK, "--keys", "3", "--limit", "8"]) == 0
    text = capsys.readouterr().out
    assert "8 training" in text
    (clean,) = rows_of(text, "clean")
    (spread,) = rows_of(text, "synthetic")
    assert "±" not in clean[1]
    assert "±" in spread[1]
    assert spread[1].endswith(")")


@pytest.mark.parametrize("upscale", [None, "90"])
def test_resolution_measures_released_files(upscale, tmp_path, capsys):
    folder = segmented(tmp_path / "in", count=4)
    extra = ("--upscale", upscale) if upscale else ()
    arguments = ("--method", "synthetic", "--limit", "3", "--image-size", "32", "--workers", "1")
    assert main(["resolution", str(folder), *arguments, *extra]) == 0
    text = capsys.readouterr().out
    assert f"3 files of {upscale or 40} to {upscale or 40} px" in text
    cosines = {cells[1]: float(cells[2]) for cells in rows_of(text, "synthetic")}
    assert set(cosines) == set(resolution.ways())
    assert cosines["bilinear"] > 0.8
    assert all(0 < cosine <= 1 for cosine in cosines.values())


def test_a_window_cuts_what_lies_outside_and_rounds_to_its_own_grey_levels():
    values = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    seen = resolution.through_window(values, (0.2, 0.8))
    assert seen[[0, 4]].tolist() == seen[[1, 3]].tolist() == pytest.approx([0.2, 0.8])
    assert 0 < abs(seen[2] - values[2]) <= 0.6 / 255


def test_a_folder_without_labels_is_one_line(tmp_path, capsys):
    Image.fromarray(np.eye(40, dtype="u1")).save(tmp_path / "alone.png")
    assert main(["keys", str(tmp_path), *QUICK]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("training", ["clean-mix", "fine-tuned"])
def test_a_victim_that_needs_more_than_its_arm_is_refused(training, folder, capsys):
    arguments = ("keys", str(folder), "--method", "synthetic", "--victim", f"resnet18:{training}")
    assert main(arguments) == 2
    assert "medshield verify --cells" in capsys.readouterr().err


def test_halves_part_no_patient_and_no_class():
    some = examples(noise(0))
    some.groups[:] = np.arange(16) // 4 * 2 + np.arange(16) % 2
    one, other = study.halves(some, seed=1)
    assert len(one) == len(other) == 8
    assert not set(one.groups) & set(other.groups)
    assert one.targets.sum() == other.targets.sum() == 4


def test_like_deltas_are_like_and_others_are_not():
    like = correlation.row([noise(1), noise(1)], TASK, TARGETS)
    assert [float(cell) for cell in like[:2] + like[3:]] == [1] * 5
    unlike = correlation.row([noise(1), noise(2)], TASK, TARGETS)
    assert all(abs(float(cell)) < 0.15 for cell in unlike)


def test_a_shift_hides_a_pattern_from_averages_but_not_from_the_spectrum():
    shifted = noise(1).roll((5, 3), (2, 3))
    image, _, _, means, spectra, _ = correlation.row([noise(1), shifted], TASK, TARGETS)
    assert float(image) < 0.1
    assert float(means) < 0.1
    assert float(spectra) == 1


def test_an_average_removes_what_all_images_share():
    clean = examples(torch.full((16, 1, 32, 32), 0.5))
    pattern = 0.03 * noise(3, 2).sign()
    delta = pattern[TARGETS]
    released = study.moved(clean, delta)
    assert cleaning.left(released, clean, delta) == pytest.approx((1, 1), abs=1e-4)
    groups = correlation.class_rows(TASK, TARGETS)
    average = correlation.class_means(delta, groups)
    cleaned = cleaning.without_average(released, average, groups)
    assert cleaning.left(cleaned, clean, delta)[1] == pytest.approx(0, abs=1e-4)
    unlike = cleaning.without_average(released, average.roll(1, 0), groups)
    assert cleaning.left(unlike, clean, delta)[1] > 0.9


def test_a_denoiser_takes_away_what_it_learned(monkeypatch):
    monkeypatch.setattr(denoising, "IMAGES_SEEN", 40 * denoising.BATCH)
    radius = 8 / 255
    clean = examples(torch.full((16, 1, 12, 12), 0.5))
    delta, other = (radius * noise(seed, side=12).sign() for seed in (4, 5))
    pairs = denoising.Pairs(clean.images, delta, radius, 0, 1, torch.device("cpu"))
    model = denoising.fit_denoiser(pairs)
    cleaned = model.cleaned(study.moved(clean, other))
    assert cleaning.left(cleaned, clean, other)[1] < 0.5
    assert float((model.cleaned(clean).images - clean.images).abs().max()) < radius / 2
