"""DICOM data elements as places in bytes (PS3.5 chapter 7); their values are not interpreted.

This is a second reading beside pydicom's. `DicomFile` asks that both find Pixel Data at the same
place, and the comparison of two files rests on this one alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from struct import unpack_from
from typing import NamedTuple

from pydicom.datadict import dictionary_description

from medshield.errors import RefusedFile

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_TAGS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})

PREAMBLE_END = 132

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# These VRs have a 4-byte length after 2 reserved bytes (PS3.5 7.1.2).
_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


class Encoding(NamedTuple):
    """How the elements of a data set are written."""

    implicit: bool
    big_endian: bool


EXPLICIT_LITTLE = Encoding(implicit=False, big_endian=False)
# What is inside a UN of undefined length, whatever the file's own encoding (PS3.5 6.2.2).
_IMPLICIT_LITTLE = Encoding(implicit=True, big_endian=False)


class Element(NamedTuple):
    """One data element: its header is [start, value), its value field [value, end).

    A value field of undefined length includes its Sequence Delimitation Item. `vr` is empty in
    implicit encoding.
    """

    tag: int
    vr: str
    start: int
    value: int
    end: int
    undefined: bool

    def bytes_of(self, data: bytes) -> bytes:
        """Header and value."""
        return data[self.start : self.end]

    def value_of(self, data: bytes) -> bytes:
        """The value field."""
        return data[self.value : self.end]


class Tree(NamedTuple):
    """A data set's elements.

    Attributes:
        elements: those at the top level, in the file's order.
        holders: those of them that hold another image's pixels somewhere inside, such as an
            Icon Image Sequence.
    """

    elements: tuple[Element, ...]
    holders: tuple[Element, ...]


def place(tag: int) -> str:
    """A tag as people write it: (0028,0010)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def named(tag: int) -> str:
    """A tag with its name in the standard: (0028,0010) Rows."""
    try:
        return f"{place(tag)} {dictionary_description(tag)}"
    except KeyError:
        return place(tag)


def read_tree(data: bytes, start: int, encoding: Encoding) -> Tree:
    """Find every element from `start` to the end of `data`.

    Raises:
        RefusedFile: the bytes end too early, or are no elements of this encoding.
    """
    return _tree(_elements(data, start, len(data), encoding, depth=0))


def read_file_meta(data: bytes) -> tuple[Element, ...]:
    """The elements of group 0002, always Explicit VR Little Endian (PS3.10 7.1)."""
    elements: list[Element] = []
    position = PREAMBLE_END
    while data[position : position + 2] == b"\x02\0":
        tag, vr, value, length = _header(data, position, len(data), EXPLICIT_LITTLE)
        end = _within(tag, value + length, len(data))
        elements.append(Element(tag, vr, position, value, end, undefined=False))
        position = end
    return tuple(elements)


def _tree(walk: Iterable[tuple[int, Element]]) -> Tree:
    elements: list[Element] = []
    holders: list[Element] = []
    holds_pixels = False
    for depth, element in walk:  # what an element holds comes before the element
        if depth:
            holds_pixels |= element.tag in PIXEL_TAGS and element.end > element.value
            continue
        elements.append(element)
        if holds_pixels:
            holders.append(element)
        holds_pixels = False
    return Tree(tuple(elements), tuple(holders))


_Walk = Generator[tuple[int, Element], None, int]


def _elements(data: bytes, start: int, end: int, encoding: Encoding, depth: int) -> _Walk:
    """Yield (depth, element), innermost first; return where the reading stopped.

    At depth 0 the reading goes to `end`; below, an Item Delimitation Item may stop it.
    """
    position = start
    while position < end:
        if depth == 0 and not any(data[position : position + 8]) and not any(data[position:end]):
            return position  # zeros that some writers leave behind the data set
        tag, vr, value, length = _header(data, position, end, encoding)
        if tag == _ITEM_END and depth:
            return value
        if length == _UNDEFINED:
            stop = yield from _undefined_length(data, tag, vr, value, end, encoding, depth)
        else:
            stop = _within(tag, value + length, end)
            yield from _defined_length(data, tag, vr, value, stop, encoding, depth)
        yield depth, Element(tag, vr, position, value, stop, length == _UNDEFINED)
        position = stop
    return position


