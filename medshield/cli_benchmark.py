"""The command line of `benchmark`."""

# ruff: noqa: D301 (\b is how click is told that lines stay as they are)
from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from medshield import api
from medshield.cli_options import (
    BENCHMARK,
    COUNT,
    FOLDER,
    SIDE,
    keywords,
    labelling,
    min_ssim_option,
    option,
    running,
    surrogate_weights_option,
    talking,
    weights_option,
)
from medshield.cli_talk import set_up, show


@click.command(short_help="Compare methods, eps and ways of training.")
@click.argument("source", type=FOLDER)
@option("--sets", help="With SOURCE medmnist: names of its sets, comma-separated.")
@option("--root", type=FOLDER, help="With SOURCE medmnist: folder of NAME.npz; no download.")
@option(
    "--limit",
    type=COUNT,
    help="Training images, about; other parts shrink with them. Of a folder, whole patients are "
    "drawn and their files copied into the output.",
)
@option(
    "--format",
    "file_format",
    type=click.Choice(get_args(api.FileFormat)),
    default=BENCHMARK["file_format"],
    show_default=True,
    help="With SOURCE medmnist: what the files become.",
)
@option(
    "-o",
    "--output",
    type=FOLDER,
    default=BENCHMARK["output"],
    show_default=True,
    help="Folder of the tables and of every release, with its key.",
)
@option(
    "--methods",
    default=",".join(BENCHMARK["methods"]),
    show_default=True,
    help="Methods, comma-separated.",
)
@option(
    "--eps",
    default=",".join(BENCHMARK["eps"]),
    show_default=True,
    help="Radii, comma-separated.",
)
@option(
    "--cells",
    help="victim[:training[:countermeasure]], comma-separated; those of the paper if absent: "
    "resnet18 (masks: unet_resnet18), trained as usual, and adversarially with half of eps.",
)
@option(
    "--seeds",
    type=COUNT,
    default=BENCHMARK["seeds"],
    show_default=True,
    help="Trainings per arm.",
)
@option(
    "--seed", type=int, default=BENCHMARK["seed"], show_default=True, help="Of keys and victims."
)
@option("--epochs", type=COUNT, help="Of each victim.")
@option("--image-size", type=SIDE, help="Side of grid and input, px.")
@option(
    "--adv-steps",
    type=COUNT,
    default=BENCHMARK["adv_steps"],
    show_default=True,
    help="Steps of adversarial training.",
)
@min_ssim_option
@surrogate_weights_option
@weights_option
@labelling
@running
@talking
def benchmark(source: Path, output: Path, **values: Any) -> int:
    """Compare methods, eps and ways of training: on MedMNIST sets or on any labelled folder.

    \b
    medshield benchmark ./images --methods em,synthetic --eps 8/255
    medshield benchmark ./CheXpert-v1.0-small --limit 2000
    medshield benchmark medmnist --sets breastmnist,dermamnist --root ./npz
    """
    set_up(values, source)
    tables = api.benchmark(
        source,
        **keywords(values, "sets", "cells"),
        sets=values["sets"] or (),
        cells=values["cells"] or (),
        output=output,
    )
    document = {name: table.to_json() for name, table in tables.items()}
    text = "\n\n".join(f"{name}\n{table.to_text()}" for name, table in tables.items())
    show(values["as_json"], document, text)
    return 0
