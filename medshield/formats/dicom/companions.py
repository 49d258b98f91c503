"""DICOM objects that are released beside the images: reports, selections, directories.

They are copied byte for byte, but for icons of images that are released protected, and for what
new UIDs make necessary (`identity`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medshield.errors import RefusedFile
from medshield.formats.dicom.container import DicomFile
from medshield.formats.dicom.copies import (
    Picture,
    icon_ways,
    icons_of,
    settle_icons,
    without_signatures,
)
from medshield.formats.dicom.directory import Reference, listed, reference_of, with_offsets
from medshield.formats.dicom.edits import Edits
from medshield.formats.dicom.icons import INSTEAD
from medshield.formats.dicom.refusals import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from medshield.formats.base import Handling
    from medshield.formats.dicom.elements import Spot
    from medshield.formats.series import Content


def companion(
    raw: Content, handling: Handling, picture_of: Callable[[Reference], Picture | None]
) -> tuple[Content, list[str]]:
    """An object as it is released.

    Args:
        raw: the whole file.
        handling: of icons and signatures.
        picture_of: the image that a reference leads to, if it is in the release, protected.

    Returns:
        The file (`raw` itself where nothing had to change), and a note for each kind of change.

    Raises:
        RefusedFile: it shows an image that is not in the release, or in a form that can't be
            made again, or its signature would break.
    """
    return guarded(lambda: _companion(raw, handling, picture_of))


def missing(raw: Content, is_released: Callable[[Reference], bool]) -> int:
    """How many files a directory lists that are not in the release."""
    return guarded(lambda: sum(not is_released(found) for found in listed(DicomFile.parse(raw))))


def _companion(
    raw: Content, handling: Handling, picture_of: Callable[[Reference], Picture | None]
) -> tuple[Content, list[str]]:
    source = DicomFile.parse(raw)
    if not source.holders:
        return raw, []
    icons = icons_of(source, handling)
    file, unsigned = without_signatures(source, icon_ways(source, handling), handling)
    edits = Edits(file)

    def shown(spot: Spot) -> Picture:
        item = spot.steps[-2].item if len(spot.steps) > 1 else None
        picture = picture_of(reference_of(file, item)) if item else None
        if picture is None:
            raise RefusedFile(
                "it has an icon of an image that is not in the release, or does not say of which "
                f"image; {INSTEAD}"
            )
        return picture

    notes = settle_icons(edits, icons, shown, handling)
    data, moved = with_offsets(source, edits.result())
    return data, notes + unsigned + moved
