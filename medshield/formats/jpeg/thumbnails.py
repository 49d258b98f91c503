"""Small copies of a picture, made anew from the protected picture in the place of the old ones.

A new copy has the geometry of the old one and takes exactly as many bytes, so that offsets and
lengths around it stay true whatever holds it: EXIF, a maker note, Photoshop's resources, a second
picture behind the first. Only what shows the same picture is made anew; anything else that looks
like a picture is refused, since there is nothing to make it from.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, JpegImagePlugin

from medshield.errors import RefusedFile
from medshield.formats.base import refuse_too_large
from medshield.formats.jpeg.pixels import decode_pixels
from medshield.formats.jpeg.segments import START_OF_IMAGE, Layout, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

JPEG_START = re.compile(rb"\xff\xd8\xff[\xc0-\xc4\xdb\xdd\xe0-\xef\xfe]")
"""A JPEG's SOI with a marker that can open a file: DQT, DHT, SOF, DRI, APPn, COM."""
# Pictures of other kinds that cameras and editors put beside a JPEG, and a film's first box.
_OTHER_PICTURE = re.compile(rb"\x89PNG\r\n\x1a\n|GIF8[79]a|ftyp(?:mp4|isom|qt  |heic|avif|jp2 )")
# Quantisation tables are the old ones times these until the new copy fits into the old one's bytes.
_COARSER = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 9.0, 20.0, 60.0)
# A copy may be sharpened, brightened and coded coarsely: as much of its contrast may differ, and
# as many grey levels where there is hardly any contrast.
_UNLIKE_CONTRAST, _UNLIKE_LEVELS = 0.5, 10.0
# Bars around a copy are flat, but for the rings of their own coding.
_FLAT = 12.0
REMEDY = "use --icons remove, or strip it from the source first"


@dataclass(frozen=True)
class Pictures:
    """The picture that a file is about, before and after, (height, width, 1 or 3), 0 to 255.

    While a file is only being read, both are the source: what would be refused later then is
    refused at once.
    """

    source: NDArray[np.uint8]
    released: NDArray[np.uint8]


def has_jpeg(data: bytes) -> bool:
    """Whether something in these bytes starts like a JPEG file."""
    return JPEG_START.search(data) is not None


def has_other_picture(data: bytes) -> bool:
    """Whether something in these bytes starts like a PNG, a GIF or a film."""
    return _OTHER_PICTURE.search(data) is not None


def jpegs_in(data: bytes, place: str) -> Iterator[tuple[int, int]]:
    """Start and end of every JPEG in these bytes, from SOI to EOI.

    Raises:
        RefusedFile: one does not end here.
    """
    position = 0
    while found := JPEG_START.search(data, position):
        start = found.start()
        try:
            position = len(data) - len(parse(data[start:]).trailing)
        except RefusedFile as error:
            raise RefusedFile(
                f"{place} holds the start of a JPEG that can't be read: strip it from the source "
                "first"
            ) from error
        yield start, position


def remake_jpegs(data: bytes, place: str, pictures: Pictures) -> bytes:
    """The same bytes with every JPEG in them made anew; the length stays.

    Raises:
        RefusedFile: one can't be read, shows something else, or its new copy does not fit.
    """
    new = bytearray(data)
    for start, end in jpegs_in(data, place):
        new[start:end] = remake_jpeg(data[start:end], place, pictures)
    return bytes(new)


def blank_jpegs(data: bytes, place: str) -> bytes:
    """The same bytes with zeros in place of every JPEG in them.

    Raises:
        RefusedFile: one does not end here, so how much to blank is unknown.
    """
    new = bytearray(data)
    for start, end in jpegs_in(data, place):
        new[start:end] = bytes(end - start)
    return bytes(new)


def remake_jpeg(old: bytes, place: str, pictures: Pictures, *, reversed_too: bool = False) -> bytes:
    """A JPEG of the protected picture: size, sampling, colour profile and length of the old one.

    Where it is shorter, zeros follow its EOI.

    Args:
        old: a JPEG, with what may follow its end.
        place: what holds it, for a message.
        pictures: what it should show, before and after.
        reversed_too: its channels may be blue, green, red as well.

    Raises:
        RefusedFile: see `remake_jpegs`.
    """
    try:
        layout = parse(old)
        frame = layout.frame
        refuse_too_large(frame.height * frame.width * len(frame.components))
        pixels = decode_pixels(layout)
    except RefusedFile as error:
        raise RefusedFile(f"{place} holds a JPEG that can't be read: {REMEDY}") from error
    if pixels.shape[2] not in (1, 3):
        raise RefusedFile(f"{place} holds a CMYK JPEG, expected grey or colour: {REMEDY}")
    picture = remake_pixels(pixels, place, pictures, reversed_too=reversed_too)
    for coarser in _COARSER:
        new = _encoded(picture, old, layout, coarser)
        if len(new) <= len(old):
            return new + bytes(len(old) - len(new))
    raise RefusedFile(f"{place} has no room for a copy of the protected picture: {REMEDY}")


