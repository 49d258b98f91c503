"""Thumbnails in Photoshop's image resources (APP13), blocks of which each starts with "8BIM"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats.jpeg.thumbnails import (
    REMEDY,
    Pictures,
    blank_jpegs,
    has_jpeg,
    remake_jpeg,
    remake_jpegs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = b"Photoshop 3.0\0"
_SIGNATURE = b"8BIM"
# Thumbnails by resource number: Photoshop 4's, with channels in the order blue, green, red; later.
_REVERSED_THUMBNAIL, _THUMBNAIL = 1033, 1036
# Before a thumbnail's JPEG: format (1: JPEG), width, height, bytes a row and in all, and depth.
_THUMBNAIL_HEADER = 28
_AS_JPEG = (1).to_bytes(4, "big")


def settle(payload: bytes, place: str, pictures: Pictures | None) -> bytes:
    """Image resources with their thumbnails made anew, or without them.

    Args:
        payload: of the APP13 segment.
        place: what holds it, for messages.
        pictures: what to make new ones from, or None to drop thumbnails.

    Raises:
        RefusedFile: a thumbnail can't be made anew, or the resources can't be read.
    """
    pieces, position = [PREFIX], len(PREFIX)
    for number, start, data, end in _resources(payload):
        resource = payload[position:end]
        if number in (_REVERSED_THUMBNAIL, _THUMBNAIL):
            resource = _settled_thumbnail(resource, data - start, number, place, pictures)
        elif has_jpeg(resource):
            resource = (
                blank_jpegs(resource, place)
                if pictures is None
                else remake_jpegs(resource, place, pictures)
            )
        pieces.append(resource)
        position = end
    rest = payload[position:]
    if has_jpeg(rest) or _SIGNATURE in rest:
        raise RefusedFile(
            f"{place} has resources that run past its end, so a thumbnail can't be ruled out: "
            "strip them first"
        )
    return b"".join([*pieces, rest])


def _settled_thumbnail(
    resource: bytes, data: int, number: int, place: str, pictures: Pictures | None
) -> bytes:
    """The resource with a new thumbnail, or nothing; `data` is where its data start."""
    if pictures is None:
        return b""
    start = data + _THUMBNAIL_HEADER
    if resource[data : data + 4] != _AS_JPEG:
        raise RefusedFile(f"{place} has a thumbnail that is no JPEG: {REMEDY}")
    is_reversed = number == _REVERSED_THUMBNAIL
    return resource[:start] + remake_jpeg(
        resource[start:], place, pictures, reversed_too=is_reversed
    )


def _resources(payload: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the data and end of every resource that is whole."""
    start = len(PREFIX)
    while payload[start : start + 4] == _SIGNATURE:
        name = payload[start + 6] + 1 if start + 6 < len(payload) else 1
        data = start + 6 + name + name % 2 + 4
        size = int.from_bytes(payload[data - 4 : data], "big")
        end = data + size + size % 2
        if data + size > len(payload):
            return
        yield int.from_bytes(payload[start + 4 : start + 6], "big"), start, data, end
        start = end
