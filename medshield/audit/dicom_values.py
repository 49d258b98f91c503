"""What lies in Pixel Data and is no pixel: its header, offsets, padding, and unused bits."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.uid import RLELossless

from medshield.audit.base import byte, first_difference
from medshield.audit.dicom_parts import PIXELS, named
from medshield.audit.dicom_pixels import rle_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medshield.audit.dicom_parts import Element, Parts

_PIXEL_DATA = 0x7FE00010


def around_the_pixels(before: Parts, after: Parts, clean: Any, released: Any) -> Iterator[str]:
    """What differs in the element with the image beside the pixels themselves.

    Args:
        before: the source, taken apart.
        after: the release, taken apart.
        clean: the source as pydicom's data set.
        released: the release as pydicom's data set.
    """
    old, new = _pixels(before), _pixels(after)
    place = f"{byte(new.start)} in {named(new.tag)}"
    if before.syntax == after.syntax:
        head = new.value - new.start - (0 if new.undefined else 4)
        if before.body.raw(old)[:head] != after.body.raw(new)[:head]:
            yield f"{place}: its value representation or kind of length"
        elif old.undefined != new.undefined:
            yield f"{place}: the form of its length"
        elif not new.undefined:
            yield from _native(before, after, clean)
        else:
            yield from _offsets(before, after)
            yield from _delimiter(before, after)
            if after.syntax == RLELossless:
                yield from _coded_bits(new, clean, released)
    else:
        yield from _decoded(after, released)


def _native(before: Parts, after: Parts, clean: Any) -> Iterator[str]:
    old, new = _pixels(before), _pixels(after)
    values = before.body.value(old), after.body.value(new)
    if len(values[0]) != len(values[1]):
        yield f"{byte(new.start)} in {named(new.tag)}: its length"
        return
    if before.body.coding.little is False and new.vr == "OW" and int(clean.BitsAllocated) == 8:
        swapped = [np.frombuffer(value, "u2").byteswap().tobytes() for value in values]
        values = swapped[0], swapped[1]
    size = _size_of(clean)
    position = first_difference(values[0][size:], values[1][size:])
    if position is not None:
        yield f"{byte(new.value + size + position)} in {named(new.tag)}, behind the last pixel"
    if new.tag == _PIXEL_DATA and int(clean.BitsAllocated) in (16, 32, 64):
        order = "<" if before.body.coding.little else ">"
        kind = np.dtype(f"{order}u{int(clean.BitsAllocated) // 8}")
        words = [np.frombuffer(value[:size], kind) for value in values]
        number = _first_unused(words[0], words[1], clean)
        if number is not None:
            where = byte(new.value + number * kind.itemsize)
            yield f"{where} in {named(new.tag)}, in the bits above Bits Stored"


def _coded_bits(new: Element, clean: Any, released: Any) -> Iterator[str]:
    words = [np.stack(rle_words(dataset)).ravel() for dataset in (clean, released)]
    number = _first_unused(words[0], words[1], clean)
    if number is not None:
        yield f"{named(new.tag)}, in the bits above Bits Stored of sample {number:,}"


def _first_unused(old: NDArray[Any], new: NDArray[Any], clean: Any) -> int | None:
    """The first word whose unused bits differ, other than as copies of the sign."""
    stored, signed = int(clean.BitsStored), bool(clean.PixelRepresentation)
    unused = int(clean.BitsAllocated) - stored
    if unused <= 0 or old.size != new.size:
        return None
    if signed and _extends_sign(old, unused) and _extends_sign(new, unused):
        return None
    differing = np.flatnonzero((old >> stored) != (new >> stored))
    return int(differing[0]) if differing.size else None


def _extends_sign(words: NDArray[Any], unused: int) -> bool:
    signed = words.astype(f"i{words.itemsize}")
    return np.array_equal(signed << unused >> unused, signed)


def _offsets(before: Parts, after: Parts) -> Iterator[str]:
    """The Basic Offset Table (PS3.5 A.4): empty as before, or the offsets that there are."""
    new = _pixels(after)
    tables = []
    for part in (before, after):
        value = part.body.value(_pixels(part))
        (length,) = unpack_from("<I", value, 4)
        tables.append(value[8 : 8 + length])
    if bool(tables[0]) != bool(tables[1]):
        yield f"{byte(new.value)} in {named(new.tag)}: whether it has a Basic Offset Table"
    if tables[1]:
        said = [unpack_from("<I", tables[1], at)[0] for at in range(0, len(tables[1]), 4)]
        starts = _fragments(after.body.value(new)[8 + len(tables[1]) :])
        if said != starts and not set(said) <= set(starts):
            yield f"{byte(new.value + 8)} in {named(new.tag)}: a wrong Basic Offset Table"


def _delimiter(before: Parts, after: Parts) -> Iterator[str]:
    """The Sequence Delimitation Item that ends the fragments (PS3.5 A.4)."""
    new = _pixels(after)
    ends = [part.body.value(_pixels(part))[-8:] for part in (before, after)]
    position = first_difference(*ends)
    if position is not None:
        yield f"{byte(new.end - 8 + position)} in {named(new.tag)}, in its end"


def _fragments(value: bytes) -> list[int]:
    starts, at = [], 0
    while at + 8 <= len(value) and value[at : at + 4] == b"\xfe\xff\0\xe0":
        starts.append(at)
        at += 8 + unpack_from("<I", value, at + 4)[0]
    return starts


def _decoded(after: Parts, released: Any) -> Iterator[str]:
    """Pixels that are no longer coded: as long as the header says, padded with 0 (PS3.5 8.1.1)."""
    new = _pixels(after)
    size = _size_of(released)
    value = after.body.value(new)
    vr = b"OW" if int(released.BitsAllocated) > 8 else b"OB"
    if after.body.raw(new)[4:8] != vr + b"\0\0" or new.undefined:
        yield f"{byte(new.start)} in {named(new.tag)}: its value representation"
    if len(value) != size + size % 2 or any(value[size:]):
        yield f"{byte(new.start)} in {named(new.tag)}: its length, or the byte that pads it"
    if new.tag == _PIXEL_DATA and int(released.BitsAllocated) > 8:
        words = np.frombuffer(value[:size], f"<u{int(released.BitsAllocated) // 8}")
        stored = int(released.BitsStored)
        signed = released.PixelRepresentation and _extends_sign(
            words, int(released.BitsAllocated) - stored
        )
        if stored < int(released.BitsAllocated) and np.any(words >> stored) and not signed:
            yield f"{named(new.tag)}, in the bits above Bits Stored"


def _pixels(part: Parts) -> Element:
    return next(element for element in part.body.elements if element.tag in PIXELS)


def _size_of(dataset: Any) -> int:
    """Bytes of uncoded pixels; native 4:2:2 halves the chroma (PS3.3 C.7.6.3.1.2)."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.SamplesPerPixel)
    bits = frames * int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits // 3 * 2
    return (bits + 7) // 8
