"""What a DICOM file is, and why some images are not protected."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydicom.uid import UID, RTDoseStorage, SegmentationStorage

from medshield.errors import MedshieldError, NotAnImage, RefusedFile
from medshield.formats.dicom import coding
from medshield.formats.dicom.container import (
    EXTENDED_LENGTHS,
    EXTENDED_OFFSET_TABLES,
    NATIVE,
    DicomFile,
    extended_offsets,
    fragments_of,
)
from medshield.formats.dicom.elements import PIXEL_TAGS, PREAMBLE_END, Element, named
from medshield.formats.dicom.pixels import MONOCHROME, PALETTE, YBR_FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from medshield.formats.series import Content

_Result = TypeVar("_Result")

# Objects with Pixel Data that are no images: masks and doses computed from them.
_DERIVED_OBJECTS = {
    SegmentationStorage: "a segmentation",
    UID("1.2.840.10008.5.1.4.1.1.66.7"): "a label map segmentation",
    UID("1.2.840.10008.5.1.4.1.1.66.8"): "a height map segmentation",
    RTDoseStorage: "a dose distribution",
}
# The unsupported terms that a message may repeat; any other value is free text.
_UNSUPPORTED_COLOURS = frozenset(
    {
        "PALETTE COLOR",
        "YBR_PARTIAL_420",
        "YBR_PARTIAL_422",
        "YBR_ICT",
        "YBR_RCT",
        "HSV",
        "ARGB",
        "CMYK",
    }
)


_VIDEO = (
    "1.2.840.10008.1.2.4.10",  # MPEG-2, MPEG-4 and HEVC, up to 4.108
    "1.2.840.10008.1.2.7.",  # SMPTE ST 2110
)
# Younger than the dictionary of the oldest pydicom that is supported.
_NEWER_SYNTAXES = {
    UID("1.2.840.10008.1.2.4.110"): "JPEG XL Lossless",
    UID("1.2.840.10008.1.2.4.111"): "JPEG XL JPEG Recompression",
    UID("1.2.840.10008.1.2.4.112"): "JPEG XL",
    UID("1.2.840.10008.1.2.8.1"): "Deflated Image Frame Compression",
}


def guarded(work: Callable[[], _Result]) -> _Result:
    """Do it, and turn what a library says of a damaged file into a refusal.

    Its own message stays out: it may quote the header.
    """
    try:
        return work()
    except (MedshieldError, MemoryError):
        raise
    except Exception as error:
        raise RefusedFile(
            f"it can't be decoded ({type(error).__name__}): damaged, or coded in a way that is "
            "not supported; check it with a DICOM viewer, or leave it out of the source"
        ) from error


def guarded_each(items: Iterator[_Result]) -> Iterator[_Result]:
    """The same items, the making of each guarded."""
    done = object()
    while (item := guarded(lambda: next(items, done))) is not done:
        yield cast("_Result", item)


def image_element(file: DicomFile, header: Any) -> Element:
    """The element with the image.

    Raises:
        NotAnImage: an object of another kind, such as a report or a segmentation.
        RefusedFile: pixels are in other places too, which would be released as they are.
    """
    if sum(element.tag in PIXEL_TAGS for element in file.elements) > 1:
        raise RefusedFile("it has Pixel Data more than once; rewrite it with a DICOM toolkit")
    if _is_tiff_too(file.raw):
        raise RefusedFile(
            "its preamble makes it a TIFF file too, with offsets and maybe pixels of its own; "
            "clear the preamble first"
        )
    sop_class = UID(str(header.get("SOPClassUID") or _media_storage_class(file)))
    if sop_class in _DERIVED_OBJECTS:
        raise NotAnImage(f"{_DERIVED_OBJECTS[sop_class]}, which holds no image ({sop_class.name})")
    if file.pixels is None:
        known = sop_class.name != sop_class
        raise NotAnImage(
            f"it has no pixel data ({sop_class.name if known else 'SOP class unknown'})"
        )
    return file.pixels


def _is_tiff_too(raw: Content) -> bool:
    """Whether the preamble is a TIFF header whose first directory is in the file (PS3.10 7.1).

    Some scanners leave such a header behind with a directory that is not there.
    """
    head = raw[:PREAMBLE_END]
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return False
    (version,) = unpack_from(f"{order}H", head, 2)
    if version not in (42, 43):
        return False
    directory: int
    (directory,) = (
        unpack_from(f"{order}I", head, 4) if version == 42 else unpack_from(f"{order}Q", head, 8)
    )
    return PREAMBLE_END <= directory < len(raw)


def _media_storage_class(file: DicomFile) -> str:
    """What a DICOMDIR has in its file meta information alone."""
    values = (e.value_of(file.raw) for e in file.meta if e.tag == 0x00020002)
    return next(values, b"").decode("latin-1").strip("\0 ")


def refuse_what_would_break(file: DicomFile, pixels: Element) -> None:
    """Refuse a file that other pixels would make invalid, or that can't be decoded.

    Raises:
        RefusedFile: offsets that are not kept up, or a coding that is unknown.
    """
    native = file.syntax in NATIVE
    if not native and not coding.is_supported(file.syntax):
        raise RefusedFile(_why_not(file.syntax))
    if native == pixels.undefined:
        raise RefusedFile(
            "its pixels are coded and its transfer syntax says they are not, or the other way "
            "round; correct the transfer syntax"
        )
    if not native:
        _refuse_wrong_offsets(file, pixels)


def _why_not(syntax: UID) -> str:
    """Why a transfer syntax is not supported, by name where it has one in the standard."""
    name = _NEWER_SYNTAXES.get(syntax, syntax.name)
    if name == syntax:
        name = "(unknown)"
    what = f"its transfer syntax {name} is not supported"
    if syntax.startswith(_VIDEO):
        return (
            f"{what}: it is a video, whose frames are coded as changes of each other, so that no "
            "bound on pixels could hold; export the frames as single images"
        )
    if "JPIP" in name:
        return f"{what}: its pixels are on a server and not in the file; fetch the images first"
    return f"{what}; convert it to Explicit VR Little Endian first"


def _refuse_wrong_offsets(file: DicomFile, pixels: Element) -> None:
    tables = {tag: file.value(tag) for tag in EXTENDED_OFFSET_TABLES}
    if not any(tables.values()):
        return
    lengths = [length for _, length in fragments_of(pixels.long_value_of(file.content))]
    for tag, offsets in extended_offsets(lengths).items():
        found = tables[tag]
        # Some writers count the byte that makes a length even, some do not.
        slack = 1 if tag == EXTENDED_LENGTHS else 0
        if found is not None and (
            len(found) != len(offsets)
            or any(not 0 <= have - says <= slack for have, says in _numbers(offsets, found))
        ):
            raise RefusedFile(
                f"{named(tag)} does not say where its coded frames are, so readers take different "
                "bytes for a frame; remove it, or correct it"
            )


def _numbers(*tables: bytes) -> Iterator[tuple[int, ...]]:
    """The 64-bit numbers of tables of one length, side by side."""
    count = len(tables[0]) // 8
    return zip(*(unpack_from(f"<{count}Q", table) for table in tables), strict=True)


def refuse_colours(syntax: UID, photometric: str, lossy: bool) -> None:
    """Refuse colours that readers show differently, or that the transfer syntax does not have.

    Args:
        syntax: the transfer syntax; the JPEG 2000 family gives back RGB for YBR_RCT exactly.
        photometric: Photometric Interpretation.
        lossy: the file will be released as what it decodes to, which is grey or RGB.

    Raises:
        RefusedFile: any other colours.
    """
    allowed = [*MONOCHROME, "RGB", *YBR_FULL]
    if syntax in coding.JPEG_2000_FAMILY:
        allowed.append("YBR_RCT")
    allowed.append("YBR_ICT" if lossy else PALETTE)
    if photometric not in allowed:
        found = photometric if photometric in _UNSUPPORTED_COLOURS else "missing or unknown"
        raise RefusedFile(
            f"its photometric interpretation is {found}; with its transfer syntax, "
            f"{', '.join(allowed)} are supported; convert it to RGB first"
        )
