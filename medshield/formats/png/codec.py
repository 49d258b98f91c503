"""PNG: only IDAT (and an animation's fdAT) is replaced in the source's own list of chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import (
    DEFAULT_HANDLING,
    Codec,
    DecodedImage,
    Handling,
    refuse_too_large,
    whole_file,
)
from medshield.formats.jpeg.thumbnails import Pictures
from medshield.formats.palette import Palette
from medshield.formats.png.chunks import (
    SIGNATURE,
    Chunk,
    Header,
    only_chunk,
    read_chunks,
    read_header,
)
from medshield.formats.png.copies import Change, removals, settled_exif
from medshield.formats.png.frames import Edit, Frame, applied, read_frames
from medshield.formats.png.pixels import Samples, decode_samples, encode_samples
from medshield.formats.reserved import hidden_by_alpha, step_back

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.series import Frames


@dataclass(frozen=True)
class _Container:
    """The source, and where its pixels lie.

    Attributes:
        source: the whole file.
        header: of IHDR.
        frames, samples: each image of the file and what it holds.
        transparent: the colour of tRNS, one value a channel, or None.
        palette: of PLTE and tRNS, or None.
        chunks: all of them.
        copies: what must go when pixels change.
        handling: as `decode` was told.
    """

    source: bytes
    header: Header
    frames: tuple[Frame, ...]
    samples: tuple[Samples, ...]
    transparent: NDArray[Any] | None
    palette: Palette | None
    chunks: list[Chunk]
    copies: list[Change]
    handling: Handling


class PngCodec(Codec):
    """PNG of every bit depth and colour type, interlaced or not, animated with whole frames."""

    name = "png"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By the signature (PNG third edition section 5.2)."""
        return head.startswith(SIGNATURE)

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one PNG; see `Codec.decode`.

        Grey values of 1, 2 and 4 bits are 0 to 1, 3 and 15. Of a palette, `stored` is what is
        displayed, RGB or RGBA. Alpha, fully transparent pixels and pixels of the colour that
        tRNS makes transparent are frozen.

        Raises:
            RefusedFile: damaged, an animation with partial frames, or with a signature or a copy
                of the picture that `handling` does not cover.
        """
        source = whole_file(path)
        chunks = read_chunks(source)
        header = read_header(chunks[0])
        copies = removals(chunks, len(source), source[chunks[-1].end :], handling)
        palette = _palette(header, chunks)
        transparent = _transparent_colour(header, chunks)
        frames = read_frames(header, chunks)
        refuse_too_large(
            len(frames) * header.width * header.height * (4 if palette else 2 * header.channels)
        )
        samples = tuple(decode_samples(header, frame.stream) for frame in frames)
        values = np.stack([sample.values for sample in samples])
        stored = palette.looked_up(values[..., 0]) if palette else values
        depth = 8 if palette else header.bit_depth
        picture = _displayed(stored, depth)
        settled_exif(chunks, handling, Pictures(picture, picture))  # refuses what it can't settle
        return DecodedImage(
            stored=stored,
            kind=f"PNG {depth}-bit",
            lowest=0,
            highest=2**depth - 1,
            step=palette.finest_step(values) if palette else 1,
            frozen=_frozen(stored, transparent),
            declared=_declared(header, chunks, stored),
            details={
                "bit depth": str(header.bit_depth),
                "colour type": header.colour_name,
                "interlaced": "yes" if header.interlaced else "no",
            },
            container=_Container(
                source, header, frames, samples, transparent, palette, chunks, copies, handling
            ),
        )

    def write(
        self,
        image: DecodedImage,
        stored: Frames,
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other pixels; see `Codec.write`.

        Notes name the chunks that `Handling` took out or that hold a thumbnail made anew; no
        other chunk changes.

        Exact with two exceptions: a pixel that would get the colour of tRNS, and so vanish, is
        written one grey level nearer to its source; one with a palette gets the entry that is
        nearest to the wanted colour.

        Raises:
            RefusedFile: no entry of the palette is near enough to another.
        """
        container: _Container = image.container
        wanted, before = stored[:], image.stored[:]
        if container.transparent is not None:
            gone = _of_colour(wanted, container.transparent)
            gone &= ~_of_colour(before, container.transparent)
            wanted = step_back(wanted, before, gone)
        values, notes = _values(container, wanted, radius)
        edits: list[Edit] = []
        for frame, old, new in zip(container.frames, container.samples, values, strict=True):
            if not np.array_equal(new, old.values):
                samples = Samples(new, old.filters)
                edits += frame.edits(encode_samples(container.header, samples))
        if edits:
            released = container.palette.looked_up(values[..., 0]) if container.palette else values
            depth = 8 if container.palette else container.header.bit_depth
            pictures = Pictures(_displayed(before, depth), _displayed(released, depth))
            exif = settled_exif(container.chunks, container.handling, pictures)
            for change in [*container.copies, *exif]:
                edits.append(change.edit)
                notes.append(change.note)
        target.write_bytes(applied(container.source, edits))
        return notes


