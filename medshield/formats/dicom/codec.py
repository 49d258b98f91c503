"""DICOM (PS3.3, PS3.5, PS3.10): only the value of Pixel Data is exchanged.

A file keeps its transfer syntax where that has a coding without loss. A lossy JPEG can't be coded
again without a second loss, so it becomes Explicit VR Little Endian, with just the elements changed
that must.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling, whole_file
from medshield.formats.dicom import coding, meaning
from medshield.formats.dicom.container import (
    EXTENDED_OFFSET_TABLES,
    NATIVE,
    TRANSFER_SYNTAX,
    DicomFile,
    explicit_element,
    extended_offsets,
    transfer_syntax_element,
    with_value,
)
from medshield.formats.dicom.copies import NOTHING_CARRIED, Carried, refuse_companion
from medshield.formats.dicom.elements import PIXEL_DATA, PREAMBLE_END, Element, named
from medshield.formats.dicom.pixels import NativeForm, PixelLayout
from medshield.formats.dicom.refusals import (
    guarded,
    image_element,
    refuse_colours,
    refuse_what_would_break,
)
from medshield.formats.dicom.views import view_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.dicom.meaning import Padding
    from medshield.formats.dicom.views import View

PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006
LOSSY_IMAGE_COMPRESSION = 0x00282110


@dataclass(frozen=True)
class _Source:
    """What `write` needs of the file that `decode` read."""

    file: DicomFile
    pixels: Element
    layout: PixelLayout
    words: NDArray[Any]
    padding: Padding | None
    lossy: bool
    view: View | None
    carried: Carried = NOTHING_CARRIED

    @property
    def values(self) -> NDArray[Any]:
        """The stored values, before any table or conversion of colours."""
        return self.layout.values(self.words)

    def stored_as(self, wanted: NDArray[Any], shown: NDArray[Any], radius: float) -> NDArray[Any]:
        """The stored values for what shall be shown; none that would newly be padding.

        Raises:
            RefusedFile: no table entry or sample is near enough to move to.
        """
        before = self.values
        values = wanted
        if self.view is not None:
            values = self.view.nearest(wanted, before, radius)
        if self.padding is not None:
            landed = self.padding.covers(values) & ~self.padding.covers(before)
            values = np.where(landed, before, values)
        if self.view is None or np.array_equal(wanted, shown):
            return values
        if np.array_equal(values, before):
            raise RefusedFile(
                "nothing in it can be moved: no entry of its table is shown within the bound of "
                "another; raise eps, or convert it to RGB first"
            )
        return values


class DicomCodec(Codec):
    """DICOM files of PS3.10: grey and RGB images of 8, 16 and 32 bits, and float pixels.

    The image's `details` name the transfer syntax, the photometric interpretation and the bits.
    """

    name = "dicom"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By "DICM" behind the preamble, or by a first element that can only be DICOM's."""
        return head[128:PREAMBLE_END] == b"DICM" or _starts_with_element(head)

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one file; see `Codec.decode`."""
        raw = whole_file(path)
        return guarded(lambda: _decode_with_copies(raw, handling))

    def write(
        self,
        image: DecodedImage,
        stored: NDArray[Any],
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other pixels; see `Codec.write`.

        A value that would land on the padding value stays as it was.
        """
        source: _Source = image.container
        values = guarded(lambda: source.stored_as(stored, image.stored, radius))
        data, notes = guarded(lambda: _rewritten(source, values))
        if source.view is not None and data is not source.file.raw:
            notes += source.view.notes(source.values, radius)
        if source.carried.anything and data is not source.file.raw:
            written = DicomFile.parse(data)
            data, more = guarded(
                lambda: source.carried.carried_on(
                    written, image.stored, lambda: _decode(written).stored
                )
            )
            notes += more
        target.write_bytes(data)
        return notes


