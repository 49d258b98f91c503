"""What the established readers make of a file: pydicom, Pillow, imagecodecs, tifffile, nibabel.

Nothing here knows medshield. A reader may show one file in several ways (raw or converted
colours, indices or the palette's colours); each is a view, (frames, height, width, channels).
"""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image, ImageSequence
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

LOSSLESS_CODINGS = {
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
}
ONLY_DCMTK = {JPEGExtended12Bit, "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}
PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
NIFTI_CLASSES = (nibabel.Nifti1Pair, nibabel.Nifti2Pair)  # single files are kinds of pairs

View = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """A file that an established reader decodes.

    Attributes:
        format: DICOM, PNG, JPEG, TIFF, NIfTI or another format's name.
        kind: the transfer syntax, the PNG's colours and depth, the volume's type, ...
        lossless: whether the coding keeps the values exactly.
        views: by name, each decoded when it is called; the first is what is stored.
        subsampled: pixels share their colours.
        levels: of a coding with few values: (those used, those there are), each (n, channels),
            on a scale of 0 to 255, an alpha channel last where a palette has one; None where the
            steps between two values are too fine to matter.
    """

    format: str
    kind: str
    lossless: bool
    views: dict[str, View] = field(repr=False)
    subsampled: bool = False
    levels: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @property
    def direct(self) -> bool:
        """Whether every value can be stored: no table, quantiser or shared colour in between."""
        return self.lossless and self.levels is None and not self.subsampled

    def stuck(self, epsilon: float) -> bool:
        """Whether no value used has another one within epsilon: by arithmetic alone."""
        if self.levels is None:
            return False
        used, there = (np.unique(levels.astype(np.float64), axis=0) for levels in self.levels)
        apart = np.abs(used[:, None] - there[None])
        apart[..., 3:] *= 256  # alpha may not move at all
        apart = apart.max(-1)
        return not bool(((apart > 0) & (apart <= epsilon * 255)).any())


def reading(path: Path) -> Reading | None:
    """What a reader makes of a file, or None where none decodes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _reader(path)(path)
            if found is not None:
                next(iter(found.views.values()))()
        except Exception:  # whatever makes a reader give up means the same here
            return None
        return found


def _reader(path: Path) -> Callable[[Path], Reading | None]:
    head = path.read_bytes()[:132]
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _png
    if head[:3] == b"\xff\xd8\xff":
        return _jpeg
    if head[128:] == b"DICM":
        return _dicom  # before TIFF: its preamble may be a TIFF header, for viewers of slides
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff
    return _volume


def _four(values: np.ndarray, channels: int) -> np.ndarray:
    """(frames, height, width, channels)."""
    height, width = values.shape[-2:] if channels == 1 else values.shape[-3:-1]
    if channels == 1 and values.shape[-1] == 1 and values.ndim > 2:
        height, width = values.shape[-3:-1]
    return values.reshape(-1, height, width, channels)


def _greys(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The grey levels of 1, 2 or 4 bits, all of them taken as used."""
    levels = np.linspace(0, 255, 1 << bits)[:, None]
    return levels, levels


def _dicom(path: Path) -> Reading | None:
    dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID in ONLY_DCMTK and "PixelData" in dataset:
        dataset = _by_dcmtk(path, dataset)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return None
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    colours = dataset.PhotometricInterpretation
    samples = dataset.SamplesPerPixel

    def decoded(raw: bool) -> np.ndarray:
        shape = (-1, dataset.Rows, dataset.Columns, samples)
        return pixel_array(dataset, raw=raw).reshape(shape)

    def mapped() -> np.ndarray:
        values = apply_color_lut(pixel_array(dataset), dataset)
        return values.reshape(-1, dataset.Rows, dataset.Columns, values.shape[-1])

    views: dict[str, View] = {"stored": lambda: decoded(raw=True)}
    levels = None
    if samples == 3:
        views["shown"] = lambda: decoded(raw=False)
    if colours == "PALETTE COLOR":
        views["mapped"] = mapped
        views["mapped, 8 bit"] = lambda: (mapped() >> 8).astype(np.uint8)
        entries = np.arange(dataset.RedPaletteColorLookupTableDescriptor[0] or 1 << 16)
        there = apply_color_lut(entries.astype(np.uint16)[None], dataset)[0]
        scale = 257 if there.dtype == np.uint16 else 1
        levels = (mapped().reshape(-1, there.shape[-1]) / scale, there / scale)
    if dataset.get("BitsStored") == 1:
        levels = _greys(1)
    lossless = not syntax.is_compressed or syntax in LOSSLESS_CODINGS or syntax.is_deflated
    subsampled = colours in ("YBR_FULL_422", "YBR_PARTIAL_422")
    return Reading("DICOM", syntax.name, lossless, views, subsampled, levels)


def _by_dcmtk(path: Path, dataset: pydicom.Dataset) -> pydicom.Dataset:
    """The data set with the pixels that dcmtk decodes, under its own transfer syntax's name.

    The plugins of pydicom decode no JPEG of 12 bits.
    """
    program = shutil.which("dcmdjpeg")
    if program is None:
        return dataset
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.dcm")
        done = subprocess.run([program, path, plain], capture_output=True, check=False)
        if done.returncode:
            return dataset
        return pydicom.dcmread(plain)


def _png(path: Path) -> Reading:
    content = path.read_bytes()
    depth, colour = content[24], content[25]
    kind = f"{PNG_COLOURS[colour]}, {depth} bit" + (", interlaced" if content[28] else "")

    def pillow(mode: str | None = None) -> np.ndarray:
        with Image.open(path) as image:
            shown = image.convert(mode) if mode else image
            return _four(np.asarray(shown), len(shown.getbands()))

    def wide() -> np.ndarray:
        values = imagecodecs.png_decode(content)
        return _four(values, 1 if values.ndim == 2 else values.shape[-1])

    views: dict[str, View] = {"Pillow": pillow}
    if depth == 16:  # tRNS becomes alpha, which the file does not store
        views = {"imagecodecs": wide, "colours": lambda: wide()[..., : 3 if colour == 2 else 1]}
    levels = None
    if colour == 3:
        views |= {mode: lambda mode=mode: pillow(mode) for mode in ("RGB", "RGBA")}
        with Image.open(path) as image:
            there = Image.new("P", (256, 1))
            there.putpalette(image.getpalette("RGBA"), "RGBA")
            there.putdata(range(len(there.getpalette("RGBA")) // 4))
            levels = (pillow("RGBA").reshape(-1, 4), np.asarray(there.convert("RGBA"))[0])
    elif depth < 8:
        # Shown as 8 bits: 15 of 4 bits as 255. The file's own numbers are what epsilon counts.
        views = {"L": lambda: pillow("L") // (255 // (2**depth - 1))}
        levels = _greys(depth)
    return Reading("PNG", kind, True, views, levels=levels)


def _jpeg(path: Path) -> Reading:
    with Image.open(path) as image:
        kind = {"L": "grey", "RGB": "colour"}.get(image.mode, image.mode)
        kind += ", progressive" if image.info.get("progressive") else ", baseline"

    def pillow() -> np.ndarray:
        with Image.open(path) as image:
            return _four(np.asarray(image), len(image.getbands()))

    return Reading("JPEG", kind, False, {"Pillow": pillow})


def _tiff(path: Path) -> Reading:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        kind = f"{page.photometric.name}, {page.dtype}, {page.compression.name}"
        kind += f", {len(file.pages)} pages" if len(file.pages) > 1 else ""
        lossless = page.compression.name not in ("JPEG", "OJPEG", "LERC", "WEBP", "JPEGXR")
        channels = page.samplesperpixel
        planar = channels > 1 and page.planarconfig.name == "SEPARATE"
        levels = None
        if page.bitspersample < 8:
            levels = _greys(page.bitspersample)
        if page.photometric.name == "PALETTE":
            levels = (page.colormap.T[np.unique(page.asarray())] / 257, page.colormap.T / 257)

    def pages() -> np.ndarray:
        with tifffile.TiffFile(path) as file:
            frames = [page.asarray() for page in file.pages]
        if planar:
            frames = [np.moveaxis(frame, 0, -1) for frame in frames]
        return np.concatenate([_four(frame, channels) for frame in frames])

    def pillow(mode: str) -> np.ndarray:
        with Image.open(path) as image:
            frames = [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(image)]
        return np.concatenate([_four(frame, len(mode)) for frame in frames])

    views: dict[str, View] = {"tifffile": pages}
    views |= {mode: lambda mode=mode: pillow(mode) for mode in ("L", "RGB")}
    return Reading("TIFF", kind, lossless, views, levels=levels)


def _volume(path: Path) -> Reading | None:
    """A file that nibabel reads; of a pair, the file that holds the voxels."""
    image = nibabel.load(path)
    if not isinstance(image, nibabel.dataobj_images.DataobjImage):
        return None
    files = image.file_map
    if Path(files["image"].filename).resolve() != path.resolve():
        return None
    is_nifti = isinstance(image, NIFTI_CLASSES)
    name = "NIfTI" if is_nifti else type(image).__name__.removesuffix("Image")
    dtype = image.get_data_dtype()
    version = 2 if isinstance(image.header, nibabel.Nifti2Header) else 1
    kind = str(dtype) if not dtype.names else "RGB" + ("A" if len(dtype.names) == 4 else "")
    if is_nifti:
        kind = f"NIfTI-{version} {dtype.newbyteorder('=')}" if not dtype.names else kind
        kind += ", big endian" if dtype.byteorder == ">" else ""
        kind += ", pair" if "header" in files and len(files) > 1 else ""

    def voxels() -> np.ndarray:
        unscaled = getattr(image.dataobj, "get_unscaled", None)
        values = np.asarray(unscaled() if unscaled else image.dataobj)
        if values.dtype.names:
            values = np.stack([values[name] for name in values.dtype.names])
            parts = [_planes(part) for part in values]
            return np.concatenate(parts, -1)
        return _planes(values)

    return Reading(name, kind, True, {"nibabel": voxels})


def _planes(values: np.ndarray) -> np.ndarray:
    """(frames, height, width, 1) of a volume whose first axis runs fastest."""
    width, height = (*values.shape, 1)[:2]
    native = values.astype(values.dtype.newbyteorder("="))
    return native.T.reshape(-1, height, width, 1)


def views_of(found: Reading) -> Iterator[tuple[str, np.ndarray]]:
    """Every view that the reader manages to give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, view in found.views.items():
            try:
                yield name, view()
            except Exception:  # a view that does not apply to this file
                continue
