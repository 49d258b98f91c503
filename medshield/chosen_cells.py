"""Which cells of a threat level are run on a release, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medshield import trials
from medshield.denoising import unknown_method
from medshield.errors import InputError
from medshield.generator_facts import asked_backbone
from medshield.places import GENERATOR
from medshield.pretrained import Weights
from medshield.tasks import Task
from medshield.threats import declared_cells, levels_up_to, parse_cell, refuse_other_victims
from medshield.trials import DENOISED, Cell
from medshield.verify_config import VerifyConfig

FLATTERED = (
    "the release was made against a backbone of this name (--surrogate-weights), so it is "
    "flattered; measure with another one, too"
)


@dataclass(frozen=True)
class ChosenCells:
    """What is run.

    Attributes:
        threat: the level asked for.
        run: in this order.
        declared: cells that the level and those below declare, and that change anything about
            such data, with their level.
        weights: that pretrained victims start from.
        lacking: why a cell that was wanted is not run.
        notes: for the report.
    """

    threat: str
    run: tuple[Cell, ...]
    declared: Mapping[Cell, str]
    weights: Mapping[Cell, Weights]
    lacking: Mapping[Cell, str]
    notes: tuple[str, ...]

    def level_of(self, cell: Cell) -> str:
        """The level that declares a cell; of others the one asked for."""
        return self.declared.get(cell, self.threat)

    @property
    def of_use(self) -> Cell:
        """The cell whose clean models are tried on released images, as these are."""
        return next((cell for cell in self.run if cell.training != DENOISED), self.run[0])

    @property
    def not_run(self) -> dict[str, tuple[str, ...]]:
        """What each level declares and was not run, with the reason where there is one."""
        return {
            level: tuple(
                f"{cell.name}: {self.lacking[cell]}" if cell in self.lacking else cell.name
                for cell in self.declared
                if self.declared[cell] == level and cell not in self.run
            )
            for level in levels_up_to(self.threat)
        }


def choose_cells(
    config: VerifyConfig,
    task: Task,
    channels: int,
    summary: Mapping[str, Any],
    private: Path,
    cache: Path,
    *,
    fetch: bool,
) -> ChosenCells:
    """The cells of the level that is asked for, or those of `--cells`.

    Args:
        config: what is asked for.
        task: what is learned.
        channels: of the images.
        summary: what the release says of itself.
        private: its private folder.
        cache: where weights are kept that had to be downloaded.
        fetch: whether to download those that are not there.

    Raises:
        InputError: a cell is unknown, changes nothing, or lacks what it needs.
    """
    asked = [parse_cell(text) for text in config.cells]
    refuse_other_victims(asked, task.name)
    declared = declared_cells(config.threat, task.name)
    wanted = asked or list(declared)
    fitting = [cell for cell in wanted if cell.applies_to(task, channels)]
    notes = []
    if skipped := [cell.name for cell in wanted if cell not in fitting]:
        notes.append(f"not applicable to this data, and not run: {', '.join(skipped)}")
    if not fitting:
        raise InputError(f"--cells: {notes[-1]}; choose another cell")
    weights, lacking = trials.weights_of(
        fitting, config.weights, cache, required=bool(asked), fetch=fetch
    )
    lacking |= _without_pairs(fitting, summary, required=bool(asked))
    run = tuple(cell for cell in fitting if cell not in lacking)
    return ChosenCells(
        threat=config.threat,
        run=run,
        declared={
            cell: level for cell, level in declared.items() if cell.applies_to(task, channels)
        },
        weights=weights,
        lacking=lacking,
        notes=(*notes, *_flattered(run, asked_backbone(private / GENERATOR))),
    )


def _without_pairs(
    cells: Sequence[Cell], summary: Mapping[str, Any], *, required: bool
) -> dict[Cell, str]:
    """The cells that need pairs made by the release's method, and why there can be none.

    Raises:
        InputError: there can be none, and they are required.
    """
    wanting = [cell for cell in cells if cell.training == DENOISED]
    reason = unknown_method(summary) if wanting else None
    if reason and required:
        raise InputError(f"--cells: {wanting[0].name}: {reason}; leave it out")
    return dict.fromkeys(wanting, reason) if reason else {}


def _flattered(cells: Sequence[Cell], backbone: str | None) -> list[str]:
    """A note on each cell whose victims start from the backbone that shaped the release."""
    alike = [cell.name for cell in cells if cell.is_pretrained and cell.victim == backbone]
    return [f"{name}: {FLATTERED}" for name in alike]