def read_tag(path: Path, tag: str) -> str | None:
    """A header element's value as text, for labels.

    Args:
        path: a DICOM file.
        tag: GGGG,EEEE in hexadecimal, or a keyword of the standard such as BodyPartExamined.

    Returns:
        The value without spaces at its ends, several values joined by a backslash; None where the
        file has no such element, no value in it, or is no DICOM file.

    Raises:
        InputError: neither a tag nor a keyword.
    """
    number = _tag_number(tag)
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=[number])
        element = (dataset.file_meta if number >> 16 == 2 else dataset).get(Tag(number))
    except (InvalidDicomError, ValueError, EOFError):
        return None
    if element is None or element.VR == "SQ" or element.value in (None, ""):
        return None
    several = isinstance(element.value, (list, tuple)) or element.VM > 1
    values = element.value if several else [element.value]
    return "\\".join(str(value).strip() for value in values) or None


def _decode_with_copies(raw: bytes, handling: Handling) -> DecodedImage:
    """An image that can be written again, with all that its file carries."""
    file = DicomFile.parse(raw)
    try:
        image = _decode(file)
    except NotAnImage:
        refuse_companion(file, handling)
        raise
    carried = Carried.by(file, handling)
    carried.refuse_what_must_stay(file, image.stored)
    return replace(image, container=replace(image.container, carried=carried))


def _decode(file: DicomFile) -> DecodedImage:
    header = file.header()
    pixels = image_element(file, header)
    refuse_what_would_break(file, pixels)
    photometric = str(header.get("PhotometricInterpretation", ""))
    refuse_colours(file.syntax, photometric, coding.may_be_lossy(file.syntax))
    layout = PixelLayout.of(header, pixels)
    value = pixels.value_of(file.content)
    lossy, coded_bits = False, layout.bits_stored
    if file.syntax in NATIVE:
        words = NativeForm.of(layout, pixels, file.encoding.big_endian).words(value)
    else:
        lossy = not coding.can_stay(file.syntax, value, layout)
        if not lossy:
            coded_bits = coding.coded_bits(file.syntax, value, layout)
        words = _decode_frames(file.syntax, value, layout, lossy)
    if not lossy:
        refuse_colours(file.syntax, layout.photometric, lossy=False)
    elif layout.samples == 3:
        layout = replace(layout, by_plane=False, photometric="RGB")
    return _described(header, file, pixels, layout, words, coded_bits, lossy)


def _decode_frames(syntax: UID, value: bytes, layout: PixelLayout, lossy: bool) -> NDArray[Any]:
    if lossy:
        return coding.decode_lossy(syntax, value, layout).view(layout.word)
    return coding.decode_words(syntax, value, layout)


def _described(
    header: Any,
    file: DicomFile,
    pixels: Element,
    layout: PixelLayout,
    words: NDArray[Any],
    coded_bits: int,
    lossy: bool,
) -> DecodedImage:
    values = layout.values(words)
    padding = meaning.padding(header, layout, pixels.tag)
    frozen = padding.covers(values) if padding is not None else None
    if layout.floating:
        unreal = ~np.isfinite(values)
        frozen = unreal if frozen is None else frozen | unreal
    held = replace(layout, bits_stored=min(layout.bits_stored, coded_bits))
    limits = meaning.limits(header, held, values, frozen)
    view = view_of(header, layout, limits, padding, file.encoding.big_endian)
    stored = values
    if view is not None:
        stored = view.shown(values)
        limits = float(np.iinfo(stored.dtype).min), float(np.iinfo(stored.dtype).max)
    slope, intercept = meaning.rescale(header, layout)
    return DecodedImage(
        stored=stored,
        kind=meaning.kind(header, layout, stored),
        slope=slope,
        intercept=intercept,
        lowest=limits[0],
        highest=limits[1],
        step=view.step(values) if view is not None else 1.0,
        tied=view is not None,
        frozen=frozen,
        inverted=layout.photometric == "MONOCHROME1",
        declared=meaning.declared_ranges(header, layout, stored, slope, intercept),
        patient=str(header.get("PatientID") or "").strip() or None,
        details={
            "transfer syntax": file.syntax.name,
            "photometric interpretation": layout.photometric,
            "bits stored": str(layout.bits_stored),
        },
        container=_Source(file, pixels, layout, words, padding, lossy, view),
    )


