"""Coded frames of DICOM's encapsulated transfer syntaxes (PS3.5 A.4), decoded and encoded.

Every library is named, so that the same file gives the same values on every machine. Nothing here
trusts an encoder: `encode` decodes what it made and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import imagecodecs
import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medshield.errors import RefusedFile
from medshield.formats import series
from medshield.formats.dicom.codestreams import (
    Codestream,
    dressed_as,
    read_codestream,
    with_precision,
)
from medshield.formats.dicom.container import (
    encapsulated,
    encapsulated_alone,
    extended_offsets,
    fragments_of,
    without_end,
)
from medshield.formats.dicom.pixels import MONOCHROME, YBR_FULL, PixelLayout
from medshield.formats.jpeg import lossless
from medshield.formats.jpeg.segments import parse
from medshield.formats.series import (
    Content,
    Frames,
    MadeBytes,
    MadeFrames,
    held,
    runs,
    stream_of,
)

# Retired in 2001 and still found: progressive processes of the 12-bit kind.
SPECTRAL_SELECTION = UID("1.2.840.10008.1.2.4.53")
FULL_PROGRESSION = UID("1.2.840.10008.1.2.4.55")

_MOST_CODED_BITS = 24
_RLE_HEADER = 64

JPEG_2000_FAMILY = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_PYDICOM_PLUGINS = {
    RLELossless: "pydicom",  # the others panic or crash on damaged frames
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(JPEG_2000_FAMILY, "pylibjpeg"),
    JPEGBaseline8Bit: "pillow",
}


class CodedFrames:
    """The coded frames of an encapsulated value field, read when they are asked for.

    Args:
        value: the value field of Pixel Data.
        layout: what the header says.

    Raises:
        RefusedFile: more or fewer frames than the header says.
    """

    def __init__(self, value: Content, layout: PixelLayout) -> None:
        self.value = value
        self._fragments = _fragments_of_frames(value, layout)

    def __len__(self) -> int:
        return len(self._fragments)

    def __getitem__(self, frames: slice) -> list[bytes]:
        return [self._joined(fragments) for fragments in self._fragments[frames]]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._joined, self._fragments)

    def _joined(self, fragments: Sequence[tuple[int, int]]) -> bytes:
        return b"".join(self.value[start : start + length] for start, length in fragments)


def _fragments_of_frames(value: Content, layout: PixelLayout) -> list[list[tuple[int, int]]]:
    """Where the fragments of each frame start, and their lengths.

    Which belong to which frame is pydicom's to say: it knows offset tables, and the marks in the
    coded data where there is none.
    """
    bare = without_end(value)
    stream = bare if isinstance(bare, bytes) else stream_of(bare)
    fragments = iter(fragments_of(value))
    found: list[list[tuple[int, int]]] = []
    for frame in generate_frames(stream, number_of_frames=layout.frames):
        own, missing = [], len(frame)
        while missing > 0:
            own.append(next(fragments))
            missing -= own[-1][1]
        found.append(own)
    if len(found) != layout.frames:
        raise RefusedFile(
            f"{len(found)} coded frames, Number of Frames says {layout.frames}; "
            "correct the header or get the file whole"
        )
    return found


def decode_words(syntax: UID, coded: CodedFrames, layout: PixelLayout) -> Frames:
    """The words of all frames, in the colours that were coded.

    Args:
        syntax: one that `can_stay` said yes to.
        coded: the frames.
        layout: what the header says.

    Returns:
        (frames, rows, columns, samples), of the layout's word.

    Raises:
        RefusedFile: its encoder can't take such samples, or readers take them differently; of an
            image too large to hold, when its frames are asked for.
    """
    return held(
        MadeFrames(layout.shape, layout.word, lambda frames: _words(syntax, coded[frames], layout))
    )


def _words(syntax: UID, frames: list[bytes], layout: PixelLayout) -> NDArray[Any]:
    """The words of some frames."""
    words = _decoded(syntax, frames, layout, as_rgb=False).astype(layout.word)
    if syntax != RLELossless and layout.unused_bits_matter(words):
        raise RefusedFile(
            "its coded samples have bits above Bits Stored, which some readers show and others "
            "clear; correct the header, or move overlays into Overlay Data first"
        )
    return words


def coded_bits(syntax: UID, coded: CodedFrames, layout: PixelLayout) -> int:
    """How many bits of a sample its frames can hold, which may be fewer than Bits Stored.

    Raises:
        RefusedFile: frames of another size than the header says, or of more bits than can be coded.
    """
    if syntax == RLELossless:
        return layout.bits_allocated
    bits = min(form.precision for form in _forms(coded, layout))
    if bits > _MOST_CODED_BITS:
        raise RefusedFile(
            f"no encoder of {syntax.name} takes samples of {bits} bits; "
            "convert the file to Explicit VR Little Endian first"
        )
    return bits


def decode_lossy(syntax: UID, coded: CodedFrames, layout: PixelLayout) -> Frames:
    """The stored values of all frames, colours as RGB.

    Returns:
        (frames, rows, columns, samples), of the layout's value type.

    Raises:
        RefusedFile: values do not fit Bits Stored; see also `decode_words`.
    """
    if syntax in (SPECTRAL_SELECTION, FULL_PROGRESSION) and layout.photometric in YBR_FULL:
        raise RefusedFile(
            f"{layout.photometric} in a retired coding, which readers convert differently or not "
            "at all; convert the file to Explicit VR Little Endian and RGB first"
        )
    _forms(coded, layout)
    return held(
        MadeFrames(
            layout.shape, layout.value, lambda frames: _lossy_values(syntax, coded[frames], layout)
        )
    )


def _lossy_values(syntax: UID, frames: list[bytes], layout: PixelLayout) -> NDArray[Any]:
    """The stored values of some frames."""
    decoded = _decoded(syntax, frames, layout, as_rgb=True)
    lowest, highest = layout.limits
    if decoded.min() < lowest or decoded.max() > highest:
        raise RefusedFile("its coded samples have more bits than Bits Stored; correct the header")
    return decoded.astype(layout.value)


def can_stay(syntax: UID, coded: CodedFrames, layout: PixelLayout) -> bool:
    """Whether other values can be coded in the same transfer syntax without a loss of their own.

    JPEG 2000, HTJ2K and JPEG-LS can under their lossy names too: those allow a coding with no
    loss. An irreversible colour transform alone has to go, and its name in the header with it.
    """
    if syntax in _MAY_BE_LOSSLESS:
        forms = _forms(coded, layout)
        return all(form.reversible or not form.mixes_colours for form in forms)
    return syntax in _LOSSLESS


def may_be_lossy(syntax: UID) -> bool:
    """Whether frames of this transfer syntax need not give back what went in."""
    return is_supported(syntax) and (syntax in _MAY_BE_LOSSLESS or syntax not in _LOSSLESS)


def is_supported(syntax: UID) -> bool:
    """Whether frames of this transfer syntax can be decoded."""
    return syntax in _PYDICOM_PLUGINS or syntax in _LIBJPEG_TURBO


@dataclass(frozen=True)
class Encoded:
    """A value field of Pixel Data.

    Attributes:
        value: with the offset table that the source's field has.
        offsets: by tag, what the tables of an Extended Offset Table have to say of it.
    """

    value: MadeBytes
    offsets: dict[int, bytes]


def encode(
    syntax: UID, words: Frames, layout: PixelLayout, like: Content, folder: Path | None = None
) -> Encoded:
    """The value field of Pixel Data with these words, coded without loss.

    Args:
        syntax: one that `can_stay` said yes to.
        words: (frames, rows, columns, samples).
        layout: what the header says.
        like: the source's value field, for the form of its frames and of its offset table.
        folder: where coded frames are kept that are too large to hold, until they are written;
            None for the system's own.

    Raises:
        RefusedFile: the encoder failed, or its frames don't give these words back.
    """
    sources = CodedFrames(like, layout)
    beside = str(folder) if folder else None
    kept = SpooledTemporaryFile(series.BYTES_HELD, dir=beside)  # noqa: SIM115 (its reader closes it)
    lengths: list[int] = []
    for run in runs(words.shape):
        for frame in _encoded(syntax, words[run], layout, sources[run]):
            kept.write(frame)
            lengths.append(len(frame))
    value = encapsulated(kept, lengths, like)
    return Encoded(value, extended_offsets([length + length % 2 for length in lengths]))


def _encoded(
    syntax: UID, words: NDArray[Any], layout: PixelLayout, sources: list[bytes]
) -> list[bytes]:
    """Some frames, coded like those of the source, and seen to give their words back."""
    try:
        coded = _coded(syntax, words, layout, sources)
        again = _words(syntax, coded, layout)
    except RefusedFile:
        raise
    except Exception as error:
        raise RefusedFile(
            f"the encoder of {syntax.name} failed on it ({type(error).__name__}); "
            "convert the file to Explicit VR Little Endian first"
        ) from error
    if not np.array_equal(again, words):
        raise RefusedFile(
            f"the encoder of {syntax.name} does not give its values back exactly; "
            "convert the file to Explicit VR Little Endian first"
        )
    return coded


def _coded(
    syntax: UID, words: NDArray[Any], layout: PixelLayout, sources: list[bytes]
) -> list[bytes]:
    if syntax == RLELossless:
        return [_rle(frame, layout) for frame in words]
    coded: list[bytes] = []
    for frame, source, form in zip(words, sources, _forms(sources, layout), strict=True):
        samples = _samples(frame, layout, form)
        coded.append(dressed_as(_ENCODERS[syntax](samples, form), source))
    return coded


def _forms(frames: Iterable[bytes], layout: PixelLayout) -> list[Codestream]:
    """What each frame says of itself.

    Raises:
        RefusedFile: another size than the header says: it would be decoded to something else, or
            to very much.
    """
    forms = [read_codestream(frame) for frame in frames]
    for form in forms:
        size = form.rows, form.columns, form.components
        if size != (layout.rows, layout.columns, layout.samples):
            raise RefusedFile(
                f"a coded frame has {form.columns} columns, {form.rows} rows and {form.components} "
                f"samples, the header says {layout.columns}, {layout.rows} and {layout.samples}: "
                "damaged, or the header is wrong"
            )
        if form.precision > layout.bits_allocated:
            raise RefusedFile(
                f"its coded samples have {form.precision} bits, {layout.bits_allocated} are "
                "allocated; correct the header"
            )
    return forms


def _samples(words: NDArray[Any], layout: PixelLayout, form: Codestream) -> NDArray[Any]:
    """One frame's words as the samples of a coded frame: (rows, columns[, samples])."""
    as_coded = replace(layout, bits_stored=form.precision, signed=form.signed)
    size = 1 if form.precision <= 8 else 2 if form.precision <= 16 else 4
    samples = as_coded.values(words).astype(f"{'i' if form.signed else 'u'}{size}")
    return samples[..., 0] if layout.samples == 1 else samples


