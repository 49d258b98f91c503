"""Which images the paths of a label table mean."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from medshield.dataset.masks import without_extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Row = TypeVar("Row")

_SAMPLE = 20_000  # rows that decide how the paths of a table are read


@dataclass(frozen=True)
class Reading:
    """One way to take the paths of a table.

    Attributes:
        base: which folder they start from (see `ImagePaths.bases`), or None: only their last
            components are compared.
        tail: how many last components.
        shortened: whose extension is left out: nobody's, the image's, or both.
        folded: whether case is ignored.
    """

    base: int | None
    tail: int
    shortened: str
    folded: bool


class ImagePaths:
    """Finds the images that the paths of a table mean.

    Args:
        source: the folder.
        images: posix paths relative to it.
        masks: those of them to prefer the others to.
    """

    def __init__(self, source: Path, images: Sequence[str], masks: frozenset[str]) -> None:
        self._root = posixpath.normpath(source.absolute().as_posix())
        self._images = images
        self._masks = masks
        self._indexes: dict[tuple[bool, bool, bool], dict[str, list[str]]] = {}

    @cached_property
    def count(self) -> int:
        """How many images there are that are no masks."""
        return sum(image not in self._masks for image in self._images)

    @cached_property
    def _stems(self) -> frozenset[str]:
        names = [posixpath.basename(image).casefold() for image in self._images]
        return frozenset(names) | {without_extension(name) for name in names}

    @cached_property
    def _files(self) -> frozenset[str]:
        names = (posixpath.basename(image).casefold() for image in self._images)
        return frozenset(name for name in names if without_extension(name) != name)

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        """The images, masks left out, by the name of each folder that they lie in."""
        index: dict[str, list[str]] = defaultdict(list)
        for image in self._images:
            if image not in self._masks:
                for folder in set(image.split("/")[:-1]):
                    index[folder].append(image)
        return dict(index)

    def in_folder(self, name: str) -> list[str]:
        """The images below every folder of that very name."""
        return self._by_folder.get(name, [])

    def knows(self, value: str) -> bool:
        """Whether a cell may name an image: a quick look at its last component only."""
        name = value.replace("\\", "/").rpartition("/")[2].casefold()
        return name in self._stems or (name != "" and without_extension(name) in self._stems)

    def knows_file(self, value: str) -> bool:
        """Whether a cell ends in the full name, with extension, of an image."""
        return value.replace("\\", "/").rpartition("/")[2].casefold() in self._files

    def bases(self, table: Path) -> list[str]:
        """The folders that the paths of a table may start from, absolute."""
        folder = table.parent
        beside = (folder.parent, folder / table.stem)  # medmnist: NAME.csv lists what is in NAME/
        return [folder.as_posix(), self._root, *(base.as_posix() for base in beside)]

    def readings(self) -> Iterator[Reading]:
        """Every way to take a path, the strictest first."""
        depth = max(image.count("/") for image in self._images) + 1
        for folded in (False, True):
            for shortened in ("neither", "image", "both"):
                for base in range(4):
                    yield Reading(base, 0, shortened, folded)
                for tail in range(depth, 0, -1):
                    yield Reading(None, tail, shortened, folded)

    def find(self, value: str, bases: Sequence[str], reading: Reading) -> list[str]:
        """The images that a path may mean under one reading."""
        path = value.replace("\\", "/")
        if reading.base is not None:
            whole = posixpath.normpath(posixpath.join(bases[reading.base], path))
            key = whole.removeprefix(f"{self._root.rstrip('/')}/")
            if key == whole:
                return []
        else:
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            key = "/".join(parts[-reading.tail :])
        if reading.shortened == "both":
            key = without_extension(key)
        if reading.folded:
            key = key.casefold()
        index = self._index(reading.base is None, reading.shortened != "neither", reading.folded)
        found = index.get(key, [])
        return [image for image in found if image not in self._masks] or found

    def _index(self, tails: bool, shortened: bool, folded: bool) -> dict[str, list[str]]:
        """Images by path, or by every tail of it (`b/c.png` and `c.png` of `a/b/c.png`)."""
        wanted = (tails, shortened, folded)
        if wanted not in self._indexes:
            index: dict[str, list[str]] = defaultdict(list)
            for image in self._images:
                key = without_extension(image) if shortened else image
                key = key.casefold() if folded else key
                index[key].append(image)
                while tails and "/" in key:
                    key = key.partition("/")[2]
                    index[key].append(image)
            self._indexes[wanted] = dict(index)
        return self._indexes[wanted]


def best_reading(paths: list[tuple[str, list[str]]], images: ImagePaths) -> Reading:
    """The one way to take a table's paths that finds the most images, the strictest if equal.

    One way for all rows: a row that only another way could match names another file.
    """
    shown = evenly_spaced(paths)
    enough = min(images.count, len({path for path, _ in shown}))

    best, score = Reading(0, 0, "neither", folded=False), (0, 0)
    for reading in images.readings():
        hits = [images.find(path, bases, reading) for path, bases in shown]
        single = len({hit[0] for hit in hits if len(hit) == 1})
        candidate = (single, sum(len(hit) > 1 for hit in hits))
        if candidate > score:
            best, score = reading, candidate
        if single >= enough:
            break
    return best


def evenly_spaced(rows: list[Row]) -> list[Row]:
    """At most so many rows, evenly spaced."""
    return rows[:: 1 + len(rows) // _SAMPLE]
