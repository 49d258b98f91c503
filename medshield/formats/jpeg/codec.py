"""JPEG: quantised coefficients change, headers and metadata stay, the bound holds once decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from medshield.formats.jpeg import lossless
from medshield.formats.jpeg.copies import settle_copies
from medshield.formats.jpeg.fit import fit_change
from medshield.formats.jpeg.multi_picture import with_true_index
from medshield.formats.jpeg.pixels import decode_pixels, is_complete
from medshield.formats.jpeg.segments import (
    APPLICATION,
    BASELINE,
    COMMENT,
    EXTENDED,
    HUFFMAN_TABLES,
    LOSSLESS,
    PROGRESSIVE,
    RESTART_INTERVAL,
    START_OF_SCAN,
    Frame,
    Layout,
    parse,
)
from medshield.formats.jpeg.thumbnails import Pictures
from medshield.formats.series import same

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.series import Frames

_CODINGS = {
    BASELINE: "baseline",
    EXTENDED: "extended",
    PROGRESSIVE: "progressive",
    LOSSLESS: "lossless",
}
_NO_RESTARTS = "DRI: restart interval set to 0, the scan is written without restart markers"
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
    handling: Handling


class JpegCodec(Codec):
    """8-bit Huffman-coded JPEG, grey or colour: sequential, progressive, lossless (ITU-T T.81)."""

    name = "jpeg"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By SOI and the first byte of another marker."""
        return head.startswith(b"\xff\xd8\xff")

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one file: stored is (1, height, width, 1 or 3), 0 to 255, as Pillow decodes it.

        Raises:
            RefusedFile: another coding process or colour space, a second copy of the image that
                `handling` does not settle, or damage.
        """
        content = whole_file(path)
        layout = parse(content)
        _refuse_unsupported(layout)
        refuse_too_large(layout.frame.height * layout.frame.width * len(layout.frame.components))
        pixels = decode_pixels(layout)
        if not is_complete(layout, pixels):
            raise RefusedFile("JPEG whose image data end too early: the file is truncated")
        _released(layout, layout, handling, Pictures(pixels, pixels))  # may refuse
        return DecodedImage(
            stored=pixels[None],
            kind="JPEG 8-bit",
            lowest=0,
            highest=255,
            declared=((0, 255),),
            details=_details(layout.frame),
            container=_Source(content, layout, handling),
        )

    def write(self, image: DecodedImage, stored: Frames, target: Path, radius: float) -> list[str]:
        """Write the source with changed coefficients; see `Codec.write`.

        Raises:
            RefusedFile: the quantiser lets no change through that keeps the radius.
        """
        source: _Source = image.container
        before = after = image.stored[:][0]
        coded, notes = source.layout, list[str]()
        if not same(stored, image.stored):
            coded = _with_pixels(source.layout, before, stored[:][0], radius)
            after = decode_pixels(coded)
            if source.layout.restarts and source.layout.frame.marker == PROGRESSIVE:
                notes = [_NO_RESTARTS]
        elif source.handling.icons == "regenerate":  # copies of an unchanged picture are true
            target.write_bytes(source.content)
            return []
        layout, done = _released(source.layout, coded, source.handling, Pictures(before, after))
        target.write_bytes(bytes(layout))
        return notes + done


def _with_pixels(
    layout: Layout, source: NDArray[np.uint8], wanted: NDArray[np.uint8], radius: float
) -> Layout:
    """The file with other pixels: the wanted ones, or as near to them as a quantiser comes."""
    if layout.frame.marker != LOSSLESS:
        return fit_change(layout, source, wanted, radius)
    coded = lossless.with_samples(layout, wanted)
    if not np.array_equal(decode_pixels(coded), wanted):
        raise RefusedFile("lossless JPEG that does not decode as it was written: convert it to PNG")
    return coded


def _released(
    source: Layout, coded: Layout, handling: Handling, pictures: Pictures
) -> tuple[Layout, list[str]]:
    """The file with its new scans and with its copies of the picture settled, and notes."""
    layout, notes = settle_copies(coded, handling, pictures)
    return with_true_index(source, layout), notes


def _refuse_unsupported(layout: Layout) -> None:
    """Refuse what coefficients can't be changed in, by name."""
    frame = layout.frame
    if frame.marker not in _CODINGS:
        raise RefusedFile(
            f"{_process(frame.marker)} JPEG (SOF{frame.marker - BASELINE}), expected Huffman-coded "
            "baseline, extended, progressive or lossless: convert it to PNG or to one of these"
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
    markers = [segment.marker for segment in layout.segments]
    if START_OF_SCAN not in markers:
        raise RefusedFile("JPEG without a scan: the file is damaged")
    later = set(markers[markers.index(START_OF_SCAN) :])
    # Progressive scans are replaced as a whole; others one by one, and what is between them stays.
    other = later - {START_OF_SCAN, HUFFMAN_TABLES}
    if frame.marker != PROGRESSIVE:
        other -= {RESTART_INTERVAL, COMMENT, *APPLICATION}
    if other:
        raise RefusedFile("JPEG with other segments between or after its scans: save it anew")
    if frame.marker == LOSSLESS:
        lossless.refuse_unsupported(layout)


def _process(marker: int) -> str:
    """What a coding process is called (T.81 Table B.1)."""
    if marker >= 0xC9:
        return "arithmetic-coded"
    return "hierarchical"


def _details(frame: Frame) -> dict[str, str]:
    """Coding process and, for colour, chroma sampling."""
    details = {"coding": _CODINGS[frame.marker]}
    if len(frame.components) == 3:
        luma, *chroma = ((part.horizontal, part.vertical) for part in frame.components)
        written = ",".join(f"{h}x{v}" for h, v in (luma, *chroma))
        usual = chroma == [(1, 1), (1, 1)]
        details["sampling"] = _SAMPLINGS.get(luma, written) if usual else written
    return details
