"""gzip files taken apart, so that new content goes into the very members of the old (RFC 1952).

Content that is too large to hold is inflated a piece at a time, and again for each time that a
reader starts from its beginning.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from medshield.errors import RefusedFile
from medshield.formats import limits, series
from medshield.formats.series import Content

GZIP_MAGIC = b"\x1f\x8b"

_FIXED_BYTES = 10
_TRAILER_BYTES = 8
_HEADER_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16
_DAMAGED = "damaged: its gzip data is truncated or broken; fetch it again from where it came"
_LEVELS = {2: 9, 4: 1}
"""Compression levels by the extra flags (XFL): 2 is the strongest, 4 the fastest."""
_DEFAULT_LEVEL = 6
_FIRST_READ, _MOST_READ = 1 << 12, 1 << 20
_PIECE = 1 << 20
"""The most bytes that are inflated at once."""
_MOST_HEADERS = (1 << 12, 1 << 17)
"""Bytes in which a member's header is looked for: in few, and then in more than any needs."""


@dataclass(frozen=True)
class Member:
    """One member of a gzip file.

    Attributes:
        header: its bytes before the deflated data: times, names and the system that wrote it.
        length: of its inflated content, in bytes.
    """

    header: bytes
    length: int

    @property
    def level(self) -> int:
        """The compression level that its writer named, 1 to 9."""
        return _LEVELS.get(self.header[8], _DEFAULT_LEVEL)

    @property
    def has_extra(self) -> bool:
        """Whether it carries an extra field, such as the block sizes of BGZF."""
        return bool(self.header[3] & _EXTRA)


@dataclass(frozen=True)
class Envelope:
    """A gzip file without its content.

    Attributes:
        members: in the file's order.
        tail: zero bytes after the last member, as tapes leave them.
    """

    members: tuple[Member, ...]
    tail: bytes


class InflatedContent:
    """What a gzip file holds, too large to be kept: to be read from the front to the back.

    Args:
        data: a file that `inflate` found whole.
        length: of what it holds.
    """

    def __init__(self, data: Content, length: int) -> None:
        self._data = data
        self._length = length
        self._pieces: Iterator[bytes] = iter(())
        self._position, self._piece = length, b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        """Inflate on from where the last reading ended, or again from the start.

        Raises:
            RefusedFile: the file is no longer what it was.
        """
        start, stop, _ = where.indices(self._length)
        if start < self._position:
            self._start()
        parts: list[bytes] = []
        while self._position < stop:
            end = self._position + len(self._piece)
            parts.append(self._piece[max(0, start - self._position) : stop - self._position])
            if end >= stop:
                break
            self._position, self._piece = end, next(self._pieces, b"")
            if not self._piece:
                raise RefusedFile(_DAMAGED)
        return b"".join(parts)

    def _start(self) -> None:
        self._pieces = _pieces(self._data, self._length)
        self._position, self._piece = 0, b""


def inflate(data: Content, most_bytes: int) -> tuple[Content, Envelope]:
    """Take a gzip file apart.

    Args:
        data: the file.
        most_bytes: of inflated content; a file that holds more is refused unread.

    Returns:
        The content of all members, and what it was in.

    Raises:
        RefusedFile: damaged, or larger than it may be.
    """
    pieces = _pieces(data, most_bytes)
    parts: list[bytes] = []
    length = 0
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            envelope: Envelope = end.value
            break
        length += len(piece)
        parts.append(piece)
        if length > series.BYTES_HELD:
            parts.clear()
    if length > series.BYTES_HELD:
        return InflatedContent(data, length), envelope
    return b"".join(parts), envelope


def _pieces(data: Content, most_bytes: int) -> Generator[bytes, None, Envelope]:
    """The content of all members, some bytes at a time, none of them empty; and the envelope."""
    members: list[Member] = []
    position, room = 0, most_bytes
    while data[position : position + 2] == GZIP_MAGIC:
        if len(members) == limits.MOST_GZIP_MEMBERS:
            raise RefusedFile(
                f"of more than {limits.MOST_GZIP_MEMBERS} gzip members; compress it as one"
            )
        header = _header(data, position)
        length, position = yield from _member_pieces(data, position + len(header), room)
        members.append(Member(header, length))
        room -= length
    tail = data[position : len(data)]
    if not members or tail.strip(b"\0"):
        raise RefusedFile(_DAMAGED)
    return Envelope(tuple(members), tail)


