"""Glob patterns for the files of a release that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

MOST_PATTERNS = 256
"""Of one set; a set that would take more is told by its suffixes alone."""
_SIGNS = re.compile(r"([*?\[])")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Patterns:
    """What stands for a set of files.

    Attributes:
        globs: sorted. They hold whether or not a reader's `*` stops at a slash.
        others: files that they match and that are not of the set.
    """

    globs: tuple[str, ...]
    others: int


def patterns_for(mine: Sequence[str], others: Sequence[str]) -> Patterns:
    """The fewest folders and suffixes that tell a set of files from all others.

    Suffixes are tried first (`**/*.png`), then suffixes below the outermost folders
    (`images/**/*.png`), and so on inwards.

    Args:
        mine: paths of the set, with forward slashes; at least one.
        others: paths of all other files.
    """
    deepest = max(len(PurePosixPath(path).parts) - 1 for path in mine)
    for depth in range(deepest + 1):
        globs = _globs(mine, depth)
        if len(globs) > MOST_PATTERNS:
            break
        if not _matched(mine, others, depth):
            return Patterns(globs, 0)
    return Patterns(_globs(mine, 0), _matched(mine, others, 0))


def suffix(path: str) -> str:
    """`.png`, `.nii.gz` or nothing, as it is written."""
    name = PurePosixPath(path)
    if name.suffix.lower() == ".gz":
        return "".join(name.suffixes[-2:])
    return name.suffix


def _globs(mine: Iterable[str], depth: int) -> tuple[str, ...]:
    found = set()
    for path in mine:
        folders = PurePosixPath(path).parts[:-1]
        known = folders[:depth]
        inner = ("**",) if len(folders) > depth else ()
        found.add("/".join([*map(_literal, known), *inner, "*" + _literal(suffix(path))]))
    return tuple(sorted(found))


def _literal(text: str) -> str:
    """The text as a pattern of itself; bytes that are no text are any one character."""
    return _SURROGATE.sub("?", _SIGNS.sub(r"[\1]", text))


def _matched(mine: Iterable[str], others: Iterable[str], depth: int) -> int:
    """How many others lie below a folder of the set, however deep, and end as its files there."""
    ends: dict[tuple[str, ...], set[str]] = {}
    for path in mine:
        ends.setdefault(PurePosixPath(path).parts[:-1][:depth], set()).add(suffix(path))
    count = 0
    for path in others:
        *folders, name = PurePosixPath(path).parts
        above = (ends.get(tuple(folders[:n]), ()) for n in range(min(depth, len(folders)) + 1))
        count += any(name.endswith(tuple(known)) for known in above if known)
    return count
