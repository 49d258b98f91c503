"""DICOM data elements as places in bytes (PS3.5 chapter 7); their values are not interpreted.

This is a second reading beside pydicom's. `DicomFile` asks that both find Pixel Data at the same
place, and the comparison of two files rests on this one alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import unpack, unpack_from
from typing import NamedTuple

from pydicom.datadict import dictionary_description

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.base import refuse_too_many
from medshield.formats.series import Content, part_of

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_TAGS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})

PREAMBLE_END = 132
META_GROUP = 0x0002

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_PIECE = 1 << 20
# These VRs have a 4-byte length after 2 reserved bytes (PS3.5 7.1.2).
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


class _TooMuchError(RefusedFile):
    """More elements, or sequences in sequences, than are read."""


class _Reading:
    """One data set that is read, and how many elements and items were found in it.

    Attributes:
        data: the file.
        filled: where the zeros start that some writers leave behind the data set.
    """

    def __init__(self, data: Content) -> None:
        self.data = data
        self.filled = _filled(data)
        self._found = 0

    def count(self) -> None:
        """One more.

        Raises:
            RefusedFile: more than any object has.
        """
        self._found += 1
        if self._found > limits.MOST_DICOM_ELEMENTS:
            raise _TooMuchError(
                f"it has more than {limits.MOST_DICOM_ELEMENTS} elements, which no known file "
                "needs; it is damaged, or made to do harm: leave it out"
            )


class Encoding(NamedTuple):
    """How the elements of a data set are written."""

    implicit: bool
    big_endian: bool


EXPLICIT_LITTLE = Encoding(implicit=False, big_endian=False)
# What is inside a UN of undefined length, whatever the file's own encoding (PS3.5 6.2.2).
_IMPLICIT_LITTLE = Encoding(implicit=True, big_endian=False)


class Item(NamedTuple):
    """One item of a sequence, a data set of its own (PS3.5 7.5).

    Its bytes are [start, end), with an Item Delimitation Item where its length is undefined; its
    elements are written in `encoding`, and so is its own header.
    """

    start: int
    value: int
    end: int
    undefined: bool
    encoding: Encoding
    elements: tuple[Element, ...]


class Element(NamedTuple):
    """One data element: its header is [start, value), its value field [value, end).

    A value field of undefined length includes its Sequence Delimitation Item. `vr` is empty in
    implicit encoding. `items` are those of a sequence.
    """

    tag: int
    vr: str
    start: int
    value: int
    end: int
    undefined: bool
    items: tuple[Item, ...] = ()

    def bytes_of(self, data: Content) -> bytes:
        """Header and value."""
        return data[self.start : self.end]

    def value_of(self, data: Content) -> bytes:
        """The value field."""
        return data[self.value : self.end]

    def long_value_of(self, data: Content) -> Content:
        """The value field, not in memory where it is too long."""
        return part_of(data, self.value, self.end)


class Tree(NamedTuple):
    """A data set's elements.

    Attributes:
        elements: those at the top level, in the file's order.
        holders: those of them that hold another image's pixels somewhere inside, such as an
            Icon Image Sequence.
    """

    elements: tuple[Element, ...]
    holders: tuple[Element, ...]


class Step(NamedTuple):
    """One level further in: the sequence, and its item that was entered."""

    sequence: Element
    item: Item


class Spot(NamedTuple):
    """An element and the way to it from the top level, outermost step first."""

    element: Element
    steps: tuple[Step, ...]

    @property
    def way(self) -> tuple[int, ...]:
        """Where the items on the way start, which tells the element's data set from all others."""
        return tuple(step.item.start for step in self.steps)

    @property
    def within(self) -> frozenset[int]:
        """The tags of the sequences that it lies in."""
        return frozenset(step.sequence.tag for step in self.steps)


def walk(elements: Iterable[Element], steps: tuple[Step, ...] = ()) -> Iterator[Spot]:
    """Every element at any depth, in the file's order: a sequence before what is in it."""
    for element in elements:
        yield Spot(element, steps)
        for item in element.items:
            yield from walk(item.elements, (*steps, Step(element, item)))