def _decoded(syntax: UID, frames: list[bytes], layout: PixelLayout, as_rgb: bool) -> NDArray[Any]:
    """Some frames, of the shape of the whole but for their number."""
    layout = replace(layout, frames=len(frames))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        decoded = np.stack([_lossless_jpeg(frame, layout) for frame in frames])
    elif syntax in _LIBJPEG_TURBO and not _fits_pillow(syntax, layout):
        decoded = np.stack([_libjpeg_turbo(frame, layout) for frame in frames])
    else:
        decoded = _pydicom(syntax, frames, layout, as_rgb)
    if decoded.size != np.prod(layout.shape):
        raise RefusedFile("its coded frames are more, fewer or of another size than it says")
    return decoded.reshape(layout.shape)


def _fits_pillow(syntax: UID, layout: PixelLayout) -> bool:
    return syntax == JPEGExtended12Bit and layout.bits_stored == 8


def _pydicom(syntax: UID, frames: list[bytes], layout: PixelLayout, as_rgb: bool) -> NDArray[Any]:
    options = _options(layout)
    if syntax == RLELossless:  # codes whole words, and their unused bits are wanted too
        options["correct_unused_bits"] = False
    decoded, properties = get_decoder(syntax).as_array(
        encapsulated_alone(frames),
        raw=not as_rgb,
        decoding_plugin=_PYDICOM_PLUGINS.get(syntax, "pillow"),
        **options,
    )
    if as_rgb and properties["photometric_interpretation"] not in (*MONOCHROME, "RGB"):
        raise RefusedFile("its colours can't be decoded to RGB; convert the file to RGB first")
    result: NDArray[Any] = decoded
    return result


