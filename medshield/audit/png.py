"""PNG (third edition): Pillow's pixels, and every chunk but the image data compared."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs
import numpy as np
from PIL import PngImagePlugin

from medshield.audit import limits
from medshield.audit.base import (
    Allowed,
    AuditedImage,
    byte,
    first_difference,
    refuse_bomb,
    refuse_many,
    whole_file,
)
from medshield.audit.copies import areas, is_made_anew, is_without
from medshield.audit.jpeg import end_of_jpeg
from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_SIGNED = ("dSIG", "caBX")
# First row and column of each pass of Adam7, and its steps down and right (section 8.2).
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


class _Chunk(NamedTuple):
    """One chunk: its type as text, where it starts, and its bytes from length to CRC."""

    kind: str
    start: int
    raw: bytes

    @property
    def body(self) -> bytes:
        return self.raw[8:-4]


@dataclass(frozen=True)
class _Header:
    """IHDR (section 11.2.1)."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool


class PngAuditor:
    """PNG as Pillow displays it; samples of 16 bits whole, as libpng gives them."""

    name = "png"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By the signature (section 5.2)."""
        return head.startswith(_SIGNATURE)

    def read(self, path: Path) -> AuditedImage:
        """The samples as stored, the colours of a palette as displayed; see `Auditor.read`."""
        chunks, _ = _chunks(whole_file(path))
        header = _header(chunks)
        pictures = list(_pictures(chunks))
        refuse_bomb(len(pictures) * header.width * header.height * 4 * -(-header.depth // 8))
        try:
            values = np.stack([_decoded(header, picture) for picture in pictures])
        except Exception as error:  # a damaged file may raise anything
            raise RefusedFile("no established reader decodes it") from error
        channels = values.shape[-1]
        transparent = next((chunk.body for chunk in chunks if chunk.kind == "tRNS"), b"")
        seen = None
        if channels in (2, 4):
            seen = _is_invisible
        elif transparent and header.colour in (_GREY, _RGB):
            wanted = np.frombuffer(transparent, ">u2") & (2**header.depth - 1)
            seen = partial(_is_of_colour, wanted.astype(values.dtype))
        return AuditedImage(
            values=values,
            kind=f"PNG {8 if header.colour == _PALETTE else header.depth}-bit",
            colours=channels - (channels in (2, 4)),
            reserved=seen,
        )

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """See `Auditor.differences`."""
        (before, tail), (after, other_tail) = (
            _chunks(whole_file(path)) for path in (source, released)
        )
        for chunk in after:
            if zlib.crc32(chunk.raw[4:-4]).to_bytes(4, "big") != chunk.raw[-4:]:
                yield f"{byte(chunk.start)}: the checksum of a chunk {chunk.kind} is wrong"
        removed = _removed(before, allowed)
        kept = [chunk for number, chunk in enumerate(before, 1) if number not in removed]
        yield from _compared(_without_data(kept), _without_data(after), allowed)
        position = first_difference(tail, other_tail)
        if position is not None and not _may_cut_tail(other_tail, allowed):
            yield f"{byte(after[-1].start + 12 + position)}, behind IEND"


def _compared(
    old: list[tuple[_Chunk, bytes]], new: list[tuple[_Chunk, bytes]], allowed: Allowed
) -> Iterator[str]:
    for number, ((one, raw), (two, other)) in enumerate(zip(old, new, strict=False), 1):
        if one.kind != two.kind:
            yield f"{byte(two.start)}: chunk {number} is {two.kind}, not {one.kind}"
            return
        position = first_difference(raw, other)
        if one.kind == "eXIf" and allowed.pixels:
            yield from _exif_compared(one, two, number, allowed)
        elif position is not None:
            yield f"{byte(two.start + position)} in chunk {number} {one.kind}"
    for chunk, _ in old[len(new) :]:
        yield f"chunk {chunk.kind}, at {byte(chunk.start)} of the source: missing"
    for chunk, _ in new[len(old) :]:
        yield f"chunk {chunk.kind}, at {byte(chunk.start)}: added"


def _exif_compared(old: _Chunk, new: _Chunk, number: int, allowed: Allowed) -> Iterator[str]:
    """Thumbnails are made anew in their own bytes, or removed, and the rest of EXIF stays."""
    one, two = (b"Exif\0\0" + chunk.body for chunk in (old, new))
    pictures = areas("APP1", one, end_of_jpeg)
    position = first_difference(old.raw, new.raw)
    if position is None:
        if pictures:
            yield f"{byte(new.start)}: chunk {number} eXIf still shows the clean image"
        return
    noted = any("eXIf: copy of the picture" in note for note in allowed.notes)
    anew = allowed.icons == "regenerate" and is_made_anew(one, two, pictures)
    cut = allowed.icons == "remove" and is_without(one, two)
    if not (noted and (anew or cut)):
        yield f"{byte(new.start + position)} in chunk {number} eXIf"


def _without_data(chunks: list[_Chunk]) -> list[tuple[_Chunk, bytes]]:
    """Each chunk with the bytes that must stay: a run of IDAT is one chunk, and none of it."""
    found: list[tuple[_Chunk, bytes]] = []
    for chunk in chunks:
        if chunk.kind == "IDAT":
            if not found or found[-1][0].kind != "IDAT":
                found.append((chunk, b""))
        elif chunk.kind == "fdAT":
            found.append((chunk, chunk.raw[4:12]))  # its type and sequence number
        else:
            found.append((chunk, chunk.raw))
    return found


def _removed(chunks: list[_Chunk], allowed: Allowed) -> dict[int, _Chunk]:
    """The chunks that the release says it removed, where its handling lets it."""
    found = {}
    for number, chunk in enumerate(chunks, 1):
        may = allowed.drop_signatures if chunk.kind in _SIGNED else allowed.icons == "remove"
        critical = chunk.kind[0].isupper()
        if may and not critical and any(n.startswith(_named(chunk, number)) for n in allowed.notes):
            found[number] = chunk
    return found


def _named(chunk: _Chunk, number: int) -> str:
    return f"PNG chunk {number} {chunk.kind}: removed"


def _may_cut_tail(tail: bytes, allowed: Allowed) -> bool:
    noted = any(note.startswith("bytes after IEND: removed") for note in allowed.notes)
    return noted and allowed.icons == "remove" and not tail


def _is_of_colour(colour: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels have the colour that tRNS makes transparent (section 11.3.1.1)."""
    return np.asarray((values == colour).all(-1, keepdims=True))


