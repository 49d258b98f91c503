"""What one page of a TIFF file holds, and where: its form and its strips or tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from medshield.formats.tiff.structure import Directory, Structure

NEW_SUBFILE_TYPE, SUBFILE_TYPE, COLOUR_MAP = 254, 255, 320
STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS = 273, 279, 324, 325
JPEG_OFFSET, JPEG_LENGTH = 513, 514
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR = 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 338, 339
_IMAGE_DEPTH, _TILE_DEPTH = 32997, 32998

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK = 0, 1, 2, 3, 4
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
UNCOMPRESSED, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
OLD_DEFLATE, LZMA, ZSTD = 32946, 34925, 50000
HORIZONTAL, FLOATING_POINT = 2, 3

COMPRESSIONS = {
    UNCOMPRESSED: "none",
    LZW: "LZW",
    DEFLATE: "Deflate",
    PACKBITS: "PackBits",
    OLD_DEFLATE: "Deflate",
    LZMA: "LZMA",
    ZSTD: "Zstandard",
}
_OTHER_COMPRESSIONS = {
    2: "CCITT (one bit a pixel, where a step is black to white)",
    3: "CCITT fax (one bit a pixel, where a step is black to white)",
    4: "CCITT fax (one bit a pixel, where a step is black to white)",
    6: "JPEG of the old style",
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_OTHER_PHOTOMETRICS = {
    5: "CMYK",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_DTYPES = {(bits, _UNSIGNED): "u1" for bits in (1, 2, 4, 8)}
_DTYPES |= {(16, _UNSIGNED): "u2", (32, _UNSIGNED): "u4"}
_DTYPES |= {(8, _SIGNED): "i1", (16, _SIGNED): "i2", (32, _SIGNED): "i4"}
_DTYPES |= {(16, _FLOAT): "f2", (32, _FLOAT): "f4", (64, _FLOAT): "f8"}
_UNDEFINED_FORMAT = 4  # libtiff and tifffile read it as unsigned integers


@dataclass(frozen=True)
class Form:
    """What all frames of a file must have in common.

    Attributes:
        height, width: in pixels.
        bits: of one sample.
        dtype: of one sample in memory, such as "u2"; "u1" for less than 8 bits too.
        photometric: WHITE_IS_ZERO, BLACK_IS_ZERO, RGB or PALETTE.
        samples: of one pixel.
        extra: what the samples after grey or RGB are: 0 unnamed, 1 and 2 alpha.
    """

    height: int
    width: int
    bits: int
    dtype: str
    photometric: int
    samples: int
    extra: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Of one frame: 1, 2 (grey and alpha), 3 or 4; a palette's index is one."""
        return 1 if self.are_planes else self.samples

    @property
    def are_planes(self) -> bool:
        """Whether each sample is an image of its own: grey, and further unnamed samples."""
        return self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and set(self.extra) == {0}

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return bool(self.extra) and not self.are_planes

    @property
    def kind(self) -> str:
        """Files of one kind share one intensity range."""
        if self.photometric == PALETTE:
            return "TIFF 8-bit"
        suffix = {"u": "", "i": " signed", "f": " float"}[self.dtype[0]]
        return f"TIFF {self.bits}-bit{suffix}"


@dataclass(frozen=True)
class Segment:
    """One strip or tile.

    Attributes:
        number: its place in the arrays of offsets and counts.
        start, size: where its bytes stand in the file.
        plane: the first sample that it holds.
        top, left: of the image.
        rows, columns: as coded; a tile may reach over the image's edges.
        samples: of a pixel of it.
    """

    number: int
    start: int
    size: int
    plane: int
    top: int
    left: int
    rows: int
    columns: int
    samples: int

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.start + self.size


@dataclass(frozen=True)
class Page:
    """One image of a file.

    Attributes:
        directory: that describes it.
        form: of its pixels.
        compression, predictor: of its segments.
        segments: strips or tiles.
        is_tiled: which of the two they are.
    """

    directory: Directory
    form: Form
    compression: int
    predictor: int
    segments: tuple[Segment, ...]
    is_tiled: bool

    @property
    def name(self) -> str:
        """For people."""
        return self.directory.name

    def row_bytes(self, segment: Segment) -> int:
        """Bytes of one row of a segment before compression."""
        return (segment.columns * segment.samples * self.form.bits + 7) // 8

    def segment_bytes(self, segment: Segment) -> int:
        """Bytes of a segment before compression."""
        return segment.rows * self.row_bytes(segment)