def _displayed(stored: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    """The first frame as (height, width, 1 or 3) of 8 bits, without alpha."""
    colours = stored[0, ..., : 3 if stored.shape[-1] >= 3 else 1]
    if depth > 8:
        return np.asarray(colours >> (depth - 8), np.uint8)
    return np.asarray(colours * np.uint8(255 // (2**depth - 1)), np.uint8)


def _values(
    container: _Container, stored: NDArray[Any], radius: float
) -> tuple[NDArray[Any], list[str]]:
    """(frames, height, width, channels) as the file numbers them, and notes on them."""
    palette = container.palette
    if palette is None:
        return stored, []
    indices = np.stack([sample.values[..., 0] for sample in container.samples])
    nearest = palette.nearest(indices, stored, radius)[..., np.newaxis]
    return nearest, palette.held_note(indices, radius) if radius else []


def _palette(header: Header, chunks: list[Chunk]) -> Palette | None:
    """PLTE with the alpha of tRNS (sections 11.2.2 and 11.3.1.1) and, as hIST says, its use."""
    if not header.has_palette:
        return None
    entries, alpha = only_chunk(chunks, b"PLTE"), only_chunk(chunks, b"tRNS")
    if not entries or len(entries) % 3 or len(entries) > 3 << header.bit_depth:
        raise RefusedFile("damaged PNG: its PLTE chunk does not fit its bit depth")
    colours = np.frombuffer(entries, np.uint8).reshape(-1, 3)
    usable = np.ones(len(colours), np.bool_)
    if alpha is not None:
        if len(alpha) > len(colours):
            raise RefusedFile("damaged PNG: its tRNS chunk does not fit its palette")
        opacity = np.frombuffer(alpha.ljust(len(colours), b"\xff"), np.uint8)
        colours = np.column_stack([colours, opacity])
    histogram = only_chunk(chunks, b"hIST")
    if histogram is not None and len(histogram) == 2 * len(colours):
        usable = np.frombuffer(histogram, ">u2") > 0  # 0 says: "no pixel has this colour"
    return Palette(colours, usable)


def _transparent_colour(header: Header, chunks: list[Chunk]) -> NDArray[Any] | None:
    """The colour that tRNS makes transparent (section 11.3.1.1), one value a channel."""
    body = only_chunk(chunks, b"tRNS")
    if header.has_alpha or header.has_palette or body is None:
        return None
    if len(body) != 2 * header.channels:
        raise RefusedFile("damaged PNG: its tRNS chunk does not fit its colour type")
    # Always two bytes a channel, of which only the image's own bits count.
    colour = np.frombuffer(body, ">u2") & (2**header.bit_depth - 1)
    return np.asarray(colour, np.uint16 if header.bit_depth == 16 else np.uint8)


def _declared(
    header: Header, chunks: list[Chunk], stored: NDArray[Any]
) -> tuple[tuple[float, float], ...]:
    """All values of the depth, but for 16 bits, which programs fill as they like.

    There sBIT says that values of fewer bits were scaled up to fill all 16 (section 11.3.2.7).
    Programs that forget the scaling are known by an image that does not need those bits.
    """
    full = (0.0, 2.0 ** (8 if header.has_palette else header.bit_depth) - 1)
    if header.bit_depth < 16:
        return (full,)
    significant = max(only_chunk(chunks, b"sBIT") or b"\x10")
    is_scaled = significant < 16 and int(stored.max(initial=0)) >= 2**significant
    return (full,) if is_scaled else ()


def _of_colour(stored: NDArray[Any], colour: NDArray[Any]) -> NDArray[np.bool_]:
    """(frames, height, width, 1), True where all channels have that colour."""
    return np.asarray((stored == colour).all(axis=-1, keepdims=True))


def _frozen(stored: NDArray[Any], transparent: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Alpha, and the pixels that nobody sees."""
    if transparent is not None:
        return _of_colour(stored, transparent)
    return hidden_by_alpha(stored) if stored.shape[-1] in (2, 4) else None