def _is_invisible(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels have an alpha of 0."""
    return np.asarray(values[..., -1:] == 0)


def _chunks(data: bytes) -> tuple[list[_Chunk], bytes]:
    """The chunks up to IEND, and what follows it."""
    if data[:8] != _SIGNATURE:
        raise RefusedFile("its first eight bytes are not PNG's")
    found: list[_Chunk] = []
    at = 8
    while not found or found[-1].kind != "IEND":
        if at + 12 > len(data):
            raise RefusedFile("it ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise RefusedFile("a chunk ends behind the file")
        found.append(_Chunk(kind.decode("latin-1"), at, data[at : at + 12 + length]))
        at += 12 + length
        refuse_many(len(found), limits.MOST_PARTS, "chunks")
    return found, data[at:]


def _header(chunks: list[_Chunk]) -> _Header:
    if chunks[0].kind != "IHDR" or len(chunks[0].body) != 13:
        raise RefusedFile("it does not start with an IHDR chunk")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0].body)
    return _Header(width, height, depth, colour, bool(interlaced))


def _pictures(chunks: list[_Chunk]) -> Iterator[list[_Chunk]]:
    """The chunks of each image as a file of its own: IDAT's, then those of an animation."""
    shared = [chunk for chunk in chunks if chunk.kind in ("IHDR", "PLTE", "tRNS")]
    data = [chunk.body for chunk in chunks if chunk.kind == "IDAT"]
    yield [*shared, _chunk("IDAT", b"".join(data))]
    frame: list[bytes] = []
    for chunk in (*chunks, _chunk("fcTL", b"")):
        if chunk.kind == "fdAT":
            frame.append(chunk.body[4:])
        elif chunk.kind == "fcTL" and frame:
            yield [*shared, _chunk("IDAT", b"".join(frame))]
            frame = []


def _chunk(kind: str, body: bytes) -> _Chunk:
    name = kind.encode()
    head = struct.pack(">I4s", len(body), name)
    return _Chunk(kind, 0, head + body + struct.pack(">I", zlib.crc32(name + body)))


def _file(chunks: list[_Chunk]) -> bytes:
    return _SIGNATURE + b"".join(chunk.raw for chunk in chunks) + _chunk("IEND", b"").raw


def _decoded(header: _Header, chunks: list[_Chunk]) -> NDArray[Any]:
    """(height, width, channels)."""
    if header.depth == 16:
        return _sixteen_bits(header, chunks[-1].body)
    # Not by Image.open, which has a limit of its own below ours.
    with PngImagePlugin.PngImageFile(io.BytesIO(_file(chunks))) as image:
        if header.colour == _PALETTE:
            alpha = any(chunk.kind == "tRNS" for chunk in chunks)
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
        values = np.asarray(image).astype(np.uint8)
    if header.depth in (2, 4):  # Pillow spreads them over 0 to 255
        values = values // np.uint8(255 // (2**header.depth - 1))
    return values[..., None] if values.ndim == 2 else values


def _sixteen_bits(header: _Header, stream: bytes) -> NDArray[Any]:
    """16 bits, of which Pillow keeps 8 in colour: libpng without anything that bends values.

    Grey is read as 8 bits of two channels (or four), as filters work on bytes alone.
    """
    eight = {_GREY: _GREY_ALPHA, _GREY_ALPHA: _RGB_ALPHA}.get(header.colour)
    if eight is not None:
        head = _ihdr(header.width, header.height, 8, eight, header.interlaced)
        values = _decoded(_header([head]), [head, _chunk("IDAT", stream)])
        return np.ascontiguousarray(values).view(">u2").astype(np.uint16)
    if not header.interlaced:
        return _by_libpng(header.width, header.height, header.colour, stream)
    channels = 3 if header.colour == _RGB else 4
    values = np.empty((header.height, header.width, channels), np.uint16)
    most = 2 * (header.height + 8) * (channels * header.width + 8) * 2
    lines = zlib.decompressobj().decompress(stream, most)
    for row, column, down, right in _ADAM7:
        part = values[row::down, column::right]
        size = part.shape[0] * (1 + 2 * channels * part.shape[1]) if part.size else 0
        if size:
            data = zlib.compress(lines[:size], 0)
            part[...] = _by_libpng(part.shape[1], part.shape[0], header.colour, data)
        lines = lines[size:]
    return values


def _by_libpng(width: int, height: int, colour: int, stream: bytes) -> NDArray[Any]:
    head = _ihdr(width, height, 16, colour, interlaced=False)
    values: NDArray[Any] = imagecodecs.png_decode(_file([head, _chunk("IDAT", stream)]))
    return values


def _ihdr(width: int, height: int, depth: int, colour: int, interlaced: bool) -> _Chunk:
    return _chunk("IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
