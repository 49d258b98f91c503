"""Elements exchanged, taken out and put in at any depth of a DICOM file; every other byte stays.

What changes with them are only the numbers that count bytes: the lengths of the sequences and
items around an edit (PS3.5 7.5) and the Group Length elements (PS3.5 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import pack, unpack
from typing import TYPE_CHECKING, NamedTuple

from medshield.errors import RefusedFile
from medshield.formats.dicom.elements import (
    EXPLICIT_LITTLE,
    LONG_VRS,
    META_GROUP,
    Element,
    Encoding,
    Spot,
    Step,
    named,
)
from medshield.formats.series import concatenated, part_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medshield.formats.dicom.container import DicomFile
    from medshield.formats.series import Content

_LONGEST, _LONGEST_SHORT = 0xFFFFFFFE, 0xFFFE


class _Edit(NamedTuple):
    """The bytes [start, end) become `new`; of two at one place, the lower tag comes first."""

    start: int
    end: int
    tag: int
    new: bytes

    @property
    def growth(self) -> int:
        return len(self.new) - (self.end - self.start)


@dataclass
class Edits:
    """What shall change in one file: gathered first, then made all at once.

    No two may overlap: nothing changes inside a sequence that is itself exchanged or removed.
    """

    file: DicomFile
    _edits: list[_Edit] = field(default_factory=list)
    _growth: dict[tuple[int, bool], int] = field(default_factory=dict)
    """By place and byte order of a 4-byte number: how many bytes more it has to count."""

    def __bool__(self) -> bool:
        return bool(self._edits)

    def encoding(self, tag: int, steps: tuple[Step, ...]) -> Encoding:
        """How an element of the data set at the end of `steps` is written."""
        if steps:
            return steps[-1].item.encoding
        return EXPLICIT_LITTLE if tag >> 16 == META_GROUP else self.file.encoding

    def replace(self, spot: Spot, value: bytes) -> None:
        """Give an element another value, of defined length; its VR stays.

        Raises:
            RefusedFile: a value longer than its length field can say.
        """
        tag, vr = spot.element.tag, spot.element.vr
        self.exchange(spot, encoded(tag, vr, value, self.encoding(tag, spot.steps)))

    def exchange(self, spot: Spot, new: bytes) -> None:
        """Put a whole encoded element in the place of another."""
        element, steps = spot
        self._change(_Edit(element.start, element.end, element.tag, new), steps)

    def remove(self, spot: Spot) -> None:
        """Take a whole element out."""
        self.exchange(spot, b"")

    def insert(self, tag: int, vr: str, value: bytes, steps: tuple[Step, ...] = ()) -> None:
        """Put in an element that the data set at the end of `steps` does not have yet.

        It goes before the first element with a higher tag.
        """
        home = self._home(tag, steps)
        first = steps[-1].item.value if steps else self.file.meta[-1].end
        last = home[-1].end if home else first
        position = next((element.start for element in home if element.tag > tag), last)
        new = encoded(tag, vr, value, self.encoding(tag, steps))
        self._change(_Edit(position, position, tag, new), steps)

    def result(self) -> Content:
        """The file with all edits made."""
        if not self._edits:
            return self.file.raw
        content = self.file.content
        pieces: list[Content] = []
        kept = 0
        for start, end, _, new in sorted([*self._edits, *self._counts()]):
            if start < kept:
                raise ValueError("two edits overlap")
            pieces += part_of(content, kept, start), new
            kept = end
        pieces.append(part_of(content, kept, len(content)))
        in_meta = (edit.growth for edit in self._edits if edit.tag >> 16 == META_GROUP)
        return self.file.stored_form(concatenated(pieces), self.file.meta[-1].end + sum(in_meta))

    def _home(self, tag: int, steps: tuple[Step, ...]) -> tuple[Element, ...]:
        """The elements of the data set at the end of `steps`."""
        if steps:
            return steps[-1].item.elements
        return self.file.meta if tag >> 16 == META_GROUP else self.file.elements

    def _change(self, edit: _Edit, steps: tuple[Step, ...]) -> None:
        """Note an edit, and by how much everything around it grows, from the inside out."""
        self._edits.append(edit)
        tag = edit.tag
        if not edit.growth:
            return
        self._grow_group(tag, steps, edit.growth)
        while steps:
            *outer, (sequence, item) = steps
            steps, tag = tuple(outer), sequence.tag
            if not item.undefined:
                self._grow(item.start + 4, item.encoding, edit.growth)
            if not sequence.undefined:
                self._grow(sequence.value - 4, self.encoding(tag, steps), edit.growth)
            self._grow_group(tag, steps, edit.growth)

    def _grow_group(self, tag: int, steps: tuple[Step, ...], growth: int) -> None:
        """Let the Group Length (gggg,0000) beside an element count on, if there is one."""
        for element in self._home(tag, steps):
            if element.tag == tag >> 16 << 16 and element.end - element.value == 4:
                self._grow(element.value, self.encoding(tag, steps), growth)

    def _grow(self, place: int, encoding: Encoding, growth: int) -> None:
        key = place, encoding.big_endian
        self._growth[key] = self._growth.get(key, 0) + growth

    def _counts(self) -> Iterator[_Edit]:
        for (place, big_endian), growth in self._growth.items():
            order = ">I" if big_endian else "<I"
            (count,) = unpack(order, self.file.content[place : place + 4])
            yield _Edit(place, place + 4, 0, pack(order, (count + growth) % 2**32))


def encoded(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """A whole element of defined length (PS3.5 7.1). An odd value gets a 0; text comes padded.

    Raises:
        RefusedFile: a value longer than its length field can say.
    """
    value += b"\0" * (len(value) % 2)
    order = ">" if encoding.big_endian else "<"
    short = not encoding.implicit and vr not in LONG_VRS
    if len(value) > (_LONGEST_SHORT if short else _LONGEST):
        raise RefusedFile(f"{named(tag)} would be longer than its length field can say")
    head = pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if encoding.implicit:
        return head + pack(f"{order}I", len(value)) + value
    if short:
        return head + vr.encode() + pack(f"{order}H", len(value)) + value
    return head + vr.encode() + pack(f"{order}HI", 0, len(value)) + value


def note(tag: int, verb: str, why: str) -> str:
    """A line for the manifest: (0088,0200) Icon Image Sequence: changed, why."""
    return f"{named(tag)}: {verb}, {why}"
