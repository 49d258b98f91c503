"""The figures of the paper that medshield implements, to stand beside one's own.

Liu, Ye, Zhang and Sun: Securing Biomedical Images from Unauthorized Training with Anti-Learning
Perturbation (2023, arXiv:2303.02559). What is known about these figures:

- Test accuracy of the MedMNIST sets and CheXpert, IoU of Kvasir-SEG, as fractions; the paper prints
  percent. Victims, schedules and splits are the paper's, and not those of a benchmark run here.
- They were taken from an extracted text of the table, whose columns were put together again from
  the order of the numbers; of the two columns of AdvT one is lost, and whether the other is of
  8/255 or of 16/255 is not known. It is the only one with an unknown epsilon.
- "OrganCMNIST" is printed as "Organe".
- The table of accuracies is taken to be of standard training. Adversarial training is known for
  Kvasir-SEG alone: with a radius of half of epsilon.
- Some figures are what a predictor scores that never looks at an image: 94.8 % of ChestMNIST's
  decisions are negative, 25.0 % of OctMNIST's test images are of each of its four classes, 73.1 %
  of BreastMNIST's are of one, and an IoU of 0 is that of a victim which calls all background.
"""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

SOURCE = "Liu et al."
CITATION = "Liu, Ye, Zhang, Sun 2023, arXiv:2303.02559"
CHEXPERT, KVASIR = "chexpert", "kvasir-seg"
CLEAN, ADVT, EM, SYNTHETIC = "clean", "advt", "em", "synthetic"

_EIGHT, _SIXTEEN = Fraction(8, 255), Fraction(16, 255)
_COLUMNS = (
    *((CLEAN, None), (ADVT, None), (EM, _EIGHT), (EM, _SIXTEEN)),
    *((SYNTHETIC, _EIGHT), (SYNTHETIC, _SIXTEEN)),
)
_ACCURACY: dict[str, tuple[float | None, ...]] = {
    "pathmnist": (87.8, 8.4, 13.5, 19.6, 12.2, 16.9),
    "dermamnist": (72.0, 38.7, 17.1, 2.19, 11.5, 33.3),
    "octmnist": (69.6, 21.4, 25.0, 21.0, 22.7, 25.0),
    "retinamnist": (52.0, 39.5, 13.0, 44.3, 8.3, 15.8),
    "breastmnist": (84.6, 44.9, 46.2, 73.1, 50.0, 37.2),
    "bloodmnist": (80.7, 19.6, 30.5, 17.4, 30.5, 27.8),
    "tissuemnist": (54.4, 19.7, 17.4, 4.5, 7.3, 7.1),
    "organamnist": (90.0, 81.0, 78.1, 67.3, 86.1, 59.4),
    "organcmnist": (90.7, 70.3, 72.2, 28.7, 74.8, 43.5),
    "organsmnist": (72.1, 51.7, 50.1, 27.3, 53.0, 22.8),
    "chestmnist": (94.8, None, 78.7, 71.0, None, None),
    CHEXPERT: (82.0, None, 76.7, 70.5, None, None),
}
_CONSTANT = {("chestmnist", 94.8), ("octmnist", 25.0), ("breastmnist", 73.1), (KVASIR, 0.0)}
"""What a predictor scores that never looks."""


@dataclass(frozen=True)
class PaperFigure:
    """One number of the paper.

    Attributes:
        method: "clean", or a name that METHODS has.
        epsilon: None of clean images, and of AdvT, where it is not known.
        adversary: radius of adversarial training; None for standard training.
        score: "accuracy" or "iou".
        value: a fraction.
        is_constant: whether a predictor scores this that never looks at the image.
    """

    method: str
    epsilon: Fraction | None
    adversary: Fraction | None
    score: str
    value: float
    is_constant: bool


def figures_of(name: str | None) -> tuple[PaperFigure, ...]:
    """The paper's figures of a set; none where it has none.

    Args:
        name: as `set_of` gives it.
    """
    if name == KVASIR:
        return (
            _figure(KVASIR, CLEAN, None, None, 79.8),
            _figure(KVASIR, EM, _EIGHT, None, 0.0),
            _figure(KVASIR, EM, _EIGHT, _EIGHT / 2, 4.5),
            _figure(KVASIR, EM, _SIXTEEN, None, 0.0),
            _figure(KVASIR, EM, _SIXTEEN, _SIXTEEN / 2, 1.2),
        )
    row = _ACCURACY.get(name or "", ())
    return tuple(
        _figure(name or "", method, epsilon, None, percent)
        for (method, epsilon), percent in zip(_COLUMNS, row, strict=False)
        if percent is not None
    )


def _figure(
    name: str, method: str, epsilon: Fraction | None, adversary: Fraction | None, percent: float
) -> PaperFigure:
    score = "iou" if name == KVASIR else "accuracy"
    constant = (name, percent) in _CONSTANT
    return PaperFigure(method, epsilon, adversary, score, round(percent / 100, 4), constant)


def set_of(source: Path) -> str | None:
    """Which of the paper's sets a folder holds, by its name or its published layout.

    Args:
        source: the folder, as the user gave it; MedMNIST sets are called by their names.
    """
    plain = re.sub(r"[^a-z0-9]", "", source.resolve().name.lower())
    if plain in _ACCURACY:
        return plain
    if plain.startswith("chexpert") or _has_table_of_chexpert(source):
        return CHEXPERT
    if plain.startswith("kvasirseg") or (source / "kavsir_bboxes.json").is_file():
        return KVASIR
    return None


def _has_table_of_chexpert(source: Path) -> bool:
    """Whether train.csv lists paths that start with the published folder's name."""
    try:
        with (source / "train.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            header, first = itertools.islice(csv.reader(file), 2)
    except (OSError, ValueError, csv.Error):
        return False
    return header[:1] == ["Path"] and first[:1] > [""] and first[0].startswith("CheXpert-")
