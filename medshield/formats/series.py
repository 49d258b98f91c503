"""Frames of an image and bytes of a file: held in memory where they are few, else made in turn.

One huge file must not take more memory than many small ones. So whoever goes through an image
asks for a run of frames at a time, and whoever goes through a file for a slice of it; arrays and
bytes answer at once, and what is too large to hold is read, inflated or decoded when asked for.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats import limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALUES_HELD = 1 << 24
"""Stored values that are held at a time: 64 slices of a CT."""
VALUES_A_RUN = 1 << 21
"""Those that are worked on at a time, in float64: 16 MiB a copy."""
BYTES_HELD = 1 << 25
"""The largest file, or inflated content, that is read as a whole."""
_WINDOW = 1 << 16
_PIECE = 1 << 22


class Frames(Protocol):
    """What an array of shape (frames, height, width, channels) offers, whether it is one or not."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, height, width, channels)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __len__(self) -> int:
        """How many frames."""

    def __getitem__(self, frames: slice, /) -> NDArray[Any]:
        """Some of them; the array is not to be written to."""


class MadeFrames:
    """Frames that are made when they are asked for, some more than that at once.

    The last ones made are kept: an image is gone through from its first frame to its last, and
    several steps ask for the same frames in turn.

    Args:
        shape: (frames, height, width, channels).
        dtype: of the values.
        make: gives the frames of a slice.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, make: Callable[[slice], NDArray[Any]]
    ) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._make = make
        self._at_once = _frames_held(shape)
        self._last: tuple[int, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice, /) -> NDArray[Any]:
        start, stop, _ = frames.indices(len(self))
        places = range(start - start % self._at_once, stop, self._at_once)
        parts = [self._made(at)[max(0, start - at) : stop - at] for at in places]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *parts])

    def _made(self, first: int) -> NDArray[Any]:
        last = self._last
        if last is None or last[0] != first:
            self._last = None  # so that it is gone before the next are made
            stop = min(first + self._at_once, len(self))
            self._last = last = first, self._make(slice(first, stop))
        return last[1]


def held(frames: Frames) -> Frames:
    """The same frames, as an array if they are few enough to be held."""
    return frames[:] if _frames_held(frames.shape) >= len(frames) else frames


def runs(shape: tuple[int, ...]) -> Iterator[slice]:
    """The frames of an image, as many at a time as are worked on at once.

    Args:
        shape: (frames, height, width, channels).
    """
    step = _frames_a_run(shape)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def single(frames: slice) -> Iterator[slice]:
    """Each of some frames by itself."""
    for number in range(frames.start, frames.stop):
        yield slice(number, number + 1)


def same(one: Frames, other: Frames) -> bool:
    """Whether two images of one shape have the same values."""
    return all(np.array_equal(one[run], other[run]) for run in runs(one.shape))


def distinct(frames: Frames, most: int | None = None) -> NDArray[Any]:
    """The values that occur, sorted.

    Args:
        frames: of any shape.
        most: where more are found, that is enough.
    """
    found: NDArray[Any] = np.empty(0, frames.dtype)
    for run in runs(frames.shape):
        found = np.unique(np.concatenate([found, np.unique(frames[run])]))
        if most is not None and len(found) > most:
            break
    return found


class Content(Protocol):
    """The bytes of a file, whether they are in memory or not."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, where: slice, /) -> bytes:
        """Some of them."""


class FileContent:
    """A part of a file that is too large to hold.

    Args:
        path: the file.
        start, stop: the part.
    """

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self.path = path
        self.start = start
        self._length = max(0, stop - start)
        self._window = 0, b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        """Read them; a small slice is read with what follows it, as headers are small slices.

        Raises:
            RefusedFile: it can't be read, or has become shorter.
        """
        start, stop, _ = where.indices(self._length)
        if stop - start > _WINDOW:
            return self._read(start, stop)
        first, window = self._window
        if not first <= start <= stop <= first + len(window):
            first, window = start, self._read(start, min(start + _WINDOW, self._length))
            self._window = first, window
        return window[start - first : max(start, stop) - first]

    def _read(self, start: int, stop: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start + start)
                data = file.read(stop - start)
        except OSError as error:
            raise RefusedFile(
                f"can't be read on ({error.strerror}); mend its access rights or its disk, or "
                "remove it"
            ) from error
        if len(data) < stop - start:
            raise RefusedFile("it became shorter while it was read; run again when it is at rest")
        return data


