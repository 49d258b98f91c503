"""A DICOM file taken apart and put together again, byte for byte outside what is exchanged."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_large
from medshield.formats.deflate import raw_stream
from medshield.formats.dicom.elements import (
    META_GROUP,
    PIXEL_TAGS,
    PREAMBLE_END,
    Element,
    Encoding,
    named,
    read_file_meta,
    read_tree,
)
from medshield.formats.series import Content, MadeBytes, joined, part_of, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

# pydicom warns of odd values and quotes them, which must not reach a log. What it can't read at
# all it raises, and that is passed on.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
TRANSFER_SYNTAX = 0x00020010
EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
EXTENDED_OFFSET_TABLES = frozenset({EXTENDED_OFFSETS, EXTENDED_LENGTHS})
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_ITEM = b"\xfe\xff\x00\xe0"
_ITEM_HEAD = 8
_LONGEST_OFFSET = 0xFFFFFFFF
_PIECE = 1 << 20
_LONGEST_VALUE = 0xFFFFFFFE


Part = Content | MadeBytes
"""Of a file that is put together."""


@dataclass(frozen=True)
class DicomFile:
    """A file's bytes, and where its elements lie in them.

    Attributes:
        raw: the file.
        content: the file with its data set inflated; the same object where nothing is deflated.
        syntax: its transfer syntax.
        encoding: how its data set's elements are written.
        meta: the elements of the file meta information.
        elements: the data set's elements at the top level.
        holders: those that hold another image's pixels inside.
        checksummed: its deflated data set ends with the CRC and the size that gzip adds and
            DICOM does not ask for.
    """

    raw: Content
    content: Content
    syntax: UID
    encoding: Encoding
    meta: tuple[Element, ...]
    elements: tuple[Element, ...]
    holders: tuple[Element, ...]
    checksummed: bool = False

    @classmethod
    def parse(cls, raw: Content) -> DicomFile:
        """Take a file apart.

        Raises:
            RefusedFile: no preamble or no file meta information (PS3.10 7.1), or damaged.
        """
        if raw[128:PREAMBLE_END] != b"DICM":
            raise RefusedFile(
                "no preamble and file meta information (PS3.10 7.1), so its transfer syntax can "
                "only be guessed; rewrite it as a DICOM file, for example with dcmconv"
            )
        meta = read_file_meta(raw)
        syntax = _transfer_syntax(raw, meta)
        start = meta[-1].end
        content, checksummed = raw, False
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset, checksummed = _inflated(raw[start : len(raw)])
            content = raw[:start] + dataset
        encoding = Encoding(syntax == ImplicitVRLittleEndian, syntax == ExplicitVRBigEndian)
        elements, holders = read_tree(content, start, encoding)
        return cls(raw, content, syntax, encoding, meta, elements, holders, checksummed)

    @property
    def pixels(self) -> Element | None:
        """The element with the image, or None: Pixel Data, Float or Double Float Pixel Data."""
        return next((element for element in self.elements if element.tag in PIXEL_TAGS), None)

    def value(self, tag: int) -> bytes | None:
        """The value field of a top-level element of the data set, or None."""
        found = (e for e in self.elements if e.tag == tag)
        return next((element.value_of(self.content) for element in found), None)

    def header(self) -> Any:
        """What stands before the image, as pydicom reads it.

        Raises:
            RefusedFile: pydicom finds the image at another place than we do.
        """
        stream = stream_of(self.content)
        stream.seek(self.meta[-1].end)
        header = read_dataset(
            stream,
            self.encoding.implicit,
            not self.encoding.big_endian,
            stop_when=lambda tag, _vr, _length: tag in PIXEL_TAGS,
        )
        if self.pixels is not None and stream.tell() != self.pixels.start:
            raise RefusedFile(
                f"{named(self.pixels.tag)} is at byte {self.pixels.start} by one reading and at "
                f"byte {stream.tell()} by another; rewrite the file with a DICOM toolkit"
            )
        return header

    def assembled(self, changes: Mapping[int, Part]) -> list[Part]:
        """The file with elements exchanged, or added where they are missing, in parts.

        Args:
            changes: by tag, whole encoded elements of the file meta information and the data set.
        """
        start = self.meta[-1].end
        meta = {tag: element for tag, element in changes.items() if tag >> 16 == META_GROUP}
        dataset = {tag: changes[tag] for tag in changes.keys() - meta.keys()}
        head = spliced(self.content, self.meta, PREAMBLE_END, start, meta)
        body = spliced(self.content, self.elements, start, len(self.content), dataset)
        front = [self.content[:PREAMBLE_END], *head]
        if self.syntax != DeflatedExplicitVRLittleEndian:
            return [*front, *body]
        return [self.stored_form(b"".join(joined([*front, *body])), sum(map(len, front)))]

    def stored_form(self, content: Content, start: int) -> Content:
        """Changed content as the file stores it: deflated from the data set's start, or as is."""
        if self.syntax != DeflatedExplicitVRLittleEndian:
            return content
        return content[:start] + _deflated(content[start : len(content)], self.checksummed)

    def with_group_lengths(self, changes: Mapping[int, Part]) -> dict[int, Part]:
        """`changes`, with the Group Length (gggg,0000) of every group that they make longer.

        The file meta information has one; in a data set it is retired and still found.
        """
        present = {element.tag: element for element in (*self.meta, *self.elements)}
        growth: dict[int, int] = {}
        for tag, element in changes.items():
            old = present[tag].end - present[tag].start if tag in present else 0
            length_tag = tag >> 16 << 16
            growth[length_tag] = growth.get(length_tag, 0) + len(element) - old
        grown = {
            tag: _added_to(self.content, present[tag], more, self.encoding.big_endian)
            for tag, more in growth.items()
            if more and tag in present
        }
        return {**changes, **grown}


