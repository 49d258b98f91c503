"""What a run has finished so far, kept so that an interrupted run can go on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from medshield.manifest import Record, sha256
from medshield.private import write_private

JOURNAL = "progress.jsonl"
SHARES = "shares"
"""Folder of the shares' own journals."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One file that is done with.

    Attributes:
        record: its line of the manifest.
        source_checksum: SHA-256 of the file in the source; None where nothing of it is released.
        renewed: it has the new UIDs that were asked for.
    """

    record: Record
    source_checksum: str | None = None
    renewed: bool = False

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps([self.record.to_line(), self.source_checksum, self.renewed]) + "\n"


class Journal:
    """Takes what workers finish, the moment they do, from any thread."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def add(self, finished: Finished) -> Finished:
        """Write it down, so that it outlives the process; returns it."""
        with self._lock:
            self._file.write(finished.to_line())
            self._file.flush()
        return finished


@contextmanager
def opened(path: Path, known: Iterable[Finished]) -> Iterator[Journal]:
    """A journal that starts from what is known: a line that a crash cut short is gone."""
    write_private(path, "".join(finished.to_line() for finished in known).encode())
    with path.open("a") as file:
        yield Journal(file)


def read(private: Path, folder: Path, wanted: Container[str] | None = None) -> dict[str, Finished]:
    """By path, what a run and its shares finished, as far as their files are whole.

    Args:
        private: holds the journals.
        folder: the release that grows.
        wanted: these paths alone; None for all.
    """
    done: dict[str, Finished] = {}
    for journal in (private / JOURNAL, *sorted(private.glob(f"{SHARES}/*/{JOURNAL}"))):
        for line in journal.read_text().splitlines() if journal.is_file() else []:
            try:
                text, checksum, renewed = json.loads(line)
                record = Record.from_line(text)
            except (ValueError, TypeError):
                continue  # the line that an interruption cut short
            if wanted is None or record.path in wanted:
                done[record.path] = Finished(record, checksum, renewed)
    return {
        path: finished
        for path, finished in done.items()
        if finished.record.sha256 is None or _is_whole(folder / path, finished.record.sha256)
    }


def remove(private: Path) -> None:
    """Take the journals away, when all that they tell is in the release."""
    (private / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(private / SHARES, ignore_errors=True)


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest
