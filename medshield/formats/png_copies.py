"""What a PNG may hold beside its pixels that would give them away, or break when they change."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Literal

from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from medshield.formats.png_chunks import Chunk

# JPEG, PNG and GIF by their first bytes: thumbnails and previews are one of these.
_PICTURE = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|GIF8[79]a")
# Pictures in base64: thumbnails (xmpGImg:image, in old files xapGImg:image) and Google's.
_XMP_PICTURE = re.compile(rb"GImg:image|GImage:Data")
_FIREWORKS = frozenset({b"prVW", b"mkBF", b"mkBS", b"mkBT", b"mkTS"})  # its preview and layers
_SIGNATURES = frozenset({b"dSIG", b"caBX"})  # PNG extensions 1.4 section 4.4; C2PA A.3.3
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


def refuse_copies(chunks: list[Chunk], rest: bytes) -> None:
    """Refuse a file that holds a second copy of its picture, or a signature over it.

    Args:
        chunks: of the whole file.
        rest: the bytes after IEND. An editor that saves a cropped picture over a longer file
            leaves pixels of the old one there, so IDAT is looked for too.

    Raises:
        RefusedFile: names the chunk and what to do.
    """
    for number, chunk in enumerate(chunks, start=1):
        if chunk.kind in _SIGNATURES:
            raise RefusedFile(
                f"PNG chunk {number} {chunk.name} is a digital signature that changed pixels "
                "break: remove it from the source first"
            )
        if _holds_picture(chunk):
            raise RefusedFile(
                f"PNG chunk {number} {chunk.name} holds a thumbnail or another unprotected copy "
                "of the picture: remove it from the source first"
            )
    if b"IDAT" in rest or _PICTURE.search(rest):
        raise RefusedFile(
            "the bytes after the PNG's end hold another picture: cut the source off at IEND first"
        )


def _holds_picture(chunk: Chunk) -> bool:
    if chunk.kind in _FIREWORKS:
        return True
    if chunk.kind == b"eXIf":
        return _has_thumbnail(chunk.body) or bool(_PICTURE.search(chunk.body))
    if chunk.kind in _TEXTS:
        return _text_holds_picture(chunk)
    # A compressed colour profile may contain a JPEG's first bytes by chance, and no picture.
    return chunk.kind not in (b"IDAT", b"iCCP") and bool(_PICTURE.search(chunk.body))


def _has_thumbnail(exif: bytes) -> bool:
    """Whether the first TIFF directory points to a second one, the thumbnail's (Exif 2.3 4.5.2)."""
    order: Literal["big", "little"] = "big" if exif[:2] == b"MM" else "little"

    def number(start: int, size: int) -> int:
        return int.from_bytes(exif[start : start + size], order)

    directory = number(4, 4)
    return number(directory + 2 + 12 * number(directory, 2), 4) != 0


def _text_holds_picture(chunk: Chunk) -> bool:
    """Whether XMP, or a hexadecimal profile as ImageMagick writes it, has a thumbnail."""
    keyword, _, text = chunk.body.partition(b"\0")
    try:
        text = _inflated_text(chunk.kind, text)
    except zlib.error as error:
        raise RefusedFile(f"damaged PNG: a {chunk.name} chunk can't be inflated") from error
    if keyword.startswith(b"Raw profile type"):
        digits = re.sub(rb"[^0-9a-fA-F]", b"", text.partition(b"\n")[2].partition(b"\n")[2])
        text = bytes.fromhex(digits[len(digits) % 2 :].decode("ascii"))
    return bool(_XMP_PICTURE.search(text) or _PICTURE.search(text))


def _inflated_text(kind: bytes, text: bytes) -> bytes:
    """What follows the keyword, inflated where it is compressed (section 11.3.3)."""
    if kind == b"zTXt":
        return zlib.decompress(text[1:])
    if kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
        return zlib.decompress(text) if compressed else text
    return text
