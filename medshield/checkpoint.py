"""Where a long computation is, kept on disk so that a killed one goes on from there.

A computation is a nest of loops, each of which names what it changes: models, optimisers,
schedules. Whoever goes on runs the same code again: each loop puts its parts back and begins where
it was, and the innermost one puts the randomness back as well. What a loop's body does before the
loop in it is then done again, so it may change nothing but what that loop names; and a body holds
one loop at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from medshield import processes, progress
from medshield.randomness import random_state, set_random_state
from medshield.states import read_state, write_state

SECONDS_BETWEEN = 60.0
SHARE_OF_TIME = 0.05
"""Of a run, spent on checkpoints at the most: models may be large, and disks slow."""


class Stateful(Protocol):
    """A model, an optimiser, a schedule, or whatever else can say where it is."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as `states.write_state` takes it."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over what `state_dict` returned."""


Part = Stateful | Tensor
"""Tensors are changed in place."""


@dataclass(eq=False)
class Loop:
    """One that was begun and is not over.

    Attributes:
        parts: what its steps change.
        step: that it is at, counted from 0.
    """

    parts: dict[str, Part]
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Where it is."""
        parts = {
            name: part if isinstance(part, Tensor) else part.state_dict()
            for name, part in self.parts.items()
        }
        return {"step": self.step, "parts": parts}

    def put_back(self, state: dict[str, Any]) -> None:
        """Be where another one was."""
        self.step = state["step"]
        for name, part in self.parts.items():
            if isinstance(part, Tensor):
                part.copy_(state["parts"][name])
            else:
                part.load_state_dict(state["parts"][name])


class Checkpoint:
    """Keeps where the loops of one computation are; without a file, it keeps nothing."""

    def __init__(self, path: Path | None = None, work: str = "") -> None:
        """Look at what an earlier run kept.

        Args:
            path: the file, in a folder that is there; None to keep nothing.
            work: tells this computation from others, whose checkpoints are not used.
        """
        self._path, self._work = path, work
        self._begun: list[Loop] = []
        self._kept = _read(path, work) if path and path.is_file() else {"loops": []}
        self._next = time.monotonic() + SECONDS_BETWEEN

    def loop(self, count: int, **parts: Part) -> Iterator[int]:
        """0 to `count` - 1, or from where an earlier run was; after each step may be saved.

        Args:
            count: of steps.
            parts: what the steps change and later ones need, by names of the caller's choice.
        """
        loop = Loop(parts)
        self._begun.append(loop)
        try:
            self._go_on(loop)
            while loop.step < count:
                yield loop.step
                loop.step += 1
                self._save_if_due()
        finally:
            self._begun.remove(loop)

    def _go_on(self, loop: Loop) -> None:
        """Put back the outermost of the loops that are not yet begun again."""
        if not self._kept["loops"]:
            return
        loop.put_back(self._kept["loops"].pop(0))
        if not self._kept["loops"]:
            set_random_state(self._kept["randomness"])

    def _save_if_due(self) -> None:
        started = time.monotonic()
        if self._path is None or started < self._next or not processes.current().is_first:
            return
        loops = [loop.state() for loop in self._begun]
        state = {"work": self._work, "loops": loops, "randomness": random_state()}
        try:
            write_state(state, self._path)
        except OSError as error:  # what it would save is lost for sure if the run ends here
            reason = error.strerror or type(error).__name__
            progress.logger.warning("%s: no checkpoint was written (%s)", self._path, reason)
        finished = time.monotonic()
        self._next = finished + max(SECONDS_BETWEEN, (finished - started) / SHARE_OF_TIME)


def _read(path: Path, work: str) -> dict[str, Any]:
    """The checkpoint in a file, or an empty one where it is of no use here."""
    try:
        kept: dict[str, Any] = read_state(path)
        if kept["work"] == work:
            return kept
        problem = "of other settings or data"
    except ValueError:
        problem = "damaged"
    progress.logger.warning("%s: the checkpoint is %s; starting from the beginning", path, problem)
    return {"loops": []}