def remake_pixels(
    old: NDArray[np.uint8], place: str, pictures: Pictures, *, reversed_too: bool = False
) -> NDArray[np.uint8]:
    """What the protected picture looks like in place of an old copy of it.

    Args:
        old: (height, width, 1 or 3).
        place: what holds it, for a message.
        pictures: what it should show, before and after.
        reversed_too: its channels may be blue, green, red as well.

    Raises:
        RefusedFile: the old copy shows something else than the picture.
    """
    orders = [slice(None), slice(None, None, -1)] if reversed_too else [slice(None)]
    for order in orders:
        for inner, shown in _placements(old.shape[:2], pictures.source.shape[:2]):
            if not _is_like(old, _shrunk(pictures.source, shown, inner, old)[..., order], inner):
                continue
            new = np.empty_like(old)
            new[...] = _bar_colour(old, inner)
            new[inner] = _shrunk(pictures.released, shown, inner, old)[..., order]
            return new
    raise RefusedFile(f"{place} shows another picture than the image itself: {REMEDY}")


_Area = tuple[slice, slice]


def _placements(small: tuple[int, ...], large: tuple[int, ...]) -> Iterator[tuple[_Area, _Area]]:
    """Where the picture may stand in a copy and how much of it is shown: (inner, shown).

    All of it over the whole copy; all of it between bars (a 3:2 picture in 160x120, Exif 2.3
    4.5.2); its middle over the whole copy.
    """
    everything = slice(None), slice(None)
    yield everything, everything
    scale = min(small[0] / large[0], small[1] / large[1])
    yield _middle(small, (large[0] * scale, large[1] * scale)), everything
    scale = max(small[0] / large[0], small[1] / large[1])
    yield everything, _middle(large, (small[0] / scale, small[1] / scale))


def _middle(whole: tuple[int, ...], part: tuple[float, float]) -> _Area:
    """The area of this size, in whole pixels, in the middle of another one."""
    sizes = [max(1, min(w, round(p))) for w, p in zip(whole, part, strict=True)]
    starts = [(w - size) // 2 for w, size in zip(whole, sizes, strict=True)]
    rows, columns = (slice(at, at + size) for at, size in zip(starts, sizes, strict=True))
    return rows, columns


def _shrunk(
    picture: NDArray[np.uint8], shown: _Area, inner: _Area, old: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The shown part of the picture in the size of that area and with the channels of the copy."""
    height, width = old[inner].shape[:2]
    part = picture[shown]
    image = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
    image = image.convert("L" if old.shape[2] == 1 else "RGB")
    small = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return small.reshape(height, width, old.shape[2])


def _is_like(old: NDArray[np.uint8], shrunk: NDArray[np.uint8], inner: _Area) -> bool:
    """Whether a copy shows this picture there, and nothing around it."""
    outside = np.ones(old.shape[:2], bool)
    outside[inner] = False
    if outside.any() and old[outside].std(axis=0).max() > _FLAT:
        return False
    before, now = old[inner].astype(float), shrunk.astype(float)
    before, now = before - before.mean(), now - now.mean()
    difference = np.sqrt(np.mean((before - now) ** 2))
    return bool(difference <= max(_UNLIKE_LEVELS, _UNLIKE_CONTRAST * before.std()))


def _bar_colour(old: NDArray[np.uint8], inner: _Area) -> NDArray[np.uint8]:
    """The colour of the bars; anything where there are none."""
    outside = np.ones(old.shape[:2], bool)
    outside[inner] = False
    bars = old[outside] if outside.any() else old.reshape(-1, old.shape[2])
    colour: NDArray[np.uint8] = np.median(bars, axis=0).astype(np.uint8)
    return colour


def _encoded(picture: NDArray[np.uint8], old: bytes, layout: Layout, coarser: float) -> bytes:
    """A JPEG of the picture as the old one was coded, with quantisation tables so much coarser."""
    with Image.open(io.BytesIO(old), formats=("JPEG",)) as image:
        tables = {
            number: [min(255, max(1, round(step * coarser))) for step in table]
            for number, table in image.quantization.items()  # type: ignore[attr-defined]
        }
        sampling = JpegImagePlugin.get_sampling(image)
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(
        file,
        "JPEG",
        qtables=[tables[number] for number in sorted(tables)],
        subsampling=sampling,
        optimize=True,
    )
    profile = [s.raw for s in layout.segments if s.payload.startswith(b"ICC_PROFILE\0")]
    return START_OF_IMAGE + b"".join(profile) + file.getvalue()[len(START_OF_IMAGE) :]