def subfile_type(structure: Structure, directory: Directory) -> int:
    """The bits of NewSubfileType, or what the old SubfileType means in them (section 8)."""
    found = structure.numbers(directory, NEW_SUBFILE_TYPE)
    if found:
        return found[0]
    old = structure.numbers(directory, SUBFILE_TYPE)
    return 1 if old and old[0] == 2 else 0


def placed(structure: Structure, directory: Directory) -> list[tuple[int, int]]:
    """Start and end of everything that holds pixels of a directory, in any coding.

    Raises:
        RefusedFile: something of it lies beyond the end of the file.
    """
    places = []
    for offsets, counts in (
        (STRIP_OFFSETS, STRIP_COUNTS),
        (TILE_OFFSETS, TILE_COUNTS),
        (JPEG_OFFSET, JPEG_LENGTH),
    ):
        starts, sizes = (structure.numbers(directory, tag) for tag in (offsets, counts))
        if len(starts) != len(sizes):
            raise RefusedFile(
                f"TIFF whose {directory.name} has {len(starts)} places of pixels (tag {offsets}) "
                f"and {len(sizes)} sizes (tag {counts}): save it anew"
            )
        places += [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    if any(start < 0 or end < start or end > len(structure.data) for start, end in places):
        raise RefusedFile(f"damaged TIFF: pixels of {directory.name} are cut off")
    return places


def read_page(structure: Structure, directory: Directory) -> Page:
    """What a directory says of its pixels.

    Raises:
        RefusedFile: damaged, or of a form that can't be protected.
    """

    def first(tag: int, default: int) -> int:
        return (structure.numbers(directory, tag) or (default,))[0]

    name = directory.name
    compression = first(_COMPRESSION, UNCOMPRESSED)
    if compression not in COMPRESSIONS:
        _refuse_compression(directory, compression)
    if first(_FILL_ORDER, 1) != 1:
        raise RefusedFile(f"TIFF whose {name} has reversed bits (FillOrder 2): save it anew")
    if first(_IMAGE_DEPTH, 1) != 1 or first(_TILE_DEPTH, 1) != 1:
        raise RefusedFile(f"TIFF whose {name} is a volume (ImageDepth): save a page a slice")
    form = _read_form(structure, directory)
    predictor = first(_PREDICTOR, 1)
    if predictor != 1 and not _predictor_fits(predictor, compression, form):
        raise RefusedFile(
            f"TIFF whose {name} has predictor {predictor} with a coding or samples that it does "
            "not belong to, where readers disagree: save it without"
        )
    is_tiled = TILE_OFFSETS in directory.entries
    tile = (first(_TILE_HEIGHT, 0), first(_TILE_WIDTH, 0))
    strip = (min(first(_ROWS_PER_STRIP, form.height), form.height), form.width)
    places = placed(structure, directory)
    grid = _grid(form, tile if is_tiled else strip, first(_PLANAR, 1), is_tiled, len(places))
    segments = tuple(
        Segment(number, start, end - start, *cell)
        for number, ((start, end), cell) in enumerate(zip(places, grid, strict=True))
    )
    if any(segment.size == 0 for segment in segments):
        raise RefusedFile(f"TIFF whose {name} has empty strips or tiles (sparse): save it anew")
    page = Page(directory, form, compression, predictor, segments, is_tiled)
    return _trimmed(page) if compression == UNCOMPRESSED else page


def _trimmed(page: Page) -> Page:
    """The page without what follows the pixels in uncompressed strips or tiles."""
    segments = tuple(
        replace(segment, size=min(segment.size, page.segment_bytes(segment)))
        for segment in page.segments
    )
    return replace(page, segments=segments)


def _predictor_fits(predictor: int, compression: int, form: Form) -> bool:
    """Whether a predictor is one that all readers undo in the same way."""
    if compression in (UNCOMPRESSED, PACKBITS):
        return False
    if predictor == HORIZONTAL:
        return form.bits >= 8
    return predictor == FLOATING_POINT and form.dtype[0] == "f"


def _grid(
    form: Form, size: tuple[int, int], planar: int, is_tiled: bool, found: int
) -> list[tuple[int, int, int, int, int, int]]:
    """Plane, top, left, rows, columns and samples of each strip or tile, in the file's order.

    Args:
        form: of the page.
        size: rows and columns of a strip or tile.
        planar: PlanarConfiguration.
        is_tiled: tiles reach over the edges, strips end there.
        found: how many there are in the file.

    Raises:
        RefusedFile: there should be another number of them.
    """
    height, width = size
    if min(height, width) < 1 or planar not in (1, 2):
        raise RefusedFile("damaged TIFF: its strips or tiles have no size, or no known order")
    planes = range(form.samples) if planar == 2 else range(1)
    tops, lefts = range(0, form.height, height), range(0, form.width, width)
    expected = len(planes) * len(tops) * len(lefts)
    if expected != found:
        raise RefusedFile(f"damaged TIFF: it has {found} strips or tiles, expected {expected}")
    samples = 1 if planar == 2 else form.samples
    return [
        (plane, top, left, height if is_tiled else min(height, form.height - top), width, samples)
        for plane in planes
        for top in tops
        for left in lefts
    ]


def _read_form(structure: Structure, directory: Directory) -> Form:
    def numbers(tag: int, *default: int) -> tuple[int, ...]:
        return structure.numbers(directory, tag) or default

    name = directory.name
    (height, *_), (width, *_) = numbers(_HEIGHT, 0), numbers(_WIDTH, 0)
    if height < 1 or width < 1:
        raise RefusedFile(f"damaged TIFF: {name} has no size")
    photometric = numbers(_PHOTOMETRIC, -1)[0]
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        what = _OTHER_PHOTOMETRICS.get(photometric, f"an unknown one ({photometric})")
        raise RefusedFile(
            f"TIFF whose {name} has the colour space {what}, expected grey, RGB or a palette: "
            "convert it to grey or RGB"
        )
    samples = numbers(_SAMPLES, 1)[0]
    bits, formats = set(numbers(_BITS, 1)), set(numbers(_SAMPLE_FORMAT, 1))
    if len(bits) != 1 or len(formats) != 1:
        raise RefusedFile(f"TIFF whose {name} has samples of different kinds: save them apart")
    (depth,), (number_format,) = bits, formats
    dtype = _DTYPES.get((depth, _UNSIGNED if number_format == _UNDEFINED_FORMAT else number_format))
    if dtype is None:
        kind = {
            _UNSIGNED: "unsigned",
            _SIGNED: "signed",
            _FLOAT: "float",
            5: "complex",
            6: "complex",
        }
        raise RefusedFile(
            f"TIFF whose {name} has {depth}-bit {kind.get(number_format, 'unknown')} samples, "
            "expected 1, 2, 4, 8, 16 or 32 bits, or floats of 16, 32 or 64: convert it"
        )
    extra = numbers(_EXTRA_SAMPLES)
    form = Form(height, width, depth, dtype, photometric, samples, extra)
    _refuse_samples(form, name)
    return form


def _refuse_samples(form: Form, name: str) -> None:
    """Refuse samples that are neither shown nor named: nobody knows whether they may move."""
    shown = 3 if form.photometric == RGB else 1
    further = form.samples - shown
    if further == 0 and not form.extra:
        return
    if form.photometric == PALETTE or further < 1 or len(form.extra) != further:
        raise RefusedFile(
            f"TIFF whose {name} has {form.samples} samples a pixel, of which ExtraSamples (tag "
            f"338) explains {len(form.extra)}, expected {max(further, 0)}: save it anew"
        )
    is_alpha = further == 1 and form.extra[0] in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
    if not (is_alpha or form.are_planes):
        raise RefusedFile(
            f"TIFF whose {name} has samples beside its colour that are not alpha: save them as "
            "images of their own"
        )


def _refuse_compression(directory: Directory, compression: int) -> None:
    what = _OTHER_COMPRESSIONS.get(compression, f"of an unknown kind ({compression})")
    pyramid = directory.entries.get(TILE_OFFSETS) is not None
    advice = (
        "extract regions or a lower level to PNG or to TIFF without loss"
        if pyramid
        else "save it with Deflate, LZW or no compression"
    )
    raise RefusedFile(
        f"TIFF whose {directory.name} is compressed by {what}, expected a lossless coding that "
        f"can be written back exactly: {advice}"
    )
