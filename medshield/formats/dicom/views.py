"""What a reader shows for stored samples, where that is not the samples themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medshield.formats.dicom import tables
from medshield.formats.dicom.pixels import PALETTE, YBR_FULL, PixelLayout
from medshield.formats.dicom.tables import TableView
from medshield.formats.dicom.ybr import YbrView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.dicom.meaning import Padding
    from medshield.formats.series import Frames


class View(Protocol):
    """From stored values to shown ones, and back as near as the stored form allows."""

    def shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """(frames, rows, columns, channels) of what a reader shows for stored values."""

    def nearest(self, wanted: NDArray[Any], values: NDArray[Any], radius: float) -> NDArray[Any]:
        """Stored values shown as near to `wanted` as may be, within `radius` of `values`."""

    def step(self, values: Frames) -> float:
        """The least radius at which a pixel of these values can move."""

    def notes(self, values: Frames, radius: float) -> list[str]:
        """What the manifest should say of values that could not move."""


def view_of(
    header: Any,
    layout: PixelLayout,
    values: Frames,
    limits: tuple[float, float],
    padding: Padding | None,
    big_endian: bool,
) -> View | None:
    """The view that an image needs; None where its stored values are what is shown.

    Args:
        header: what stands before the pixels.
        layout: of the pixels; RGB where they were decoded from a lossy coding.
        values: the stored values.
        limits: the lowest and the highest value that a pixel may newly take.
        padding: values between them that none may take.
        big_endian: how the header's tables are written.

    Raises:
        RefusedFile: a table is missing or damaged.
    """
    if layout.photometric in YBR_FULL:
        return YbrView(chroma_moves=not layout.shares_chroma)
    if layout.photometric == PALETTE:
        entries = tables.palette(header, layout, big_endian)
    elif header.get("ModalityLUTSequence") and layout.samples == 1 and not layout.floating:
        entries = tables.modality(header, layout, big_endian)
    else:
        return None
    lowest = int(layout.limits[0])
    numbers = np.arange(len(entries)) + lowest
    usable = (numbers >= limits[0]) & (numbers <= limits[1])
    if padding is not None:
        usable &= ~padding.covers(numbers)
    return TableView.of(entries, lowest, usable, values)
