"""Where two DICOM files differ outside their pixels, element by element and never by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from medshield.errors import RefusedFile
from medshield.formats.dicom_codecs import may_be_lossy
from medshield.formats.dicom_container import TRANSFER_SYNTAX, DicomFile
from medshield.formats.dicom_elements import (
    PIXEL_DATA,
    PIXEL_TAGS,
    PREAMBLE_END,
    Element,
    named,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006
LOSSY_IMAGE_COMPRESSION = 0x00282110
_BITS_ALLOCATED = 0x00280100
_BITS_STORED = 0x00280101
_PIXEL_REPRESENTATION = 0x00280103

# What decoding a lossy file makes necessary, and the only values that it may bring.
_NECESSARY = {
    TRANSFER_SYNTAX: None,
    PHOTOMETRIC: b"RGB ",
    PLANAR: b"\0\0",
    LOSSY_IMAGE_COMPRESSION: b"01",
}


def differing(source: bytes, released: bytes) -> list[str]:
    """The places outside the pixels where two files differ.

    Args:
        source: the whole file that was protected.
        released: the whole file that was written.

    Returns:
        One line a place, such as "(0028,0103) Pixel Representation: differs"; empty where
        nothing but pixels was changed.
    """
    files = []
    for name, data in (("source", source), ("released file", released)):
        try:
            files.append(DicomFile.parse(data))
        except RefusedFile as error:
            return [f"the {name} can't be read: {error}"]
    before, after = files
    decoded = may_be_lossy(before.syntax) and after.syntax == ExplicitVRLittleEndian
    return [
        *_preamble(before.raw, after.raw),
        *_elements(before, before.meta, after, after.meta, decoded),
        *_elements(before, before.elements, after, after.elements, decoded),
        *_after_the_last(before, after),
        *_around_the_pixels(before, after),
    ]


def _preamble(before: bytes, after: bytes) -> Iterator[str]:
    for position in range(PREAMBLE_END):
        if before[position] != after[position]:
            yield f"byte {position}: differs in the preamble"


def _elements(
    before: DicomFile,
    old: tuple[Element, ...],
    after: DicomFile,
    new: tuple[Element, ...],
    decoded: bool,
) -> Iterator[str]:
    known = {element.tag: element for element in old}
    written = {element.tag: element for element in new}
    for tag in sorted(known.keys() | written.keys()):
        if tag in PIXEL_TAGS and tag in known and tag in written:
            continue
        necessary = decoded and tag in written and _is_necessary(written[tag], after.content)
        counts_on = tag & 0xFFFF == 0 and _counts_on(before, old, after, new, tag)
        if necessary or counts_on:
            continue
        if tag not in written:
            yield f"{named(tag)}: missing"
        elif tag not in known:
            yield f"{named(tag)}: added"
        elif known[tag].bytes_of(before.content) != written[tag].bytes_of(after.content):
            yield f"{named(tag)}: differs"
    kept = [element.tag for element in new if element.tag in known]
    if kept != [element.tag for element in old if element.tag in written]:
        yield f"the elements after {named(old[0].tag)} come in another order"


def _is_necessary(element: Element, content: bytes) -> bool:
    if element.tag not in _NECESSARY:
        return False
    expected = _NECESSARY[element.tag]
    return expected is None or element.value_of(content) == expected


def _counts_on(
    before: DicomFile,
    old: tuple[Element, ...],
    after: DicomFile,
    new: tuple[Element, ...],
    tag: int,
) -> bool:
    """Whether both files have this Group Length, and it counts as many bytes more as there are."""
    counted, sizes = [], []
    for file, elements in ((before, old), (after, new)):
        group = {element.tag: element for element in elements if element.tag >> 16 == tag >> 16}
        if tag not in group:
            return False
        value = group[tag].value_of(file.content)
        big_endian = file.encoding.big_endian and tag >> 16 != 2
        counted.append(int.from_bytes(value, "big" if big_endian else "little"))
        sizes.append(sum(element.end - element.start for element in group.values()))
    return (counted[1] - counted[0] - sizes[1] + sizes[0]) % 2**32 == 0


def _after_the_last(before: DicomFile, after: DicomFile) -> Iterator[str]:
    ends = [file.content[(*file.meta, *file.elements)[-1].end :] for file in (before, after)]
    if ends[0] != ends[1]:
        yield "the bytes after the last element differ"


def _around_the_pixels(before: DicomFile, after: DicomFile) -> Iterator[str]:
    """Pixel Data's header, and the bits and bytes of an uncoded value that are no pixels."""
    old, new = before.pixels, after.pixels
    if old is None or new is None or before.syntax != after.syntax:
        return
    if (old.vr, old.undefined) != (new.vr, new.undefined):
        yield f"{named(old.tag)}: its value representation or form of length differs"
    if old.undefined or new.undefined or old.tag != PIXEL_DATA:
        return
    if old.end - old.value != new.end - new.value:
        yield f"{named(old.tag)}: its length differs"
    elif _unused_bits_differ(before, after):
        yield f"{named(old.tag)}: bits above Bits Stored differ"


def _unused_bits_differ(before: DicomFile, after: DicomFile) -> bool:
    """Whether bits above Bits Stored differ, other than as copies of the sign."""
    allocated, stored, signed = (
        _number(before, tag) for tag in (_BITS_ALLOCATED, _BITS_STORED, _PIXEL_REPRESENTATION)
    )
    if allocated not in (16, 32) or stored >= allocated:
        return False
    order = ">" if before.encoding.big_endian else "<"
    kind = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    old, new = (np.frombuffer(file.value(PIXEL_DATA) or b"", kind) for file in (before, after))
    unused = allocated - stored
    if signed and all(np.array_equal(v << unused >> unused, v) for v in (old, new)):
        return False
    return not np.array_equal(old >> stored, new >> stored)


def _number(file: DicomFile, tag: int) -> int:
    value = file.value(tag) or b"\0\0"
    return int.from_bytes(value[:2], "big" if file.encoding.big_endian else "little")
