"""Coded frames of DICOM's encapsulated transfer syntaxes (PS3.5 A.4), decoded and encoded.

Every library is named, so that the same file gives the same values on every machine. Nothing here
trusts an encoder: `encode` decodes what it made and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
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
from medshield.formats.dicom_container import encapsulated, fragments
from medshield.formats.dicom_pixels import MONOCHROME, PixelLayout

# Retired in 2001 and still found: progressive processes of the 12-bit kind.
SPECTRAL_SELECTION = UID("1.2.840.10008.1.2.4.53")
FULL_PROGRESSION = UID("1.2.840.10008.1.2.4.55")

_LONGEST_WORD = 16

JPEG_2000_FAMILY = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2K)
_PYDICOM_PLUGINS = {
    RLELossless: "pydicom",  # the others panic or crash on damaged frames
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(JPEG_2000_FAMILY, "pylibjpeg"),
    JPEGBaseline8Bit: "pillow",
}


def decode_words(syntax: UID, value: bytes, layout: PixelLayout) -> NDArray[Any]:
    """The words of all frames, in the colours that were coded.

    Args:
        syntax: a lossless transfer syntax.
        value: the value field of Pixel Data.
        layout: what the header says.

    Returns:
        (frames, rows, columns, samples), of the layout's word.

    Raises:
        RefusedFile: its encoder can't take such samples, or unused bits hold something that this
            coding would lose.
    """
    if layout.bits_allocated > _LONGEST_WORD:
        raise RefusedFile(
            f"no encoder of {syntax.name} takes samples of {layout.bits_allocated} bits; "
            "convert the file to Explicit VR Little Endian first"
        )
    if syntax in (HTJ2KLossless, HTJ2K) and layout.bits_stored != layout.bits_allocated:
        raise RefusedFile(
            f"the HTJ2K encoder writes samples of {layout.bits_allocated} bits, "
            f"{layout.bits_stored} are stored; convert the file to Explicit VR Little Endian first"
        )
    words = _decoded(syntax, value, layout, as_rgb=False).astype(layout.word)
    if syntax != RLELossless and layout.unused_bits_matter(words):
        raise RefusedFile(
            "overlays or other data lie in the unused bits of its coded samples, which can't be "
            "coded again; move them into Overlay Data first"
        )
    return words


def decode_lossy(syntax: UID, value: bytes, layout: PixelLayout) -> NDArray[Any]:
    """The stored values of all frames, colours as RGB.

    Returns:
        (frames, rows, columns, samples), of the layout's value type.

    Raises:
        RefusedFile: values do not fit Bits Stored.
    """
    decoded = _decoded(syntax, value, layout, as_rgb=True)
    lowest, highest = layout.limits
    if decoded.min() < lowest or decoded.max() > highest:
        raise RefusedFile("its coded samples have more bits than Bits Stored; correct the header")
    return decoded.astype(layout.value)


def is_lossless(syntax: UID, value: bytes, layout: PixelLayout) -> bool:
    """Whether the coding gave back what went in.

    The transfer syntax says so or, where it leaves that open, each frame does.
    """
    if syntax in _MAY_BE_LOSSLESS:
        says_so = _MAY_BE_LOSSLESS[syntax]
        return all(says_so(frame) for frame in _frames(value, layout))
    return syntax in _ENCODERS


def may_be_lossy(syntax: UID) -> bool:
    """Whether frames of this transfer syntax need not give back what went in."""
    return is_supported(syntax) and (syntax in _MAY_BE_LOSSLESS or syntax not in _ENCODERS)


def is_supported(syntax: UID) -> bool:
    """Whether frames of this transfer syntax can be decoded."""
    return syntax in _PYDICOM_PLUGINS or syntax in _LIBJPEG_TURBO


def encode(syntax: UID, words: NDArray[Any], layout: PixelLayout, like: bytes) -> bytes:
    """The value field of Pixel Data with these words, coded without loss.

    Args:
        syntax: one that `is_lossless` said yes to.
        words: (frames, rows, columns, samples).
        layout: what the header says.
        like: the source's value field, for the kind of its offset table.

    Raises:
        RefusedFile: the encoder failed, or its frames don't give these words back.
    """
    try:
        frames = [_ENCODERS[syntax](frame, layout) for frame in words]
        value = encapsulated(frames, like)
        again = decode_words(syntax, value, layout)
    except RefusedFile:
        raise
    except Exception as error:
        raise RefusedFile(
            f"the encoder of {syntax.name} failed on it ({type(error).__name__}); "
            "convert the file to Explicit VR Little Endian first"
        ) from error
    if not np.array_equal(layout.values(again), layout.values(words)):
        raise RefusedFile(
            f"the encoder of {syntax.name} does not give its values back exactly; "
            "convert the file to Explicit VR Little Endian first"
        )
    return value


def _decoded(syntax: UID, value: bytes, layout: PixelLayout, as_rgb: bool) -> NDArray[Any]:
    if syntax in _LIBJPEG_TURBO and not _fits_pillow(syntax, layout):
        decoded = np.stack([_libjpeg_turbo(frame, layout) for frame in _frames(value, layout)])
    else:
        decoded = _pydicom(syntax, value, layout, as_rgb)
    if decoded.size != np.prod(layout.shape):
        raise RefusedFile("its coded frames are more, fewer or of another size than it says")
    return decoded.reshape(layout.shape)


def _fits_pillow(syntax: UID, layout: PixelLayout) -> bool:
    return syntax == JPEGExtended12Bit and layout.bits_stored == 8


def _pydicom(syntax: UID, value: bytes, layout: PixelLayout, as_rgb: bool) -> NDArray[Any]:
    options = _options(layout)
    if syntax == RLELossless:  # codes whole words, and their unused bits are wanted too
        options["correct_unused_bits"] = False
    decoded, properties = get_decoder(syntax).as_array(
        fragments(value),
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


def _frames(value: bytes, layout: PixelLayout) -> list[bytes]:
    frames = list(generate_frames(fragments(value), number_of_frames=layout.frames))
    if len(frames) != layout.frames:
        raise RefusedFile(
            f"{len(frames)} coded frames, Number of Frames says {layout.frames}; "
            "correct the header or get the file whole"
        )
    return frames


def _libjpeg_turbo(frame: bytes, layout: PixelLayout) -> NDArray[Any]:
    """A JPEG frame's samples with no change of colours: lossless, or grey of up to 12 bits."""
    colours = "rgb" if layout.samples == 3 else None
    samples: NDArray[Any] = imagecodecs.jpeg8_decode(
        frame, colorspace=colours, outcolorspace=colours
    )
    return samples


