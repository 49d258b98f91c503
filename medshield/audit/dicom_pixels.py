"""What pydicom shows of a DICOM image, and what its header says of the values."""

from __future__ import annotations

import math
import struct
from copy import copy, deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    convert_color_space,
)
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
)

from medshield.audit.base import AuditedImage, refuse_bomb
from medshield.errors import NotAnImage, RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_NO_IMAGES = {
    SegmentationStorage,
    RTDoseStorage,
    UID("1.2.840.10008.5.1.4.1.1.66.7"),  # label maps
    UID("1.2.840.10008.5.1.4.1.1.66.8"),  # height maps
}
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(
        (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"
    ),
}
_GREY, _PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
# The processes of libjpeg with 12 bits: extended, spectral selection, full progression.
_TWELVE_BITS = tuple(UID(f"1.2.840.10008.1.2.4.{last}") for last in (51, 53, 55))
# The defined terms of PS3.3 C.7.3.1.1.1 that stand in the name of a kind of images.
_MODALITIES = (
    "AR BDUS BI BMD CFM CR CT DG DMS DX ECHO ES FA GM HC IO IVOCT IVUS LS MG MR NM OAM OCT OP OPM "
    "OPT OPTBSV OPTENF OPV OT PA POS PT PX RF RG RTIMAGE SM ST TG US VA VF XA XC"
)


def audited(dataset: Any) -> AuditedImage:
    """The image of a data set that pydicom read.

    Raises:
        NotAnImage: an object of another kind.
        RefusedFile: its pixels can't be decoded.
    """
    keyword = pixel_keyword(dataset)
    if keyword is None or dataset.get("SOPClassUID") in _NO_IMAGES:
        raise NotAnImage("it holds no image")
    refuse_bomb(_declared_bytes(dataset))
    stored = _stored(dataset)
    values = _displayed(dataset, stored)
    table = _has_table(dataset)
    one = np.ones(1), np.zeros(1)
    scaled = stored.shape[-1] == 1 and not table and values is stored
    slope, intercept = _scaling(dataset, len(values)) if scaled else one
    ranges = _padding(dataset, keyword)
    floating = values.dtype.kind == "f"
    return AuditedImage(
        values=values,
        kind=_kind(dataset, values, table),
        slope=slope,
        intercept=intercept,
        colours=values.shape[-1],
        fixed=None if values is stored or not ranges else _reserved(ranges, stored),
        reserved=partial(_reserved, ranges) if (floating or ranges) and values is stored else None,
    )


def pixel_keyword(dataset: Any) -> str | None:
    """Which element holds the image, or None."""
    names = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    return next((name for name in names if name in dataset), None)


def _declared_bytes(dataset: Any) -> int:
    """Bytes of pixels by the Image Pixel module."""
    words = ("Rows", "Columns", "SamplesPerPixel")
    frames, bits = int(dataset.get("NumberOfFrames") or 1), int(dataset.BitsAllocated)
    return frames * math.prod(int(dataset[word].value) for word in words) * bits // 8


def _stored(dataset: Any) -> NDArray[Any]:
    """(frames, rows, columns, samples): stored values, or RGB of what is stored in YBR."""
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.SamplesPerPixel)
    return _decoded(dataset).reshape(frames, int(dataset.Rows), int(dataset.Columns), samples)


def _displayed(dataset: Any, stored: NDArray[Any]) -> NDArray[Any]:
    """What tables in the header make of stored values: the same array where there are none."""
    if dataset.PhotometricInterpretation == _PALETTE:
        _order_tables(dataset)
        count, first, _ = dataset.RedPaletteColorLookupTableDescriptor
        every = np.arange(first, first + (count or 1 << 16))
        highest = apply_color_lut(every, dataset)[..., :3].max()
        colours = apply_color_lut(stored[..., 0], dataset)[..., :3]
        # Some writers put 8-bit entries into the low bytes of 16-bit ones.
        return colours.astype(np.uint8 if highest <= 255 else colours.dtype)
    if _has_table(dataset):
        table = deepcopy(dataset.ModalityLUTSequence)
        if table[0].LUTDescriptor[2] > 8:
            table[0].LUTDescriptor[2] = 16  # pydicom knows 8 and 16 bits, the standard all between
        whole = copy(dataset)
        whole.ModalityLUTSequence = table
        return apply_modality_lut(stored, whole).astype(np.uint16)
    return stored


