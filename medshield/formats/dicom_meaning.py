"""What a DICOM header says about the stored values: units, windows, padding, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medshield.errors import RefusedFile
from medshield.formats.dicom_elements import DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from medshield.formats.dicom_pixels import PixelLayout

# The defined terms of PS3.3 C.7.3.1.1.1 that name a kind of image. Any other value of Modality is
# free text that may say anything, so it is not repeated.
_MODALITIES = (
    "AR BDUS BI BMD CFM CR CT DG DMS DX ECHO ES FA GM HC IO IVOCT IVUS LS MG MR NM OAM OCT OP OPM "
    "OPT OPTBSV OPTENF OPV OT PA POS PT PX RF RG RTIMAGE SM ST TG US VA VF XA XC"
)


@dataclass(frozen=True)
class Padding:
    """The values that mean "no image here", both ends included (PS3.3 C.7.5.1.1.2)."""

    low: float
    high: float

    def covers(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a stored value is one of them."""
        covered: NDArray[np.bool_] = (values >= self.low) & (values <= self.high)
        return covered


def kind(header: Any, layout: PixelLayout) -> str:
    """What files of one intensity range are called, such as "DICOM CT"."""
    words = ["DICOM"]
    modality = str(header.get("Modality", "")).strip()
    if modality in _MODALITIES.split():
        words.append(modality)
    if layout.samples == 3:
        words.append("colour")
        if layout.bits_stored != 8:
            words.append(f"{layout.bits_stored}-bit")
    if layout.floating:
        words.append("float")
    return " ".join(words)


def rescale(header: Any) -> tuple[float, float]:
    """(slope, intercept) from stored to real-world values (PS3.3 C.11.1 and C.7.6.16.2.9).

    Raises:
        RefusedFile: a lookup table instead, a slope of 0, or not the same for every frame.
    """
    if header.get("ModalityLUTSequence"):
        raise RefusedFile(
            "a Modality LUT Sequence maps its values to real-world ones, so there is no slope to "
            "convert the bound with; apply the table first"
        )
    datasets = [header, *_functional(header, "PixelValueTransformation")]
    found = {pair for pair in map(_slope_and_intercept, datasets) if pair is not None}
    if len(found) > 1:
        raise RefusedFile(
            "its frames have different Rescale Slopes or Intercepts; split it into single frames"
        )
    slope, intercept = found.pop() if found else (1.0, 0.0)
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise RefusedFile("its Rescale Slope is 0 or not a number; correct the header")
    return slope, intercept


def declared_ranges(
    header: Any, layout: PixelLayout, slope: float, intercept: float
) -> tuple[tuple[float, float], ...]:
    """The real-world ranges that the file declares, each once, in the file's order.

    A VOI window (PS3.3 C.11.2.1.2) gives center -/+ width / 2, so that the range is as wide as
    the window says. Colours, and 8-bit grey without a window or units, span their whole range.
    """
    lowest, highest = layout.limits
    if layout.samples == 3:
        return ((float(lowest), float(highest)),)
    datasets = [header, *_functional(header, "FrameVOILUT")]
    windows = tuple(dict.fromkeys(window for item in datasets for window in _windows(item)))
    plain = (slope, intercept) == (1.0, 0.0) and not layout.signed and not layout.floating
    if not windows and plain and layout.bits_stored == 8:
        return ((float(lowest), float(highest)),)
    return windows


def padding(header: Any, layout: PixelLayout, tag: int) -> Padding | None:
    """Pixel Padding Value, with its range limit where there is one."""
    if tag == PIXEL_DATA:
        keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    elif tag == DOUBLE_FLOAT_PIXEL_DATA:
        keywords = ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit")
    else:
        keywords = ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit")
    ends = [_as_stored(header.get(keyword), layout) for keyword in keywords]
    known = [end for end in ends if end is not None]
    return Padding(min(known), max(known)) if ends[0] is not None else None


def limits(
    header: Any, layout: PixelLayout, values: NDArray[Any], fixed: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """What a stored value may become: what its bits can hold.

    Smallest and Largest Image Pixel Value hold too, where they are true of the image.
    """
    lowest, highest = layout.limits
    if layout.floating:
        return lowest, highest
    moving = values if fixed is None else values[~fixed]
    smallest = _as_stored(header.get("SmallestImagePixelValue"), layout)
    largest = _as_stored(header.get("LargestImagePixelValue"), layout)
    if smallest is not None and moving.size and moving.min() >= smallest:
        lowest = smallest
    if largest is not None and moving.size and moving.max() <= largest:
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
    shared = header.get("SharedFunctionalGroupsSequence") or []
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*shared, *frames):
        yield from group.get(f"{name}Sequence") or []