def _narrow(words: NDArray[Any], layout: PixelLayout, signed: bool = False) -> NDArray[Any]:
    """One frame's values in the smallest type for Bits Stored: (rows, columns[, samples])."""
    values = layout.values(words) if signed else words & layout.word.type(layout.mask)
    size = 1 if layout.bits_stored <= 8 else 2 if layout.bits_stored <= 16 else 4
    values = values.astype(f"{'i' if signed else 'u'}{size}")
    return values[..., 0] if layout.samples == 1 else values


def _rle(words: NDArray[Any], layout: PixelLayout) -> bytes:
    options = _options(layout) | {
        "bits_stored": layout.bits_allocated,
        "pixel_representation": 0,
        "number_of_frames": 1,
    }
    frame = words[..., 0] if layout.samples == 1 else words
    coded = get_encoder(RLELossless).encode(frame, encoding_plugin="pylibjpeg", **options)
    return bytes(coded)


def _jpeg_ls(words: NDArray[Any], layout: PixelLayout) -> bytes:
    frame = _narrow(words, layout)  # JPEG-LS knows no sign
    options = _options(layout) | {
        "bits_allocated": frame.itemsize * 8,
        "pixel_representation": 0,
        "number_of_frames": 1,
    }
    coded = get_encoder(JPEGLSLossless).encode(frame, encoding_plugin="pyjpegls", **options)
    return bytes(coded)


def _jpeg_2000(words: NDArray[Any], layout: PixelLayout) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            _narrow(words, layout, layout.signed),
            level=0,
            reversible=True,
            codecformat="j2k",
            bitspersample=layout.bits_stored,
            mct=layout.photometric == "YBR_RCT",
        )
    )


def _htj2k(words: NDArray[Any], layout: PixelLayout) -> bytes:
    frame = _narrow(words, layout, layout.signed)
    rct = layout.photometric == "YBR_RCT" if layout.samples == 3 else None
    return bytes(imagecodecs.htj2k_encode(frame, reversible=True, rgb=rct))


def _jpeg_lossless(words: NDArray[Any], layout: PixelLayout) -> bytes:
    colours = "rgb" if layout.samples == 3 else None
    return bytes(
        imagecodecs.jpeg8_encode(
            _narrow(words, layout),
            lossless=True,
            predictor=1,  # the one that "Selection Value 1" allows
            bitspersample=layout.bits_stored,
            colorspace=colours,
            outcolorspace=colours,
        )
    )


def _jpeg_2000_is_reversible(frame: bytes) -> bool:
    """Whether the main header's COD chooses the 5-3 transform (ISO/IEC 15444-1 A.6.1)."""
    start = frame.index(b"\xff\x4f\xff\x51")
    position = start + 2
    while frame[position : position + 2] != b"\xff\x52":
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
        if frame[position : position + 1] != b"\xff":
            return False
    return frame[position + 13] == 1


def _jpeg_ls_is_lossless(frame: bytes) -> bool:
    """Whether NEAR is 0 in the scan header (ISO/IEC 14495-1 C.2.3)."""
    scan = frame.index(b"\xff\xda")
    components = frame[scan + 4]
    return frame[scan + 5 + 2 * components] == 0


_Encoder = Callable[[NDArray[Any], PixelLayout], bytes]
_ENCODERS: dict[UID, _Encoder] = {
    RLELossless: _rle,
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    HTJ2KLossless: _htj2k,
    HTJ2K: _htj2k,
    JPEGLossless: _jpeg_lossless,
    JPEGLosslessSV1: _jpeg_lossless,
}
_MAY_BE_LOSSLESS: dict[UID, Callable[[bytes], bool]] = {
    JPEG2000: _jpeg_2000_is_reversible,
    HTJ2K: _jpeg_2000_is_reversible,
    JPEGLSNearLossless: _jpeg_ls_is_lossless,
}
_LIBJPEG_TURBO = (
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    SPECTRAL_SELECTION,
    FULL_PROGRESSION,
)