def inflated_head(data: bytes, most_bytes: int) -> bytes:
    """The first bytes that the start of a gzip file holds; none where it is no gzip file."""
    if not data.startswith(GZIP_MAGIC):
        return b""
    try:
        start = _data_start(data, 0)
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], most_bytes)
    except (RefusedFile, zlib.error):
        return b""


def deflate(content: Iterable[bytes], like: Envelope) -> Iterator[bytes]:
    """A gzip file of other content of the same length, in the members of `like`, piece by piece.

    Headers, levels and the bytes after the last member are those of `like`, and the same
    content gives the same bytes, however it is cut.
    """
    pieces = _Cut(content)
    for member in _members_without_extra(like):
        yield member.header
        packer = zlib.compressobj(member.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        checksum = 0
        for piece in pieces.taken(member.length):
            checksum = zlib.crc32(piece, checksum)
            yield packer.compress(piece)
        yield packer.flush()
        yield _trailer(checksum, member.length)
    yield like.tail


def deflated_notes(like: Envelope) -> list[str]:
    """Notes on what `deflate` can't keep.

    Extra fields speak of the compressed data (its blocks' sizes), so such members become one
    without.
    """
    if any(member.has_extra for member in like.members):
        return ["gzip: blocks with an extra field became one plain stream"]
    return []


def _members_without_extra(like: Envelope) -> tuple[Member, ...]:
    if not any(member.has_extra for member in like.members):
        return like.members
    first = like.members[0].header
    plain = first[:3] + bytes([first[3] & _NAME]) + first[4:_FIXED_BYTES] + _name(first)
    return (Member(plain, sum(member.length for member in like.members)),)


class _Cut:
    """Bytes that come in pieces, taken in pieces of other lengths."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def taken(self, length: int) -> Iterator[bytes]:
        """The next bytes, as many as that."""
        while length:
            piece = self._rest or next(self._pieces)
            piece, self._rest = piece[:length], piece[length:]
            length -= len(piece)
            yield piece


def _member_pieces(data: Content, start: int, room: int) -> Generator[bytes, None, tuple[int, int]]:
    """The content of the member whose deflated data begin at `start`; its length and its end."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    step = _FIRST_READ  # what follows the member is read, and copied, for nothing
    length = checksum = 0
    packed = b""
    while not unpacker.eof:
        if not packed:
            packed = data[start : start + step]
            start += len(packed)
            step = min(2 * step, _MOST_READ)
            if not packed:
                raise RefusedFile(_DAMAGED)
        try:
            piece = unpacker.decompress(packed, min(_PIECE, room + 1 - length))
        except zlib.error as error:
            raise RefusedFile(_DAMAGED) from error
        packed = unpacker.unconsumed_tail
        length += len(piece)
        if length > room:
            raise RefusedFile("damaged: it inflates to more bytes than its header speaks of")
        checksum = zlib.crc32(piece, checksum)
        if piece:
            yield piece
    end = start - len(unpacker.unused_data)
    if data[end : end + _TRAILER_BYTES] != _trailer(checksum, length):
        raise RefusedFile(_DAMAGED)
    return length, end + _TRAILER_BYTES


def _trailer(checksum: int, length: int) -> bytes:
    """What ends a member: checksum and length of its content."""
    return struct.pack("<II", checksum, length & 0xFFFFFFFF)


def _header(data: Content, position: int) -> bytes:
    """The header of the member at `position`.

    Raises:
        RefusedFile: it does not end.
    """
    for most in _MOST_HEADERS:
        head = data[position : position + most]
        with suppress(RefusedFile):
            end = _data_start(head, 0)
            if end <= len(head):
                return head[:end]
    raise RefusedFile(_DAMAGED)


def _data_start(data: bytes, position: int) -> int:
    """Where the deflated data of the member at `position` begin (RFC 1952, 2.3)."""
    try:
        flags = data[position + 3]
        position += _FIXED_BYTES
        if flags & _EXTRA:
            position += 2 + int.from_bytes(data[position : position + 2], "little")
        for flag in (_NAME, _COMMENT):
            if flags & flag:
                position = data.index(b"\0", position) + 1
    except (IndexError, ValueError) as error:
        raise RefusedFile(_DAMAGED) from error
    return position + (2 if flags & _HEADER_CRC else 0)


def _name(header: bytes) -> bytes:
    """The file's name in a member's header, with the zero that ends it; empty where none is."""
    if not header[3] & _NAME:
        return b""
    start = _FIXED_BYTES
    if header[3] & _EXTRA:
        start += 2 + int.from_bytes(header[start : start + 2], "little")
    return header[start : header.index(b"\0", start) + 1]
