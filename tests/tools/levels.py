"""How long `verify` takes for a level, as it says beforehand and as measured.

    python -m tests.tools.levels --images 1000 --side 64 --threat basic --run

Images are generated (discs or squares, bright or faint, on noise: what they show does not matter)
and released with random noise. Without --run nothing is trained, and only what `verify --dry-run`
says is printed.
"""

import argparse
import csv
import platform
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medshield.preparation import prepare
from medshield.protect import protect
from medshield.protect_config import ProtectConfig
from medshield.threats import LEVELS
from medshield.verify import verify
from medshield.verify_config import VerifyConfig


def make_set(folder: Path, images: int, side: int) -> None:
    """Grey PNG files of two classes, each of its own patient."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    rows = []
    for number in range(images):
        x, y = rng.integers(side // 4, side - side // 4, 2)
        radius, label = side // 6, number % 2
        distances = (abs(across - x), abs(down - y))
        shape = np.hypot(*distances) < radius if label else np.maximum(*distances) < radius
        image = rng.normal(90, 20, (side, side)) + rng.uniform(15, 90) * shape
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append([f"{number}.png", ("square", "disc")[label]])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "label"], *rows])


def main() -> None:
    """Make the set, ask and measure, and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64, help="of the images, px")
    parser.add_argument("--threat", choices=LEVELS, default="basic")
    parser.add_argument("--image-size", type=int, help="side of the victims' input, px")
    parser.add_argument("--cells", default="", help="only these, comma-separated")
    parser.add_argument("--weights", type=Path, action="append", default=[])
    parser.add_argument("--run", action="store_true", help="train, and say how long it took")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "images"
        make_set(source, options.images, options.side)
        released = protect(
            ProtectConfig(source, method="random-noise", epsilon=Fraction(8, 255), seed=0)
        )
        config = VerifyConfig(
            release=released.release,
            threat=options.threat,
            cells=tuple(filter(None, options.cells.split(","))),
            image_size=options.image_size,
            weights=tuple(options.weights),
        )
        plan = prepare(config, fetch=False).plan
        row = [options.images, options.threat, len(plan.cells), plan.trainings, plan.image_size]
        row.append(f"{plan.seconds / 60:.1f}")
        if options.run:
            started = time.monotonic()
            verify(config)
            row.append(f"{(time.monotonic() - started) / 60:.1f}")
    sys.stderr.write(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    header = ["images", "level", "cells", "trainings", "victims' input, px", "forecast, min"]
    header += ["measured, min"] if options.run else []
    for line in (header, ["---"] * len(header), row):
        sys.stdout.write("| " + " | ".join(map(str, line)) + " |\n")


if __name__ == "__main__":
    main()
