"""DICOMDIR: a directory of files whose records point to each other by their bytes (PS3.3 F.3).

The records are items of one sequence. A record says where the next one and the first one below it
start, in bytes from the start of the file; when anything in the file becomes longer or shorter,
those numbers change with it.
"""

from __future__ import annotations

from struct import pack, unpack
from typing import TYPE_CHECKING, NamedTuple

from medshield.formats.dicom.container import DicomFile
from medshield.formats.dicom.edits import Edits, note
from medshield.formats.dicom.elements import Item, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medshield.formats.series import Content

_RECORDS = 0x00041220
_OFFSETS = frozenset(
    {
        0x00041200,  # of the First Directory Record of the Root Directory Entity
        0x00041202,  # of the Last Directory Record of the Root Directory Entity
        0x00041400,  # of the Next Directory Record
        0x00041420,  # of Referenced Lower-Level Directory Entity
        0x00041504,  # MRDR Directory Record Offset (retired)
    }
)
_FILE_ID = 0x00041500
_INSTANCE_IN_FILE = 0x00041511
_INSTANCE = 0x00081155
MOVED = "the records lie elsewhere"


class Reference(NamedTuple):
    """What an item says that it speaks of.

    Attributes:
        path: parts of the file's name below the directory's folder; empty where none is given.
        instance: SOP Instance UID, or empty.
    """

    path: tuple[str, ...]
    instance: str


def reference_of(file: DicomFile, item: Item) -> Reference:
    """The file or the instance that a directory's record, or any other item, refers to."""
    values = {element.tag: element.value_of(file.content) for element in item.elements}
    path = _text(values.get(_FILE_ID, b""))
    instance = values.get(_INSTANCE_IN_FILE) or values.get(_INSTANCE) or b""
    return Reference(tuple(part.strip() for part in path.split("\\") if part), _text(instance))


def listed(file: DicomFile) -> Iterator[Reference]:
    """The files that a directory lists."""
    for item in _records(file):
        reference = reference_of(file, item)
        if reference.path:
            yield reference


def with_offsets(before: DicomFile, after: Content) -> tuple[Content, list[str]]:
    """A directory whose records point to each other again.

    Args:
        before: the directory as it was, with right offsets.
        after: the same records in the same order, of other lengths.

    Returns:
        The directory, and a note for each tag that changed. An offset that pointed to no record
        stays as it is. Any other file is given back as it is.
    """
    places = [item.start for item in _records(before)]
    if not places or after is before.raw:
        return after, []
    file = DicomFile.parse(after)
    now = dict(zip(places, (item.start for item in _records(file)), strict=True))
    edits = Edits(file)
    tags = set()
    for spot in walk(file.elements):
        element = spot.element
        if element.tag not in _OFFSETS or element.end - element.value != 4:
            continue
        order = ">I" if edits.encoding(element.tag, spot.steps).big_endian else "<I"
        (offset,) = unpack(order, element.value_of(file.content))
        if now.get(offset, offset) != offset:
            edits.replace(spot, pack(order, now[offset]))
            tags.add(element.tag)
    return edits.result(), [note(tag, "changed", MOVED) for tag in sorted(tags)]


def _records(file: DicomFile) -> tuple[Item, ...]:
    return next((element.items for element in file.elements if element.tag == _RECORDS), ())


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
