"""The pixels of a DICOM image: native, coded without and with loss, palettes and YCbCr."""

import io
from dataclasses import dataclass, field, replace

import imagecodecs
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.generated.base import SEEDS, SIDES, floats, integers
from tests.generated.dicom_form import (
    BASELINE,
    BIG,
    HTJ2K,
    JPEG_2000,
    JPEG_2000_LOSSY,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_LS_LOSSY,
    LOSSLESS,
    LOSSY,
    NATIVE,
    RLE,
)
from tests.generated.dicom_rle import rle_frame
from tests.generated.jpeg import picture

# What encoders take: pyjpegls has too small a buffer for under 64 samples.
SIDES_OF = dict.fromkeys((JPEG_2000, JPEG_2000_LOSSY, HTJ2K), st.sampled_from([32, 33, 40]))
SIDES_OF |= dict.fromkeys((JPEG_LS, JPEG_LS_LOSSY), st.integers(9, 24))


@dataclass(frozen=True)
class Pixels:
    """What the Image Pixel module says, and the words that are written.

    Attributes:
        values: as a codec has to give them; None where it shows something else than is stored.
        words: (frames, rows, columns, samples) as written; of YBR_FULL_422 with pairs of columns
            alike in chroma.
        coded: the frames, where they are coded.
        palette: (entries, 3) of 16 bits.
        exact: what is written is what was wanted.
    """

    syntax: str
    allocated: int
    stored: int
    signed: bool
    photometric: str
    words: np.ndarray
    values: np.ndarray | None
    planar: bool = False
    floating: bool = False
    coded: list[bytes] = field(default_factory=list)
    palette: np.ndarray | None = None
    exact: bool = True


@st.composite
def native_floats(draw):
    bits = draw(st.sampled_from([32, 64]))
    shape = (1, draw(SIDES), draw(SIDES), 1)
    values = floats(draw(SEEDS), shape, f"f{bits // 8}")
    syntax = draw(st.sampled_from(NATIVE))
    return Pixels(syntax, bits, bits, True, "MONOCHROME2", values, values, floating=True)


@st.composite
def native_grey(draw):
    """8, 16 or 32 bits, signed or not, with overlays in unused bits now and then."""
    allocated = draw(st.sampled_from([8, 16, 16, 32]))
    stored = draw(st.integers(2, allocated))
    signed = draw(st.booleans())
    shape = (draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), 1)
    low = -(1 << (stored - 1)) if signed else 0
    kind = f"{'i' if signed else 'u'}{allocated // 8}"
    values = integers(draw(SEEDS), shape, low, low + (1 << stored) - 1, kind)
    words = values.view(f"u{allocated // 8}")
    if stored < allocated:
        mask = words.dtype.type((1 << stored) - 1)
        unused = draw(st.sampled_from(["sign", "zero", "overlay"]))
        if unused == "zero":
            words = words & mask
        elif unused == "overlay":
            random = np.random.default_rng(draw(SEEDS)).integers(0, 2, shape).astype(words.dtype)
            words = (words & mask) | (random << words.dtype.type(allocated - 1))
    syntax = draw(st.sampled_from(NATIVE))
    photometric = draw(st.sampled_from(["MONOCHROME2", "MONOCHROME1"]))
    return Pixels(syntax, allocated, stored, signed, photometric, words, values)


@st.composite
def native_colour(draw):
    """RGB by pixel or by plane, 8 or 16 bits."""
    bits = draw(st.sampled_from([8, 8, 16]))
    shape = (draw(st.integers(1, 2)), draw(SIDES), draw(SIDES), 3)
    values = integers(draw(SEEDS), shape, 0, 2**bits - 1, f"u{bits // 8}")
    syntax = draw(st.sampled_from(NATIVE))
    planar = draw(st.booleans())
    return Pixels(syntax, bits, bits, False, "RGB", values, values, planar=planar)


@st.composite
def palettes(draw):
    """Indices into tables of 16-bit entries: grey ramps, neighbours, or any colours."""
    bits = draw(st.sampled_from([8, 16]))
    entries = draw(st.integers(2, 256 if bits == 8 else 400))
    shape = (draw(st.integers(1, 2)), draw(SIDES), draw(SIDES), 1)
    words = integers(draw(SEEDS), shape, 0, entries - 1, f"u{bits // 8}")
    table = np.random.default_rng(draw(SEEDS)).integers(0, 65536, (entries, 3)).astype("u2")
    if draw(st.booleans()):  # fine steps, as scanners have them
        ramp = np.linspace(0, 65535, entries)[:, None]
        table = np.clip(ramp + table % 300, 0, 65535).astype("u2")
    syntax = draw(st.sampled_from([*NATIVE, RLE]))
    shown = table[words[..., 0]]
    image = Pixels(syntax, bits, bits, False, "PALETTE COLOR", words, shown, palette=table)
    image = replace(image, exact=False)
    return _coded(image) if syntax == RLE else image


