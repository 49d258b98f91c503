"""DICOM (PS3.3, PS3.5, PS3.10): only the value of Pixel Data is exchanged.

A file keeps its transfer syntax where that has a coding without loss. A lossy JPEG can't be coded
again without a second loss, so it becomes Explicit VR Little Endian, with just the elements changed
that must.
"""

from __future__ import annotations

import math
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
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.dicom import coding, meaning
from medshield.formats.dicom.coding import CodedFrames
from medshield.formats.dicom.container import (
    EXTENDED_OFFSET_TABLES,
    NATIVE,
    TRANSFER_SYNTAX,
    DicomFile,
    explicit_element,
    explicit_pixels,
    transfer_syntax_element,
    with_value,
)
from medshield.formats.dicom.copies import NOTHING_CARRIED, Carried, refuse_companion
from medshield.formats.dicom.elements import PIXEL_DATA, PREAMBLE_END, Element, named
from medshield.formats.dicom.pixels import NativeForm, PixelLayout
from medshield.formats.dicom.refusals import (
    guarded,
    guarded_each,
    image_element,
    refuse_colours,
    refuse_what_would_break,
)
from medshield.formats.dicom.views import view_of
from medshield.formats.series import (
    MadeBytes,
    MadeFrames,
    content_of,
    held,
    joined,
    pieces_of,
    same,
    write_pieces,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.dicom.container import Part
    from medshield.formats.dicom.meaning import Padding
    from medshield.formats.dicom.views import View
    from medshield.formats.series import Content, Frames

PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006
LOSSY_IMAGE_COMPRESSION = 0x00282110


@dataclass(frozen=True)
class _Source:
    """What `write` needs of the file that `decode` read."""

    file: DicomFile
    pixels: Element
    layout: PixelLayout
    words: Frames
    values: Frames
    """The stored values, before any table or conversion of colours."""
    padding: Padding | None
    lossy: bool
    view: View | None
    carried: Carried = NOTHING_CARRIED

    def stored_as(self, wanted: Frames, shown: Frames, radius: float) -> Frames:
        """The stored values for what shall be shown; none that would newly be padding.

        Raises:
            RefusedFile: no table entry or sample is near enough to move to.
        """
        before = self.values

        def nearest(frames: slice) -> NDArray[Any]:
            values, source = wanted[frames], before[frames]
            if self.view is not None:
                values = self.view.nearest(values, source, radius)
            if self.padding is not None:
                landed = self.padding.covers(values) & ~self.padding.covers(source)
                values = np.where(landed, source, values)
            return values

        values = held(MadeFrames(before.shape, before.dtype, nearest))
        if self.view is None or same(wanted, shown):
            return values
        if same(values, before):
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
        raw = content_of(path)
        return guarded(lambda: _decode_with_copies(raw, handling))

    def write(
        self,
        image: DecodedImage,
        stored: Frames,
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other pixels; see `Codec.write`.

        A value that would land on the padding value stays as it was.
        """
        source: _Source = image.container
        words = guarded(lambda: _words_for(source, stored, image.stored, radius))
        if words is None:
            write_pieces(target, pieces_of(source.file.raw))
            return []
        parts, notes = guarded(lambda: _rewritten(source, words, target.parent))
        write_pieces(target, guarded_each(joined(parts)))
        if source.view is not None:
            notes += source.view.notes(source.values, radius)
        if source.carried.anything:
            notes += _carry_on(source.carried, image.stored, target)
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


def _carry_on(carried: Carried, clean: Frames, target: Path) -> list[str]:
    """Deal with the icons and signatures of a file that has its new pixels already."""
    written = DicomFile.parse(content_of(target))
    data, notes = guarded(
        lambda: carried.carried_on(written, clean, lambda: _decode(written).stored)
    )
    edited = target.with_name(f"{target.name}.edited")
    write_pieces(edited, pieces_of(data))
    edited.replace(target)
    return notes


def _decode_with_copies(raw: Content, handling: Handling) -> DecodedImage:
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
    value = pixels.long_value_of(file.content)
    lossy, coded_bits = False, layout.bits_stored
    if file.syntax in NATIVE:
        words = held(NativeForm.of(layout, pixels, file.encoding.big_endian).frames(value))
    else:
        coded = CodedFrames(value, layout)
        lossy = not coding.can_stay(file.syntax, coded, layout)
        if not lossy:
            coded_bits = coding.coded_bits(file.syntax, coded, layout)
        words = _decode_frames(file.syntax, coded, layout, lossy)
    if not lossy:
        refuse_colours(file.syntax, layout.photometric, lossy=False)
    elif layout.samples == 3:
        layout = replace(layout, by_plane=False, photometric="RGB")
    return _described(header, file, pixels, layout, words, coded_bits, lossy)


def _decode_frames(syntax: UID, coded: CodedFrames, layout: PixelLayout, lossy: bool) -> Frames:
    decode = coding.decode_lossy if lossy else coding.decode_words
    frames = decode(syntax, coded, layout)
    words = MadeFrames(
        layout.shape, layout.word, lambda run: guarded(lambda: frames[run].view(layout.word))
    )
    return held(words)


def _described(
    header: Any,
    file: DicomFile,
    pixels: Element,
    layout: PixelLayout,
    words: Frames,
    coded_bits: int,
    lossy: bool,
) -> DecodedImage:
    values = held(MadeFrames(words.shape, layout.value, lambda run: layout.values(words[run])))
    padding = meaning.padding(header, layout, pixels.tag)
    frozen = _frozen(values, padding)
    narrow = replace(layout, bits_stored=min(layout.bits_stored, coded_bits))
    limits = meaning.limits(header, narrow, values, frozen)
    view = view_of(header, layout, values, limits, padding, file.encoding.big_endian)
    stored = values
    if view is not None:
        stored = _shown(values, view)
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
        container=_Source(file, pixels, layout, words, values, padding, lossy, view),
    )


def _frozen(values: Frames, padding: Padding | None) -> Frames | None:
    """True for padding, and for what is no finite number; None where neither can be."""
    floating = values.dtype.kind == "f"
    if padding is None and not floating:
        return None

    def frozen(frames: slice) -> NDArray[np.bool_]:
        some = values[frames]
        still = padding.covers(some) if padding is not None else np.zeros(some.shape, np.bool_)
        return still | ~np.isfinite(some) if floating else still

    return held(MadeFrames(values.shape, np.bool_, frozen))


def _shown(values: Frames, view: View) -> Frames:
    """What a reader shows of all frames."""
    first = view.shown(values[:1])
    shape = (*values.shape[:3], first.shape[-1])
    return held(MadeFrames(shape, first.dtype, lambda run: view.shown(values[run])))


def _words_for(source: _Source, stored: Frames, shown: Frames, radius: float) -> Frames | None:
    """The words for what shall be shown; None where they are the source's."""
    values = source.stored_as(stored, shown, radius)
    words = held(source.layout.words(values, source.words))
    return None if same(words, source.words) else words


def _rewritten(source: _Source, words: Frames, folder: Path) -> tuple[list[Part], list[str]]:
    """The file with these words, in parts, and a note for each element changed beside them."""
    file, layout, pixels = source.file, source.layout, source.pixels
    before = pixels.long_value_of(file.content)
    changes: dict[int, Part]
    if source.lossy:
        changes = _decoded_to_native(source, words)
    elif file.syntax in NATIVE:
        form = NativeForm.of(layout, pixels, file.encoding.big_endian)
        value = MadeBytes(len(before), lambda: form.value_of(words, before))
        changes = {pixels.tag: with_value(file.content, pixels, value)}
    else:
        coded = coding.encode(file.syntax, words, layout, before, folder)
        changes = {
            element.tag: _with_offsets(file.content, element, coded.offsets[element.tag])
            for element in file.elements
            if element.tag in coded.offsets
        }
        changes[pixels.tag] = with_value(file.content, pixels, coded.value)
    present = {element.tag: element for element in (*file.meta, *file.elements)}
    changes = file.with_group_lengths(changes)
    changes = {
        tag: new
        for tag, new in changes.items()
        if tag == pixels.tag or tag not in present or new != present[tag].bytes_of(file.content)
    }
    why = "its coding was lossy" if source.lossy else "its frames are coded anew"
    notes = [
        f"{named(tag)}: {_what_became(tag in present, changes[tag])}, {why}"
        for tag in sorted(changes.keys() - {pixels.tag})
    ]
    return file.assembled(changes), notes


def _with_offsets(content: Content, element: Element, offsets: bytes) -> bytes:
    return b"".join(with_value(content, element, MadeBytes(len(offsets), lambda: [offsets])).make())


def _what_became(was_there: bool, element: Part) -> str:
    if not len(element):
        return "removed"
    return "changed" if was_there else "added"


def _decoded_to_native(source: _Source, words: Frames) -> dict[int, Part]:
    """The elements that make a lossy file Explicit VR Little Endian and say so."""
    file, layout = source.file, source.layout
    form = NativeForm(layout, big_endian=False, swapped=False)
    size = math.prod(layout.shape) * layout.bits_allocated // 8
    vr = "OW" if layout.bits_allocated > 8 else "OB"
    wanted = {LOSSY_IMAGE_COMPRESSION: ("CS", b"01")}
    if layout.samples == 3:
        wanted |= {PHOTOMETRIC: ("CS", b"RGB "), PLANAR: ("US", pack("<H", 0))}
    changes: dict[int, Part] = {
        tag: explicit_element(tag, *new) for tag, new in wanted.items() if file.value(tag) != new[1]
    }
    changes |= {tag: b"" for tag in EXTENDED_OFFSET_TABLES if file.value(tag) is not None}
    changes[TRANSFER_SYNTAX] = transfer_syntax_element(ExplicitVRLittleEndian)
    value = MadeBytes(size, lambda: form.value_of(words, b""))
    changes[PIXEL_DATA] = explicit_pixels(PIXEL_DATA, vr, value)
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
