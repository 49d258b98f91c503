"""What only the owner of a release can say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from medshield.errors import InputError
from medshield.text import printable

TO_FILL_IN = "TO FILL IN"
"""Stands in the data card wherever the owner has said nothing."""
_URL = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class CardFacts:
    """What only the owner of a release can say of it; None where nothing is said.

    Attributes:
        name: of the data set; that of the release's folder if absent.
        license: the URL of a licence, or its name.
        creator: the organisation that made the data set.
        contact: whom to ask for permission and for the originals, in one line.
        url: the page of the data set.
        published: the day of publication, YYYY-MM-DD.
        cite_as: how to cite it, best as BibTeX.
        version: of the data set, best as MAJOR.MINOR.PATCH.

    Raises:
        InputError: the URL or the day is none, or a text is empty.
    """

    name: str | None = None
    license: str | None = None
    creator: str | None = None
    contact: str | None = None
    url: str | None = None
    published: str | None = None
    cite_as: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        for option, text in (
            ("--name", self.name),
            ("--license", self.license),
            ("--creator", self.creator),
            ("--contact", self.contact),
            ("--cite-as", self.cite_as),
            ("--release-version", self.version),
        ):
            if text is not None and not text.strip():
                raise InputError(f"{option}: is empty; say something, or leave it out")
        if self.url is not None and not is_url(self.url):
            raise InputError(
                f"--url {printable(self.url)}: no address; expected one such as "
                "https://example.org/data"
            )
        if self.published is not None and not _is_day(self.published):
            raise InputError(
                f"--published {printable(self.published)}: no day; expected YYYY-MM-DD, such as "
                "2026-05-31"
            )


def is_url(text: str) -> bool:
    """Whether a text is an address of the web and nothing else."""
    return _URL.fullmatch(text) is not None


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
