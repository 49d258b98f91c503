"""The two files of a card, as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medshield.errors import InputError
from medshield.manifest import CARD_FILES, CROISSANT, DATA_CARD, MANIFEST, SUMMARY, Record, sha256
from medshield.release_card.croissant import croissant
from medshield.release_card.data_card import data_card
from medshield.release_card.facts import CardFacts
from medshield.text import printable


def card_texts(
    release: Path,
    records: Sequence[Record],
    summary: Mapping[str, Any],
    facts: CardFacts,
    *,
    name: str,
    verdict: Sequence[str] = (),
) -> dict[str, bytes]:
    """The bytes of `croissant.json` and `DATACARD.md`; the same for the same arguments.

    Args:
        release: holds manifest and summary.
        records: of the manifest.
        summary: what `medshield.json` says.
        facts: what the owner says.
        name: of the release's folder, for want of a name in `facts`.
        verdict: see `data_card`.
    """
    ordered = sorted(records, key=lambda record: record.path)
    papers = {
        paper: (sha256(release / paper), (release / paper).stat().st_size)
        for paper in (MANIFEST, SUMMARY)
    }
    title = printable(facts.name or name)
    document = croissant(title, ordered, summary, papers, facts)
    page = data_card(title, ordered, summary, facts, verdict)
    return {
        CROISSANT: (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(),
        DATA_CARD: page.encode(),
    }


def refuse_taken(source: Path, paths: Iterable[str]) -> None:
    """See to it that a release has room for a card.

    Args:
        source: the folder of images.
        paths: of the files that are to be in the release.

    Raises:
        InputError: one of them has the name of a card's file, on some file system at least.
    """
    for first, name in taken_names(paths):
        raise InputError(
            f"{printable(str(source / first))}: has the name of a file that --card writes "
            f"({name}); expected none of that name; rename it or move it out of the source, "
            "or leave --card out"
        )


def taken_names(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Names at the top of a release that a card's file has, too, where case does not count.

    Returns:
        Each name as it is written there and as a card has it, sorted.
    """
    own = {name.casefold(): name for name in CARD_FILES}
    firsts = {PurePosixPath(path).parts[0] for path in paths}
    return sorted((first, own[first.casefold()]) for first in firsts if first.casefold() in own)
