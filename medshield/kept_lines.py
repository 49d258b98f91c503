"""A long sequence that lies in a file, a line for each item, and not in memory."""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import eq
from typing import Any, BinaryIO, Generic, TypeVar, overload

from medshield.errors import InputError

Item = TypeVar("Item")


class OnDemand(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are asked for.

    Slices are made so, too. Sent to another process, it becomes a tuple of its items.
    """

    @abstractmethod
    def at(self, place: int) -> Item:
        """The item at a place, from 0 to one less than their number."""

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        places = range(len(self))
        return Chosen(self, places[place]) if isinstance(place, slice) else self.at(places[place])

    def __iter__(self) -> Iterator[Item]:
        return map(self.at, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)


class Chosen(OnDemand[Item]):
    """Some items of a long sequence, in their order.

    Args:
        items: all of them.
        places: of those that are meant.
    """

    def __init__(self, items: Sequence[Item], places: Sequence[int]) -> None:
        self._items = items
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Item:
        return self._items[self._places[place]]


class KeptLines(OnDemand[Item]):
    """Items that lie in a file; eight bytes of memory each. Threads may read it at the same time.

    Args:
        file: stays open as long as this lives; it may have lost its name.
        starts: where each line starts, bytes, and last where the last one ends.
        read: makes an item of a line.
    """

    def __init__(self, file: BinaryIO, starts: array[int], read: Callable[[bytes], Item]) -> None:
        self._file = file
        self._starts = starts
        self._read = read

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, place: int) -> Item:
        return self._read(self.line(place))

    def line(self, place: int) -> bytes:
        """A line as it lies there; `place` counts from 0."""
        start, end = self._starts[place], self._starts[place + 1]
        return os.pread(self._file.fileno(), end - start, start)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def spooled(
    items: Iterable[Item], write: Callable[[Item], bytes], read: Callable[[bytes], Item]
) -> KeptLines[Item]:
    """Put items into a file that has no name, so that nothing is left of it whatever happens.

    Args:
        items: are gone through once.
        write: makes a line of an item, newline included.
        read: the inverse.

    Raises:
        InputError: the folder for temporary files takes none.
    """
    starts = array("q", [0])
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as what is returned)
        for item in items:
            starts.append(starts[-1] + file.write(write(item)))
        file.flush()
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: can't be written ({error.strerror}); temporary files go "
            "there: make room, or set TMPDIR to another folder"
        ) from error
    return KeptLines(file, starts, read)
