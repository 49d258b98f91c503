"""The threat levels: what a trainer is taken to do, as declared lists of cells."""

from __future__ import annotations

from collections.abc import Sequence

from medshield import models
from medshield.countermeasures import COUNTERMEASURES
from medshield.dataset.examples import LARGEST_AUTO_SIZE
from medshield.errors import InputError
from medshield.trials import (
    CLEAN_MIX,
    DENOISED,
    FINE_TUNED,
    PROBE,
    SELF_SUPERVISED,
    TRAININGS,
    Cell,
)

LEVELS = ("basic", "determined", "expert")
QUICK_SIDE = 32

VICTIMS = {
    "classification": ("resnet18", "convnext_atto", "small_convnet"),
    "multilabel": ("resnet18", "convnext_atto", "small_convnet"),
    "segmentation": ("unet_resnet18", "unet_mobilenet"),
}
"""Of `basic`, which takes minutes: unlike each other, and quick for what they learn."""

FURTHER_CLASSIFIERS = (
    *("densenet121", "vgg11_bn", "efficientnet_b0", "mobilenetv3_small_100", "vit_tiny"),
)
"""From `determined` on: they take longer, or learn less from few images."""
PRETRAINED = (
    Cell("efficientnet_lite0", FINE_TUNED),
    Cell("efficientnet_lite0", PROBE),
    Cell("resnet18", FINE_TUNED),
)
DETERMINED_TRAININGS = ("adversarial", "adversarial-2", "adversarial-8")
EXPERT_COUNTERMEASURES = ("class-spectra", "strong", "projection", "ueraser", "purified")


def largest_side(level: str, task: str) -> int:
    """The side of the victims' input at the most, px, where none is asked for.

    A victim of 64 px takes four times as long as one of 32 px, which are enough for `basic`. Masks
    need the larger one.
    """
    return QUICK_SIDE if level == "basic" and task != "segmentation" else LARGEST_AUTO_SIZE


def levels_up_to(level: str) -> tuple[str, ...]:
    """A level and those below it."""
    return LEVELS[: LEVELS.index(level) + 1]


def cells_of(level: str, task: str) -> tuple[Cell, ...]:
    """The cells that a level adds to those below it."""
    first = VICTIMS[task][0]
    if level == "basic":
        return tuple(Cell(victim) for victim in VICTIMS[task])
    if level == "determined":
        hardened = [Cell(first, training) for training in DETERMINED_TRAININGS]
        names = [name for name in COUNTERMEASURES if name not in EXPERT_COUNTERMEASURES]
        others = [Cell(victim) for victim in FURTHER_CLASSIFIERS]
        unlike = () if task == "segmentation" else (*others, *PRETRAINED)
        return (*hardened, *unlike, *(Cell(first, "standard", name) for name in names))
    further = (Cell(first, "standard", name) for name in EXPERT_COUNTERMEASURES)
    unlabelled = () if task == "segmentation" else (Cell(first, SELF_SUPERVISED),)
    return (Cell(first, CLEAN_MIX), Cell(first, DENOISED), *unlabelled, *further)


def declared_cells(threat: str, task: str) -> dict[Cell, str]:
    """Every cell of a level and those below, with the level that declares it."""
    return {cell: level for level in levels_up_to(threat) for cell in cells_of(level, task)}


def parse_cell(text: str) -> Cell:
    """Read victim[:training[:countermeasure]].

    Raises:
        InputError: a part is unknown, or the victim can't be trained so.
    """
    parts = text.strip().split(":")
    known = (
        {*models.CLASSIFIERS, *models.SEGMENTERS},
        set(TRAININGS),
        {"none", *COUNTERMEASURES},
    )
    if len(parts) > len(known):
        raise InputError(f"--cells: {text!r} is not victim[:training[:countermeasure]]")
    for part, choices in zip(parts, known, strict=False):
        if part not in choices:
            raise InputError(f"--cells: {part!r} is none of {', '.join(sorted(choices))}")
    cell = Cell(*parts)
    if cell.is_pretrained and cell.victim not in models.TIMM_NAMES:
        raise InputError(
            f"--cells: {text!r}: ImageNet weights are for {', '.join(models.TIMM_NAMES)}"
        )
    if cell.training == SELF_SUPERVISED and cell.victim not in models.CLASSIFIERS:
        raise InputError(f"--cells: {text!r}: {SELF_SUPERVISED} is for classifiers")
    return cell


def refuse_other_victims(cells: Sequence[Cell], task: str) -> None:
    """See to it that victims are for a task.

    Raises:
        InputError: one is for masks and the task is not, or the other way round.
    """
    masks = task == "segmentation"
    known = models.SEGMENTERS if masks else models.CLASSIFIERS
    for cell in cells:
        if cell.victim not in known:
            raise InputError(
                f"--cells: {cell.victim} is for {'labels' if masks else 'masks'}, and this is "
                f"{task}; take one of {', '.join(sorted(known))}"
            )
