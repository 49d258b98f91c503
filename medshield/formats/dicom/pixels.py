"""How a DICOM image's samples lie in its words (PS3.3 C.7.6.3, PS3.5 8.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import refuse_too_large
from medshield.formats.dicom.elements import DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA, Element
from medshield.formats.series import MadeFrames, part_of, pieces_of, runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from medshield.formats.series import Content, Frames

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
YBR_FULL = ("YBR_FULL", "YBR_FULL_422")


@dataclass(frozen=True)
class PixelLayout:
    """What the Image Pixel module says.

    A word is a sample's container of Bits Allocated. Its lowest Bits Stored bits are the stored
    value; above them, old writers keep overlays.
    """

    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    by_plane: bool
    floating: bool
    photometric: str
    shares_chroma: bool = False
    """Two pixels share their chroma samples: Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""

    @classmethod
    def of(cls, header: Any, pixels: Element) -> PixelLayout:
        """Read it from the elements before Pixel Data.

        Raises:
            RefusedFile: an element is missing, or the samples lie in a way that is not supported.
        """
        floating = pixels.tag != PIXEL_DATA
        bits_allocated = _integer(header, "BitsAllocated")
        samples = _integer(header, "SamplesPerPixel")
        photometric = str(header.get("PhotometricInterpretation", ""))
        layout = cls(
            frames=int(header.get("NumberOfFrames") or 1),
            rows=_integer(header, "Rows"),
            columns=_integer(header, "Columns"),
            samples=samples,
            bits_allocated=bits_allocated,
            bits_stored=bits_allocated if floating else _integer(header, "BitsStored"),
            signed=floating or _sign(header),
            by_plane=samples > 1 and bool(header.get("PlanarConfiguration")),
            floating=floating,
            photometric=photometric,
            shares_chroma=photometric == "YBR_FULL_422" and not pixels.undefined,
        )
        layout._check(pixels, _integer(header, "HighBit") if not floating else bits_allocated - 1)
        return layout

    def _check(self, pixels: Element, high_bit: int) -> None:
        allowed: tuple[int, ...] = (8, 16, 32)
        if self.floating:
            allowed = (64,) if pixels.tag == DOUBLE_FLOAT_PIXEL_DATA else (32,)
        if self.bits_allocated == 1:
            raise RefusedFile(
                "its pixels are single bits, which have no values between to move to; leave it "
                "out of the source, or convert it to 8 bits"
            )
        if self.bits_allocated not in allowed:
            raise RefusedFile(
                f"{self.bits_allocated} bits are allocated for a sample, {_either(allowed)} are "
                "supported; leave it out of the source"
            )
        if not 1 < self.bits_stored <= self.bits_allocated or high_bit != self.bits_stored - 1:
            raise RefusedFile(
                f"{self.bits_stored} bits are stored with high bit {high_bit} in "
                f"{self.bits_allocated}; only samples in a word's lowest bits are read alike by "
                "every reader: shift them down, or leave the file out of the source"
            )
        if min(self.shape) < 1:
            raise RefusedFile("its rows, columns or frames are 0, so there is no image in it")
        refuse_too_large(math.prod(self.shape) * self.bits_allocated // 8)
        expected = 1 if self.photometric in (*MONOCHROME, PALETTE) else 3
        if self.samples != expected:
            raise RefusedFile(
                f"{self.samples} samples a pixel don't fit the photometric interpretation "
                f"({expected} expected); correct the header"
            )
        if self.photometric in YBR_FULL and (self.bits_allocated, self.bits_stored) != (8, 8):
            raise RefusedFile(
                f"its {self.photometric} samples have {self.bits_stored} bits, and only those of "
                "8 bits are shown alike everywhere; convert it to RGB first"
            )
        if self.shares_chroma and (self.by_plane or self.columns % 2):
            raise RefusedFile(
                "it is uncoded YBR_FULL_422 by plane or with an odd number of columns, which the "
                "standard does not know; convert it to RGB first"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, rows, columns, samples)."""
        return self.frames, self.rows, self.columns, self.samples

    @property
    def word(self) -> np.dtype[Any]:
        """The unsigned type of a word."""
        return np.dtype(f"u{self.bits_allocated // 8}")

    @property
    def value(self) -> np.dtype[Any]:
        """The type of a stored value."""
        kind = "f" if self.floating else "i" if self.signed else "u"
        return np.dtype(f"{kind}{self.bits_allocated // 8}")

    @property
    def mask(self) -> int:
        """The bits of a word that hold the value."""
        return (1 << self.bits_stored) - 1

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value that the stored bits can hold."""
        if self.floating:
            return -np.inf, np.inf
        lowest = -(1 << (self.bits_stored - 1)) if self.signed else 0
        return lowest, lowest + self.mask

    def values(self, words: NDArray[Any]) -> NDArray[Any]:
        """The stored values in words; 12 of 16 bits, signed: 0xF830 and 0x0830 are -2000."""
        unused = self.bits_allocated - self.bits_stored
        values: NDArray[Any] = (words << unused).view(self.value)
        if unused:
            values >>= unused
        return values

    def words(self, values: Frames, before: Frames) -> Frames:
        """Stored values in words.

        Where the unused bits of `before` are no more than copies of the sign, they stay that;
        where they hold something else, such as overlays, they stay as they are.
        """
        copies = all(self._unused_bits_are_signs(before[run]) for run in runs(before.shape))
        mask = self.word.type(self.mask)

        def joined(frames: slice) -> NDArray[Any]:
            plain = np.ascontiguousarray(values[frames]).view(self.word)
            return plain if copies else (before[frames] & ~mask) | (plain & mask)

        return MadeFrames(before.shape, self.word, joined)

    def _unused_bits_are_signs(self, words: NDArray[Any]) -> bool:
        return np.array_equal(words, self.values(words).view(self.word))

    def unused_bits_matter(self, words: NDArray[Any]) -> bool:
        """Whether the unused bits hold more than zeros or copies of the sign."""
        mask = self.word.type(self.mask)
        plain = self.values(words).view(self.word)
        return not np.array_equal(words & ~mask, np.where(words & ~mask, plain & ~mask, 0))


@dataclass(frozen=True)
class NativeForm:
    """How words become the bytes of a native value field (PS3.5 8.1.1 and A.2)."""

    layout: PixelLayout
    big_endian: bool
    swapped: bool
    """8-bit samples in 16-bit big endian words: every second byte comes first."""

    @classmethod
    def of(cls, layout: PixelLayout, pixels: Element, big_endian: bool) -> NativeForm:
        """The form that Pixel Data's value representation and the byte order ask for."""
        return cls(
            layout,
            big_endian,
            swapped=big_endian and layout.bits_allocated == 8 and pixels.vr == "OW",
        )

    @property
    def _size(self) -> int:
        """Bytes of all samples."""
        samples = math.prod(self.layout.shape)
        if self.layout.shares_chroma:
            samples = samples * 2 // 3
        return samples * self.layout.bits_allocated // 8

    def frames(self, value: Content) -> Frames:
        """The words of a value field, shaped (frames, rows, columns, samples).

        Raises:
            RefusedFile: fewer bytes than the header says, or more that may be more of the picture.
        """
        size = self._size
        row = size // (self.layout.frames * self.layout.rows)
        excess = len(value) - size
        if excess < 0 or (excess >= max(2, row) and not _is_one_byte(value, size)):
            raise RefusedFile(
                f"its pixels have {len(value)} bytes, the header says {size}: the file is "
                "truncated, or its header is wrong and more of the picture would stay as it is; "
                "correct the header"
            )
        each = size // self.layout.frames
        data = _PairsSwapped(value) if self.swapped else value
        return MadeFrames(
            self.layout.shape,
            self.layout.word,
            lambda frames: self.words(data[frames.start * each : frames.stop * each]),
        )

    def value_of(self, words: Frames, before: Content) -> Iterator[bytes]:
        """The value field with these words; what follows the samples is kept from `before`."""
        if self.swapped:
            yield from _swapped_pieces(self._unswapped(words, _PairsSwapped(before)))
        else:
            yield from self._unswapped(words, before)

    def _unswapped(self, words: Frames, before: Content) -> Iterator[bytes]:
        for run in runs(words.shape):
            yield self.value(words[run])
        yield from pieces_of(part_of(before, self._size, len(before)))

    def words(self, data: bytes) -> NDArray[Any]:
        """The words of some frames, of the shape of the whole but for their number."""
        flat = np.frombuffer(data, self._disk_type)
        _, rows, columns, samples = self.layout.shape
        if self.layout.shares_chroma:
            pairs = flat.reshape(-1, rows, columns // 2, 4)
            shaped = pairs[..., [0, 2, 3, 1, 2, 3]].reshape(-1, rows, columns, samples)
        elif self.layout.by_plane:
            shaped = flat.reshape(-1, samples, rows, columns).transpose(0, 2, 3, 1)
        else:
            shaped = flat.reshape(-1, rows, columns, samples)
        return np.ascontiguousarray(shaped, self.layout.word)

    def value(self, words: NDArray[Any]) -> bytes:
        """What some frames of words are in the file."""
        ordered = words
        if self.layout.shares_chroma:
            ordered = words.reshape(-1, 6)[:, [0, 3, 1, 2]]
        elif self.layout.by_plane:
            ordered = words.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(ordered, self._disk_type).tobytes()

    @property
    def _disk_type(self) -> np.dtype[Any]:
        return self.layout.word.newbyteorder(">" if self.big_endian else "<")


@dataclass(frozen=True)
class _PairsSwapped:
    """Bytes of which each pair is turned around."""

    content: Content

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(len(self))
        first = start - start % 2
        return _pairs_swapped(self.content[first : stop + stop % 2])[start - first : stop - first]


def _swapped_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Each pair turned around, of bytes that come in pieces of any length."""
    odd = b""
    for piece in pieces:
        data = odd + piece
        even = len(data) - len(data) % 2
        yield _pairs_swapped(data[:even])
        odd = data[even:]
    yield odd


def _pairs_swapped(data: bytes) -> bytes:
    return np.frombuffer(data, "u2").byteswap().tobytes()


def _is_one_byte(content: Content, start: int) -> bool:
    """Whether nothing but one byte, again and again, is there from `start` on."""
    first = content[start : start + 1]
    rest = pieces_of(part_of(content, start, len(content)))
    return all(piece.count(first) == len(piece) for piece in rest)


def _sign(header: Any) -> bool:
    """Whether samples are signed (PS3.3 C.7.6.3.1.1)."""
    found = _integer(header, "PixelRepresentation")
    if found not in (0, 1):
        raise RefusedFile(
            f"its Pixel Representation is {found}, where the standard knows 0 (unsigned) and 1 "
            "(signed); correct the header"
        )
    return found == 1


def _integer(header: Any, keyword: str) -> int:
    value = header.get(keyword)
    if value is None:
        raise RefusedFile(f"{keyword} is missing, without which its pixels can't be read")
    return int(value)


def _either(numbers: tuple[int, ...]) -> str:
    return " or ".join(str(number) for number in numbers)
