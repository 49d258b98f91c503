"""Instance UIDs renewed throughout a file, and images marked as derived (PS3.3 C.7.6.1.1.2).

The series and the study of an instance stay, and so does its Frame of Reference: it is another
version of the same picture at the same place. No Source Image Sequence is added: it would name
the clean image, and lead whoever has access to an archive from the release straight to it. It is
optional (type 3) in the General Image module, and the owner finds the clean image in the private
folder's list of UIDs. References that are already there stay, renewed like all others.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR

from medshield.errors import RefusedFile
from medshield.formats.dicom.container import DicomFile
from medshield.formats.dicom.copies import SIGNATURES, without_signatures
from medshield.formats.dicom.directory import with_offsets
from medshield.formats.dicom.edits import Edits, note
from medshield.formats.dicom.elements import Element, Spot, walk
from medshield.formats.dicom.refusals import guarded
from medshield.formats.series import same_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medshield.formats.base import Handling
    from medshield.formats.series import Content

SOP_INSTANCE = 0x00080018
MEDIA_STORAGE_INSTANCE = 0x00020003
_IMAGE_TYPE, _FRAME_TYPE = 0x00080008, 0x00089007
_DERIVATION_DESCRIPTION = 0x00082111
_DERIVATION = b"Perturbed by medshield against training without permission"
_LONGEST_SHORT_TEXT = 1024
_LONGEST_LIST = 0xFFFE
"""Bytes of an element of UIDs, whose length field has two; a longer value is something else."""
# What groups instances or names a kind of thing stays, even where a writer reused one UID for all.
_KEPT = frozenset(
    {
        0x00020002,  # Media Storage SOP Class UID
        0x00020010,  # Transfer Syntax UID
        0x00020012,  # Implementation Class UID
        0x00080016,  # SOP Class UID
        0x00081150,  # Referenced SOP Class UID
        0x0020000D,  # Study Instance UID
        0x0020000E,  # Series Instance UID
        0x00200052,  # Frame of Reference UID
        0x00200200,  # Synchronization Frame of Reference UID
    }
)
RENEWED = "the release's instances have new UIDs"
DERIVED = "an image with a new UID is marked as derived"


def uid_of(secret: bytes) -> str:
    """A UID made from 16 secret bytes that look like a random UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.UUID(bytes=secret, version=4).int}"


@dataclass(frozen=True)
class Identity:
    """Who a DICOM file says it is.

    Attributes:
        uids: its SOP Instance UID; more than one only where the file contradicts itself.
        signed: a digital signature lies somewhere in it.
    """

    uids: tuple[str, ...]
    signed: bool


def identity_of(raw: Content) -> Identity:
    """Read who a file is.

    Raises:
        RefusedFile: it can't be taken apart.
    """
    return guarded(lambda: _identity_of(raw))


def _identity_of(raw: Content) -> Identity:
    file = DicomFile.parse(raw)
    own = [e for e in file.meta if e.tag == MEDIA_STORAGE_INSTANCE]
    own += [e for e in file.elements if e.tag == SOP_INSTANCE]
    found = (_text(element.value_of(file.content)) for element in own)
    signed = any(spot.element.tag in SIGNATURES for spot in walk(file.elements))
    return Identity(tuple(dict.fromkeys(uid for uid in found if uid)), signed)


def with_new_identity(
    raw: Content, uids: Mapping[str, str], handling: Handling, *, derived: bool
) -> tuple[Content, list[str]]:
    """A file with the new UIDs of the release's instances.

    Args:
        raw: the whole file.
        uids: new UIDs by old ones, of every instance of the release.
        handling: of the signatures that this breaks.
        derived: mark it as a derived image.

    Returns:
        The file, and a note for each tag that was changed, added or removed.

    Raises:
        RefusedFile: a digital signature covers a change and must stay.
    """
    return guarded(lambda: _with_new_identity(raw, uids, handling, derived))


