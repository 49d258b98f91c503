"""A DICOM file taken apart by pydicom's reader, and where two of them differ.

pydicom finds the elements; every byte of the file then belongs to an element, so that two files
are compared byte for byte and a difference has the name of the element that it is in.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from
from typing import Any, NamedTuple

import pydicom
from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator, read_partial
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from medshield.audit import limits
from medshield.audit.base import byte, first_difference, refuse_bomb, refuse_many
from medshield.errors import RefusedFile

# pydicom warns of odd values and quotes them, which must not reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
TRANSFER_SYNTAX = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_AT_A_TIME = 1 << 24
_UNDEFINED = 0xFFFFFFFF


class Coding(NamedTuple):
    """How elements are written (PS3.5 chapter 7)."""

    implicit: bool
    little: bool


class Element(NamedTuple):
    """One element: header [start, value), value field [value, end), delimiters included."""

    tag: int
    vr: str
    start: int
    value: int
    end: int
    undefined: bool


@dataclass(frozen=True)
class Part:
    """A data set or an item of a sequence: bytes, its elements in them, and where it starts."""

    data: bytes
    coding: Coding
    elements: tuple[Element, ...]
    start: int = 0

    def raw(self, element: Element) -> bytes:
        """Header and value."""
        return self.data[element.start : element.end]

    def value(self, element: Element) -> bytes:
        """The value field."""
        return self.data[element.value : element.end]

    def find(self, tag: int) -> Element | None:
        """The first element with a tag."""
        return next((element for element in self.elements if element.tag == tag), None)

    def value_of(self, tag: int) -> bytes | None:
        """The value field of the first element with a tag."""
        element = self.find(tag)
        return None if element is None else self.value(element)


@dataclass(frozen=True)
class Parts:
    """A whole file.

    Attributes:
        raw: its bytes.
        syntax: its transfer syntax.
        meta: the file meta information, group 0002.
        body: the data set; its positions are in the inflated bytes where it is deflated.
        rest: what follows the last element.
    """

    raw: bytes
    syntax: UID
    meta: Part
    body: Part
    rest: bytes

    @property
    def preamble(self) -> bytes:
        """The first 132 bytes, none where the file has no preamble."""
        return self.raw[:132] if self.raw[128:132] == b"DICM" else b""


@dataclass(frozen=True)
class Change:
    """One element that is not the same in both files.

    Attributes:
        path: tags from the data set down to the element.
        items: the item (from 1) of each sequence on the way.
        what: "changed", "added" or "removed".
        old, new: the element in source and release, where it is there.
        before, after: the parts that they lie in.
    """

    path: tuple[int, ...]
    items: tuple[int, ...]
    what: str
    old: Element | None
    new: Element | None
    before: Part
    after: Part

    @property
    def tag(self) -> int:
        """The innermost tag."""
        return self.path[-1]

    @property
    def values(self) -> tuple[bytes, bytes]:
        """The value fields, empty where there is none."""
        return (
            self.before.value(self.old) if self.old else b"",
            self.after.value(self.new) if self.new else b"",
        )

    def __str__(self) -> str:
        steps = [
            f"{named(tag)}, item {item}, " for tag, item in zip(self.path, self.items, strict=False)
        ]
        place = "".join(steps) + named(self.tag)
        if self.old is None or self.new is None:
            return f"{place}: {self.what}"
        position = first_difference(self.before.raw(self.old), self.after.raw(self.new)) or 0
        return f"{byte(self.new.start + position)} in {place}"


def named(tag: int) -> str:
    """A tag with its name in the standard: (0028,0010) Rows."""
    place = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    try:
        return f"{place} {dictionary_description(tag)}"
    except KeyError:
        return place


def data_set(raw: bytes) -> Any:
    """The file as pydicom reads it.

    Raises:
        RefusedFile: it inflates to more than any image has.
    """
    take_apart(raw)  # pydicom would inflate it without a limit
    # Zeros behind the data set would be an element each.
    return read_partial(BytesIO(raw), lambda tag, _vr, _length: tag == 0, force=True)


def take_apart(raw: bytes) -> Parts:
    """Find every element.

    Raises:
        RefusedFile: the bytes are no elements, or end within one.
    """
    start = 132 if raw[128:132] == b"DICM" else 0
    explicit = Coding(implicit=False, little=True)
    meta, stop = _elements(raw, start, len(raw), explicit, meta=True)
    head = Part(raw, explicit, tuple(meta))
    uid = head.value_of(TRANSFER_SYNTAX)
    syntax = UID((uid or b"").decode("latin-1").strip("\0 "))
    content = raw
    if syntax == DeflatedExplicitVRLittleEndian:
        content = raw[:stop] + _inflated(raw[stop:])
    coding = Coding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    if not syntax:  # PS3.5 10.1: the default, unless it can be seen that VRs are there
        coding = Coding(not raw[stop + 4 : stop + 6].isalpha(), little=True)
    body, end = _elements(content, stop, len(content), coding)
    return Parts(raw, syntax, head, Part(content, coding, tuple(body)), content[end:])


def changes(before: Part, after: Part) -> Iterator[Change]:
    """The elements that differ, the innermost ones, in the order of the file."""
    yield from _changes(before, after, (), ())


def is_sequence(part: Part, element: Element) -> bool:
    """Whether a value field holds items: by its VR, or by what it starts with."""
    if element.tag in PIXELS or element.vr in ("OB", "OW"):
        return False
    if element.vr == "SQ":
        return True
    order = "<" if part.coding.little or element.vr == "UN" else ">"
    starts = part.data[element.value : element.value + 4]
    return element.vr in ("", "UN") and starts in (
        _tag_bytes(order, _ITEM),
        _tag_bytes(order, _SEQUENCE_END),
    )


def items(part: Part, element: Element) -> list[Part]:
    """The items of a sequence.

    Raises:
        RefusedFile: they don't fill the value field exactly.
    """
    coding = part.coding
    if element.vr == "UN" and element.undefined:  # PS3.5 6.2.2
        coding = Coding(implicit=True, little=True)
    found: list[Part] = []
    position = element.value
    while position < element.end:
        tag, length = _item_header(part.data, position, coding)
        if tag == _SEQUENCE_END:
            position += 8
            break
        if tag != _ITEM:
            raise RefusedFile(f"an item was expected at {byte(position)} in {named(element.tag)}")
        start = position + 8
        end = element.end if length == _UNDEFINED else start + length
        inside, position = _elements(part.data, start, end, coding)
        found.append(Part(part.data, coding, tuple(inside), start - 8))
        if length != _UNDEFINED and position != end:
            raise RefusedFile(f"an item of {named(element.tag)} is not as long as it says")
    if position != element.end:
        raise RefusedFile(f"the items of {named(element.tag)} end before it does")
    return found


def items_if_any(part: Part, element: Element) -> list[Part]:
    """The items of an element; none where it is no sequence, or only looks like one."""
    if not is_sequence(part, element):
        return []
    try:
        return items(part, element)
    except RefusedFile:
        return []


def every_uid(part: Part) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """The value of each UI element at any depth, with its tags and item numbers."""
    for element in part.elements:
        if is_uid(element):
            yield (element.tag,), part.value(element)
        for item, inner in enumerate(items_if_any(part, element)):
            for path, value in every_uid(inner):
                yield (element.tag, item, *path), value


def is_uid(element: Element) -> bool:
    """Whether an element's VR is UI, or must be where the coding does not say."""
    if element.vr:
        return element.vr == "UI"
    try:
        return dictionary_VR(element.tag) == "UI"
    except KeyError:
        return False


