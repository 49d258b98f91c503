"""What carries a second, clean copy of the image inside a JPEG file, outside its scans.

Copies are made anew from the protected picture in the bytes of the old ones, or cut out, as
`Handling` says; what neither is possible for is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.exif_thumbnails import Exif
from medshield.formats.jpeg import multi_picture, photoshop, xmp
from medshield.formats.jpeg.segments import END_OF_IMAGE, Layout, Segment
from medshield.formats.jpeg.thumbnails import (
    REMEDY,
    Pictures,
    blank_jpegs,
    has_jpeg,
    has_other_picture,
    remake_jpegs,
    remake_pixels,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.base import Handling

_EXIF = b"Exif\0"
_JFIF_HEADER = 14  # up to the two bytes of a thumbnail's width and height
_PALETTE, _RGB = 0x11, 0x13  # kinds of JFXX thumbnail that are not JPEG
_TRAILING = "what follows the JPEG's end"


def settle_copies(
    layout: Layout, handling: Handling, pictures: Pictures
) -> tuple[Layout, list[str]]:
    """The file with no clean copy of its picture outside its scans, and what was done.

    Args:
        layout: the file.
        handling: what to do with copies and with signatures.
        pictures: what new copies are made from.

    Raises:
        RefusedFile: a copy or signature that `handling` wants refused, or that can't be dealt with.
    """
    layout, notes = _without_signatures(layout, handling)
    xmp.refuse_pictures_in_extensions([s.payload for s in layout.segments if s.name == "APP1"])
    source = pictures if handling.icons == "regenerate" else None
    done = "made anew from the protected picture" if source else "removed"
    segments: list[Segment] = []
    for segment in layout.segments:
        payload = segment.payload if segment.carries_coding else _settled(segment, source)
        if payload is not None:
            same = payload == segment.payload
            segments.append(segment if same else segment.with_payload(payload))
        if payload != segment.payload:
            _refuse_if(handling, segment.name)
            notes.append(f"{segment.name}: copy of the picture {done}")
    trailing = _settled_trailing(layout.trailing, source)
    if trailing != layout.trailing:
        _refuse_if(handling, _TRAILING)
        notes.append(f"bytes after EOI: copy of the picture {done}")
    return Layout(tuple(segments), layout.end, trailing), notes


def _refuse_if(handling: Handling, place: str) -> None:
    if handling.icons == "refuse":
        raise RefusedFile(
            f"{place} carries a copy of the clean image: use --icons regenerate or remove, or "
            "strip it from the source first"
        )


def _without_signatures(layout: Layout, handling: Handling) -> tuple[Layout, list[str]]:
    """The file without signed boxes in APP11 (ISO 19566-5, C2PA A.3.1), where that is allowed.

    Raises:
        RefusedFile: it is not; or the boxes are no signature but a part of the picture.
    """
    boxes = [s for s in layout.segments if _is_box(s)]
    if not boxes:
        return layout, []
    if b"c2pa" not in b"".join(s.payload for s in boxes):
        raise RefusedFile(
            "JPEG with boxes in APP11 (JPEG XT, JPEG 360), which speak of the clean image: strip "
            "them first"
        )
    if not handling.drop_signatures:
        raise RefusedFile(
            "signed JPEG (C2PA in APP11), and changed pixels break the signature: use "
            "--drop-signatures, or strip it first"
        )
    kept = tuple(s for s in layout.segments if not _is_box(s))
    return replace(layout, segments=kept), ["APP11: C2PA signature removed"]


def _is_box(segment: Segment) -> bool:
    return segment.name == "APP11" and segment.payload.startswith(b"JP")


def _settled(segment: Segment, pictures: Pictures | None) -> bytes | None:
    """The payload without a clean copy, None where nothing would be left of it.

    Args:
        segment: any but Huffman tables and scans.
        pictures: what to make copies from, None to remove them.
    """
    payload, place = segment.payload, segment.name
    if place == "APP0" and payload.startswith(b"JFIF\0"):
        return _settled_jfif(payload, pictures)
    if place == "APP0" and payload.startswith(b"JFXX\0"):
        return None if pictures is None else _remade_extension(payload, pictures)
    if place == "APP1" and payload.startswith(_EXIF):
        start = len(_EXIF) + 1
        exif = Exif(payload[start:], "APP1 EXIF")
        new = exif.removed() if pictures is None else exif.regenerated(pictures)
        return payload[:start] + new
    if place == "APP1" and payload.startswith(xmp.PREFIX):
        return xmp.settle(payload, "APP1 XMP", pictures)
    if multi_picture.is_index(segment):
        return None if pictures is None else payload
    if place == "APP13" and payload.startswith(photoshop.PREFIX):
        return photoshop.settle(payload, "APP13 Photoshop", pictures)
    return _settled_bytes(payload, place, pictures)


def _settled_bytes(data: bytes, place: str, pictures: Pictures | None) -> bytes:
    """Bytes of unknown meaning with the JPEGs in them made anew or set to zeros."""
    if has_other_picture(data):
        raise RefusedFile(f"{place} holds a PNG, GIF or film: strip it from the source first")
    return blank_jpegs(data, place) if pictures is None else remake_jpegs(data, place, pictures)


def _settled_trailing(data: bytes, pictures: Pictures | None) -> bytes:
    """What follows EOI, with new copies; nothing where that holds copies to be removed."""
    suspicious = END_OF_IMAGE in data or has_jpeg(data) or has_other_picture(data)
    if pictures is None:
        return b"" if suspicious else data
    if has_other_picture(data):
        raise RefusedFile(f"{_TRAILING} holds a PNG, GIF or film: {REMEDY}")
    # An editor that saves a smaller picture over a longer file leaves the old one's end there.
    if END_OF_IMAGE in blank_jpegs(data, _TRAILING):
        raise RefusedFile(f"{_TRAILING} holds the rest of another picture: {REMEDY}")
    return remake_jpegs(data, _TRAILING, pictures)


def _settled_jfif(payload: bytes, pictures: Pictures | None) -> bytes:
    """JFIF 1.02: an RGB thumbnail, whose size is in the header's last two bytes, follows it."""
    width, height = payload[_JFIF_HEADER - 2 : _JFIF_HEADER] or (0, 0)
    end = _JFIF_HEADER + 3 * width * height
    if not width * height:
        return payload
    if pictures is None:
        return payload[: _JFIF_HEADER - 2] + b"\0\0" + payload[end:]
    old = _pixels(payload[_JFIF_HEADER:end], height, width)
    new = remake_pixels(old, "APP0 JFIF thumbnail", pictures)
    return payload[:_JFIF_HEADER] + new.tobytes() + payload[end:]


