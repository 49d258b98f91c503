"""gzip files with other content in the same members."""

import gzip
import struct
import zlib

import pytest

from medshield.errors import RefusedFile
from medshield.formats.gzip_stream import deflate, deflated_notes, inflate, inflated_head

TEXT = bytes(range(256)) * 40
PLENTY = 1 << 20


def member(content, flags=0, fields=b"", xfl=0):
    head = struct.pack("<4BI2B", 0x1F, 0x8B, 8, flags, 77, xfl, 3) + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(content) + packer.flush()
    return head + body + struct.pack("<II", zlib.crc32(content), len(content))


def written_like(content, envelope):
    return b"".join(deflate([content], envelope)), deflated_notes(envelope)


EXTRA = struct.pack("<H4sH", 6, b"BC\2\0", 999)
FIELDS = {
    "plain": (0, b""),
    "name": (8, b"brain.nii\0"),
    "comment": (16, b"a comment\0"),
    "name and comment": (24, b"brain.nii\0a comment\0"),
    "a checksum of the header": (10, b"brain.nii\0"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_the_header_stays(case):
    flags, fields = FIELDS[case]
    data = member(TEXT, flags, fields)
    content, envelope = inflate(data, PLENTY)
    assert content == TEXT
    written, notes = written_like(TEXT[::-1], envelope)
    head = len(envelope.members[0].header)
    assert written[:head] == data[:head]
    assert gzip.decompress(written) == TEXT[::-1]
    assert notes == []


@pytest.mark.parametrize(("xfl", "level"), [(2, 9), (4, 1), (0, 6)])
def test_the_level_is_the_writer_s(xfl, level):
    assert inflate(member(TEXT, xfl=xfl), PLENTY)[1].members[0].level == level


def test_members_and_what_follows_them_stay():
    data = member(TEXT[:100]) + member(b"") + member(TEXT[100:], 8, b"second\0") + bytes(5)
    content, envelope = inflate(data, PLENTY)
    assert content == TEXT
    written, _ = written_like(TEXT[::-1], envelope)
    assert gzip.decompress(written) == TEXT[::-1]
    again = inflate(written, PLENTY)[1]
    assert again == envelope
    assert again.tail == bytes(5)


def test_an_extra_field_speaks_of_blocks_that_are_no_more():
    """As in BGZF, where it holds the size of the compressed block."""
    data = member(TEXT[:50], 4, EXTRA) + member(TEXT[50:], 12, EXTRA + b"second\0")
    written, notes = written_like(TEXT, inflate(data, PLENTY)[1])
    assert gzip.decompress(written) == TEXT
    assert len(notes) == 1
    assert written[3] == 0

    data = member(TEXT, 12, EXTRA + b"brain.nii\0")
    written, _ = written_like(TEXT, inflate(data, PLENTY)[1])
    assert written[10:20] == b"brain.nii\0"


def test_the_start_is_enough_for_the_head():
    data = member(TEXT, 12, EXTRA + b"brain.nii\0")
    assert inflated_head(data[:200], 100) == TEXT[:100]
    assert inflated_head(b"text", 100) == b""
    assert inflated_head(data[:5], 100) == b""


def test_damage_is_refused_wherever_it_is():
    data = member(TEXT, 8, b"brain.nii\0") + member(TEXT)
    for length in range(len(data)):
        if length != len(member(TEXT, 8, b"brain.nii\0")):
            with pytest.raises(RefusedFile, match="gzip"):
                inflate(data[:length], PLENTY)
    for wrong in (data + b"text", data[:-1] + b"x", b"\x1f\x8b" + b"x" * 99):
        with pytest.raises(RefusedFile, match="gzip"):
            inflate(wrong, PLENTY)


def test_no_more_is_inflated_than_allowed():
    bomb = gzip.compress(bytes(1 << 24))
    assert len(inflate(bomb, 1 << 24)[0]) == 1 << 24
    with pytest.raises(RefusedFile, match="inflates to more"):
        inflate(bomb, (1 << 24) - 1)
    with pytest.raises(RefusedFile, match="inflates to more"):
        inflate(member(TEXT) * 3, 2 * len(TEXT))


def test_crumbs_without_end_are_refused():
    crumbs = member(b"") * 70_000
    with pytest.raises(RefusedFile, match="members"):
        inflate(crumbs, PLENTY)
