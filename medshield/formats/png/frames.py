"""The images of a PNG: the one of IDAT, and those of an animation's fdAT (third edition 11.3.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats.png.chunks import LARGEST_BODY, chunk_bytes

if TYPE_CHECKING:
    from medshield.formats.png.chunks import Chunk, Header

_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_SEQUENCE_NUMBER = 4  # bytes before the data of an fdAT chunk
_FRAME_CONTROL = ">IIIIIHHBB"  # sequence number, width, height, x, y, delay, dispose, blend


@dataclass(frozen=True)
class Edit:
    """Bytes that take the place of others.

    Attributes:
        start, end: of what they replace in the source.
        content: what stands there instead.
    """

    start: int
    end: int
    content: bytes


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        chunks: that hold its deflated scanlines, in order; all IDAT or all fdAT.
    """

    chunks: tuple[Chunk, ...]

    @property
    def stream(self) -> bytes:
        """The deflated scanlines."""
        skipped = 0 if self._is_still else _SEQUENCE_NUMBER
        return b"".join(chunk.body[skipped:] for chunk in self.chunks)

    @property
    def _is_still(self) -> bool:
        return self.chunks[0].kind == b"IDAT"

    def edits(self, stream: bytes) -> list[Edit]:
        """What puts another stream in the place of this one.

        IDAT is cut as the source cut it. There are as many fdAT chunks as before, as they are
        numbered together with the chunks that say how frames are shown.
        """
        if self._is_still:
            longest = max(len(chunk.body) for chunk in self.chunks)
            size = longest if len(self.chunks) > 1 and longest else LARGEST_BODY
            content = b"".join(
                chunk_bytes(b"IDAT", stream[start : start + size])
                for start in range(0, len(stream), size)
            )
            return [Edit(self.chunks[0].start, self.chunks[-1].end, content)]
        size = -(-len(stream) // len(self.chunks))
        return [
            Edit(
                chunk.start,
                chunk.end,
                chunk_bytes(
                    b"fdAT",
                    chunk.body[:_SEQUENCE_NUMBER] + stream[number * size : (number + 1) * size],
                ),
            )
            for number, chunk in enumerate(self.chunks)
        ]


def read_frames(header: Header, chunks: list[Chunk]) -> tuple[Frame, ...]:
    """All images of a file, the one of IDAT first.

    Raises:
        RefusedFile: an animation with frames of different sizes, or a damaged one.
    """
    frames = [Frame(tuple(chunk for chunk in chunks if chunk.kind == b"IDAT"))]
    found = {chunk.kind for chunk in chunks} & _ANIMATION
    if not found:
        return tuple(frames)
    if b"acTL" not in found:
        raise RefusedFile("damaged PNG: it has frames of an animation, but no acTL chunk")
    data: list[Chunk] = []
    for chunk in chunks:
        if chunk.kind == b"fcTL":
            _refuse_part(header, chunk)
            frames += [Frame(tuple(data))] if data else []
            data = []
        elif chunk.kind == b"fdAT":
            if len(chunk.body) < _SEQUENCE_NUMBER:
                raise RefusedFile("damaged PNG: an fdAT chunk is too short")
            data.append(chunk)
    frames += [Frame(tuple(data))] if data else []
    return tuple(frames)


def applied(source: bytes, edits: list[Edit]) -> bytes:
    """The source with all edits, which do not overlap."""
    parts, position = [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        parts += [source[position : edit.start], edit.content]
        position = edit.end
    return b"".join([*parts, source[position:]])


def _refuse_part(header: Header, control: Chunk) -> None:
    """Refuse a frame that covers only a part of the picture."""
    if len(control.body) != struct.calcsize(_FRAME_CONTROL):
        raise RefusedFile("damaged PNG: an fcTL chunk is not 26 bytes long")
    _, width, height, x, y, *_ = struct.unpack(_FRAME_CONTROL, control.body)
    if (width, height, x, y) != (header.width, header.height, 0, 0):
        raise RefusedFile(
            "animated PNG with frames that cover only a part of the picture: save whole frames"
        )
