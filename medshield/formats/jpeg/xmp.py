"""Pictures in XMP, where they are JPEGs in base64: thumbnails (xmpGImg) and Google's GImage."""

from __future__ import annotations

import base64
import binascii
import re

from medshield.errors import RefusedFile
from medshield.formats.jpeg.thumbnails import REMEDY, Pictures, remake_jpeg

PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION_PREFIX = b"http://ns.adobe.com/xmp/extension/\0"
# After the prefix of an extension: a digest of 32 digits, the whole length, where this part stands.
_EXTENSION_HEADER = len(EXTENSION_PREFIX) + 32 + 4 + 4
# The first three bytes of a JPEG in base64 and what goes on, line ends written as entities too.
_JPEG = re.compile(rb"/9j/(?:[A-Za-z0-9+/=\s]|&#x?[0-9A-Fa-f]{1,4};)+")
_BETWEEN = re.compile(rb"\s|&#x?[0-9A-Fa-f]{1,4};")
# A picture's element or attribute with something in it, or a PNG or GIF in base64. What is between
# is bounded and never given back, or a text of many such names would take its length squared.
_OTHER = re.compile(
    rb"(?:GImg:image|GImage:Data)(?:[^<>]{0,256}+>|\s{0,256}+=\s*+[\"'])\s*+[A-Za-z0-9+/]"
    rb"|iVBORw0KGgo|R0lGODdh|R0lGODlh"
)


def settle(payload: bytes, place: str, pictures: Pictures | None) -> bytes:
    """An XMP packet with its pictures made anew, or without them.

    Args:
        payload: of its APP1 segment.
        place: what holds it, for messages.
        pictures: what to make new ones from, or None to empty the elements that hold them.

    Raises:
        RefusedFile: one is no JPEG, or can't be made anew.
    """

    def new(found: re.Match[bytes]) -> bytes:
        return b"" if pictures is None else _remade(found[0], place, pictures)

    if _OTHER.search(_JPEG.sub(b"", payload)):
        raise RefusedFile(f"{place} holds a picture other than a JPEG: strip it first")
    return _JPEG.sub(new, payload)


def refuse_pictures_in_extensions(payloads: list[bytes]) -> None:
    """Refuse extended XMP that holds pictures: a digest over it stands in the main packet.

    Args:
        payloads: of all APP1 segments.

    Raises:
        RefusedFile: says so.
    """
    parts = [p[_EXTENSION_HEADER:] for p in payloads if p.startswith(EXTENSION_PREFIX)]
    whole = b"".join(parts)
    if _JPEG.search(whole) or _OTHER.search(whole):
        raise RefusedFile(
            "extended XMP (APP1) holds a picture and is sealed by a digest, so it can't be made "
            "anew: strip the extended XMP from the source first"
        )


def _remade(text: bytes, place: str, pictures: Pictures) -> bytes:
    """The new picture's digits in the places of the old ones' digits."""
    digits = _BETWEEN.sub(b"", text)
    try:
        old = base64.b64decode(digits, validate=True)
    except binascii.Error as error:
        raise RefusedFile(f"{place} holds a picture in damaged base64: {REMEDY}") from error
    new = iter(base64.b64encode(remake_jpeg(old, place, pictures)))
    pieces = re.split(rb"(" + _BETWEEN.pattern + rb")", text)
    return b"".join(
        piece if _BETWEEN.fullmatch(piece) else bytes(next(new) for _ in piece) for piece in pieces
    )
