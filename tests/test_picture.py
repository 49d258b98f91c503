"""The tool that draws the README's picture, and the picture that is there."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.snippets import ROOT

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.text import Text

from tests.tools import picture

EPOCHS = 4
LABELS = ("normal", "nodule")


def curves(*ends):
    """One training for each score at the end."""
    runs = [np.linspace(0.3, end, EPOCHS) for end in ends]
    return [{"test": [{"balanced_accuracy": value} for value in run]} for run in runs]


def report(*cells, not_run=None):
    return {
        "method": "robust",
        "epsilon": "8/255",
        "threat": "basic",
        "verdict": "partly",
        "not_run": not_run or {},
        "cells": [
            {
                "cell": cell,
                "seeds": 2,
                "leakage": [{"score": "balanced_accuracy", "floor": 0.5}],
                "curves": {
                    "clean": curves(0.9, 0.8),
                    "protected": curves(0.5, 0.6),
                    "random noise": curves(0.85),
                },
            }
            for cell in cells
        ],
    }


@pytest.fixture
def folders(tmp_path):
    """A source of two classes, its release, and the private folder for a report."""
    source, release = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        image = rng.integers(20, 230, (32, 32)).astype(np.uint8)
        for root, moved in ((source, 0), (release, rng.integers(-8, 9, (32, 32)))):
            root.mkdir(exist_ok=True)
            Image.fromarray((image + moved).astype(np.uint8)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{LABELS[number % 2]}")
    (source / "labels.csv").write_text("\n".join(["filename,label", *rows]) + "\n")
    (tmp_path / "out.private" / "verify").mkdir(parents=True)
    return source, release


def axes_of(figure):
    return figure.findobj(Axes)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_first_image_of_each_class_is_shown_and_every_cell(folders):
    source, release = folders
    assert picture.first_of_each_class(source) == {"nodule": "1.png", "normal": "0.png"}
    figure = picture.draw(source, release, report("small_convnet:standard", "resnet18:standard"))
    said = texts(figure)
    assert "resnet18:standard, 2 trainings" in said
    assert "robust at 8/255: partly (threat level basic)" in said
    images = [axes.get_images()[0] for axes in axes_of(figure) if axes.get_images()]
    changes = [image.get_array() for image in images if image.get_cmap().name == "PuOr"]
    assert len(changes) == 2
    assert all(0 < np.abs(change).max() <= 8 for change in changes)


def test_a_level_that_was_run_in_part_says_so(folders):
    figure = picture.draw(*folders, report("small_convnet:standard", not_run={"basic": ["x"]}))
    assert "robust at 8/255: partly (threat level basic, in part)" in texts(figure)


def test_curves_are_those_of_the_report(folders):
    figure = picture.draw(*folders, report("small_convnet:standard"))
    (axes,) = (axes for axes in axes_of(figure) if "small_convnet" in axes.get_title("left"))
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert lines["clean images"][-1] == pytest.approx(0.85)
    assert lines["the release"][-1] == pytest.approx(0.55)
    assert set(lines["constant guess"]) == {0.5}


def test_the_command_writes_a_picture(folders, tmp_path):
    source, release = folders
    kept = tmp_path / "out.private" / "verify" / "report.json"
    kept.write_text(json.dumps(report("small_convnet:standard")))
    assert picture.main([str(source), str(release), "-o", str(tmp_path / "made.png")]) == 0
    with Image.open(tmp_path / "made.png") as made:
        assert made.size == tuple(round(side * picture.DOTS) for side in picture.SIZE)


def test_the_readme_shows_it_small_and_says_what_is_seen():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"!\[([^\]]*)\]\(docs/what-it-does\.png\)", text)
    assert len(shown) > 100
    path = ROOT / "docs" / "what-it-does.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as there:
        assert there.size == tuple(round(side * picture.DOTS) for side in picture.SIZE)