def _with_new_identity(
    raw: Content, uids: Mapping[str, str], handling: Handling, derived: bool
) -> tuple[Content, list[str]]:
    source = DicomFile.parse(raw)
    ways = {spot.way for spot, _ in _renewed(source, uids)} | ({()} if derived else set())
    file, unsigned = without_signatures(source, ways, handling)
    edits = Edits(file)
    tags = set()
    for spot, value in _renewed(file, uids):
        edits.replace(spot, value)
        tags.add(spot.element.tag)
    notes = [note(tag, "changed", RENEWED) for tag in sorted(tags)]
    if derived:
        notes += _mark_derived(edits)
    data, moved = with_offsets(source, edits.result())
    _refuse_other_pixels(source, data)
    return data, notes + unsigned + moved


def _refuse_other_pixels(before: DicomFile, data: Content) -> None:
    """See for certain that no pixel was touched, as nobody decodes them again."""
    after = DicomFile.parse(data)
    old, new = (f.pixels.long_value_of(f.content) if f.pixels else b"" for f in (before, after))
    if not same_bytes(old, new):
        raise RefusedFile("its pixels would change with its UID; report this file's kind")


def _renewed(file: DicomFile, uids: Mapping[str, str]) -> Iterator[tuple[Spot, bytes]]:
    """Every element at any depth that names an instance with a new UID, and its new value."""
    for spot in walk((*file.meta, *file.elements)):
        if value := _with_new_uids(spot.element, file.content, uids):
            yield spot, value


def _mark_derived(edits: Edits) -> list[str]:
    """Say that an image is derived, and how: Image Type, Frame Type, Derivation Description."""
    notes: dict[str, None] = {}
    content = edits.file.content
    for spot in walk(edits.file.elements):
        if not _is_type_of_image(spot):
            continue
        first, *others = spot.element.value_of(content).split(b"\\")
        if first.strip() and first.strip() != b"DERIVED":
            edits.replace(spot, _even(b"\\".join([b"DERIVED", *others]).strip()))
            notes[note(spot.element.tag, "changed", DERIVED)] = None
    top = {element.tag: element for element in edits.file.elements}
    if _IMAGE_TYPE not in top or not top[_IMAGE_TYPE].value_of(content).strip():
        # It comes from no examination by itself, as far as the file says.
        _set(edits, top.get(_IMAGE_TYPE), _IMAGE_TYPE, "CS", rb"DERIVED\SECONDARY", notes)
    known = top.get(_DERIVATION_DESCRIPTION)
    earlier = known.value_of(content).strip(b"\0 ") if known else b""
    text = earlier + b"; " + _DERIVATION if earlier else _DERIVATION
    text = _DERIVATION if len(text) >= _LONGEST_SHORT_TEXT else text
    _set(edits, known, _DERIVATION_DESCRIPTION, "ST", text, notes)
    return list(notes)


def _is_type_of_image(spot: Spot) -> bool:
    """Image Type at the top level, or a Frame Type in a functional group (PS3.3 C.8.16.1)."""
    tag = spot.element.tag
    return (tag == _IMAGE_TYPE and not spot.steps) or (tag == _FRAME_TYPE and bool(spot.steps))


def _set(
    edits: Edits, known: Element | None, tag: int, vr: str, value: bytes, notes: dict[str, None]
) -> None:
    """Give a top-level element of text a value, whether the file has it or not."""
    value = _even(value)
    if known is None:
        edits.insert(tag, vr, value)
    else:
        edits.replace(Spot(known, ()), value)
    notes[note(tag, "changed" if known else "added", DERIVED)] = None


def _even(text: bytes) -> bytes:
    return text + b" " * (len(text) % 2)


def _with_new_uids(element: Element, content: Content, uids: Mapping[str, str]) -> bytes | None:
    """The value with new UIDs in place of old ones, or None where there are none in it."""
    if element.tag in _KEPT or element.items or element.undefined or not _may_be_uid(element):
        return None
    if element.end - element.value > _LONGEST_LIST:
        return None
    parts = [_text(part) for part in element.value_of(content).split(b"\\")]
    if not any(part in uids for part in parts):
        return None
    return "\\".join(uids.get(part, part) for part in parts).encode("latin-1")


def _may_be_uid(element: Element) -> bool:
    """Whether a value may be UIDs: by its VR, by the dictionary, or because nobody says."""
    if element.vr == "UI":
        return True
    if element.vr not in ("", "UN"):
        return False
    try:
        return str(dictionary_VR(element.tag)) == "UI"
    except KeyError:
        return True


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
