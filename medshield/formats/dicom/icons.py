"""The pixels of an Icon Image Sequence (0088,0200): read, drawn again, and put back in their form.

An icon has an Image Pixel module of its own (PS3.3 C.7.6.1.1.6): up to three samples of 1, 8 or 16
bits, grey, palette or RGB, uncoded or coded in the file's transfer syntax (PS3.5 A.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.filereader import read_dataset
from pydicom.pixels.processing import apply_color_lut

from medshield.errors import RefusedFile
from medshield.formats.dicom import coding
from medshield.formats.dicom.coding import CodedFrames
from medshield.formats.dicom.container import NATIVE, DicomFile
from medshield.formats.dicom.elements import PIXEL_DATA, PIXEL_TAGS, Spot
from medshield.formats.dicom.pixels import MONOCHROME, PixelLayout
from medshield.formats.icon_rendering import made_again
from medshield.formats.limits import LARGEST_ICON_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.uid import UID

    from medshield.formats.series import Frames

ICON_SEQUENCE = 0x00880200
PALETTE = "PALETTE COLOR"
_MOST_ENTRIES = 256
"""Of a longer palette, only the entries up to the highest that the icon uses are used again."""
_FORMS = (*MONOCHROME, PALETTE, "RGB")
INSTEAD = "remove it with --icons remove"


@dataclass(frozen=True)
class Icon:
    """One icon of a file.

    Attributes:
        spot: its Pixel Data.
        syntax: in which its pixels are coded; None where they are not.
        layout: of its pixels; those of a lossy icon as they are decoded.
        values: (1, rows, columns, samples), unsigned: grey levels, palette indices or RGB.
        palette: (entries, 3) for a palette icon.
        lossy: its coding does not give back what went in.
        big_endian, swapped: how uncoded words are written, see `NativeForm`.
    """

    spot: Spot
    syntax: UID | None
    layout: PixelLayout
    values: NDArray[Any]
    palette: NDArray[np.float64] | None
    lossy: bool
    big_endian: bool
    swapped: bool

    @classmethod
    def read(cls, file: DicomFile, spot: Spot) -> Icon:
        """Read the icon whose Pixel Data is at `spot`.

        Raises:
            RefusedFile: it has a form that can't be written again.
        """
        item = spot.steps[-1].item
        encoding = item.encoding
        stream = BytesIO(file.content[item.value : spot.element.start])
        header = read_dataset(stream, encoding.implicit, not encoding.big_endian)
        layout = _layout(header, spot)
        coded = spot.element.undefined
        value = spot.element.value_of(file.content)
        swapped = encoding.big_endian and spot.element.vr != "OB" and layout.bits_allocated < 16
        form = cls(
            spot,
            file.syntax if coded else None,
            layout,
            values=np.empty(0),
            palette=None,
            lossy=False,
            big_endian=encoding.big_endian,
            swapped=swapped,
        )
        values = form._decoded(value) if coded else form._native(value)
        palette = _palette(header, values) if layout.photometric == PALETTE else None
        lossy = coded and not coding.can_stay(file.syntax, CodedFrames(value, layout), layout)
        if lossy and layout.samples == 3:
            layout = replace(layout, photometric="RGB", by_plane=False)
        return replace(form, layout=layout, values=values, palette=palette, lossy=lossy)

    @property
    def colours(self) -> NDArray[np.float64]:
        """(rows, columns, 1 or 3), what the values stand for."""
        values = self.values[0]
        if self.palette is None:
            return np.asarray(values, np.float64)
        return np.asarray(self.palette[values[..., 0]], np.float64)

    @property
    def shows_something(self) -> bool:
        """Whether it has more than one colour."""
        return float(np.ptp(self.colours, axis=(0, 1)).max()) > 0

    def drawn_again(self, clean: Frames, protected: Frames) -> NDArray[Any]:
        """The values of this icon, made from the protected picture.

        Raises:
            RefusedFile: the icon shows another picture.
        """
        colours = made_again(self.colours, clean, protected)
        if colours is None:
            raise RefusedFile(
                "its icon does not show the picture, as far as a comparison tells, so it can't be "
                f"made again from the protected one; {INSTEAD}"
            )
        if self.palette is not None:
            return _nearest(colours, self.palette).astype(self.values.dtype)[None, ..., None]
        return np.clip(np.round(colours), 0, self.layout.mask).astype(self.values.dtype)[None]

    def value(self, values: NDArray[Any], before: bytes) -> bytes:
        """The value field with these values; coded as before where that is without loss."""
        if self.syntax is not None and not self.lossy:
            return b"".join(coding.encode(self.syntax, values, self.layout, before).value.make())
        native = before if self.syntax is None else b""
        return self._native_value(values, native)

    def _decoded(self, value: bytes) -> NDArray[Any]:
        assert self.syntax is not None  # noqa: S101 (the caller saw to it)
        if self.syntax in NATIVE or not coding.is_supported(self.syntax):
            raise RefusedFile(f"its icon is coded in a way that is not supported; {INSTEAD}")
        frames = CodedFrames(value, self.layout)
        if coding.can_stay(self.syntax, frames, self.layout):
            return coding.decode_words(self.syntax, frames, self.layout)[:]
        return coding.decode_lossy(self.syntax, frames, self.layout)[:]

    def _native(self, value: bytes) -> NDArray[Any]:
        layout = self.layout
        _, rows, columns, samples = layout.shape
        count = rows * columns * samples
        if len(value) * 8 < count * layout.bits_allocated:
            raise RefusedFile(f"its icon has fewer pixels than it says; {INSTEAD}")
        data = _pairs_swapped(value) if self.swapped else value
        if layout.bits_allocated == 1:
            flat = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little", count=count)
        else:
            flat = np.frombuffer(data, self._disk_type, count)
        if layout.by_plane:
            shaped = flat.reshape(1, samples, rows, columns).transpose(0, 2, 3, 1)
        else:
            shaped = flat.reshape(layout.shape)
        return np.ascontiguousarray(shaped, self._disk_type.newbyteorder("="))

    def _native_value(self, values: NDArray[Any], before: bytes) -> bytes:
        """What stands behind the pixels is kept from `before`."""
        ordered = values.transpose(0, 3, 1, 2) if self.layout.by_plane else values
        flat = np.ascontiguousarray(ordered, self._disk_type).ravel()
        one_bit = self.layout.bits_allocated == 1
        data = np.packbits(flat, bitorder="little").tobytes() if one_bit else flat.tobytes()
        data += (_pairs_swapped(before) if self.swapped else before)[len(data) :]
        data += b"\0" * (len(data) % 2)
        return _pairs_swapped(data) if self.swapped else data

    @property
    def _disk_type(self) -> np.dtype[Any]:
        size = max(1, self.layout.bits_allocated // 8)
        return np.dtype(f"{'>' if self.big_endian else '<'}u{size}")


def is_icon(spot: Spot) -> bool:
    """Whether an element is the Pixel Data of an icon."""
    return (
        spot.element.tag == PIXEL_DATA
        and bool(spot.steps)
        and spot.steps[-1].sequence.tag == ICON_SEQUENCE
    )


def is_nested_picture(spot: Spot) -> bool:
    """Whether an element holds pixels inside a sequence."""
    element = spot.element
    return element.tag in PIXEL_TAGS and bool(spot.steps) and element.end > element.value


def _layout(header: Any, spot: Spot) -> PixelLayout:
    """What the icon's Image Pixel module says.

    Raises:
        RefusedFile: a form that is not supported.
    """
    photometric = str(header.get("PhotometricInterpretation", ""))
    samples = int(header.get("SamplesPerPixel") or 1)
    allocated = int(header.get("BitsAllocated") or 0)
    stored = int(header.get("BitsStored") or allocated)
    layout = PixelLayout(
        frames=1,
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=False,
        by_plane=samples > 1 and bool(header.get("PlanarConfiguration")),
        floating=False,
        photometric=photometric,
    )
    coded_colour = spot.element.undefined and photometric.startswith("YBR_")
    unusual = header.get("PixelRepresentation") or header.get("HighBit", stored - 1) != stored - 1
    if (
        unusual
        or allocated not in (1, 8, 16)
        or not 1 <= stored <= allocated
        or not (photometric in _FORMS or coded_colour)
        or samples != (3 if photometric == "RGB" or coded_colour else 1)
        or min(layout.shape) < 1
        or max(layout.shape) > LARGEST_ICON_SIDE
    ):
        raise RefusedFile(f"its icon has a form that can't be made again; {INSTEAD}")
    return layout


def _palette(header: Any, values: NDArray[Any]) -> NDArray[np.float64]:
    """The colour of each index (PS3.3 C.7.6.3.1.5 and .6), up to the highest that occurs."""
    described = header.get("RedPaletteColorLookupTableDescriptor") or [1]
    entries = min(_MOST_ENTRIES, int(described[0]) or _MOST_ENTRIES)
    indices = np.arange(max(entries, int(values.max()) + 1), dtype=values.dtype)
    try:
        return np.asarray(apply_color_lut(indices, header)[..., :3], np.float64)
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise RefusedFile(f"its icon's palette can't be read; {INSTEAD}") from error


def _nearest(colours: NDArray[np.float64], palette: NDArray[np.float64]) -> NDArray[np.int64]:
    """(rows, columns), the index of the palette's colour nearest to each."""
    rows = [((row[:, None] - palette) ** 2).sum(axis=-1).argmin(axis=-1) for row in colours]
    return np.stack(rows)


def _pairs_swapped(data: bytes) -> bytes:
    return np.frombuffer(data, "u2").byteswap().tobytes()