def _remade_extension(payload: bytes, pictures: Pictures) -> bytes:
    """JFXX: a thumbnail as JPEG, with a palette of 256 colours, or RGB."""
    place = "APP0 JFXX thumbnail"
    kind, width, height = (*payload[5:8], 0, 0, 0)[:3]
    if kind not in (_PALETTE, _RGB):
        return remake_jpegs(payload, place, pictures)
    start = 8 if kind == _RGB else 8 + 3 * 256
    end = start + width * height * (3 if kind == _RGB else 1)
    if kind == _RGB:
        old = _pixels(payload[start:end], height, width)
        data = remake_pixels(old, place, pictures).tobytes()
    else:
        palette = _pixels(payload[8:start], 1, 256)[0]
        numbers = np.frombuffer(payload[start:end].ljust(width * height, b"\0"), np.uint8)
        old = palette[numbers].reshape(height, width, 3)
        data = _nearest(palette, remake_pixels(old, place, pictures)).tobytes()
    return payload[:start] + data + payload[end:]


def _nearest(palette: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The number of the palette's nearest colour for every pixel."""
    distance = ((picture[:, :, None].astype(int) - palette[None, None]) ** 2).sum(axis=3)
    numbers: NDArray[np.uint8] = distance.argmin(axis=2).astype(np.uint8)
    return numbers


def _pixels(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """RGB bytes as (height, width, 3).

    Raises:
        RefusedFile: there are too few.
    """
    if len(data) != 3 * height * width:
        raise RefusedFile(f"APP0 has a thumbnail that is cut off: {REMEDY}")
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