def place(tag: int) -> str:
    """A tag as people write it: (0028,0010)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def named(tag: int) -> str:
    """A tag with its name in the standard: (0028,0010) Rows."""
    try:
        return f"{place(tag)} {dictionary_description(tag)}"
    except KeyError:
        return place(tag)


def read_tree(data: Content, start: int, encoding: Encoding) -> Tree:
    """Find every element from `start` to the end of `data`.

    Raises:
        RefusedFile: the bytes end too early, are no elements of this encoding, or are more
            elements, or sequences in sequences, than any object has.
    """
    elements, _ = _elements(_Reading(data), start, len(data), encoding, depth=0)
    return Tree(elements, tuple(element for element in elements if _holds_pixels(element)))


def _holds_pixels(holder: Element) -> bool:
    inside = walk(element for item in holder.items for element in item.elements)
    return any(e.tag in PIXEL_TAGS and e.end > e.value for e, _ in inside)


def read_file_meta(data: Content) -> tuple[Element, ...]:
    """The elements of group 0002, always Explicit VR Little Endian (PS3.10 7.1)."""
    elements: list[Element] = []
    position = PREAMBLE_END
    while data[position : position + 2] == b"\x02\0":
        tag, vr, value, length = _header(data, position, len(data), EXPLICIT_LITTLE)
        end = _within(tag, value + length, len(data))
        elements.append(Element(tag, vr, position, value, end, undefined=False))
        refuse_too_many(len(elements), limits.MOST_DICOM_ELEMENTS, "elements")
        position = end
    return tuple(elements)


def _elements(
    reading: _Reading, start: int, end: int, encoding: Encoding, depth: int
) -> tuple[tuple[Element, ...], int]:
    """The elements of one data set, and where the reading stopped.

    At depth 0 the reading goes to `end`; below, an Item Delimitation Item may stop it.
    """
    if depth > limits.MOST_DICOM_LEVELS:
        raise _TooMuchError(
            f"its sequences lie more than {limits.MOST_DICOM_LEVELS} deep in each other, which no "
            "known object needs; it is damaged, or made to do harm: leave it out"
        )
    found: list[Element] = []
    position = start
    while position < end:
        if depth == 0 and position >= reading.filled:
            break
        reading.count()
        tag, vr, value, length = _header(reading.data, position, end, encoding)
        if tag == _ITEM_END and depth:
            return tuple(found), value
        undefined = length == _UNDEFINED
        if undefined:
            items, stop = _undefined_length(reading, tag, vr, value, end, encoding, depth)
        else:
            stop = _within(tag, value + length, end)
            items = _defined_length(reading, tag, vr, value, stop, encoding, depth)
        found.append(Element(tag, vr, position, value, stop, undefined, items))
        position = stop
    return tuple(found), position


def _undefined_length(
    reading: _Reading, tag: int, vr: str, start: int, end: int, encoding: Encoding, depth: int
) -> tuple[tuple[Item, ...], int]:
    """The items up to a Sequence Delimitation Item (fragments are none), and where it ends."""
    fragments = tag in PIXEL_TAGS or vr in ("OB", "OW")
    inner = _IMPLICIT_LITTLE if vr == "UN" else encoding
    items: list[Item] = []
    position, count = start, 0
    while True:
        found, _, value, length = _header(reading.data, position, end, inner)
        if found == _SEQUENCE_END:
            return tuple(items), value
        if found != _ITEM:
            raise RefusedFile(_malformed(tag, "an item was expected in its value"))
        if not fragments:
            items.append(_item(reading, position, value, length, end, inner, depth))
            position = items[-1].end
        elif length == _UNDEFINED:
            raise RefusedFile(_malformed(tag, "a fragment has no length"))
        else:
            position = _within(tag, value + length, end)
            count += 1
            refuse_too_many(count, limits.MOST_DICOM_FRAGMENTS, "fragments")


def _defined_length(
    reading: _Reading, tag: int, vr: str, start: int, end: int, encoding: Encoding, depth: int
) -> tuple[Item, ...]:
    """The items of a sequence whose length is given.

    Implicit encoding and UN don't say that an element is a sequence; where the value starts like
    one, it is read as one, and where that fails it is some other value.
    """
    inner = _IMPLICIT_LITTLE if vr == "UN" else encoding
    certain = vr == "SQ"
    if tag in PIXEL_TAGS or not (certain or vr in ("", "UN")):
        return ()
    if not certain and not _starts_with_item(reading.data, start, end, inner):
        return ()
    try:
        return tuple(_items(reading, start, end, inner, depth))
    except _TooMuchError:
        raise
    except RefusedFile:
        if certain:
            raise
        return ()


def _items(
    reading: _Reading, start: int, end: int, encoding: Encoding, depth: int
) -> Iterator[Item]:
    position = start
    while position < end:
        tag, _, value, length = _header(reading.data, position, end, encoding)
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise RefusedFile(_malformed(tag, "an item was expected here"))
        item = _item(reading, position, value, length, end, encoding, depth)
        yield item
        position = item.end


def _item(
    reading: _Reading, start: int, value: int, length: int, end: int, encoding: Encoding, depth: int
) -> Item:
    reading.count()
    undefined = length == _UNDEFINED
    stop = end if undefined else _within(_ITEM, value + length, end)
    elements, position = _elements(reading, value, stop, encoding, depth + 1)
    return Item(start, value, position, undefined, encoding, elements)


def _starts_with_item(data: Content, start: int, end: int, encoding: Encoding) -> bool:
    order = ">" if encoding.big_endian else "<"
    return end - start >= 8 and unpack(f"{order}HH", data[start : start + 4]) == (0xFFFE, 0xE000)


def _filled(data: Content) -> int:
    """Where the zeros at the end start."""
    end = len(data)
    while end:
        start = max(0, end - _PIECE)
        if kept := data[start:end].rstrip(b"\0"):
            return start + len(kept)
        end = start
    return 0


def _header(
    data: Content, position: int, end: int, encoding: Encoding
) -> tuple[int, str, int, int]:
    """(tag, VR, where the value starts, its length)."""
    order = ">" if encoding.big_endian else "<"
    if position + 8 > end:
        raise RefusedFile(
            f"the file ends at byte {end}, inside an element: it is truncated; get it whole"
        )
    head = data[position : position + 12]
    group, number = unpack_from(f"{order}HH", head)
    tag = group << 16 | number
    if encoding.implicit or group == 0xFFFE:
        return tag, "", position + 8, unpack_from(f"{order}I", head, 4)[0]
    vr = head[4:6].decode("latin-1")
    if not (vr.isascii() and vr.isalpha() and vr.isupper()):
        raise RefusedFile(_malformed(tag, "it has no value representation"))
    if vr not in LONG_VRS:
        return tag, vr, position + 8, unpack_from(f"{order}H", head, 6)[0]
    _within(tag, position + 12, end)
    return tag, vr, position + 12, unpack_from(f"{order}I", head, 8)[0]


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
