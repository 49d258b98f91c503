"""Smaller copies of a TIFF's frames: made anew from the protected ones, or taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.tiff.page import PALETTE, placed, read_page
from medshield.formats.tiff.pixels import changed_segments, read_samples
from medshield.formats.tiff.structure import SUB_DIRECTORIES, Directory, Structure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.tiff.contents import Contents, Reduced
    from medshield.formats.tiff.page import Form, Page
    from medshield.formats.tiff.splice import Splicer


def read_reduced(structure: Structure, contents: Contents) -> list[Page]:
    """The smaller copies as pages, once it is clear that each can be made anew.

    Raises:
        RefusedFile: one can't, and says why.
    """
    return [_remade_page(structure, contents, found) for found in contents.reduced]


def remake(
    structure: Structure,
    splicer: Splicer,
    page: Page,
    samples: NDArray[Any],
) -> str:
    """Put the protected picture into a smaller copy; its alpha stays.

    Args:
        structure: of the source.
        splicer: takes the new strips or tiles.
        page: the copy.
        samples: of the protected picture, (height, width, samples).

    Returns:
        A note.
    """
    old = read_samples(structure, page)
    new = shrunk(samples, page.form)
    if page.form.has_alpha:
        new[..., -1] = old[..., -1]
    splicer.replace(page, changed_segments(structure, page, old, new))
    return f"{page.name} (reduced resolution): made anew from the protected picture"


def remove(structure: Structure, splicer: Splicer, contents: Contents) -> list[str]:
    """Take all smaller copies out of a file; nothing of them stays.

    Returns:
        Notes.
    """
    gone = [found.directory for found in contents.reduced]
    if not gone:
        return []
    starts = {directory.start for directory in gone}
    below = [d for d in structure.directories if _is_below(d, starts)]
    kept = _areas(structure, [d for d in structure.directories if d not in below])
    splicer.unlink([directory for directory in gone if directory.parent is None])
    for parent in {d.parent.start: d.parent for d in gone if d.parent is not None}.values():
        offsets = structure.numbers(parent, SUB_DIRECTORIES)
        left = [offset for offset in offsets if offset not in starts]
        if left:
            splicer.set_numbers(parent, SUB_DIRECTORIES, left)
        else:
            entry = parent.entries[SUB_DIRECTORIES]
            if not entry.is_inline:
                splicer.blank([(entry.value_at, entry.value_at + entry.size)])
            splicer.drop_tag(parent, SUB_DIRECTORIES)
    splicer.blank(_areas(structure, below) - kept)
    return [f"{directory.name} (reduced resolution): removed" for directory in gone]


def refuse_to_lose(contents: Contents) -> None:
    """Refuse to remove a smaller copy that full pages hang on.

    Raises:
        RefusedFile: as it says.
    """
    starts = {found.directory.start for found in contents.reduced}
    lost = [p for p in contents.pages if p.directory.parent and _is_below(p.directory, starts)]
    parents = {found.directory.parent.start for found in contents.reduced if found.directory.parent}
    lost += [
        p for p in contents.pages if p.directory.parent and p.directory.parent.start in parents
    ]
    if lost:
        raise RefusedFile(
            f"TIFF whose {lost[0].name} is reached through or stands beside a smaller copy of it, "
            "which so can't be removed: save it anew without previews"
        )


def shrunk(samples: NDArray[Any], form: Form) -> NDArray[Any]:
    """Averages over the pixels that fall together: (form.height, form.width, samples)."""
    result = samples.astype(np.float64)
    for axis, size in ((0, form.height), (1, form.width)):
        length = samples.shape[axis]
        edges = np.arange(size + 1) * length // size
        sums = np.add.reduceat(result, edges[:-1], axis=axis)
        shape = [-1 if axis == k else 1 for k in range(3)]
        result = sums / np.diff(edges).reshape(shape)
    if np.issubdtype(samples.dtype, np.integer):
        result = np.rint(result)
    return result.astype(samples.dtype)


def _remade_page(structure: Structure, contents: Contents, found: Reduced) -> Page:
    name = found.directory.name
    full = contents.pages[found.frame].form
    try:
        page = read_page(structure, found.directory)
    except RefusedFile as error:
        raise RefusedFile(f"{error}; or let this smaller copy go (--icons remove)") from None
    form = page.form
    same = (form.dtype, form.bits, form.photometric, form.samples, form.extra) == (
        *(full.dtype, full.bits, full.photometric, full.samples, full.extra),
    )
    smaller = form.height <= full.height and form.width <= full.width
    if not same or not smaller or form.photometric == PALETTE:
        raise RefusedFile(
            f"TIFF whose {name} is marked as a smaller copy, but has other colours or samples than "
            "the picture, so it can't be made anew: let it be removed (--icons remove)"
        )
    read_samples(structure, page)  # to find damage before anything is written
    return page


def _is_below(directory: Directory, starts: set[int]) -> bool:
    """Whether a directory, or one that it hangs on, is one of these."""
    while directory.start not in starts:
        if directory.parent is None:
            return False
        directory = directory.parent
    return True


def _areas(structure: Structure, directories: list[Directory]) -> set[tuple[int, int]]:
    """Everything that belongs to some directories."""
    areas = set()
    for directory in directories:
        areas |= structure.areas(directory) | set(placed(structure, directory))
    return areas
