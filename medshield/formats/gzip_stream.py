"""gzip files taken apart, so that new content goes into the very members of the old (RFC 1952)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from medshield.errors import RefusedFile
from medshield.formats import limits

GZIP_MAGIC = b"\x1f\x8b"

_FIXED_BYTES = 10
_TRAILER_BYTES = 8
_HEADER_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16
_DAMAGED = "damaged: its gzip data is truncated or broken; fetch it again from where it came"
_LEVELS = {2: 9, 4: 1}
"""Compression levels by the extra flags (XFL): 2 is the strongest, 4 the fastest."""
_DEFAULT_LEVEL = 6
_FIRST_READ, _MOST_READ = 1 << 12, 1 << 22


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


def inflate(data: bytes, most_bytes: int) -> tuple[bytes, Envelope]:
    """Take a gzip file apart.

    Args:
        data: the file.
        most_bytes: of inflated content; a file that holds more is refused unread.

    Returns:
        The content of all members, and what it was in.

    Raises:
        RefusedFile: damaged, or larger than it may be.
    """
    parts: list[bytes] = []
    members: list[Member] = []
    position, room = 0, most_bytes
    while data.startswith(GZIP_MAGIC, position):
        if len(members) == limits.MOST_GZIP_MEMBERS:
            raise RefusedFile(
                f"of more than {limits.MOST_GZIP_MEMBERS} gzip members; compress it as one"
            )
        start = _data_start(data, position)
        part, end = _member_content(data, start, room)
        members.append(Member(data[position:start], len(part)))
        parts.append(part)
        room -= len(part)
        position = end
    tail = data[position:]
    if not members or tail.strip(b"\0"):
        raise RefusedFile(_DAMAGED)
    return b"".join(parts), Envelope(tuple(members), tail)


def inflated_head(data: bytes, most_bytes: int) -> bytes:
    """The first bytes that the start of a gzip file holds; none where it is no gzip file."""
    if not data.startswith(GZIP_MAGIC):
        return b""
    try:
        start = _data_start(data, 0)
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], most_bytes)
    except (RefusedFile, zlib.error):
        return b""


def deflate(content: bytes, like: Envelope) -> tuple[bytes, list[str]]:
    """A gzip file of other content of the same length, in the members of `like`.

    Headers, levels and the bytes after the last member are those of `like`, and the same
    content gives the same bytes.

    Returns:
        The file, and notes on what could not stay: extra fields speak of the compressed data
        (its blocks' sizes), so such members become one without.
    """
    members, notes = like.members, []
    if any(member.has_extra for member in members):
        first = members[0].header
        plain = first[:3] + bytes([first[3] & _NAME]) + first[4:_FIXED_BYTES] + _name(first)
        members = (Member(plain, len(content)),)
        notes = ["gzip: blocks with an extra field became one plain stream"]
    parts, position = [], 0
    for member in members:
        part = content[position : position + member.length]
        position += member.length
        packer = zlib.compressobj(member.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        parts += [member.header, packer.compress(part), packer.flush(), _trailer(part)]
    return b"".join([*parts, like.tail]), notes


def _member_content(data: bytes, start: int, room: int) -> tuple[bytes, int]:
    """The content of the member whose deflated data begin at `start`, and where it ends."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    step = _FIRST_READ  # what follows the member is read, and copied, for nothing
    while not unpacker.eof:
        packed = data[start : start + step]
        if not packed:
            raise RefusedFile(_DAMAGED)
        try:
            parts.append(unpacker.decompress(packed, room + 1))
        except zlib.error as error:
            raise RefusedFile(_DAMAGED) from error
        room -= len(parts[-1])
        if room < 0:
            raise RefusedFile("damaged: it inflates to more bytes than its header speaks of")
        start += len(packed) - len(unpacker.unused_data)
        step = min(2 * step, _MOST_READ)
    part = b"".join(parts)
    if data[start : start + _TRAILER_BYTES] != _trailer(part):
        raise RefusedFile(_DAMAGED)
    return part, start + _TRAILER_BYTES


def _trailer(part: bytes) -> bytes:
    """What ends a member: checksum and length of its content."""
    return struct.pack("<II", zlib.crc32(part), len(part) & 0xFFFFFFFF)


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
