"""DICOM: pydicom's pixels and pydicom's elements, each byte outside the pixels compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from medshield.audit.base import Allowed, AuditedImage, byte, first_difference, whole_file
from medshield.audit.dicom_parts import PIXELS, changes, data_set, every_uid, take_apart
from medshield.audit.dicom_pixels import audited
from medshield.audit.dicom_rules import NOT_RENEWED, Rules
from medshield.audit.dicom_values import around_the_pixels
from medshield.errors import MedshieldError, RefusedFile

if TYPE_CHECKING:
    from pathlib import Path

    from medshield.audit.dicom_parts import Parts

_Result = TypeVar("_Result")
_ELEMENTS_THAT_START_A_FILE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0")


class DicomAuditor:
    """DICOM files as pydicom reads them."""

    name = "dicom"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By "DICM" behind the preamble, or by an element that only DICOM starts with."""
        return head[128:132] == b"DICM" or head[:4] in _ELEMENTS_THAT_START_A_FILE

    def read(self, path: Path) -> AuditedImage:
        """See `Auditor.read`."""
        return _guarded(lambda: audited(data_set(whole_file(path))))

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """See `Auditor.differences`."""
        raw, other = whole_file(source), whole_file(released)
        yield from _guarded(lambda: list(_differences(raw, other, allowed)))


def _differences(raw: bytes, other: bytes, allowed: Allowed) -> Iterator[str]:
    before, after = take_apart(raw), take_apart(other)
    position = first_difference(before.preamble, after.preamble)
    if position is not None:
        yield f"{byte(position)} in the preamble"
    clean, again = data_set(raw), data_set(other)
    rules = Rules(before, after, clean, again, allowed)
    if allowed.uid == "new" and allowed.uids is not None:
        _tell_uids(before, after, allowed.uids)
    for part, twin in ((before.meta, after.meta), (before.body, after.body)):
        for change in changes(part, twin):
            pixels = len(change.path) == 1 and change.tag in PIXELS and change.what == "changed"
            if pixels and allowed.pixels:
                yield from around_the_pixels(before, after, clean, again)
            elif not rules.allow(change):
                yield str(change)
    yield from rules.unkept()
    position = first_difference(before.rest, after.rest)
    if position is not None:
        start = len(after.body.data) - len(after.rest)
        yield f"{byte(start + position)}, behind the last element"


def _tell_uids(before: Parts, after: Parts, tell: Callable[[bytes, bytes], None]) -> None:
    for old, new in ((before.meta, after.meta), (before.body, after.body)):
        found = dict(every_uid(new))
        for place, value in every_uid(old):
            if place in found and place[-1] not in NOT_RENEWED:
                tell(value.rstrip(b"\0 "), found[place].rstrip(b"\0 "))


def _guarded(work: Callable[[], _Result]) -> _Result:
    """Do it; what a library says of a damaged file may quote it, so that is left out."""
    try:
        return work()
    except (MedshieldError, MemoryError):
        raise
    except Exception as error:
        raise RefusedFile(f"no established reader decodes it ({type(error).__name__})") from error
