"""What a coded frame says of itself: JPEG, JPEG-LS (ISO/IEC 10918-1, 14495-1) and JPEG 2000.

A frame is coded anew in the form that the source's frame has, so that every reader treats both
alike: what it makes of odd precisions, signs and component names, it makes of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import error as struct_error
from struct import unpack_from
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

_JPEG_START = b"\xff\xd8"
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_COD, _START_OF_TILE = 0xFF52, 0xFF90
_START_OF_SCAN, _LS_FRAME = 0xFFDA, 0xFFF7
_WITHOUT_LOSS = (0xFFC3, _LS_FRAME)
_SCAN = b"\xff\xda"
_FILL = 0xFF
_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC} | {_LS_FRAME}
_JFIF, _ADOBE, _COMMENT = 0xFFE0, 0xFFEE, 0xFFFE
_APPLICATIONS = range(0xFFE0, 0xFFF0)


@dataclass(frozen=True)
class Codestream:
    """One coded frame.

    Attributes:
        rows, columns, components: its size.
        precision: bits of a sample.
        signed: whether its samples are signed; JPEG 2000 alone knows.
        reversible: JPEG-LS and JPEG 2000: it gives back what went in.
        mixes_colours: JPEG 2000: its components went through a colour transform.
        interleave: JPEG-LS: components by plane (0), by line (1) or by sample (2).
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    reversible: bool = True
    mixes_colours: bool = False
    interleave: int = 0


def read_codestream(frame: bytes) -> Codestream:
    """Read the headers of one frame.

    Raises:
        RefusedFile: it is none of these codings, or ends in its headers.
    """
    try:
        if frame[:2] == _JPEG_START:
            return _jpeg(frame)
        return _jpeg_2000(frame)
    except (IndexError, ValueError, StopIteration, struct_error) as error:
        raise RefusedFile(
            "a coded frame does not start with the headers of its coding: it is damaged, or coded "
            "in another way than the transfer syntax says; check it with a DICOM viewer"
        ) from error


def dressed_as(frame: bytes, source: bytes) -> bytes:
    """A JPEG or JPEG-LS frame with the component names and the colour marks of another one.

    JPEG 2000 has none, and a frame of it is given back as it is.

    Readers tell RGB from YBR by those names, by a JFIF and by an Adobe segment, so that they have
    to stay. Other application data is left out: it may hold a thumbnail.
    """
    if frame[:2] != _JPEG_START:
        return frame
    theirs, ours = list(_segments(source)), list(_segments(frame))
    marks = [source[a:b] for marker, a, b in theirs if _says_colours(marker, source[a:b])]
    dressed = bytearray(_JPEG_START + b"".join(marks))
    names = dict(zip(_names(frame, ours), _names(source, theirs), strict=True))
    for marker, start, end in ours:
        if marker in _APPLICATIONS or marker in (_COMMENT, _START_OF_SCAN):
            continue
        segment = bytearray(frame[start:end])
        if marker in _FRAMES:
            segment[10::3] = bytes(names[name] for name in segment[10::3])
        dressed += segment
    scans = bytearray(frame[ours[-1][1] :])
    place = scans.find(_SCAN)
    while place >= 0:  # no coded byte of FF is followed by one over 7F, so this is a header
        for name in range(place + 5, place + 5 + 2 * scans[place + 4], 2):
            scans[name] = names[scans[name]]
        place = scans.find(_SCAN, place + 2)
    return bytes(dressed + scans)


def with_precision(frame: bytes, precision: int, signed: bool) -> bytes:
    """A JPEG 2000 frame that says its samples have these bits (ISO/IEC 15444-1 A.5.1).

    What is coded stays: samples less the middle of their range where they are unsigned.
    """
    changed = bytearray(frame)
    start = frame.index(_JPEG_2000_START)
    for component in range(unpack_from(">H", frame, start + 40)[0]):
        changed[start + 42 + 3 * component] = signed << 7 | precision - 1
    return bytes(changed)


def _says_colours(marker: int, segment: bytes) -> bool:
    if marker == _JFIF:
        return segment[4:9] == b"JFIF\0" and not any(segment[16:18])  # and no thumbnail
    return marker == _ADOBE and segment[4:9] == b"Adobe"


def _jpeg(frame: bytes) -> Codestream:
    segments = list(_segments(frame))
    marker, start, end = next(segment for segment in segments if segment[0] in _FRAMES)
    if marker in _WITHOUT_LOSS and len(set(frame[start + 11 : end : 3])) > 1:
        raise RefusedFile(
            "its coded frames hold fewer samples of one component than of another, without loss; "
            "convert the file to Explicit VR Little Endian and RGB first"
        )
    precision, rows, columns, components = unpack_from(">BHHB", frame, start + 4)
    form = Codestream(rows, columns, components, precision)
    if marker != _LS_FRAME:
        return form
    scan = segments[-1][1]
    near, interleave = unpack_from("BB", frame, scan + 5 + 2 * frame[scan + 4])
    return replace(form, reversible=near == 0, interleave=interleave)


def _jpeg_2000(frame: bytes) -> Codestream:
    start = frame.index(_JPEG_2000_START)
    right, bottom, left, top = unpack_from(">4I", frame, start + 8)
    (components,) = unpack_from(">H", frame, start + 40)
    kinds = {frame[start + 42 + 3 * component] for component in range(components)}
    if len(kinds) != 1:
        raise RefusedFile(
            "the components of its coded frames have different bits, which no encoder takes; "
            "convert the file to Explicit VR Little Endian first"
        )
    (kind,) = kinds
    cod = next(at for marker, at, _ in _segments(frame, start + 2) if marker == _COD)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(kind & 0x7F) + 1,
        signed=kind >> 7 == 1,
        reversible=frame[cod + 13] == 1,
        mixes_colours=frame[cod + 8] == 1,
    )


def _segments(frame: bytes, position: int = 2) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each header segment, up to the first scan or tile and with it."""
    while True:
        while frame[position + 1] == _FILL:
            position += 1
        marker, length = unpack_from(">HH", frame, position)
        if marker >> 8 != _FILL:
            raise ValueError("no marker where one is expected")
        yield marker, position, position + 2 + length
        if marker in (_START_OF_SCAN, _START_OF_TILE):
            return
        position += 2 + length


def _names(frame: bytes, segments: list[tuple[int, int, int]]) -> bytes:
    """The component identifiers in the frame header (ISO/IEC 10918-1 B.2.2)."""
    return next(frame[start + 10 : end : 3] for marker, start, end in segments if marker in _FRAMES)
