"""What a DICOM header says about the stored values: units, windows, padding, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.dicom.elements import DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA
from medshield.formats.dicom.pixels import MONOCHROME
from medshield.formats.series import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medshield.formats.base import PerFrame
    from medshield.formats.dicom.pixels import PixelLayout
    from medshield.formats.series import Frames

# The defined terms of PS3.3 C.7.3.1.1.1 that name a kind of image. Any other value of Modality is
# free text that may say anything, so it is not repeated.
_MODALITIES = (
    "AR BDUS BI BMD CFM CR CT DG DMS DX ECHO ES FA GM HC IO IVOCT IVUS LS MG MR NM OAM OCT OP OPM "
    "OPT OPTBSV OPTENF OPV OT PA POS PT PX RF RG RTIMAGE SM ST TG US VA VF XA XC"
)

_SHARED_GROUPS = "SharedFunctionalGroupsSequence"
_FRAME_GROUPS = "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True)
class Padding:
    """The values that are no grey levels, as ranges with both ends included.

    They mean "no image here" (PS3.3 C.7.5.1.1.2), or are shown in colours of a Supplemental
    Palette (C.7.6.19) beside grey ones.
    """

    ranges: tuple[tuple[float, float], ...]

    def covers(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a stored value is one of them."""
        covered = np.zeros(values.shape, np.bool_)
        for low, high in self.ranges:
            covered |= (values >= low) & (values <= high)
        return covered


def kind(header: Any, layout: PixelLayout, shown: Frames) -> str:
    """What files of one intensity range are called, such as "DICOM CT".

    Args:
        header: what stands before the pixels.
        layout: of the stored values.
        shown: (frames, rows, columns, channels) of what a reader shows.
    """
    words = ["DICOM"]
    modality = str(header.get("Modality", "")).strip()
    if modality in _MODALITIES.split():
        words.append(modality)
    if shown.shape[-1] == 3:
        words.append("colour")
        bits = layout.bits_stored if layout.samples == 3 else shown.dtype.itemsize * 8
        if bits != 8:
            words.append(f"{bits}-bit")
    elif has_modality_table(header, layout):
        words.append("through a table")
    if layout.floating:
        words.append("float")
    return " ".join(words)


def rescale(header: Any, layout: PixelLayout) -> tuple[PerFrame, PerFrame]:
    """(slope, intercept) from stored to real-world values (PS3.3 C.11.1 and C.7.6.16.2.9).

    Colours have none, and a Modality LUT takes their place.

    Returns:
        Two numbers or, where frames differ, two arrays of shape (frames, 1, 1, 1).

    Raises:
        RefusedFile: a slope of 0, or frames that have none of their own while others do.
    """
    if layout.photometric not in MONOCHROME or has_modality_table(header, layout):
        return 1.0, 0.0
    pairs = _pairs_of_frames(header, layout)
    found = np.array(pairs or [(1.0, 0.0)])
    if not np.isfinite(found).all() or not found[:, 0].all():
        raise RefusedFile("its Rescale Slope is 0 or not a number; correct the header")
    if len(set(pairs)) <= 1:
        return float(found[0, 0]), float(found[0, 1])
    slopes, intercepts = found.T.reshape(2, layout.frames, 1, 1, 1)
    return slopes, intercepts


def _pairs_of_frames(header: Any, layout: PixelLayout) -> list[tuple[float, float]]:
    """Rescale Slope and Intercept, one for each frame or one for all; empty: none at all."""
    whole = _slope_and_intercept(header)
    shared = [_transformation(item) for item in header.get(_SHARED_GROUPS) or []]
    frames = [_transformation(item) for item in header.get(_FRAME_GROUPS) or []]
    every = next((pair for pair in (*shared, whole) if pair is not None), None)
    each = [every if pair is None else pair for pair in frames]
    known = [pair for pair in each or [every] if pair is not None]
    if len(set(known)) <= 1 and whole in (None, *known[:1]):
        return known[:1]
    if whole is not None:
        raise RefusedFile(
            "its frames have other Rescale Slopes or Intercepts than the whole image, and readers "
            "take the one or the other; remove those that are wrong"
        )
    if len(known) != layout.frames:
        raise RefusedFile(
            f"{len(known)} of its {layout.frames} frames have a Rescale Slope, and they differ; "
            "correct the header, or split it into single frames"
        )
    return known


def has_modality_table(header: Any, layout: PixelLayout) -> bool:
    """Whether a table, not a slope, maps stored values to real-world ones (PS3.3 C.11.1)."""
    grey = layout.photometric in MONOCHROME and not layout.floating
    return grey and bool(header.get("ModalityLUTSequence"))


