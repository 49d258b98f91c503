"""Colours that a file names by number: which of them may stand in for which.

A step of the index is no step of the colour, so the picture is perturbed as it is displayed, and
each pixel then gets that entry of the file's own palette which comes nearest to what was wanted
and is no further from its source than the radius. The palette itself never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTHING_IN_REACH = (
    "no colour of its palette lies within epsilon of another, so not one pixel could move; "
    "convert it to RGB, or raise --eps"
)


@dataclass(frozen=True)
class Palette:
    """The colours of one file.

    Attributes:
        colours: (entries, 3 or 4), RGB or RGB and alpha.
        usable: (entries), False for an entry that no pixel may be given.
    """

    colours: NDArray[np.uint8]
    usable: NDArray[np.bool_]

    def looked_up(self, indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is displayed: the shape of `indices`, with 3 or 4 channels behind.

        Raises:
            RefusedFile: an index that the palette has no entry for.
        """
        if int(indices.max(initial=0)) >= len(self.colours):
            raise RefusedFile("damaged: a pixel has a colour that is not in the palette")
        return self.colours[indices]

    def finest_step(self, indices: NDArray[np.uint8]) -> float:
        """The smallest radius at which any pixel could move; infinite where none ever can."""
        used = np.unique(indices)
        apart = self._apart[used][:, self._allowed(used)]
        return float(apart[apart > 0].min(initial=np.inf))

    def nearest(
        self, indices: NDArray[np.uint8], wanted: NDArray[np.uint8], radius: float
    ) -> NDArray[np.uint8]:
        """The indices to write.

        Args:
            indices: of the source.
            wanted: what should be displayed, shaped as `looked_up` gives it.
            radius: how far a channel of a colour may lie from its source; alpha stays.

        Raises:
            RefusedFile: not one index could move.
        """
        flat, goal = indices.reshape(-1), wanted.reshape(-1, wanted.shape[-1])[:, :3]
        chosen = flat.copy()
        changed = (goal != self.colours[flat][:, :3]).any(axis=1)
        used = np.unique(flat)
        allowed = self._allowed(used)
        for entry in used:
            candidates = np.flatnonzero(allowed & (self._apart[entry] <= radius))
            pixels = np.flatnonzero(changed & (flat == entry))
            if not len(pixels) or not len(candidates):
                continue
            colours = self.colours[candidates, :3].astype(np.float32)
            # |goal - colour|^2 without the part that is the same for all colours.
            distance = (colours**2).sum(1) - 2 * goal[pixels].astype(np.float32) @ colours.T
            chosen[pixels] = candidates[distance.argmin(1)]
        if changed.any() and np.array_equal(self.colours[chosen], self.colours[flat]):
            raise RefusedFile(NOTHING_IN_REACH)
        return chosen.reshape(indices.shape)

    def held_note(self, indices: NDArray[np.uint8], radius: float) -> list[str]:
        """How many pixels have no other colour within the radius, as a note for the manifest."""
        used, counts = np.unique(indices, return_counts=True)
        apart = self._apart[used][:, self._allowed(used)]
        held = counts[~((apart > 0) & (apart <= radius)).any(axis=1)].sum()
        if not held:
            return []
        return [
            f"palette: {100 * held / indices.size:.1f} % of the pixels stay, as no other of its "
            "colours lies within epsilon"
        ]

    def _allowed(self, used: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The entries that pixels may get: in a grey picture, only grey ones."""
        grey = (self.colours[:, :3] == self.colours[:, :1]).all(axis=1)
        return self.usable & grey if grey[used].all() else self.usable

    @cached_property
    def _apart(self) -> NDArray[Any]:
        """(entries, entries), how far colours lie apart; infinite where their alpha differs."""
        colours = self.colours.astype(np.int64)
        apart = np.abs(colours[:, None] - colours[None])
        same_alpha = (apart[..., 3:] == 0).all(axis=-1)
        return np.where(same_alpha, apart[..., :3].max(axis=-1).astype(np.float64), np.inf)