def _order_tables(dataset: Any) -> None:
    """Bring palettes of a big endian file into little endian words, for which pydicom takes all."""
    if dataset.original_encoding[1]:
        return
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        value = dataset.get(keyword)
        if isinstance(value, bytes) and len(value) % 2 == 0:
            setattr(dataset, keyword, np.frombuffer(value, "u2").byteswap().tobytes())


def _has_table(dataset: Any) -> bool:
    """Whether a table, not a slope, maps grey values to real-world ones (PS3.3 C.11.1)."""
    grey = dataset.PhotometricInterpretation in _GREY and "PixelData" in dataset
    return grey and bool(dataset.get("ModalityLUTSequence"))


def _decoded(dataset: Any) -> NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    bits = int(dataset.get("BitsStored") or 8)
    if syntax == RLELossless:
        frames = [_rle(dataset, frame) for frame in coded_frames(dataset)]
        return _as_rgb(dataset, _as_stored(dataset, frames))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        frames = [_lossless_jpeg(dataset, frame) for frame in coded_frames(dataset)]
        return _as_rgb(dataset, _as_stored(dataset, frames))
    if syntax in _TWELVE_BITS and bits != 8:
        frames = [imagecodecs.jpeg8_decode(frame) for frame in coded_frames(dataset)]
        return _as_stored(dataset, frames)
    plugin = "pillow" if syntax in _TWELVE_BITS else _PLUGINS.get(syntax, "")
    values = pixel_array(dataset, decoding_plugin=plugin)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _lossless_jpeg(dataset: Any, frame: bytes) -> NDArray[Any]:
    """By the decoder that the codec has too: the others that are at hand crash on damaged frames.

    Told that they are RGB, it leaves three samples as they are.
    """
    colours = "rgb" if int(dataset.SamplesPerPixel) == 3 else None
    samples: NDArray[Any] = imagecodecs.jpeg8_decode(
        frame, colorspace=colours, outcolorspace=colours
    )
    return samples


def coded_frames(dataset: Any) -> list[bytes]:
    """The frames of encapsulated Pixel Data."""
    number = int(dataset.get("NumberOfFrames") or 1)
    tables = [dataset.get(f"ExtendedOffsetTable{name}") for name in ("", "Lengths")]
    extended = None if None in tables else tuple(tables)
    frames = list(
        generate_frames(dataset.PixelData, number_of_frames=number, extended_offsets=extended)
    )
    if len(frames) != number:
        raise RefusedFile(f"{len(frames)} coded frames where Number of Frames says {number}")
    return frames


def rle_words(dataset: Any) -> list[NDArray[Any]]:
    """The words of run-length coded frames, with the bits above Bits Stored (PS3.5 G)."""
    return [_rle(dataset, frame) for frame in coded_frames(dataset)]


def _rle(dataset: Any, frame: bytes) -> NDArray[Any]:
    """(rows, columns, samples); the samples come one plane after the other."""
    shape = int(dataset.SamplesPerPixel), int(dataset.Rows), int(dataset.Columns)
    size, pixels = int(dataset.BitsAllocated) // 8, shape[1] * shape[2]
    number, *starts = struct.unpack_from("<16I", frame)
    if number != size * shape[0]:
        raise RefusedFile(f"{number} run-length segments where {size * shape[0]} are expected")
    ends = [*starts[1:number], len(frame)]
    # A run may reach past the end, where a reader stops: it makes at most 128 bytes.
    segments = [
        bytes(imagecodecs.packbits_decode(frame[start:end], out=pixels + 128))[:pixels]
        for start, end in zip(starts[:number], ends, strict=True)
    ]
    if min(map(len, segments)) < pixels:
        raise RefusedFile("damaged: a run-length segment ends too early")
    planes = np.frombuffer(b"".join(segments), np.uint8).reshape(shape[0], size, -1)
    words = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">u{size}")
    return words.astype(f"u{size}").reshape(shape).transpose(1, 2, 0)