@st.composite
def ycbcr(draw):
    """YBR_FULL by pixel or by plane, coded by RLE, or YBR_FULL_422 with shared chroma."""
    shared = draw(st.booleans())
    width = draw(SIDES) * (2 if shared else 1)
    shape = (draw(st.integers(1, 2)), draw(SIDES), width, 3)
    words = integers(draw(SEEDS), shape, 0, 255, "u1")
    if shared:
        words[:, :, 1::2, 1:] = words[:, :, ::2, 1:]
    syntax = draw(st.sampled_from(NATIVE if shared else [*NATIVE, RLE]))
    photometric = "YBR_FULL_422" if shared else "YBR_FULL"
    planar = not shared and syntax != RLE and draw(st.booleans())
    image = Pixels(syntax, 8, 8, False, photometric, words, None, planar=planar, exact=False)
    return _coded(image) if syntax == RLE else image


@st.composite
def coded(draw):
    """Frames of every lossless coding."""
    syntax = draw(st.sampled_from(LOSSLESS))
    photometric = draw(st.sampled_from(["MONOCHROME2", "MONOCHROME1", "RGB"]))
    grey = photometric != "RGB"
    allocated = draw(st.sampled_from([8, 16])) if grey else 8
    stored = draw(st.integers(allocated - 4, allocated)) if grey and syntax != HTJ2K else allocated
    sides = SIDES_OF.get(syntax, SIDES)
    shape = (draw(st.integers(1, 3)), draw(sides), draw(sides), 1 if grey else 3)
    values = integers(draw(SEEDS), shape, 0, (1 << stored) - 1, f"u{allocated // 8}")
    return _coded(Pixels(syntax, allocated, stored, False, photometric, values, values))


@st.composite
def lossy(draw):
    """Frames whose coding lost something; they are released uncoded."""
    syntax = draw(st.sampled_from(LOSSY))
    grey = syntax != BASELINE or draw(st.booleans())
    sides = SIDES_OF.get(syntax, SIDES)
    frames, rows, columns = draw(st.integers(1, 2)), draw(sides), draw(sides)
    words = np.stack([picture(draw(SEEDS), rows, columns, 1 if grey else 3) for _ in range(frames)])
    photometric = "MONOCHROME2" if grey else "YBR_FULL_422"
    return replace(_coded(Pixels(syntax, 8, 8, False, photometric, words, None)), values=None)


def _coded(image):
    frames = [_frame(image.syntax, words, image.stored) for words in image.words]
    return replace(image, coded=frames)


def _frame(syntax, words, bits):
    frame = np.ascontiguousarray(words[..., 0] if words.shape[-1] == 1 else words)
    if syntax == RLE:
        return rle_frame(words)
    if syntax in (JPEG_LS, JPEG_LS_LOSSY):
        return imagecodecs.jpegls_encode(frame, level=3 if syntax == JPEG_LS_LOSSY else 0)
    if syntax == BASELINE:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=80, subsampling="4:2:2")
        return buffer.getvalue()
    if syntax == HTJ2K:
        return imagecodecs.htj2k_encode(frame, reversible=True, rgb=None)
    if syntax == JPEG_LOSSLESS:
        colours = "rgb" if frame.ndim == 3 else None
        return imagecodecs.jpeg8_encode(
            frame,
            lossless=True,
            predictor=1,
            bitspersample=bits,
            colorspace=colours,
            outcolorspace=colours,
        )
    return imagecodecs.jpeg2k_encode(
        frame,
        level=30 if syntax == JPEG_2000_LOSSY else 0,
        codecformat="j2k",
        bitspersample=bits,
        reversible=syntax == JPEG_2000,
        mct=False,
    )


KINDS = [native_grey, native_grey, native_colour, coded, coded, lossy, native_floats]
KINDS += [palettes, ycbcr]


@st.composite
def pixels(draw):
    """Pixels of any kind."""
    return draw(draw(st.sampled_from(KINDS))())


def native_bytes(image, order):
    """The bytes of a native value field, before padding."""
    words = image.words
    if image.photometric == "YBR_FULL_422":  # Y Y Cb Cr (PS3.3 C.7.6.3.1.2)
        pairs = np.stack(
            [words[:, :, ::2, 0], words[:, :, 1::2, 0], words[:, :, ::2, 1], words[:, :, ::2, 2]],
            -1,
        )
        return pairs.tobytes()
    if image.planar:
        words = words.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(words).astype(words.dtype.newbyteorder(order)).tobytes()


def is_swapped(image, vr):
    """Whether 8-bit samples stand in big endian words (PS3.5 8.1.1)."""
    return image.syntax == BIG and vr == "OW" and image.allocated == 8
