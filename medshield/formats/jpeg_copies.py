"""What carries a second, clean copy of the image inside a JPEG file, outside its scans."""

from __future__ import annotations

import re
from typing import Literal

from medshield.errors import RefusedFile
from medshield.formats.jpeg_segments import APPLICATION, END_OF_IMAGE, Layout, Segment

# A JPEG's SOI with a marker that can open a file (DQT, DHT, SOF, DRI, APPn, COM), or a PNG:
# previews in maker notes, Photoshop's resource 1036 and trailers of telephones look like this.
_PICTURE = re.compile(rb"\xff\xd8\xff[\xc0-\xc4\xdb\xdd\xe0-\xef\xfe]|\x89PNG\r\n\x1a\n")
# Photoshop image resource 1033: an uncompressed thumbnail.
_RAW_PHOTOSHOP_THUMBNAIL = b"8BIM" + (1033).to_bytes(2, "big")
# Base64 images in XMP: thumbnails (two spellings of one namespace) and Google's GImage.
_XMP_IMAGES = (b"xmpGImg:image", b"xapGImg:image", b"GImage:Data")


def refuse_clean_copies(layout: Layout) -> None:
    """Refuse a file that carries its image a second time.

    Raises:
        RefusedFile: it has an EXIF, JFIF, JFXX, Photoshop or XMP thumbnail, further pictures
            (MPF), or a JPEG inside a segment or behind the end of the image.
    """
    for segment in layout.segments:
        if segment.marker in APPLICATION:
            _refuse_copy_in(segment)
    # An editor that saves a smaller picture over a longer file leaves the old one's end there.
    if END_OF_IMAGE in layout.trailing or _PICTURE.search(layout.trailing):
        raise RefusedFile(
            "the bytes after the JPEG's end hold another picture: cut the source off at EOI first"
        )


def _refuse_copy_in(segment: Segment) -> None:
    payload = segment.payload
    if segment.name == "APP2" and payload.startswith(b"MPF\0"):
        raise RefusedFile("multi-picture JPEG (MPF): extract the pictures to files of their own")
    if segment.name == "APP11" and payload.startswith(b"JP"):
        raise RefusedFile(
            "JPEG with boxes in APP11 (signed content or JPEG XT), which speak of the clean "
            "image: strip them first"
        )
    if _is_thumbnail(segment) or _PICTURE.search(payload):
        raise RefusedFile(
            f"{segment.name} carries a copy of the clean image: strip the thumbnail first"
        )


def _is_thumbnail(segment: Segment) -> bool:
    """Whether the segment holds a thumbnail that is not itself a JPEG."""
    payload = segment.payload
    if segment.name == "APP0":
        # JFIF 1.02: width and height of an RGB thumbnail are the last two bytes of the header;
        # an extension (JFXX) is a thumbnail and nothing else.
        jfif = payload.startswith(b"JFIF\0") and all(payload[12:14])
        return jfif or payload.startswith(b"JFXX\0")
    if segment.name == "APP1" and payload.startswith(b"Exif\0"):
        return _has_exif_thumbnail(payload[6:])
    if segment.name == "APP1":
        return any(word in payload for word in _XMP_IMAGES)
    return segment.name == "APP13" and _RAW_PHOTOSHOP_THUMBNAIL in payload


def _has_exif_thumbnail(exif: bytes) -> bool:
    """Whether the first TIFF directory points to a second one, the thumbnail's (Exif 2.3 4.5.2).

    Args:
        exif: what follows "Exif" and two zeros.
    """
    order: Literal["big", "little"] = "big" if exif[:2] == b"MM" else "little"
    directory = int.from_bytes(exif[4:8], order)
    entries = int.from_bytes(exif[directory : directory + 2], order)
    link = exif[directory + 2 + 12 * entries :][:4]
    if exif[:4] not in (b"II*\0", b"MM\0*") or len(link) < 4:
        raise RefusedFile(
            "EXIF that can't be read, so a thumbnail can't be ruled out: strip or repair it first"
        )
    return any(link)
