"""What may differ between a DICOM file and its release, and to which value alone."""

from __future__ import annotations

import re
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medshield.audit.dicom_parts import (
    PIXELS,
    TRANSFER_SYNTAX,
    Change,
    is_uid,
    items_if_any,
    named,
)
from medshield.audit.dicom_pixels import coded_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from medshield.audit.base import Allowed
    from medshield.audit.dicom_parts import Part, Parts

_PHOTOMETRIC, _PLANAR, _LOSSY = 0x00280004, 0x00280006, 0x00282110
_IMAGE_TYPE, _FRAME_TYPE, _DERIVATION = 0x00080008, 0x00089007, 0x00082111
_INSTANCE = 0x00080018
_ICONS = 0x00880200
_SIGNATURES = frozenset({0x4FFE0001, 0xFFFAFFFA})
_RECORDS = 0x00041220
_PLACES = frozenset({0x00041200, 0x00041202, 0x00041400, 0x00041420, 0x00041504})
NOT_RENEWED = frozenset(
    {0x00020002, 0x00020010, 0x00020012, 0x00080016, 0x00081150}
    | {0x0020000D, 0x0020000E, 0x00200052, 0x00200200}
)
"""UIDs of classes, of software, and of what instances belong to: they stay."""
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002
_DERIVED_BY = b"Perturbed by medshield against training without permission"
_UID = re.compile(rb"[0-9.]{1,64}")
_STANDARD = b"1.2.840.10008."
_NOTED = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)")
_LOSSLESS = frozenset(
    {RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless}
    | {JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
)


class Rules:
    """Judges the differences of one file.

    Args:
        before, after: source and release, taken apart.
        clean, released: the same as pydicom's data sets.
        allowed: what the release says that it changed.
    """

    def __init__(
        self, before: Parts, after: Parts, clean: Any, released: Any, allowed: Allowed
    ) -> None:
        self._before, self._after = before, after
        self._clean, self._released = clean, released
        self._allowed = allowed
        found = (_NOTED.match(note) for note in allowed.notes)
        self._noted = {int(match[1] + match[2], 16) for match in found if match}
        self._kept: set[int] = set()
        self._recoded = after.syntax == ExplicitVRLittleEndian and _is_coded(before)

    def allow(self, change: Change) -> bool:
        """Whether a difference is one that the release declares, with the only value for it."""
        if change.tag & 0xFFFF == 0 and change.what == "changed":
            self._kept.add(change.tag)
            return _counts(change)
        noted = self._noted & set(change.path)
        rules: tuple[Callable[[Change], bool], ...] = (
            self._is_coding,
            self._is_offsets,
            self._is_icon,
            self._is_signature,
            self._is_renewed,
            self._is_derivation,
            self._is_place_in_directory,
        )
        if not noted or not any(rule(change) for rule in rules):
            return False
        self._kept |= set(change.path)
        return True

    def unkept(self) -> Iterator[str]:
        """What the release says that it did, and did not."""
        for tag in sorted(self._noted - self._kept - PIXELS):
            yield f"{named(tag)}: the manifest says that it changed, and it did not"
        if self._recoded and is_lossy(self._before.syntax, self._clean):
            said = self._after.body.value_of(_LOSSY)
            if said != b"01":
                yield f"{named(_LOSSY)}: does not say that its pixels were compressed with loss"
        for tag in sorted(_SIGNATURES):
            changed = self._allowed.pixels or self._kept  # a signed report is copied as it is
            if changed and self._after.body.find(tag):
                yield f"{named(tag)}: signs pixels that are no longer there"
        own = self._before.body.value_of(_INSTANCE)
        if self._allowed.uid == "new" and own and own == self._after.body.value_of(_INSTANCE):
            yield f"{named(_INSTANCE)}: is not new"
        yield from self._icons()

    def _icons(self) -> Iterator[str]:
        """Small pictures of the clean image that are still there."""
        old = dict(_inner_pixels(self._before.body))
        for place, value in _inner_pixels(self._after.body):
            if old.get(place) == value and not _is_flat(value):
                yield f"{place}: still shows the clean image"

    def _is_coding(self, change: Change) -> bool:
        """What decoding to Explicit VR Little Endian makes necessary (PS3.5 8.2, PS3.3 C.7.6)."""
        if not self._recoded or len(change.path) > 1 or change.new is None:
            return False
        lossy = is_lossy(self._before.syntax, self._clean)
        colour = int(self._clean.SamplesPerPixel) == 3
        uid = ExplicitVRLittleEndian.encode()
        wanted = {TRANSFER_SYNTAX: _short(TRANSFER_SYNTAX, b"UI", uid + b"\0" * (len(uid) % 2))}
        if lossy:
            wanted[_LOSSY] = _short(_LOSSY, b"CS", b"01")
        if colour:
            wanted[_PHOTOMETRIC] = _short(_PHOTOMETRIC, b"CS", b"RGB ")
            wanted[_PLANAR] = _short(_PLANAR, b"US", pack("<H", 0))
        return change.after.raw(change.new) == wanted.get(change.tag)

    def _is_offsets(self, change: Change) -> bool:
        """An Extended Offset Table that says where the new frames are (PS3.3 C.7.6.3.1.8)."""
        if change.path not in ((_OFFSETS,), (_LENGTHS,)) or change.what == "added":
            return False
        if change.new is None:
            return self._recoded
        numbers = [
            number
            for (number,) in (
                unpack_from("<Q", change.values[1], at) for at in range(0, len(change.values[1]), 8)
            )
        ]
        frames = coded_frames(self._released)
        if change.tag == _LENGTHS:
            return len(numbers) == len(frames) and all(
                len(frame) - 1 <= number <= len(frame)
                for number, frame in zip(numbers, frames, strict=True)
            )
        sizes = [8 + len(frame) + len(frame) % 2 for frame in frames]
        return numbers == [sum(sizes[:number]) for number in range(len(sizes))]

    def _is_icon(self, change: Change) -> bool:
        """A small picture made anew, or taken out with its sequence."""
        if _ICONS not in change.path:
            return False
        if self._allowed.icons == "remove":
            return change.tag == _ICONS and change.what == "removed"
        if self._allowed.icons != "regenerate" or change.old is None or change.new is None:
            return False
        if change.tag in PIXELS:
            same_form = change.old.undefined == change.new.undefined
            sizes = {len(value) for value in change.values}
            return change.old.undefined or (same_form and len(sizes) == 1)
        # A lossy icon is no longer coded (PS3.5 A.4), and says so.
        return change.values[1] == {_PHOTOMETRIC: b"RGB ", _PLANAR: b"\0\0"}.get(change.tag)

    def _is_signature(self, change: Change) -> bool:
        removed = change.what == "removed" and change.tag in _SIGNATURES
        return self._allowed.drop_signatures and removed

    def _is_renewed(self, change: Change) -> bool:
        """Another UID of the same kind; whether all agree is seen over the whole release."""
        if self._allowed.uid != "new" or change.old is None or change.new is None:
            return False
        if change.tag in NOT_RENEWED or not (is_uid(change.old) or change.old.vr in ("", "UN")):
            return False
        old, new = (value.rstrip(b"\0 ").split(b"\\") for value in change.values)
        return (
            old != new
            and len(old) == len(new)
            and all(
                one == two or (_may_be_renewed(one) and _UID.fullmatch(two))
                for one, two in zip(old, new, strict=True)
            )
        )

    def _is_place_in_directory(self, change: Change) -> bool:
        """A DICOMDIR's offset that leads to the record that it led to before (PS3.3 F.3.2.2)."""
        if change.tag not in _PLACES or {len(value) for value in change.values} != {4}:
            return False
        order = "<I" if change.after.coding.little else ">I"
        was, now = (unpack_from(order, value)[0] for value in change.values)
        starts = (_record_starts(part.body) for part in (self._before, self._after))
        return (was, now) in set(zip(*starts, strict=False))

    def _is_derivation(self, change: Change) -> bool:
        """An image with a new UID says that it is derived (PS3.3 C.7.6.1.1.2 and .3)."""
        if self._allowed.uid != "new" or change.new is None:
            return False
        old, new = (value.strip(b"\0 ") for value in change.values)
        if change.path == (_DERIVATION,):
            return new in (_DERIVED_BY, old + b"; " + _DERIVED_BY)
        if change.path == (_IMAGE_TYPE,) and not old:
            return new == rb"DERIVED\SECONDARY"
        if change.path == (_IMAGE_TYPE,) or (change.tag == _FRAME_TYPE and len(change.path) > 1):
            return new == b"\\".join([b"DERIVED", *old.split(b"\\")[1:]])
        return False


def _is_coded(parts: Parts) -> bool:
    return bool(parts.syntax.is_transfer_syntax and parts.syntax.is_encapsulated)


def is_lossy(syntax: UID, dataset: Any) -> bool:
    """Whether a coded image is not exactly what was coded."""
    if syntax in (JPEG2000, HTJ2K):
        return not all(_is_reversible(frame) for frame in coded_frames(dataset))
    if syntax == JPEGLSNearLossless:
        return any(_nearness(frame) for frame in coded_frames(dataset))
    return syntax.is_encapsulated and syntax not in _LOSSLESS


def _is_reversible(frame: bytes) -> bool:
    """Whether every COD and COC segment chooses the 5-3 filter (ISO/IEC 15444-1 A.6.1, A.6.2)."""
    at = frame.index(b"\xff\x4f") + 2
    while frame[at : at + 2] != b"\xff\x90" and at + 4 <= len(frame):  # SOT ends the main header
        if frame[at : at + 2] == b"\xff\x52" and frame[at + 13] != 1:
            return False
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return True


def _nearness(frame: bytes) -> int:
    """NEAR of the first scan (ISO/IEC 14495-1 C.2.3)."""
    at = frame.index(b"\xff\xda")
    return frame[at + 5 + 2 * frame[at + 4]]


def _counts(change: Change) -> bool:
    """Whether a Group Length grew by as much as its group did (PS3.5 7.2)."""
    old, new = change.old, change.new
    if old is None or new is None or len(change.values[0]) != 4 or len(change.values[1]) != 4:
        return False
    order = "<I" if change.after.coding.little or change.tag == 0x00020000 else ">I"
    was, now = (unpack_from(order, value)[0] for value in change.values)
    sizes = (_size(part, change.tag) for part in (change.after, change.before))
    return bool((now - was - next(sizes) + next(sizes)) % 2**32 == 0)


def _size(part: Part, tag: int) -> int:
    return sum(e.end - e.start for e in part.elements if e.tag >> 16 == tag >> 16)


def _inner_pixels(part: Part, place: str = "") -> Iterator[tuple[str, bytes]]:
    """Pixel Data within sequences, with where it is."""
    for element in part.elements:
        if place and element.tag in PIXELS:
            yield f"{place}{named(element.tag)}", part.value(element)
        for number, item in enumerate(items_if_any(part, element), 1):
            yield from _inner_pixels(item, f"{place}{named(element.tag)}, item {number}, ")


def _is_flat(value: bytes) -> bool:
    """Whether uncoded pixels are all the same, and so show nothing."""
    return any(value == value[:size] * (len(value) // size) for size in (1, 2, 3, 6))


def _record_starts(part: Part) -> list[int]:
    found = part.find(_RECORDS)
    return [item.start for item in items_if_any(part, found)] if found else []


def _may_be_renewed(uid: bytes) -> bool:
    """Whether a UID is one that somebody made, and none of the standard's own."""
    return bool(_UID.fullmatch(uid)) and not uid.startswith(_STANDARD)


def _short(tag: int, vr: bytes, value: bytes) -> bytes:
    """A whole element in Explicit VR Little Endian with a length of two bytes (PS3.5 7.1.2)."""
    return pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