def _options(layout: PixelLayout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": layout.frames,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": 0,
        "pixel_keyword": "PixelData",
    }


def _libjpeg_turbo(frame: bytes, layout: PixelLayout) -> NDArray[Any]:
    """A JPEG frame's samples with no change of colours: lossless, or grey of up to 12 bits."""
    colours = "rgb" if layout.samples == 3 else None
    samples: NDArray[Any] = imagecodecs.jpeg8_decode(
        frame, colorspace=colours, outcolorspace=colours
    )
    return samples


def _lossless_jpeg(frame: bytes, layout: PixelLayout) -> NDArray[Any]:
    """A lossless JPEG frame's samples, if they are what it codes.

    libjpeg goes on behind a damaged code with samples of its own making.
    """
    samples = _libjpeg_turbo(frame, layout)
    if not lossless.holds(parse(frame), samples.reshape(layout.shape[1:])):
        raise RefusedFile("its coded frames are damaged; get it whole")
    return samples


def _rle(words: NDArray[Any], layout: PixelLayout) -> bytes:
    """A segment for each byte of a sample, the highest first, by rows (PS3.5 G.2 and G.5)."""
    size = layout.word.itemsize
    planes = words.astype(layout.word.newbyteorder(">")).view(np.uint8)
    planes = planes.reshape(*words.shape, size).transpose(2, 3, 0, 1)
    segments = [
        imagecodecs.packbits_encode(np.ascontiguousarray(plane))
        for plane in planes.reshape(-1, layout.rows, layout.columns)
    ]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = np.cumsum([_RLE_HEADER, *map(len, segments[:-1])])
    header = np.zeros(16, "<u4")
    header[0], header[1 : len(segments) + 1] = len(segments), offsets
    return header.tobytes() + b"".join(segments)


