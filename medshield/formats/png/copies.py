"""What a PNG may hold beside its pixels that would give them away, or break when they change."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.exif_thumbnails import Exif
from medshield.formats.png.chunks import chunk_bytes
from medshield.formats.png.frames import Edit

if TYPE_CHECKING:
    from medshield.formats.base import Handling
    from medshield.formats.jpeg.thumbnails import Pictures
    from medshield.formats.png.chunks import Chunk

# JPEG, PNG and GIF by their first bytes: thumbnails and previews are one of these.
_PICTURE = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|GIF8[79]a")
# Pictures in base64: thumbnails (xmpGImg:image, in old files xapGImg:image) and Google's.
_XMP_PICTURE = re.compile(rb"GImg:image|GImage:Data")
_FIREWORKS = frozenset({b"prVW", b"mkBF", b"mkBS", b"mkBT", b"mkTS"})  # its preview and layers
_SIGNATURES = frozenset({b"dSIG", b"caBX"})  # PNG extensions 1.4 section 4.4; C2PA A.3.3
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


@dataclass(frozen=True)
class Change:
    """What is taken out of a file, or made anew in it, when its pixels change.

    Attributes:
        edit: what takes the place of what.
        note: says so in the manifest.
    """

    edit: Edit
    note: str


def settled_exif(chunks: list[Chunk], handling: Handling, pictures: Pictures) -> list[Change]:
    """EXIF without thumbnails of the clean picture: made anew in their own bytes, or removed.

    Args:
        chunks: of the whole file.
        handling: what to do with them.
        pictures: what they are made anew from.

    Raises:
        RefusedFile: neither is possible, or `handling` wants such files refused.
    """
    found = []
    for number, chunk in enumerate(chunks, start=1):
        if chunk.kind != b"eXIf":
            continue
        place = f"PNG chunk {number} eXIf"
        exif = Exif(chunk.body, place)
        if not exif.holds_picture:
            continue
        if handling.icons == "refuse":
            raise RefusedFile(
                f"{place} holds a thumbnail of the clean picture: let it be made anew or removed "
                "(--icons)"
            )
        is_removed = handling.icons == "remove"
        body = exif.removed() if is_removed else exif.regenerated(pictures)
        done = "removed" if is_removed else "made anew from the protected picture"
        edit = Edit(chunk.start, chunk.end, chunk_bytes(b"eXIf", body))
        found.append(Change(edit, f"{place}: copy of the picture {done}"))
    return found


def removals(chunks: list[Chunk], size: int, rest: bytes, handling: Handling) -> list[Change]:
    """What but EXIF has to go before the file may be released, if `handling` lets it go.

    Args:
        chunks: of the whole file.
        size: of the file in bytes.
        rest: the bytes after IEND. An editor that saves a cropped picture over a longer file
            leaves pixels of the old one there, so IDAT is looked for too.
        handling: icons "remove" covers copies of the picture, `drop_signatures` signatures.

    Raises:
        RefusedFile: names the chunk, and what to do; or its texts inflate to too much.
    """
    found = []
    texts = _texts(chunks)
    for number, chunk in enumerate(chunks, start=1):
        place = f"PNG chunk {number} {chunk.name}"
        edit = Edit(chunk.start, chunk.end, b"")
        if chunk.kind in _SIGNATURES:
            if not handling.drop_signatures:
                raise RefusedFile(
                    f"{place} is a digital signature that changed pixels break: let it be dropped "
                    "(--drop-signatures)"
                )
            found.append(Change(edit, f"{place}: removed, as it signed the unchanged pixels"))
        elif _holds_picture(chunk, texts.get(chunk.start)):
            if handling.icons != "remove":
                raise RefusedFile(
                    f"{place} holds a thumbnail or another unprotected copy of the picture, which "
                    "can't be made anew: let it be removed (--icons remove)"
                )
            found.append(Change(edit, f"{place}: removed, as it held a copy of the picture"))
    if b"IDAT" in rest or _PICTURE.search(rest):
        if handling.icons != "remove":
            raise RefusedFile(
                "the bytes after the PNG's end hold another picture: let them be removed (--icons "
                "remove), or cut the source off at IEND"
            )
        edit = Edit(size - len(rest), size, b"")
        found.append(Change(edit, "bytes after IEND: removed, as they held another picture"))
    return found


def _holds_picture(chunk: Chunk, text: bytes | None) -> bool:
    """Whether it does, by its kind, its bytes, or the text that it holds."""
    if chunk.kind in _FIREWORKS:
        return True
    if text is not None:
        return bool(_XMP_PICTURE.search(text) or _PICTURE.search(text))
    # Compressed, these may contain a JPEG's first bytes by chance; `settled_exif` sees to eXIf.
    return chunk.kind not in (b"IDAT", b"fdAT", b"iCCP", b"eXIf") and bool(
        _PICTURE.search(chunk.body)
    )


def _texts(chunks: list[Chunk]) -> dict[int, bytes]:
    """What each text says, by where its chunk starts.

    Raises:
        RefusedFile: one is damaged, or all of them inflate to too much.
    """
    found: dict[int, bytes] = {}
    room = limits.MOST_PNG_TEXT_BYTES
    for chunk in chunks:
        if chunk.kind in _TEXTS:
            text = _text(chunk, room)
            room -= len(text)
            found[chunk.start] = text
    return found


def _text(chunk: Chunk, room: int) -> bytes:
    """XMP, or the bytes of a hexadecimal profile as ImageMagick writes it."""
    keyword, _, text = chunk.body.partition(b"\0")
    text = _plain_text(chunk, text, room)
    if not keyword.startswith(b"Raw profile type"):
        return text
    digits = re.sub(rb"[^0-9a-fA-F]", b"", text.partition(b"\n")[2].partition(b"\n")[2])
    return bytes.fromhex(digits[len(digits) % 2 :].decode("ascii"))


def _plain_text(chunk: Chunk, text: bytes, room: int) -> bytes:
    """What follows the keyword, inflated where it is compressed (section 11.3.3)."""
    if chunk.kind == b"zTXt":
        return _inflated(chunk, text[1:], room)
    if chunk.kind == b"iTXt":
        is_compressed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
        return _inflated(chunk, text, room) if is_compressed else text
    return text


def _inflated(chunk: Chunk, text: bytes, room: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(text, max(1, room))
    except zlib.error as error:
        raise RefusedFile(f"damaged PNG: a {chunk.name} chunk can't be inflated") from error
    if inflater.unconsumed_tail:
        raise RefusedFile(
            f"PNG texts up to chunk {chunk.name} inflate to more than "
            f"{limits.MOST_PNG_TEXT_BYTES} bytes: remove them from the source first"
        )
    return plain