def size_of(path: Path) -> int:
    """How many bytes a file has.

    Raises:
        RefusedFile: more than `limits.MOST_FILE_BYTES`.
        OSError: it can't be read.
    """
    size = path.stat().st_size
    if size > limits.MOST_FILE_BYTES:
        raise RefusedFile(
            f"it has {size} bytes, at most {limits.MOST_FILE_BYTES} are read; split it into "
            "smaller files, or remove it if it is damaged"
        )
    return size


def content_of(path: Path) -> Content:
    """The bytes of a file.

    Raises:
        RefusedFile: it is too large.
        OSError: it can't be read.
    """
    size = size_of(path)
    return path.read_bytes() if size <= BYTES_HELD else FileContent(path, 0, size)


def part_of(content: Content, start: int, stop: int) -> Content:
    """Some of the bytes, still not in memory if they were not and are many."""
    if isinstance(content, FileContent) and stop - start > BYTES_HELD:
        return FileContent(content.path, content.start + start, content.start + stop)
    return content[start:stop]


class _JoinedContent:
    """Contents one after the other."""

    def __init__(self, parts: Sequence[Content]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(len(self))
        found: list[bytes] = []
        number = bisect_right(self._ends, start)
        while start < stop:
            begin = self._ends[number] - len(self._parts[number])
            found.append(self._parts[number][start - begin : stop - begin])
            start = self._ends[number]
            number += 1
        return b"".join(found)


def concatenated(parts: Sequence[Content]) -> Content:
    """Contents one after the other, in memory if they are few bytes."""
    whole = _JoinedContent(parts)
    return whole if len(whole) > BYTES_HELD else whole[:]


def same_bytes(one: Content, other: Content) -> bool:
    """Whether both are the same."""
    if len(one) != len(other):
        return False
    return all(a == b for a, b in zip(pieces_of(one), pieces_of(other), strict=True))


def pieces_of(content: Content) -> Iterator[bytes]:
    """All the bytes, some at a time."""
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


@dataclass(frozen=True)
class MadeBytes:
    """Bytes that are made as they are written.

    Attributes:
        length: how many there are.
        make: gives them, in pieces of any length.
    """

    length: int
    make: Callable[[], Iterable[bytes]]

    def __len__(self) -> int:
        return self.length


def joined(parts: Iterable[Content | MadeBytes]) -> Iterator[bytes]:
    """The bytes of all parts, some at a time."""
    for part in parts:
        yield from part.make() if isinstance(part, MadeBytes) else pieces_of(part)


def write_pieces(target: Path, pieces: Iterable[bytes]) -> None:
    """Write bytes to a file one after the other."""
    with target.open("wb") as file:
        file.writelines(pieces)


def stream_of(content: Content) -> BinaryIO:
    """The bytes as a file to read."""
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return io.BufferedReader(_ContentReader(content))


class _ContentReader(io.RawIOBase):
    """Reads content from wherever it is asked to."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}
        self._position = starts[whence] + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        data = self._content[self._position : self._position + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _frames_a_run(shape: tuple[int, ...]) -> int:
    return max(1, VALUES_A_RUN // max(1, math.prod(shape[1:])))


def _frames_held(shape: tuple[int, ...]) -> int:
    """As many whole runs as are held."""
    run = _frames_a_run(shape)
    return run * max(1, VALUES_HELD // (run * max(1, math.prod(shape[1:]))))
