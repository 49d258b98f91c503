"""Visibility beside leakage: the third measure of quality, the table and the plot."""

import builtins
import json

import pytest
import torch
from PIL import Image

from medshield import frontier
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.fidelity import SAMPLE, fidelity, haarpsi
from medshield.frontier import Point
from medshield.manifest import read_release
from tests.builders import in_classes, medshield
from tests.test_verify import make_set

POINTS = [
    Point("em", "8/255", "resnet18", 33.0, 0.91, 0.95, 0.4, 0.3, 0.5),
    Point("em", "16/255", "resnet18", 28.0, 0.8, 0.85, 0.2, 0.1, 0.3),
    Point("synthetic", "8/255", "resnet18", 32.0, None, None, 0.6, 0.5, 0.7),
]


def test_haarpsi_is_1_for_equal_images_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 1, 48, 40, generator=generator) * 0.6 + 0.2
    noise = torch.rand(clean.shape, generator=generator) - 0.5
    values = [haarpsi(clean, clean + strength * noise) for strength in (0.0, 0.02, 0.1, 0.3)]
    assert values[0] == pytest.approx(1, abs=1e-4)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.9


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_fidelity_reads_both_sides(tmp_path, suffix):
    source = in_classes(tmp_path / "in", (suffix,), each=2)
    noisy = ("--method", "random-noise", "--image-size", "32", "--eps")
    medians = []
    for name, eps in (("little", "4/255"), ("much", "24/255")):
        assert medshield("protect", source, "-o", tmp_path / name, *noisy, eps).code == 0
        found = scan(source, AnnotationOptions())
        facts = fidelity(read_release(tmp_path / name)[0], found, tmp_path / name)
        assert facts["haarpsi"]["files"] == 4 <= SAMPLE
        assert set(facts) == {"psnr", "ssim", "haarpsi"}
        medians.append(facts["haarpsi"]["median"])
    assert 1 > medians[0] > medians[1]


def test_the_table_leaves_out_what_is_not_defined():
    header, *rows = frontier.lines(POINTS)
    assert rows[0] == ["em", "8/255", "33.0", "0.910", "0.950", "0.40 [0.30, 0.50]"]
    assert rows[2][3:5] == ["", ""]
    assert all(len(row) == len(header) for row in rows)


def test_the_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert frontier.draw(POINTS, tmp_path / "frontier.png")
    with Image.open(tmp_path / "frontier.png") as picture:
        assert min(picture.size) > 400
    assert frontier.draw([], tmp_path / "empty.png")


def test_without_matplotlib_there_is_no_plot_and_no_error(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not frontier.draw(POINTS, tmp_path / "frontier.png")
    assert not (tmp_path / "frontier.png").exists()


def test_benchmark_bounds_what_is_seen_and_tells_it(tmp_path):
    source = make_set(tmp_path / "images", patients=24)
    quick = ("--cells", "small_convnet", "--epochs", 1, "--seeds", 1, "--workers", 1, "--json")
    methods = ("--methods", "random-noise", "--eps", "15/255", "--min-ssim", "0.9")
    run = medshield("benchmark", source, "-o", tmp_path / "out", *methods, *quick)
    assert run.code == 0, run.err
    (point,) = run.json["images"]["frontier"]
    assert point["cell"].startswith("small_convnet")
    assert 0.9 <= point["ssim"] < 1
    radii = [row["eps"] for row in run.json["images"]["leakage"]]
    assert radii == ["15/255"], "not 1/17"
    folder = tmp_path / "out" / "images"
    bounded, plain = "random-noise-15-255-ssim-0.9", "random-noise-15-255"
    assert json.loads((folder / bounded / "medshield.json").read_text())["min_ssim"] == 0.9
    assert "| HaarPSI |" in (folder / "table.md").read_text()
    (leaked,) = run.json["images"]["leakage"]
    assert leaked["method"] == "random-noise"
    assert "balanced accuracy, clean-picked epoch" in (folder / "table.md").read_text()

    unbound = medshield("benchmark", source, "-o", tmp_path / "out", *methods[:4], *quick)
    assert unbound.code == 0, unbound.err
    assert "min_ssim" not in json.loads((folder / plain / "medshield.json").read_text())
