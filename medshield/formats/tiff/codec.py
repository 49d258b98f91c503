"""TIFF and BigTIFF: only strips and tiles change, and the tags that say where they are."""

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
from medshield.formats.palette import Palette
from medshield.formats.reserved import hidden_by_alpha, step_back
from medshield.formats.tiff.contents import Contents, read_contents
from medshield.formats.tiff.page import (
    ASSOCIATED_ALPHA,
    COLOUR_MAP,
    COMPRESSIONS,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    Form,
    Page,
)
from medshield.formats.tiff.pixels import changed_segments, frames_of, read_samples, samples_of
from medshield.formats.tiff.reduced import read_reduced, refuse_to_lose, remake, remove
from medshield.formats.tiff.splice import Splicer
from medshield.formats.tiff.structure import MAGIC, Structure

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.series import Frames

_NO_DATA = 42113  # GDAL's: ASCII
_LIMITS = ((280, 281), (340, 341))  # MinSampleValue and MaxSampleValue; SMin... and SMax...


@dataclass(frozen=True)
class _Container:
    """The source, and what it is made of.

    Attributes:
        structure: of the whole file.
        contents: pages, copies of them and tags to remove.
        samples: of each page, (height, width, samples).
        smaller: the smaller copies as pages, if they are to be made anew.
        palette: the colours, or None.
        no_data: the value that stands for "no pixel", or None.
        handling: as `decode` was told.
    """

    structure: Structure
    contents: Contents
    samples: tuple[NDArray[Any], ...]
    smaller: list[Page]
    palette: Palette | None
    no_data: float | None
    handling: Handling


class TiffCodec(Codec):
    """TIFF with lossless coding: grey, RGB or palette, one page or many of one size."""

    name = "tiff"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By the byte order and the version, 42 or 43 (TIFF 6.0 section 2)."""
        return head[:4] in MAGIC

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one TIFF; see `Codec.decode`.

        Pages are frames; so are the samples of grey pages with further unnamed samples
        (channels of a microscope). Of a palette, `stored` is what is displayed, RGB of 8 bits.

        Raises:
            RefusedFile: damaged, of a coding or colour space without an exact way back, of pages
                that differ, or with a copy of the picture that `handling` does not cover.
        """
        structure = Structure(whole_file(path))
        contents = read_contents(structure, handling)
        form = contents.pages[0].form
        _refuse_size(contents)
        palette = _palette(structure, contents.pages)
        smaller = []
        if handling.icons == "remove":
            refuse_to_lose(contents)
        else:
            smaller = read_reduced(structure, contents)
        samples = tuple(read_samples(structure, page) for page in contents.pages)
        stored = np.concatenate([frames_of(form, values) for values in samples])
        no_data = _no_data(structure, contents.pages[0])
        lowest, highest = _limits(structure, contents.pages, stored)
        step = 1.0
        if palette:
            step, (lowest, highest) = palette.finest_step(stored), (0, 255)
            stored = palette.looked_up(stored[..., 0])
        return DecodedImage(
            stored=stored,
            kind=form.kind,
            lowest=lowest,
            highest=highest,
            step=step,
            frozen=_frozen(form, stored, no_data),
            inverted=form.photometric == WHITE_IS_ZERO,
            declared=_declared(form),
            details=_details(structure, contents),
            container=_Container(structure, contents, samples, smaller, palette, no_data, handling),
        )

    def write(self, image: DecodedImage, stored: Frames, target: Path, radius: float) -> list[str]:
        """Write the source with other pixels; see `Codec.write`.

        Exact, with exceptions: a pixel that would get the value of "no data" is written one step
        nearer to its source; one with a palette gets the entry that is nearest to the wanted
        colour; premultiplied colours do not rise above their alpha.

        Returns:
            Notes on the tags that say where strips or tiles are, and on smaller copies.

        Raises:
            RefusedFile: no palette entry is near enough, or the file outgrows its kind.
        """
        box: _Container = image.container
        wanted = stored[:]
        if wanted.tobytes() == image.stored[:].tobytes():
            target.write_bytes(box.structure.data)
            return []
        pages = box.contents.pages
        each = len(image.stored) // len(pages)
        values, notes = _as_numbered(image, wanted, radius)
        new = [
            samples_of(pages[0].form, values[number * each : (number + 1) * each])
            for number in range(len(pages))
        ]
        splicer = Splicer(box.structure)
        for page, before, after in zip(pages, box.samples, new, strict=True):
            splicer.replace(page, changed_segments(box.structure, page, before, after))
        if box.handling.icons == "remove":
            notes += remove(box.structure, splicer, box.contents)
        for found, page in zip(box.contents.reduced, box.smaller, strict=False):
            notes.append(remake(box.structure, splicer, page, new[found.frame]))
        for directory, tag in box.contents.copies:
            entry = directory.entries[tag]
            if not entry.is_inline:
                splicer.blank([(entry.value_at, entry.value_at + entry.size)])
            splicer.drop_tag(directory, tag)
            notes.append(f"tag {tag} of {directory.name}: removed")
        content, moved = splicer.finish()
        target.write_bytes(content)
        return notes + moved


