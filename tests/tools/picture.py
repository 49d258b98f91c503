"""The picture of what medshield does: images before and after, and what victims learn of them.

    medshield protect sample_data/radiographs -o radiographs-protected --eps 8/255 --seed 1
    medshield verify radiographs-protected --cells small_convnet
    python -m tests.tools.picture sample_data/radiographs radiographs-protected -o what-it-does.png

One image of each class, the same as released, and how far its pixels moved; beside them the test
score of every victim over its epochs, from the `report.json` of `verify`. Nothing is picked: images
are the first of their class in the label table, and all cells of the report are drawn.
"""

import argparse
import csv
import io
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from medshield.frontier import COLOURS
from medshield.places import Places

COLUMNS = ("source", "as released", "what changed")
STYLES = {
    "clean": ("clean images", COLOURS[6], "-"),
    "random noise": ("random noise of the same strength", COLOURS[2], "--"),
    "protected": ("the release", COLOURS[1], "-"),
}
"""By arm, in the order of the legend."""
SIZE, DOTS = (10.6, 5.0), 110
GREY_LEVELS = 255


def first_of_each_class(source: Path) -> dict[str, str]:
    """Names of files by class, classes in their natural order."""
    with (source / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = {row["label"]: row["filename"] for row in reversed(rows)}
    return dict(sorted(first.items()))


def draw(source: Path, release: Path, report: dict) -> Figure:
    """The figure.

    Args:
        source: grey 8-bit images with a table labels.csv of filename and label.
        release: made of it.
        report: what report.json holds.
    """
    # White whatever surrounds it, so that it can be read on a dark page.
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    left, right = figure.subfigures(1, 2, width_ratios=(1.05, 1), wspace=0.04)
    draw_images(left, source, release, Fraction(report["epsilon"]))
    draw_victims(right, report)
    return figure


def draw_images(figure, source: Path, release: Path, epsilon: Fraction) -> None:
    """A row for each class: before, after, and the difference in grey levels."""
    shown = first_of_each_class(source)
    grid = figure.subplots(len(shown), len(COLUMNS), squeeze=False)
    most = float(epsilon * GREY_LEVELS)
    for axes, (label, name) in zip(grid, shown.items(), strict=True):
        before, after = (
            np.asarray(Image.open(root / name).convert("L")).astype(int)
            for root in (source, release)
        )
        axes[0].imshow(before, cmap="gray", vmin=0, vmax=GREY_LEVELS)
        axes[1].imshow(after, cmap="gray", vmin=0, vmax=GREY_LEVELS)
        changed = axes[2].imshow(after - before, cmap="PuOr", vmin=-most, vmax=most)
        axes[0].set_ylabel(label, fontsize=10)
        for one in axes:
            one.set_xticks([])
            one.set_yticks([])
    for one, title in zip(grid[0], COLUMNS, strict=True):
        one.set_title(title, fontsize=10)
    bar = figure.colorbar(changed, ax=grid[:, 2], shrink=0.8, aspect=30)
    bar.set_label("grey levels of 255", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def draw_victims(figure, report: dict) -> None:
    """A panel for each cell: test scores over epochs, the mean and all between the extremes."""
    cells = report["cells"]
    panels = figure.subplots(len(cells), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, cell in zip(panels, cells, strict=True):
        decisive = cell["leakage"][0]
        for arm, (label, colour, line) in STYLES.items():
            runs = np.array(
                [[epoch[decisive["score"]] for epoch in run["test"]] for run in cell["curves"][arm]]
            )
            epochs = np.arange(1, runs.shape[1] + 1)
            axes.plot(epochs, runs.mean(0), line, color=colour, linewidth=1.6, label=label)
            axes.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.16, lw=0)
        axes.axhline(decisive["floor"], color="0.4", lw=1.2, ls=":", label="constant guess")
        axes.set_title(f"{cell['cell']}, {cell['seeds']} trainings", fontsize=10, loc="left")
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    panels[0].legend(
        title="victims trained on", loc="lower right", fontsize=8, title_fontsize=8, framealpha=0.9
    )
    panels[-1].set_xlabel("epoch", fontsize=9)
    score = decisive["score"].replace("_", " ")
    figure.supylabel(f"{score} on clean images of other patients", fontsize=9)
    level = f"threat level {report['threat']}" + (", in part" if report["not_run"] else "")
    what = f"{report['method']} at {report['epsilon']}: {report['verdict']} ({level})"
    figure.suptitle(what, fontsize=10, x=0.02, ha="left")


def main(words: list[str] | None = None) -> int:
    """Read both folders and the evidence, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("release", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(words)
    evidence = Places(options.release.resolve()).private / "verify" / "report.json"
    figure = draw(options.source, options.release, json.loads(evidence.read_text()))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS)
    with Image.open(drawn) as picture:  # a palette of 256 colours is half as large, and as good
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            options.output, optimize=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
