"""Writing a card: into a release that grows, or into a finished one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.errors import InputError
from medshield.manifest import (
    CARD_FILES,
    CHECKSUMS,
    CROISSANT,
    DATA_CARD,
    MANIFEST,
    SUMMARY,
    Record,
    checksum_lines,
    read_checksums,
    read_release,
    sha256,
)
from medshield.places import Places, locked, named, sync_folder, target_errors
from medshield.release_card.facts import TO_FILL_IN, CardFacts
from medshield.release_card.texts import card_texts, taken_names
from medshield.text import printable


@dataclass(frozen=True)
class Card:
    """What came of it.

    Attributes:
        release: its folder.
        to_fill_in: how many lines of the data card are still to be filled in.
    """

    release: Path
    to_fill_in: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "release": str(self.release),
            "card": list(CARD_FILES),
            "to_fill_in": self.to_fill_in,
        }


def write_card(
    release: Path,
    facts: CardFacts,
    *,
    verdict: bool = False,
    edited: bool = False,
    overwrite: bool = False,
) -> Card:
    """Write the card of a finished release and its checksums; nothing else changes.

    A run that was killed leaves checksums that do not agree, and is finished by the same call.

    Args:
        release: its folder.
        facts: what the owner says.
        verdict: also tell what `verify` found, as its private folder has it.
        edited: take both files as they are, and renew their checksums alone.
        overwrite: replace a card that says more than the one that `protect --card` writes.

    Raises:
        InputError: the folder is no sound release, a file of the source has such a name, or there
            is a card that must not be replaced, or no evidence or no card where one is asked for.
    """
    release = named(release)
    records, summary = read_release(release)
    records.sort(key=lambda record: record.path)
    with target_errors(release, resumable=False), locked(release):
        _see_sound(release, records)
        found = {name: _card_file(release / name) for name in CARD_FILES}
        if edited:
            texts = _edited(release, found)
        else:
            told = _verdict(release, summary) if verdict else ()
            name = release.resolve().name
            texts = card_texts(release, records, summary, facts, name=name, verdict=told)
            bare = card_texts(release, records, summary, CardFacts(), name=name)
            for paper in CARD_FILES:
                if not overwrite and found[paper] not in (None, texts[paper], bare[paper]):
                    raise InputError(
                        f"{release / paper}: holds a card that says more than `protect --card` "
                        "writes; --overwrite replaces it, --edited takes it as it is"
                    )
        cards = {name: hashlib.sha256(texts[name]).hexdigest() for name in CARD_FILES}
        contents = {**texts, CHECKSUMS: b"".join(checksum_lines(release, records, cards))}
        for paper in (DATA_CARD, CROISSANT, CHECKSUMS):
            _replace(release / paper, contents[paper])
        sync_folder(release)
    return Card(release, texts[DATA_CARD].count(f"{TO_FILL_IN}:".encode()))


def _see_sound(release: Path, records: Sequence[Record]) -> None:
    """See to it that new checksums hide no damage: the old ones say what manifest and folder say.

    Raises:
        InputError: they do not, or a file of the source has the name of a card's.
    """
    for first, _ in taken_names(record.path for record in records if record.sha256):
        raise InputError(
            f"{release / first}: comes from the source, so there is no room for a card; "
            "rename it there and protect the source again"
        )
    known = {p: d for p, d in read_checksums(release).items() if p not in CARD_FILES}
    wanted = {record.path: record.sha256 for record in records if record.sha256}
    if known != wanted | {paper: sha256(release / paper) for paper in (SUMMARY, MANIFEST)}:
        raise InputError(
            f"{release / CHECKSUMS}: does not agree with the manifest; expected a sound release; "
            "`medshield check` says what is wrong"
        )


def _card_file(path: Path) -> bytes | None:
    """What stands there; None for nothing.

    Raises:
        InputError: no plain file, or one of unlikely size.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path}: not a file; expected a card or nothing; remove it")
    return read_bounded(path, MOST_DESCRIPTION_BYTES)


def _edited(release: Path, found: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Both files as they are.

    Raises:
        InputError: one is missing, or is not what it is called.
    """
    texts: dict[str, bytes] = {}
    for name, content in found.items():
        if content is None:
            raise InputError(
                f"{release / name}: missing, and --edited takes what is there; leave --edited out "
                "to write it"
            )
        texts[name] = content
    try:
        if not isinstance(parsed_json(texts[CROISSANT]), dict):
            raise ValueError("another kind of JSON")
    except ValueError:
        raise InputError(
            f"{release / CROISSANT}: not a JSON object as Croissant metadata are; mend it, or "
            "remove both files of the card and leave --edited out"
        ) from None
    try:
        texts[DATA_CARD].decode()
    except ValueError:
        raise InputError(f"{release / DATA_CARD}: not UTF-8; save it as UTF-8") from None
    return texts


def _verdict(release: Path, summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What `verify` found of this release, in sentences.

    Raises:
        InputError: there is no such evidence.
    """
    from medshield.reports.words import summary as judgement  # PyTorch, which a card needs not

    path = Places(release.resolve()).private / "verify" / "report.json"
    try:
        document = parsed_json(read_bounded(path, MOST_DESCRIPTION_BYTES))
        same = {"release": release.resolve().name} | {
            key: summary[key] for key in ("method", "epsilon", "task")
        }
        other = [key for key, value in same.items() if document[key] != value]
        said = judgement(document)
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror}); expected what `medshield verify` writes; "
            "run it, or leave --verdict out"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: damaged; expected what `medshield verify` writes; run it again, or leave "
            "--verdict out"
        ) from None
    if other:
        raise InputError(
            f"{path}: tells of another release ({', '.join(other)}); run `medshield verify` on "
            "this one, or leave --verdict out"
        )
    sentences = (
        f"Verdict of medshield verify: {said.verdict} (threat level {document['threat']}).",
        said.question,
        said.answer,
        said.holds,
        said.breaks,
    )
    not_run = ", ".join(level for level, names in document.get("not_run", {}).items() if names)
    left = f"Cells were left out at: {not_run}." if not_run else ""
    return tuple(printable(text) for text in (*sentences, left) if text)


def _replace(path: Path, content: bytes) -> None:
    """Exchange a file, whole or not at all; a temporary one in the release would be a fault."""
    temporary = path.parent.with_name(f"{path.parent.name}.card-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
