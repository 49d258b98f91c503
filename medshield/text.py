"""Words on a terminal: names of files may hold anything, lines stay lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

_MARKDOWN = re.compile(r"([\\`*_<>|#~$@]|(?<=\])\()")


def markdown(text: str) -> str:
    """The text as it is, whatever of it Markdown or HTML would take as a sign."""
    return _MARKDOWN.sub(r"\\\1", text.replace("&", "&amp;"))


def printable(text: str) -> str:
    """The text on one line: control characters and bytes that are no text are escaped.

    A file name may hold a newline, a terminal's escape sequence, or bytes of another encoding
    (PEP 383 surrogates, which no terminal takes).
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(counts: dict[str, int], most: int = 6) -> str:
    """`3 protected, 1 copied`, and how many more kinds there are."""
    parts = [f"{number} {name}" for name, number in list(counts.items())[:most]]
    if len(counts) > most:
        parts.append(f"{len(counts) - most} more")
    return ", ".join(parts)


def listed(counts: dict[str, int], most: int = 6) -> str:
    """`64 x 64 (528), 96 x 96 (12)`: for names that are numbers themselves."""
    parts = [f"{name} ({number})" for name, number in list(counts.items())[:most]]
    if len(counts) > most:
        parts.append(f"{len(counts) - most} more")
    return ", ".join(parts)


def examples(names: Iterable[str]) -> str:
    """Up to three names, for a message: `a.png, b.png, c.png`."""
    return ", ".join(sorted(set(names))[:3])


def duration(seconds: float) -> str:
    """A duration as people say it: `80 s`, `5 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def epsilon_text(epsilon: Fraction) -> str:
    """`3/255` rather than `1/85`, and `0.03` rather than `3/100`; exact in any case."""
    if (255 * epsilon).denominator == 1:
        return f"{255 * epsilon}/255"
    decimal = str(float(epsilon))
    return decimal if Fraction(decimal) == epsilon else str(epsilon)
