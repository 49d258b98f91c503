"""PNG: only IDAT is replaced in the source's own list of chunks."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.png_chunks import SIGNATURE, Chunk, Header, read_chunks, read_header
from medshield.formats.png_copies import refuse_copies
from medshield.formats.png_pixels import decode_samples, encode_samples, pixel_stream
from medshield.formats.reserved import step_back

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Container:
    """The source, and where its pixels lie.

    Attributes:
        source: the whole file.
        start, end: of the run of IDAT chunks.
        interlaced: by Adam7.
        transparent: the colour of tRNS, one value a channel, or None.
    """

    source: bytes
    start: int
    end: int
    interlaced: bool
    transparent: NDArray[Any] | None


class PngCodec(Codec):
    """PNG of 8 and 16 bits: grey or RGB, with or without alpha, interlaced or not."""

    name = "png"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By the signature (PNG third edition section 5.2)."""
        return head.startswith(SIGNATURE)

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one PNG; see `Codec.decode`.

        Alpha, fully transparent pixels and pixels of the colour that tRNS makes transparent are
        frozen.

        Raises:
            RefusedFile: damaged, animated, with a palette or under 8 bits, signed, or with a
                second copy of the picture.
        """
        source = path.read_bytes()
        chunks = read_chunks(source)
        header = read_header(chunks[0])
        _refuse_unsupported(header, chunks)
        refuse_copies(chunks, source[chunks[-1].end :])
        stored = decode_samples(header, pixel_stream(chunks))[np.newaxis]
        transparent = _transparent_colour(header, chunks)
        pixels = [chunk for chunk in chunks if chunk.kind == b"IDAT"]
        return DecodedImage(
            stored=stored,
            kind=f"PNG {header.bit_depth}-bit",
            lowest=0,
            highest=2**header.bit_depth - 1,
            frozen=_frozen(header, stored, transparent),
            declared=((0.0, 255.0),) if header.bit_depth == 8 else (),
            details={
                "bit depth": str(header.bit_depth),
                "colour type": header.colour_name,
                "interlaced": "yes" if header.interlaced else "no",
            },
            container=_Container(
                source, pixels[0].start, pixels[-1].end, header.interlaced, transparent
            ),
        )

    def write(
        self,
        image: DecodedImage,
        stored: NDArray[Any],
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other pixels; see `Codec.write`. Exact, so there are no notes.

        One exception to exact: a pixel that would get the colour of tRNS, and so vanish, is
        written one grey level nearer to its source.
        """
        container: _Container = image.container
        if container.transparent is not None:
            gone = _of_colour(stored, container.transparent)
            gone &= ~_of_colour(image.stored, container.transparent)
            stored = step_back(stored, image.stored, gone)
        source = container.source
        if not np.array_equal(stored, image.stored):
            pixels = encode_samples(stored[0], interlaced=container.interlaced)
            source = source[: container.start] + pixels + source[container.end :]
        target.write_bytes(source)
        return []

    def differences(self, source: Path, released: Path) -> list[str]:
        """Where two files differ outside IDAT, such as "chunk 3 tEXt: differs"."""
        pairs = zip_longest(_outside_pixels(source), _outside_pixels(released))
        return [
            _describe(before, after, number)
            for number, (before, after) in enumerate(pairs)
            if before != after
        ]


def _refuse_unsupported(header: Header, chunks: list[Chunk]) -> None:
    if any(chunk.kind == b"acTL" for chunk in chunks):
        raise RefusedFile("animated PNG: only its first frame would be protected; save the frames")
    if header.colour_type == 3:
        raise RefusedFile(
            "PNG with a palette: a step of the index is no step of the colour; convert it to RGB"
        )
    if header.bit_depth < 8:
        raise RefusedFile(
            f"PNG of {header.bit_depth} bit: one grey level is more than a useful epsilon; "
            "convert it to 8 bits"
        )


def _transparent_colour(header: Header, chunks: list[Chunk]) -> NDArray[Any] | None:
    """The colour that tRNS makes transparent (section 11.3.2.1), one value a channel."""
    bodies = [chunk.body for chunk in chunks if chunk.kind == b"tRNS"]
    if header.has_alpha or not bodies:
        return None
    if len(bodies) > 1 or len(bodies[0]) != 2 * header.channels:
        raise RefusedFile("damaged PNG: its tRNS chunk does not fit its colour type")
    # Always two bytes a channel, of which only the image's own bits count.
    colour = np.frombuffer(bodies[0], ">u2") & (2**header.bit_depth - 1)
    return np.asarray(colour, dtype=f"u{header.bit_depth // 8}")


def _of_colour(stored: NDArray[Any], colour: NDArray[Any]) -> NDArray[np.bool_]:
    """(frames, height, width, 1), True where all channels have that colour."""
    return np.asarray((stored == colour).all(axis=-1, keepdims=True))


def _frozen(
    header: Header, stored: NDArray[Any], transparent: NDArray[Any] | None
) -> NDArray[np.bool_] | None:
    """Alpha, and the pixels that nobody sees: noise there shows as soon as alpha is dropped."""
    if transparent is not None:
        return _of_colour(stored, transparent)
    if not header.has_alpha:
        return None
    frozen = np.repeat(stored[..., -1:] == 0, header.channels, axis=-1)
    frozen[..., -1] = True
    return frozen


def _outside_pixels(path: Path) -> list[tuple[str, bytes]]:
    """Each chunk's name and bytes, a run of IDAT as one without bytes; last, what follows IEND.

    It shares no code with `decode`, so that a mistake there can't hide here.
    """
    data = path.read_bytes()
    parts = [("signature", data[:8])]
    position = 8
    while parts[-1][0] != "IEND":
        if len(data) < position + 12:
            raise RefusedFile("damaged PNG: it ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        name, end = kind.decode("ascii", "replace"), position + 12 + length
        if name != "IDAT":
            parts.append((name, data[position:end]))
        elif parts[-1][0] != "IDAT":
            parts.append((name, b""))
        position = end
    return [*parts, ("", data[position:])]


def _describe(
    before: tuple[str, bytes] | None, after: tuple[str, bytes] | None, number: int
) -> str:
    """A difference by its place; the signature is number 0, so that IHDR is chunk 1."""
    name = (before or after or ("", b""))[0]
    place = f"chunk {number} {name}" if name else "bytes after IEND"
    if after is None:
        return f"{place}: missing"
    return f"{place}: added" if before is None else f"{place}: differs"