def _changes(
    before: Part, after: Part, path: tuple[int, ...], numbers: tuple[int, ...]
) -> Iterator[Change]:
    def change(what: str, old: Element | None, new: Element | None) -> Change:
        tag = (old or new).tag  # type: ignore[union-attr]
        return Change((*path, tag), numbers, what, old, new, before, after)

    for old, new in _aligned(before.elements, after.elements):
        if old is None or new is None:
            yield change("added" if old is None else "removed", old, new)
        elif before.raw(old) != after.raw(new):
            inside = _inside(before, after, old, new, (*path, old.tag), numbers)
            if inside:
                yield from inside
            else:
                yield change("changed", old, new)


def _inside(
    before: Part,
    after: Part,
    old: Element,
    new: Element,
    path: tuple[int, ...],
    numbers: tuple[int, ...],
) -> list[Change]:
    """What differs within the items; nothing where it is not them alone that differ."""
    if not (is_sequence(before, old) and is_sequence(after, new)):
        return []
    if (old.vr, old.undefined) != (new.vr, new.undefined):
        return []
    try:
        inner, other = items(before, old), items(after, new)
    except RefusedFile:
        return []
    if len(inner) != len(other):
        return []
    return [
        found
        for number, (one, two) in enumerate(zip(inner, other, strict=True), 1)
        for found in _changes(one, two, path, (*numbers, number))
    ]