def _refuse_size(contents: Contents) -> None:
    form = contents.pages[0].form
    samples = form.height * form.width * form.samples * len(contents.pages)
    refuse_too_large(
        samples * (3 if form.photometric == PALETTE else np.dtype(form.dtype).itemsize)
    )
    for page in contents.pages:  # a tile may be far larger than the image
        for segment in page.segments:
            refuse_too_large(page.segment_bytes(segment))


def _palette(structure: Structure, pages: tuple[Page, ...]) -> Palette | None:
    """ColorMap: all red values, then green, then blue, of 16 bits (section 5).

    Readers show the high byte.
    """
    if pages[0].form.photometric != PALETTE:
        return None
    maps = {structure.numbers(page.directory, COLOUR_MAP) for page in pages}
    entries = 1 << pages[0].form.bits
    if len(maps) != 1 or pages[0].form.dtype != "u1":
        raise RefusedFile(
            "TIFF with different palettes on its pages, or one of more than 256 colours: convert "
            "it to RGB"
        )
    (values,) = maps
    if len(values) != 3 * entries:
        raise RefusedFile(
            f"damaged TIFF: its ColorMap has {len(values)} numbers, expected {3 * entries}"
        )
    if max(values) < 256 and any(values):
        raise RefusedFile(
            "TIFF with a palette of 8-bit colours where 16 bits are expected, which readers show "
            "in different ways: save it anew"
        )
    colours = (np.array(values).reshape(3, -1).T >> 8).astype(np.uint8)
    return Palette(colours, np.ones(entries, np.bool_))


def _as_numbered(
    image: DecodedImage, stored: NDArray[Any], radius: float
) -> tuple[NDArray[Any], list[str]]:
    """(frames, height, width, channels) as the file numbers them, and notes."""
    box: _Container = image.container
    form = box.contents.pages[0].form
    if box.palette is not None:
        indices = np.stack([values[..., 0] for values in box.samples])
        nearest = box.palette.nearest(indices, stored, radius)
        return nearest[..., np.newaxis], box.palette.held_note(indices, radius)
    if box.no_data is not None:
        landed = (stored == box.no_data) & (image.stored[:] != box.no_data)
        stored = step_back(stored, image.stored[:], landed)
    if form.has_alpha and form.extra[0] == ASSOCIATED_ALPHA:
        colour, alpha = stored[..., :-1], stored[..., -1:]
        lid = np.maximum(alpha, image.stored[:][..., :-1])
        stored = np.concatenate([np.minimum(colour, lid), alpha], axis=-1)
    return stored, []


def _no_data(structure: Structure, page: Page) -> float | None:
    """The value that stands for "no pixel", as GDAL writes it."""
    entry = page.directory.entries.get(_NO_DATA)
    if entry is None:
        return None
    try:
        return float(structure.raw(entry).rstrip(b"\0 "))
    except ValueError:
        return None


def _frozen(form: Form, stored: NDArray[Any], no_data: float | None) -> NDArray[np.bool_] | None:
    """Alpha with what it hides, and pixels that are none."""
    frozen = hidden_by_alpha(stored) if form.has_alpha else None
    if no_data is None or form.photometric == PALETTE:
        return frozen
    empty = np.asarray(stored == no_data)
    return empty if frozen is None else frozen | empty


def _limits(
    structure: Structure, pages: tuple[Page, ...], stored: NDArray[Any]
) -> tuple[float, float]:
    """What a value may become: what its bits hold, and what the tags say if that is so now."""
    form = pages[0].form
    lowest, highest = float("-inf"), float("inf")
    if form.dtype[0] == "u":
        lowest, highest = 0, 2**form.bits - 1
    elif form.dtype[0] == "i":
        lowest, highest = -(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1
    for low_tag, high_tag in _LIMITS:
        low = [v for page in pages for v in structure.limits(page.directory, low_tag)]
        high = [v for page in pages for v in structure.limits(page.directory, high_tag)]
        if low and min(low) <= stored.min():
            lowest = max(lowest, min(low))
        if high and max(high) >= stored.max():
            highest = min(highest, max(high))
    return lowest, highest


def _declared(form: Form) -> tuple[tuple[float, float], ...]:
    """All values of up to 8 bits; programs fill deeper ones as they like."""
    if form.photometric == PALETTE:
        return ((0.0, 255.0),)
    if form.dtype != "u1":
        return ()
    return ((0.0, 2.0**form.bits - 1),)


def _details(structure: Structure, contents: Contents) -> dict[str, str]:
    form = contents.pages[0].form
    colours = {RGB: "RGB", PALETTE: "palette"}.get(form.photometric, "grey")
    names = {COMPRESSIONS[page.compression] for page in contents.pages}
    return {
        "bit depth": str(form.bits),
        "colour type": colours + (" and alpha" if form.has_alpha else ""),
        "compression": ", ".join(sorted(names)),
        "byte order": "little endian" if structure.order == "<" else "big endian",
    }