def declared_ranges(
    header: Any,
    layout: PixelLayout,
    shown: Frames,
    slope: PerFrame,
    intercept: PerFrame,
) -> tuple[tuple[float, float], ...]:
    """The real-world ranges that the file declares, each once, in the file's order.

    A VOI window (PS3.3 C.11.2.1.2) gives center -/+ width / 2, so that the range is as wide as
    the window says. Colours, and 8-bit grey without a window or units, span their whole range.
    """
    lowest, highest = layout.limits
    if layout.samples == 3:
        return ((float(lowest), float(highest)),)
    if shown.shape[-1] == 3:  # by a palette
        return ((0.0, float(np.iinfo(shown.dtype).max)),)
    datasets = [header, *_functional(header, "FrameVOILUT")]
    windows = tuple(dict.fromkeys(window for item in datasets for window in _windows(item)))
    identity = bool(np.all(slope == 1) and np.all(intercept == 0))
    plain = identity and not (
        layout.signed or layout.floating or has_modality_table(header, layout)
    )
    if not windows and plain and layout.bits_stored == 8:
        return ((float(lowest), float(highest)),)
    return windows


def padding(header: Any, layout: PixelLayout, tag: int) -> Padding | None:
    """The values that are no grey levels: Pixel Padding Value, with its range limit, and more."""
    if tag == PIXEL_DATA:
        keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    elif tag == DOUBLE_FLOAT_PIXEL_DATA:
        keywords = ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit")
    else:
        keywords = ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit")
    ends = [_as_stored(header.get(keyword), layout) for keyword in keywords]
    known = [end for end in ends if end is not None]
    ranges = [(min(known), max(known))] if ends[0] is not None else []
    first_coloured = _first_coloured(header)
    if first_coloured is not None:
        ranges.append((first_coloured, math.inf))
    return Padding(tuple(ranges)) if ranges else None


def _first_coloured(header: Any) -> float | None:
    """From which stored value on a Supplemental Palette colours a grey image, or None."""
    if header.get("PhotometricInterpretation") not in MONOCHROME:
        return None
    shown = {header.get("PixelPresentation"), *_frame_types(header)}
    descriptor = header.get("RedPaletteColorLookupTableDescriptor")
    coloured = not shown.isdisjoint(("COLOR", "MIXED"))
    return float(descriptor[1]) if coloured and descriptor else None


def _frame_types(header: Any) -> Iterator[Any]:
    """Pixel Presentation of single frames: it is in the frame type group of each modality."""
    for group in _groups(header):
        for element in group:
            if element.VR == "SQ" and element.keyword.endswith("FrameTypeSequence"):
                yield from (item.get("PixelPresentation") for item in element.value)


def limits(
    header: Any, layout: PixelLayout, values: Frames, fixed: Frames | None
) -> tuple[float, float]:
    """What a stored value may become: what its bits can hold.

    Smallest and Largest Image Pixel Value hold too, where they are true of the image.
    """
    lowest, highest = layout.limits
    if layout.floating:
        return lowest, highest
    smallest = _as_stored(header.get("SmallestImagePixelValue"), layout)
    largest = _as_stored(header.get("LargestImagePixelValue"), layout)
    if smallest is None and largest is None:
        return lowest, highest
    ends = [
        (moving.min(), moving.max())
        for run in runs(values.shape)
        if (moving := values[run] if fixed is None else values[run][~fixed[run]]).size
    ]
    if smallest is not None and ends and min(low for low, _ in ends) >= smallest:
        lowest = smallest
    if largest is not None and ends and max(high for _, high in ends) <= largest:
        highest = largest
    return lowest, highest


def _as_stored(value: Any, layout: PixelLayout) -> float | None:
    """A header's number as a stored value: writers disagree whether it is signed."""
    if value is None or value == "":
        return None
    if layout.floating:
        return float(value)
    bits = int(value) & layout.mask
    negative = layout.signed and bits >> (layout.bits_stored - 1)
    return float(bits - (1 << layout.bits_stored) if negative else bits)


def _slope_and_intercept(dataset: Any) -> tuple[float, float] | None:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope in (None, "") and intercept in (None, ""):
        return None
    return float(1 if slope in (None, "") else slope), float(intercept or 0)


def _transformation(group: Any) -> tuple[float, float] | None:
    """What one item of the functional groups says."""
    items = group.get("PixelValueTransformationSequence") or []
    return next((_slope_and_intercept(item) for item in items), None)


def _windows(dataset: Any) -> Iterator[tuple[float, float]]:
    centers, widths = (_numbers(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    for center, width in zip(centers, widths, strict=False):
        if width > 0 and math.isfinite(width) and math.isfinite(center):
            yield center - width / 2, center + width / 2


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    many = not isinstance(value, str) and hasattr(value, "__iter__")
    return [float(number) for number in (value if many else [value])]


def _functional(header: Any, name: str) -> Iterator[Any]:
    """The items of one functional group, shared and per frame (PS3.3 C.7.6.16)."""
    for group in _groups(header):
        yield from group.get(f"{name}Sequence") or []


def _groups(header: Any) -> Iterator[Any]:
    """The items that hold functional groups: the shared one, then one for each frame."""
    yield from header.get(_SHARED_GROUPS) or []
    yield from header.get(_FRAME_GROUPS) or []