def _rewritten(source: _Source, values: NDArray[Any]) -> tuple[bytes, list[str]]:
    """The file with these stored values, and a note for each element changed beside them."""
    file, layout, pixels = source.file, source.layout, source.pixels
    words = layout.words(values, source.words)
    if np.array_equal(words, source.words):
        return file.raw, []
    before = pixels.value_of(file.content)
    if source.lossy:
        changes = _decoded_to_native(source, words)
    elif file.syntax in NATIVE:
        value = NativeForm.of(layout, pixels, file.encoding.big_endian).value(words, before)
        changes = {pixels.tag: with_value(file.content, pixels, value)}
    else:
        value = coding.encode(file.syntax, words, layout, before)
        new = {pixels.tag: value, **extended_offsets(value)}
        changes = {
            element.tag: with_value(file.content, element, new[element.tag])
            for element in file.elements
            if element.tag in new
        }
    present = {e.tag: e.bytes_of(file.content) for e in (*file.meta, *file.elements)}
    changes = file.with_group_lengths(changes)
    changes = {tag: element for tag, element in changes.items() if element != present.get(tag)}
    why = "its coding was lossy" if source.lossy else "its frames are coded anew"
    notes = [
        f"{named(tag)}: {_what_became(tag in present, changes[tag])}, {why}"
        for tag in sorted(changes.keys() - {pixels.tag})
    ]
    return file.assembled(changes), notes


def _what_became(was_there: bool, element: bytes) -> str:
    if not element:
        return "removed"
    return "changed" if was_there else "added"


def _decoded_to_native(source: _Source, words: NDArray[Any]) -> dict[int, bytes]:
    """The elements that make a lossy file Explicit VR Little Endian and say so."""
    file, layout = source.file, source.layout
    value = NativeForm(layout, big_endian=False, swapped=False).value(words, b"")
    vr = "OW" if layout.bits_allocated > 8 else "OB"
    wanted = {LOSSY_IMAGE_COMPRESSION: ("CS", b"01")}
    if layout.samples == 3:
        wanted |= {PHOTOMETRIC: ("CS", b"RGB "), PLANAR: ("US", pack("<H", 0))}
    changes = {
        tag: explicit_element(tag, *new) for tag, new in wanted.items() if file.value(tag) != new[1]
    }
    changes |= {tag: b"" for tag in EXTENDED_OFFSET_TABLES if file.value(tag) is not None}
    changes[TRANSFER_SYNTAX] = transfer_syntax_element(ExplicitVRLittleEndian)
    changes[PIXEL_DATA] = explicit_element(PIXEL_DATA, vr, value + b"\0" * (len(value) % 2))
    return changes


def _starts_with_element(head: bytes) -> bool:
    """Whether a file without preamble starts with a known element of group 0002 or 0008."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, number, length = unpack_from(f"{order}HHI", head)
        if group not in (2, 8):
            continue
        try:
            vr = dictionary_VR(group << 16 | number)
        except KeyError:
            continue
        if head[4:6] == vr.encode() or (0 < length <= 128 and length % 2 == 0):
            return True
    return False


def _tag_number(tag: str) -> int:
    number = tag_for_keyword(tag) if tag else None
    digits = tag.strip("() ").replace(",", "")
    if number is None and len(digits) == 8:
        try:
            number = int(digits, 16)
        except ValueError:
            number = None
    if number is None:
        raise InputError(
            f"{tag!r} is no DICOM tag: GGGG,EEEE in hexadecimal is expected, or a keyword such as "
            "BodyPartExamined"
        )
    return number