def _undefined_length(
    data: bytes, tag: int, vr: str, start: int, end: int, encoding: Encoding, depth: int
) -> _Walk:
    fragments = tag in PIXEL_TAGS or vr in ("OB", "OW")
    inner = _IMPLICIT_LITTLE if vr == "UN" else encoding
    position = start
    while True:
        item, _, value, length = _header(data, position, end, inner)
        if item == _SEQUENCE_END:
            return value
        if item != _ITEM:
            raise RefusedFile(_malformed(tag, "an item was expected in its value"))
        if length != _UNDEFINED:
            position = _within(tag, value + length, end)
            if not fragments:
                yield from _elements(data, value, position, inner, depth + 1)
        elif fragments:
            raise RefusedFile(_malformed(tag, "a fragment has no length"))
        else:
            position = yield from _elements(data, value, end, inner, depth + 1)


def _defined_length(
    data: bytes, tag: int, vr: str, start: int, end: int, encoding: Encoding, depth: int
) -> Generator[tuple[int, Element], None, None]:
    """The items of a sequence whose length is given.

    Implicit encoding and UN don't say that an element is a sequence; where the value starts like
    one, it is read as one, and where that fails it is some other value.
    """
    inner = _IMPLICIT_LITTLE if vr == "UN" else encoding
    certain = vr == "SQ"
    if tag in PIXEL_TAGS or not (certain or vr in ("", "UN")):
        return
    if not certain and not _starts_with_item(data, start, end, inner):
        return
    try:
        inside = list(_items(data, start, end, inner, depth))
    except RefusedFile:
        if certain:
            raise
        return
    yield from inside


def _items(data: bytes, start: int, end: int, encoding: Encoding, depth: int) -> _Walk:
    position = start
    while position < end:
        tag, _, value, length = _header(data, position, end, encoding)
        if tag == _SEQUENCE_END:
            return value
        if tag != _ITEM:
            raise RefusedFile(_malformed(tag, "an item was expected here"))
        stop = end if length == _UNDEFINED else _within(tag, value + length, end)
        position = yield from _elements(data, value, stop, encoding, depth + 1)
    return position


def _starts_with_item(data: bytes, start: int, end: int, encoding: Encoding) -> bool:
    order = ">" if encoding.big_endian else "<"
    return end - start >= 8 and unpack_from(f"{order}HH", data, start) == (0xFFFE, 0xE000)


def _header(data: bytes, position: int, end: int, encoding: Encoding) -> tuple[int, str, int, int]:
    """(tag, VR, where the value starts, its length)."""
    order = ">" if encoding.big_endian else "<"
    if position + 8 > end:
        raise RefusedFile(
            f"the file ends at byte {end}, inside an element: it is truncated; get it whole"
        )
    group, number = unpack_from(f"{order}HH", data, position)
    tag = group << 16 | number
    if encoding.implicit or group == 0xFFFE:
        return tag, "", position + 8, unpack_from(f"{order}I", data, position + 4)[0]
    vr = data[position + 4 : position + 6].decode("latin-1")
    if not (vr.isascii() and vr.isalpha() and vr.isupper()):
        raise RefusedFile(_malformed(tag, "it has no value representation"))
    if vr not in _LONG_VRS:
        return tag, vr, position + 8, unpack_from(f"{order}H", data, position + 6)[0]
    _within(tag, position + 12, end)
    return tag, vr, position + 12, unpack_from(f"{order}I", data, position + 8)[0]


def _within(tag: int, stop: int, end: int) -> int:
    if stop > end:
        raise RefusedFile(
            f"{named(tag)} ends at byte {stop}, what holds it at byte {end}: "
            "the file is truncated or damaged; get it whole"
        )
    return stop


def _malformed(tag: int, what: str) -> str:
    return (
        f"{named(tag)} is not encoded as the file's transfer syntax says: {what}; "
        "rewrite the file with a DICOM toolkit"
    )
