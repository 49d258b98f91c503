"""A MedMNIST set as a folder of PNG files with a label table, as a user would have it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medshield.errors import InputError

SPLITS = ("train", "val", "test")


def export(name: str, target: Path, *, root: Path | None, limit: int | None) -> None:
    """Write one set; nothing is done where `target` exists.

    Args:
        name: as the medmnist package has it, such as "pneumoniamnist".
        target: the folder to write.
        root: where NAME.npz lies; None to let the medmnist package download it.
        limit: training images at the most, and a quarter as many validation images.

    Raises:
        InputError: no set of that name, or no file in `root`.
    """
    import medmnist

    if target.exists():
        return
    facts = medmnist.INFO.get(name)
    if facts is None:
        raise InputError(f"--sets: {name!r} is none of {', '.join(medmnist.INFO)}")
    if root is not None and not (root / f"{name}.npz").is_file():
        raise InputError(f"{root / name}.npz: no such file; leave --root out to download the set")
    dataset = getattr(medmnist, facts["python_class"])
    labels = list(facts["label"].values())
    multilabel = "multi-label" in facts["task"]
    limits = {"train": limit, "val": limit and max(1, limit // 4), "test": None}
    rows: list[list[Any]] = []
    partial = target.with_name(target.name + ".partial")
    for split in SPLITS:
        places = {"root": str(root)} if root else {}
        part = dataset(split=split, download=root is None, **places)
        (partial / split).mkdir(parents=True, exist_ok=True)
        for number in range(len(part.imgs[: limits[split]])):
            path = f"{split}/{number:06d}.png"
            Image.fromarray(part.imgs[number]).save(partial / path)
            truth = np.asarray(part.labels[number]).reshape(-1)
            rows.append([path, split, *(truth if multilabel else [labels[int(truth[0])]])])
    with (partial / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "split", *(labels if multilabel else ["label"])])
        writer.writerows(rows)
    partial.rename(target)