def _jpeg_ls(samples: NDArray[Any], form: Codestream) -> bytes:
    by_plane = form.interleave == 0 and samples.ndim == 3
    ordered = samples.transpose(2, 0, 1) if by_plane else samples
    coded = jpeg_ls.encode_buffer(
        ordered.tobytes(),
        form.rows,
        form.columns,
        form.components,
        form.precision,
        0,  # no loss
        form.interleave,
    )
    return bytes(coded)


def _jpeg_2000(samples: NDArray[Any], form: Codestream) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            samples,
            level=0,
            reversible=True,
            codecformat="j2k",
            bitspersample=form.precision,
            mct=form.mixes_colours,
        )
    )


def _htj2k(samples: NDArray[Any], form: Codestream) -> bytes:
    """The encoder knows whole bytes alone, so others go in as it would shift them itself."""
    colours = form.mixes_colours if samples.ndim == 3 else None
    whole_bytes = form.precision == samples.itemsize * 8
    if not (whole_bytes or form.signed):
        samples = (samples.astype(np.int64) - (1 << (form.precision - 1))).astype(
            f"i{samples.itemsize}"
        )
    frame = bytes(imagecodecs.htj2k_encode(samples, reversible=True, rgb=colours, tlm=True))
    return with_precision(frame, form.precision, form.signed)


def _jpeg_lossless(samples: NDArray[Any], form: Codestream) -> bytes:
    colours = "rgb" if samples.ndim == 3 else None  # taken as they are
    coded = imagecodecs.jpeg8_encode(
        samples,
        lossless=True,
        predictor=1,  # the one that "Selection Value 1" allows
        bitspersample=form.precision,
        colorspace=colours,
        outcolorspace=colours,
    )
    return bytes(coded)


_Encoder = Callable[[NDArray[Any], Codestream], bytes]
"""From one frame's samples, in the form of the source's frame."""
_ENCODERS: dict[UID, _Encoder] = {
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    HTJ2KLossless: _htj2k,
    HTJ2KLosslessRPCL: _htj2k,  # RPCL is what the encoder writes
    HTJ2K: _htj2k,
    JPEGLossless: _jpeg_lossless,
    JPEGLosslessSV1: _jpeg_lossless,
}
_LOSSLESS = (RLELossless, *_ENCODERS)
_MAY_BE_LOSSLESS = (JPEG2000, HTJ2K, JPEGLSNearLossless)
_LIBJPEG_TURBO = (
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    SPECTRAL_SELECTION,
    FULL_PROGRESSION,
)
