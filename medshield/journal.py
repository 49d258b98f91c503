"""What a run has finished so far, kept so that an interrupted run can go on.

Files go by their number in the plan. What is said of them stays on the disk, and is read back when
it is asked for.
"""

from __future__ import annotations

import json
import shutil
import threading
from array import array
from collections.abc import Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medshield.bounded import parsed_json
from medshield.manifest import Record, sha256
from medshield.private import private_file

JOURNAL = "progress.jsonl"
SHARES = "shares"
"""Folder of the shares' own journals."""
ABSENT = -1


@dataclass(frozen=True, slots=True)
class Finished:
    """One file that is done with.

    Attributes:
        number: its place in the plan.
        record: its line of the manifest.
        source_checksum: SHA-256 of the file in the source; None where nothing of it is released.
        renewed: it has the new UIDs that were asked for.
    """

    number: int
    record: Record
    source_checksum: str | None = None
    renewed: bool = False

    def to_line(self) -> bytes:
        """One line of JSON."""
        facts = [self.number, self.record.to_line(), self.source_checksum, self.renewed]
        return json.dumps(facts).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Finished:
        """The inverse of `to_line`.

        Raises:
            ValueError, TypeError: another kind of line.
        """
        number, text, checksum, renewed = parsed_json(line)
        if not isinstance(number, int):
            raise ValueError("no number")
        return cls(number, Record.from_line(text), checksum, renewed)


class Journal(Collection[int]):
    """Takes what workers finish, the moment they do, from any thread, and gives it back.

    Of a file that was noted twice the later note counts.

    Args:
        file: to read and to append to.
        count: of the plan's files.
    """

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file = file
        self._starts = array("q", [ABSENT]) * count
        self._lock = threading.Lock()
        for start, finished in _lines(file):
            if 0 <= finished.number < count:
                self._starts[finished.number] = start

    def add(self, finished: Finished) -> Finished:
        """Write it down, so that it outlives the process; returns it."""
        with self._lock:
            self._starts[finished.number] = self._file.seek(0, 2)
            self._file.write(finished.to_line())
            self._file.flush()
        return finished

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._starts[number] != ABSENT

    def __getitem__(self, number: int) -> Finished:
        """What is known of a file.

        Raises:
            KeyError: it is not finished.
        """
        if number not in self:
            raise KeyError(number)
        with self._lock:
            self._file.seek(self._starts[number])
            line = self._file.readline()
        return Finished.from_line(line)

    def __iter__(self) -> Iterator[int]:
        """The numbers of what is finished, in the plan's order."""
        return (number for number, start in enumerate(self._starts) if start != ABSENT)

    def __len__(self) -> int:
        return len(self._starts) - self._starts.count(ABSENT)

    def finished(self) -> Iterator[Finished]:
        """All of it, in the plan's order."""
        return map(self.__getitem__, self)


@contextmanager
def opened(path: Path, earlier: Iterable[Finished], count: int) -> Iterator[Journal]:
    """A journal that starts from what is known: a line that a crash cut short is gone.

    Args:
        path: its file, which `earlier` may be read from.
        earlier: see `whole`.
        count: of the plan's files.
    """
    with private_file(path) as file:
        for finished in earlier:
            file.write(finished.to_line())
    with path.open("r+b") as file:
        yield Journal(file, count)


def whole(
    private: Path, folder: Path, count: int, wanted: Container[int] | None = None
) -> Iterator[Finished]:
    """What a run and its shares finished, as far as their files are whole.

    A file comes twice where two journals have it; the later note counts.

    Args:
        private: holds the journals.
        folder: the release that grows.
        count: of the plan's files.
        wanted: the numbers of some; None for all.
    """
    for path in (private / JOURNAL, *sorted(private.glob(f"{SHARES}/*/{JOURNAL}"))):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            for finished in Journal(file, count).finished():
                is_wanted = wanted is None or finished.number in wanted
                if is_wanted and is_whole(folder, finished):
                    yield finished


def _lines(file: BinaryIO) -> Iterator[tuple[int, Finished]]:
    """Where each line of a journal starts, and what it says."""
    start = 0
    for line in file:
        start += len(line)
        try:
            finished = Finished.from_line(line)
        except (ValueError, TypeError):
            continue  # the line that an interruption cut short
        yield start - len(line), finished


def is_whole(folder: Path, finished: Finished) -> bool:
    """Whether a file is there as it was noted."""
    digest = finished.record.sha256
    path = folder / finished.record.path
    return digest is None or (path.is_file() and sha256(path) == digest)


def remove(private: Path) -> None:
    """Take the journals away, when all that they tell is in the release."""
    (private / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(private / SHARES, ignore_errors=True)
