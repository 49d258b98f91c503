"""What `verify` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.evidence import FEWEST_SEEDS

SECOND_ROUND = 5
"""Trainings of each arm of an open cell, before it is trained as often as may be."""


@dataclass(frozen=True)
class VerifyConfig:
    """What `verify` is asked to do.

    Attributes:
        release: its folder; None for the one release in the current folder.
        source: the clean images; None for those that the private folder records.
        threat: basic, determined or expert.
        cells: run only these, as victim[:training[:countermeasure]]; empty for the level's own.
        seeds: trainings of each arm, but for random noise.
        most_seeds: the same of a cell that these leave open; no more than `seeds` for none.
        seed: of the split, the victims and the bootstrap.
        epochs: of every victim; None to choose by the size of the set.
        image_size: side of the victims' input, px; None to choose by the files and the level.
        adversary: radius of adversarial training.
        adversary_steps: its gradient steps.
        annotations: where labels are, if the private folder does not say.
        device: auto, cpu or cuda.
        workers: files read, and on a CPU victims trained, at a time.
        cache: finished trials; None for the private folder.
        weights: files of ImageNet weights, FILE or NAME=FILE; what is missing is downloaded.
        fail_above: the highest upper end of a leakage interval that is good enough; None to go
            by the verdict.
    """

    release: Path | None = None
    source: Path | None = None
    threat: str = "basic"
    cells: tuple[str, ...] = ()
    seeds: int = 3
    most_seeds: int = 10
    seed: int = 0
    epochs: int | None = None
    image_size: int | None = None
    adversary: Fraction = Fraction(4, 255)
    adversary_steps: int = 3
    annotations: AnnotationOptions | None = None
    device: str = "auto"
    workers: int = 2
    cache: Path | None = None
    weights: tuple[Path, ...] = ()
    fail_above: float | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Trainings of each arm after each round; all but the first are for open cells alone."""
        later = (SECOND_ROUND, self.most_seeds) if self.seeds >= FEWEST_SEEDS else ()
        further = {count for count in later if self.seeds < count <= self.most_seeds}
        return (self.seeds, *sorted(further))

    def victim_seed(self, number: int) -> int:
        """The seed of the number-th training of each arm."""
        return 1000 * self.seed + number