def spliced(
    data: Content, elements: Sequence[Element], start: int, end: int, changes: Mapping[int, Part]
) -> list[Part]:
    """`data[start:end]`, in parts, with these elements in place of those with the same tag.

    What is missing is put in before the first element with a higher tag. Some writers leave
    elements out of order, so what is there is found by its tag and not by its place.
    """
    missing = sorted(changes.keys() - {element.tag for element in elements})
    pieces: list[Part] = []
    kept = start
    for element in elements:
        while missing and missing[0] < element.tag:
            pieces += part_of(data, kept, element.start), changes[missing.pop(0)]
            kept = element.start
        if element.tag in changes:
            pieces += part_of(data, kept, element.start), changes[element.tag]
            kept = element.end
    return [*pieces, part_of(data, kept, end), *(changes[tag] for tag in missing)]


def with_value(data: Content, element: Element, value: MadeBytes) -> MadeBytes:
    """An element with its header as it is and another value of the same length form."""
    if not element.undefined and len(value) != element.end - element.value:
        raise ValueError("the length in the header would be wrong")
    return _after(data[element.start : element.value], value)


def explicit_element(tag: int, vr: str, value: bytes) -> bytes:
    """A whole element in Explicit VR Little Endian (PS3.5 7.1.2); `value` has an even length."""
    return _explicit_head(tag, vr, len(value)) + value


def explicit_pixels(tag: int, vr: str, value: MadeBytes) -> MadeBytes:
    """The same of pixels; an odd value gets a 0.

    Raises:
        RefusedFile: a value longer than a length field can say.
    """
    odd = len(value) % 2
    if len(value) + odd > _LONGEST_VALUE:
        raise RefusedFile(
            f"uncoded, {named(tag)} would be longer than the 4 GiB that an element may have; "
            "split the file into fewer frames"
        )
    head = _explicit_head(tag, vr, len(value) + odd)
    return MadeBytes(len(head) + len(value) + odd, lambda: joined((head, value, b"\0" * odd)))


def _explicit_head(tag: int, vr: str, length: int) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (
        struct.pack("<HI", 0, length) if vr in ("OB", "OW") else struct.pack("<H", length)
    )


def _after(head: bytes, value: MadeBytes) -> MadeBytes:
    return MadeBytes(len(head) + len(value), lambda: joined((head, value)))


def transfer_syntax_element(syntax: UID) -> bytes:
    """The whole Transfer Syntax UID element, as the file meta information has it."""
    uid = syntax.encode()
    return explicit_element(TRANSFER_SYNTAX, "UI", uid + b"\0" * (len(uid) % 2))


def encapsulated(frames: IO[bytes], lengths: Sequence[int], like: Content) -> MadeBytes:
    """The value field of encapsulated Pixel Data (PS3.5 A.4), one fragment a frame.

    Args:
        frames: the coded frames, one after the other; read and closed as the value is written.
        lengths: of each of them, bytes.
        like: the value field of the source; where its Basic Offset Table is empty, so is the new.

    Raises:
        RefusedFile: an offset is larger than its table can say.
    """
    even = [length + length % 2 for length in lengths]
    offsets = [0, *accumulate(length + _ITEM_HEAD for length in even)]
    has_table = like[4:8] != b"\0\0\0\0"
    if has_table and offsets[-2] > _LONGEST_OFFSET:
        raise RefusedFile(
            "its coded frames would lie further apart than its Basic Offset Table can say; split "
            "it into fewer frames"
        )
    table = struct.pack(f"<{len(lengths)}I", *offsets[:-1]) if has_table else b""
    head = _ITEM + struct.pack("<I", len(table)) + table

    def pieces() -> Iterator[bytes]:
        yield head
        with frames:
            frames.seek(0)
            for length, padded in zip(lengths, even, strict=True):
                yield _ITEM + struct.pack("<I", padded)
                yield frames.read(length) + b"\0" * (padded - length)
        yield _SEQUENCE_END

    return MadeBytes(len(head) + offsets[-1] + len(_SEQUENCE_END), pieces)