def _as_stored(dataset: Any, frames: list[NDArray[Any]]) -> NDArray[Any]:
    """Samples as the header says to read them: the lowest Bits Stored bits, signed or not."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    words = np.stack(frames).astype(f"u{allocated // 8}")
    kind = "i" if dataset.PixelRepresentation else "u"
    values: NDArray[Any] = (words << (allocated - stored)).view(f"{kind}{allocated // 8}")
    return values >> (allocated - stored)


def _as_rgb(dataset: Any, values: NDArray[Any]) -> NDArray[Any]:
    """YBR_FULL as it is displayed (PS3.3 C.7.6.3.1.2); other values as they are."""
    if dataset.PhotometricInterpretation not in ("YBR_FULL", "YBR_FULL_422"):
        return values
    return np.stack([convert_color_space(frame, "YBR_FULL", "RGB") for frame in values])


def _kind(dataset: Any, values: NDArray[Any], table: bool) -> str:
    """As `medshield.json` names it: DICOM, the modality, and what sets its values apart."""
    words = ["DICOM"]
    modality = str(dataset.get("Modality", "")).strip()
    if modality in _MODALITIES.split():
        words.append(modality)
    if values.shape[-1] >= 3:
        words.append("colour")
        stored = int(dataset.SamplesPerPixel) == 3
        bits = int(dataset.BitsStored) if stored else 8 * values.itemsize
        if bits != 8:
            words.append(f"{bits}-bit")
    elif table:
        words.append("through a table")
    if values.dtype.kind == "f":
        words.append("float")
    return " ".join(words)


def _scaling(dataset: Any, frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and intercept, one for all frames or one a frame (PS3.3 C.11.1, C.7.6.16.2.9)."""
    top = _pair(dataset) or (1.0, 0.0)
    shared = next(_transformations(dataset.get("SharedFunctionalGroupsSequence")), None) or top
    each = list(_transformations(dataset.get("PerFrameFunctionalGroupsSequence")))
    pairs = [pair or shared for pair in each] if len(each) == frames else [shared]
    if any(slope == 0 or not math.isfinite(slope) for slope, _ in pairs):
        raise RefusedFile("a Rescale Slope is 0 or no number")
    slopes, intercepts = (np.array(part) for part in zip(*pairs, strict=True))
    return slopes, intercepts


def _transformations(groups: Any) -> Iterator[tuple[float, float] | None]:
    for group in groups or ():
        found = group.get("PixelValueTransformationSequence")
        yield _pair(found[0]) if found else None


def _pair(dataset: Any) -> tuple[float, float] | None:
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope in (None, "") and intercept in (None, ""):
        return None
    return float(1 if slope in (None, "") else slope), float(intercept or 0)


def _padding(dataset: Any, keyword: str) -> list[tuple[float, float]]:
    """Ranges of values that mean something other than brightness, both ends included.

    "No image here" (PS3.3 C.7.5.1.1.2), and what a Supplemental Palette shows in colour beside
    grey ones (C.7.6.19).
    """
    found: list[tuple[float, float]] = []
    prefix = keyword.removesuffix("PixelData")
    value = dataset.get(f"{prefix}PixelPaddingValue")
    if value not in (None, ""):
        limit = dataset.get(f"{prefix}PixelPaddingRangeLimit")
        ends = [value, value if limit in (None, "") else limit]
        if keyword == "PixelData":
            ends = [_signed(dataset, end) for end in ends]
        found.append((float(min(ends)), float(max(ends))))
    descriptor = dataset.get("RedPaletteColorLookupTableDescriptor")
    presented = {dataset.get("PixelPresentation"), *_presentations(dataset)}
    if dataset.PhotometricInterpretation in _GREY and descriptor and presented & {"COLOR", "MIXED"}:
        found.append((float(descriptor[1]), math.inf))
    return found


def _presentations(dataset: Any) -> Iterator[Any]:
    """Pixel Presentation in the frame type of every modality (C.8.16.2)."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(name) or ():
            for element in group:
                if element.VR == "SQ" and element.keyword.endswith("FrameTypeSequence"):
                    yield from (item.get("PixelPresentation") for item in element.value)


def _signed(dataset: Any, value: int) -> int:
    """A header's number by the bits it has: writers disagree whether it is signed."""
    bits = int(dataset.BitsStored)
    number = int(value) % (1 << bits)
    return number - (1 << bits) if dataset.PixelRepresentation and number >> (bits - 1) else number


def _reserved(ranges: list[tuple[float, float]], values: NDArray[Any]) -> NDArray[np.bool_]:
    """True for values in these ranges, NaN and infinities."""
    result = ~np.isfinite(values)
    for low, high in ranges:
        result |= (values >= low) & (values <= high)
    return np.asarray(result)