def _aligned(
    old: tuple[Element, ...], new: tuple[Element, ...]
) -> Iterator[tuple[Element | None, Element | None]]:
    """Elements of the same tag side by side, in the order of both files."""
    left, right = deque(old), deque(new)
    ahead = Counter(element.tag for element in left)
    while left or right:
        if right and not ahead[right[0].tag]:
            yield None, right.popleft()
            continue
        both = bool(left and right) and left[0].tag == right[0].tag
        one = left.popleft()
        ahead[one.tag] -= 1
        yield one, right.popleft() if both else None


def _elements(
    data: bytes, start: int, end: int, coding: Coding, *, meta: bool = False
) -> tuple[list[Element], int]:
    """Elements from `start` on, and where the reading stopped."""
    stream = BytesIO(data)  # shares the bytes
    stream.seek(start)

    def stop_when(tag: int, vr: str | None, _length: int) -> bool:
        header = 12 if not coding.implicit and vr in EXPLICIT_VR_LENGTH_32 else 8
        past = stream.tell() - header >= end or (meta and tag >> 16 != 2)
        return past or tag == 0  # zeros that some writers leave behind the data set

    found: list[Element] = []
    position = start
    reading = data_element_generator(
        stream, coding.implicit, coding.little, stop_when, defer_size=4096
    )
    for element in reading:
        stop = stream.tell()
        if stop > end:
            raise RefusedFile(f"{named(element.tag)} ends behind what holds it: it is truncated")
        value = element.value_tell if isinstance(element, RawDataElement) else element.file_tell
        vr, length = _head(data, position, int(value or 0), coding)
        found.append(
            Element(int(element.tag), vr, position, int(value or 0), stop, length == _UNDEFINED)
        )
        refuse_many(len(found), limits.MOST_PARTS, "elements")
        position = stop
    if meta:
        return found, position
    rest = stream.tell()
    return found, rest if rest - position == 8 else position


def _head(data: bytes, start: int, value: int, coding: Coding) -> tuple[str, int]:
    """VR, empty where it is implicit, and length in an element's header [start, value)."""
    order = "<" if coding.little else ">"
    if coding.implicit:
        return "", unpack_from(f"{order}I", data, start + 4)[0]
    vr = data[start + 4 : start + 6].decode("latin-1")
    if value - start == 12:
        return vr, unpack_from(f"{order}I", data, start + 8)[0]
    return vr, unpack_from(f"{order}H", data, start + 6)[0]


def _item_header(data: bytes, position: int, coding: Coding) -> tuple[int, int]:
    if position + 8 > len(data):
        raise RefusedFile("a sequence ends within the header of an item")
    order = "<" if coding.little else ">"
    group, number, length = unpack_from(f"{order}HHI", data, position)
    return group << 16 | number, length


def _tag_bytes(order: str, tag: int) -> bytes:
    kind = "little" if order == "<" else "big"
    return (tag >> 16).to_bytes(2, kind) + (tag & 0xFFFF).to_bytes(2, kind)  # type: ignore[arg-type]


def _inflated(data: bytes) -> bytes:
    """Raises: RefusedFile: damaged, or more than any image has; found out in little memory."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, data
    try:
        while rest and not inflater.eof:
            size += len(inflater.decompress(rest, _AT_A_TIME))
            rest = inflater.unconsumed_tail
            refuse_bomb(size)
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
    except zlib.error as error:
        raise RefusedFile("its deflated data set is damaged") from error