def encapsulated_alone(frames: list[bytes]) -> bytes:
    """The same of a few frames, as a decoder takes it: without what ends it."""
    return encapsulate(frames, fragments_per_frame=1, has_bot=True)


def extended_offsets(lengths: Sequence[int]) -> dict[int, bytes]:
    """The Extended Offset Table and its Lengths (PS3.3 C.7.6.3).

    Args:
        lengths: of each coded frame, which is one fragment, with the byte that makes it even.

    Returns:
        By tag, the value fields.
    """
    offsets = [0, *accumulate(length + _ITEM_HEAD for length in lengths)]
    form = f"<{len(lengths)}Q"
    return {
        EXTENDED_OFFSETS: struct.pack(form, *offsets[:-1]),
        EXTENDED_LENGTHS: struct.pack(form, *lengths),
    }


def fragments_of(value: Content) -> list[tuple[int, int]]:
    """Where each fragment of an encapsulated value field starts, and its length."""
    found: list[tuple[int, int]] = []
    position = _ITEM_HEAD + int.from_bytes(value[4:_ITEM_HEAD], "little")
    while position < len(value) - len(_SEQUENCE_END):
        start = position + _ITEM_HEAD
        length = int.from_bytes(value[position + 4 : start], "little")
        found.append((start, length))
        position = start + length
    return found


def without_end(value: Content) -> Content:
    """An encapsulated value field without its Sequence Delimitation Item."""
    return part_of(value, 0, len(value) - len(_SEQUENCE_END))


def _transfer_syntax(raw: Content, meta: Sequence[Element]) -> UID:
    for element in meta:
        if element.tag == TRANSFER_SYNTAX:
            return UID(element.value_of(raw).decode("latin-1").strip("\0 "))
    raise RefusedFile(
        f"its file meta information has no {named(TRANSFER_SYNTAX)}; rewrite it as a DICOM file, "
        "for example with dcmconv"
    )


def _added_to(content: Content, element: Element, more: int, big_endian: bool) -> bytes:
    """A whole Group Length element that counts `more` bytes; the group 0002 is little endian."""
    order = ">I" if big_endian and element.tag >> 16 != META_GROUP else "<I"
    (length,) = struct.unpack(order, element.value_of(content))
    return content[element.start : element.value] + struct.pack(order, (length + more) % 2**32)


def _inflated(data: bytes) -> tuple[bytes, bool]:
    """The data set of Deflated Explicit VR Little Endian: raw deflate, padded (PS3.5 A.5).

    Returns:
        The data set, and whether gzip's checksum stands behind it.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        _refuse_bomb(data)
        content = inflater.decompress(data, limits.MOST_STORED_BYTES)
    except zlib.error as error:
        raise RefusedFile("its deflated data set is damaged; get it whole") from error
    rest = inflater.unused_data
    checksummed = rest[:8] == _checksum(content)
    if not inflater.eof or rest[8 if checksummed else 0 :].strip(b"\0"):
        raise RefusedFile(
            f"its deflated data set is truncated or followed by {len(rest)} bytes, where at most "
            "one 0 is expected; rewrite it, for example with dcmconv"
        )
    return content, checksummed


def _refuse_bomb(data: bytes) -> None:
    """Count what deflated data hold, a piece at a time, where they may hold too much to keep."""
    if len(data) * limits.LARGEST_RATIO <= limits.MOST_STORED_BYTES:
        return
    inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, _PIECE))
        refuse_too_large(size)
        rest = inflater.unconsumed_tail


def _checksum(content: bytes) -> bytes:
    """What gzip puts behind deflated data (RFC 1952 2.3.1)."""
    return struct.pack("<II", zlib.crc32(content), len(content) % 2**32)


def _deflated(content: bytes, checksummed: bool) -> bytes:
    data = raw_stream(content)
    if checksummed:
        data += _checksum(content)
    return data + b"\0" * (len(data) % 2)
