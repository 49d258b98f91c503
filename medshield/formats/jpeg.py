"""JPEG: quantised coefficients change, headers and metadata stay, the bound holds once decoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.jpeg_copies import refuse_clean_copies
from medshield.formats.jpeg_fit import fit_change
from medshield.formats.jpeg_pixels import decode_pixels, is_complete
from medshield.formats.jpeg_segments import (
    BASELINE,
    EXTENDED,
    PROGRESSIVE,
    RESTART_INTERVAL,
    START_OF_SCAN,
    Frame,
    Layout,
    Segment,
    parse,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_CODINGS = {BASELINE: "baseline", EXTENDED: "extended", PROGRESSIVE: "progressive"}
_SAMPLINGS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (1, 2): "4:4:0",
    (2, 2): "4:2:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}


@dataclass(frozen=True)
class _Source:
    """What writing needs of the source file."""

    content: bytes
    layout: Layout


class JpegCodec(Codec):
    """8-bit Huffman-coded JPEG, sequential or progressive, grey or colour (ITU-T T.81)."""

    name = "jpeg"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By SOI and the first byte of another marker."""
        return head.startswith(b"\xff\xd8\xff")

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one file: stored is (1, height, width, 1 or 3), 0 to 255, as Pillow decodes it.

        Raises:
            RefusedFile: another coding process or colour space, a second copy of the image in
                the file, or damage.
        """
        content = path.read_bytes()
        layout = parse(content)
        _refuse_unsupported(layout)
        refuse_clean_copies(layout)
        pixels = decode_pixels(content)
        if not is_complete(layout, pixels):
            raise RefusedFile("JPEG whose image data end too early: the file is truncated")
        return DecodedImage(
            stored=pixels[None],
            kind="JPEG 8-bit",
            lowest=0,
            highest=255,
            declared=((0, 255),),
            details=_details(layout.frame),
            container=_Source(content, layout),
        )

    def write(
        self, image: DecodedImage, stored: NDArray[Any], target: Path, radius: float
    ) -> list[str]:
        """Write the source with changed coefficients; see `Codec.write`.

        Raises:
            RefusedFile: the quantiser lets no change through that keeps the radius.
        """
        source: _Source = image.container
        if np.array_equal(stored, image.stored):
            target.write_bytes(source.content)
            return []
        target.write_bytes(fit_change(source.layout, image.stored[0], stored[0], radius))
        if source.layout.restarts:
            return ["DRI: restart interval set to 0, the scan is written without restart markers"]
        return []

    def differences(self, source: Path, released: Path) -> list[str]:
        """Where segments differ, Huffman tables and scans aside; see `Codec.differences`."""
        before, after = parse(source.read_bytes()), parse(released.read_bytes())
        old, new = _places(before), _places(after)
        found = [f"{place}: missing" for place in old if place not in new]
        found += [f"{place}: added" for place in new if place not in old]
        if not found and list(old) != list(new):
            found.append("order of segments: differs")
        found += [
            f"{place}: differs"
            for place, segment in old.items()
            if place in new and not _is_same(segment, new[place])
        ]
        if before.trailing != after.trailing:
            found.append("bytes after EOI: differ")
        return found


def _refuse_unsupported(layout: Layout) -> None:
    """Refuse what coefficients can't be changed in, by name."""
    frame = layout.frame
    if frame.marker not in _CODINGS:
        raise RefusedFile(
            f"{_process(frame.marker)} JPEG (SOF{frame.marker - BASELINE}), expected Huffman-coded "
            "baseline, extended or progressive: convert it to PNG or to one of these"
        )
    if frame.precision != 8:
        raise RefusedFile(f"{frame.precision}-bit JPEG, expected 8 bits: convert it to 16-bit PNG")
    if len(frame.components) == 4:
        raise RefusedFile("CMYK or YCCK JPEG, expected grey or RGB: convert it to RGB")
    if len(frame.components) not in (1, 3):
        raise RefusedFile(
            f"JPEG of {len(frame.components)} components, expected 1 or 3: convert it to RGB"
        )
    if 0 in (frame.height, frame.width):
        raise RefusedFile("JPEG whose header leaves its size open (DNL): save it anew")
    kinds = [segment.carries_coding for segment in layout.segments]
    scans = [segment.marker == START_OF_SCAN for segment in layout.segments]
    if not any(scans) or not scans[-1] or not all(kinds[scans.index(True) :]):
        raise RefusedFile("JPEG with other segments between or after its scans: save it anew")


def _process(marker: int) -> str:
    """What a coding process is called (T.81 Table B.1)."""
    if marker >= 0xC9:
        return "arithmetic-coded"
    return "lossless" if marker == 0xC3 else "hierarchical"


def _details(frame: Frame) -> dict[str, str]:
    """Coding process and, for colour, chroma sampling."""
    details = {"coding": _CODINGS[frame.marker]}
    if len(frame.components) == 3:
        luma, *chroma = ((part.horizontal, part.vertical) for part in frame.components)
        written = ",".join(f"{h}x{v}" for h, v in (luma, *chroma))
        usual = chroma == [(1, 1), (1, 1)]
        details["sampling"] = _SAMPLINGS.get(luma, written) if usual else written
    return details


def _places(layout: Layout) -> dict[str, Segment]:
    """Every segment outside the coding by its place, such as "APP1 segment 2", in order."""
    count: Counter[str] = Counter()
    places = {}
    for segment in layout.segments:
        if not segment.carries_coding:
            count[segment.name] += 1
            places[f"{segment.name} segment {count[segment.name]}"] = segment
    return places


def _is_same(old: Segment, new: Segment) -> bool:
    """Whether two segments are equal, or the restart interval became none (see `write`)."""
    reset = old.marker == RESTART_INTERVAL and not any(new.payload)
    return old.raw == new.raw or (reset and len(old.raw) == len(new.raw))
