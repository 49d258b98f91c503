"""What a DICOM file carries that changed pixels would leave behind: icons and signatures.

Icons show the clean picture in small; digital signatures say that nothing was changed. What
becomes of them is the user's choice (see `Handling`), and the same for protected images and for
the reports and directories that are released beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medshield.errors import RefusedCompanion, RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Handling
from medshield.formats.dicom.container import DicomFile
from medshield.formats.dicom.edits import Edits, encoded, note
from medshield.formats.dicom.elements import EXPLICIT_LITTLE, Spot, named, walk
from medshield.formats.dicom.icons import (
    ICON_SEQUENCE,
    INSTEAD,
    Icon,
    is_icon,
    is_nested_picture,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from medshield.formats.series import Content, Frames


SIGNATURES = frozenset({0x4FFE0001, 0xFFFAFFFA})
"""MAC Parameters Sequence and Digital Signatures Sequence (PS3.3 C.12.1.1.3)."""
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
MADE_AGAIN = "made from the protected picture"
SHOWED_IT = "it showed the clean picture"
UNSIGNED = "it signed what is changed"


@dataclass(frozen=True)
class Picture:
    """Stored values of one image before and after, each (frames, height, width, channels)."""

    clean: Frames
    protected: Frames


@dataclass(frozen=True)
class Carried:
    """What an image's file carries beside its pixels.

    Attributes:
        icons: those that have to be made again.
        handling: what the user chose.
        anything: there is an icon or a signature at all.
    """

    icons: tuple[Icon, ...] = ()
    handling: Handling = DEFAULT_HANDLING
    anything: bool = False

    @classmethod
    def by(cls, file: DicomFile, handling: Handling) -> Carried:
        """Read what a file carries.

        Raises:
            RefusedFile: see `icons_of`.
        """
        signed = any(spot.element.tag in SIGNATURES for spot in walk(file.elements))
        return cls(icons_of(file, handling), handling, signed or bool(file.holders))

    def refuse_what_must_stay(self, file: DicomFile, stored: Frames) -> None:
        """Find out before anything is written whether `carried_on` will succeed.

        Raises:
            RefusedFile: a signature covers the pixels, or an icon does not show them.
        """
        refuse_signed(file, [(), *icon_ways(file, self.handling)], self.handling)
        for icon in self.icons:
            icon.drawn_again(stored, stored)

    def carried_on(
        self, file: DicomFile, clean: Frames, protected: Callable[[], Frames]
    ) -> tuple[Content, list[str]]:
        """A file with other pixels, its icons and signatures dealt with.

        Args:
            file: as it is with the protected pixels.
            clean: the stored values that it had.
            protected: gives those that it has now.

        Returns:
            The file, and a note for each kind of element that was changed or removed.

        Raises:
            RefusedFile: an icon can't be made again.
        """
        ways = [(), *icon_ways(file, self.handling)]
        file, unsigned = without_signatures(file, ways, self.handling)
        edits = Edits(file)
        picture = Picture(clean, protected() if self.icons else clean)
        notes = settle_icons(edits, self.icons, lambda _: picture, self.handling)
        return edits.result(), notes + unsigned


NOTHING_CARRIED = Carried()


def icons_of(file: DicomFile, handling: Handling) -> tuple[Icon, ...]:
    """The icons that have to be made again.

    Raises:
        RefusedFile: there are pixels in a sequence that is no icon, or an icon that can't be
            made again or must not be.
    """
    nested = _nested_pictures(file)
    for spot in nested:
        if not is_icon(spot) and not (handling.icons == "remove" and ICON_SEQUENCE in spot.within):
            raise RefusedFile(
                f"{named(spot.steps[0].sequence.tag)} holds another image's pixels, or a copy of "
                "this one's, and is no icon; remove that sequence first, for example with "
                "dcmodify --erase-all"
            )
    if nested and handling.icons == "refuse":
        raise RefusedFile(
            f"{named(ICON_SEQUENCE)} shows the clean picture; make it again from the protected "
            "one (--icons regenerate), or remove it (--icons remove)"
        )
    return tuple(Icon.read(file, spot) for spot in nested if handling.icons == "regenerate")


def refuse_companion(file: DicomFile, handling: Handling) -> None:
    """Refuse an object that is no image, for what it carries.

    Raises:
        RefusedCompanion: see `icons_of`.
    """
    try:
        icons_of(file, handling)
    except RefusedFile as reason:
        raise RefusedCompanion(str(reason)) from reason


def settle_icons(
    edits: Edits,
    icons: Iterable[Icon],
    picture_of: Callable[[Spot], Picture],
    handling: Handling,
) -> list[str]:
    """Make the icons of a file again, or remove them; returns the notes.

    Args:
        edits: of the file; takes the changes.
        icons: as `icons_of` gave them, of this file or of the file that it was made from.
        picture_of: what an icon shows, by its Pixel Data.
        handling: what the user chose.

    Raises:
        RefusedFile: an icon can't be made again.
    """
    if handling.icons == "remove":
        sequences = _icon_sequences(edits.file)
        for spot in sequences:
            edits.remove(spot)
        return [note(ICON_SEQUENCE, "removed", SHOWED_IT)] if sequences else []
    changed = False
    for icon, spot in zip(icons, _nested_pictures(edits.file), strict=True):
        if icon.shows_something:
            _make_again(edits, icon, spot, picture_of(spot))
            changed = True
    return [note(ICON_SEQUENCE, "changed", MADE_AGAIN)] if changed else []


def _make_again(edits: Edits, icon: Icon, spot: Spot, picture: Picture) -> None:
    values = icon.drawn_again(picture.clean, picture.protected)
    if (values == icon.values).all():
        raise RefusedFile(
            "its icon made from the protected picture is the clean icon, too small or too coarse "
            f"to show the difference; {INSTEAD}"
        )
    content, element = edits.file.content, spot.element
    value = icon.value(values, element.value_of(content))
    if not element.undefined:
        edits.replace(spot, value)
    elif icon.lossy:
        _decode_icon(edits, icon, spot, value)
    else:
        edits.exchange(spot, content[element.start : element.value] + value)


def _decode_icon(edits: Edits, icon: Icon, spot: Spot, value: bytes) -> None:
    """Put uncoded pixels in the place of lossy ones; allowed in any syntax (PS3.5 A.4)."""
    vr = "OW" if icon.layout.bits_allocated > 8 else "OB"
    edits.exchange(spot, encoded(spot.element.tag, vr, value, EXPLICIT_LITTLE))
    if icon.layout.samples == 1:
        return
    wanted = {_PHOTOMETRIC: b"RGB ", _PLANAR: b"\0\0"}
    for element in spot.steps[-1].item.elements:
        if element.tag in wanted:
            edits.replace(Spot(element, spot.steps), wanted[element.tag])


def icon_ways(file: DicomFile, handling: Handling) -> list[tuple[int, ...]]:
    """The data sets of a file, by the way to them, that change with its icons."""
    if handling.icons == "remove":
        return [spot.way for spot in _icon_sequences(file)]
    return [spot.way for spot in _nested_pictures(file)]


def refuse_signed(file: DicomFile, ways: Iterable[tuple[int, ...]], handling: Handling) -> None:
    """Refuse to break a signature unless the user said to drop it.

    Args:
        file: as it is.
        ways: to the data sets in which something will change.
        handling: what the user chose.

    Raises:
        RefusedFile: a signature covers a change.
    """
    broken = _broken_signatures(file, ways)
    if broken and not handling.drop_signatures:
        raise RefusedFile(
            f"{named(broken[0].element.tag)} signs it, and what changes would break the signature; "
            "release it without signatures (--drop-signatures), or leave it out"
        )


def without_signatures(
    file: DicomFile, ways: Iterable[tuple[int, ...]], handling: Handling
) -> tuple[DicomFile, list[str]]:
    """The file without the signatures that cover a change, and the notes; see `refuse_signed`."""
    ways = list(ways)
    refuse_signed(file, ways, handling)
    broken = _broken_signatures(file, ways)
    if not broken:
        return file, []
    edits = Edits(file)
    for spot in broken:
        edits.remove(spot)
    tags = sorted({spot.element.tag for spot in broken})
    return DicomFile.parse(edits.result()), [note(tag, "removed", UNSIGNED) for tag in tags]


def _nested_pictures(file: DicomFile) -> list[Spot]:
    return [spot for spot in walk(file.holders) if is_nested_picture(spot)]


def _icon_sequences(file: DicomFile) -> list[Spot]:
    """Those that hold pixels; not the icon of an icon, which goes with it."""
    return [
        spot
        for spot in walk(file.holders)
        if spot.element.tag == ICON_SEQUENCE and ICON_SEQUENCE not in spot.within
    ]


def _broken_signatures(file: DicomFile, ways: Iterable[tuple[int, ...]]) -> list[Spot]:
    """Those for a data set in which, or deeper inside which, something changes."""
    found = [spot for spot in walk(file.elements) if spot.element.tag in SIGNATURES]
    ways = list(ways) if found else []
    return [spot for spot in found if any(way[: len(spot.way)] == spot.way for way in ways)]
