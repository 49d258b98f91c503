"""DICOM images of each transfer syntax, small or of clinical size, made by libraries alone."""

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
)

MODALITIES = {
    CTImageStorage: "CT",
    MRImageStorage: "MR",
    ComputedRadiographyImageStorage: "CR",
    UltrasoundMultiFrameImageStorage: "US",
    VLPhotographicImageStorage: "XC",
}


def anatomy(shape: tuple[int, ...], high: float, seed: int = 0, noise: float = 0.004) -> np.ndarray:
    """Smooth shapes with some noise, from 0 to `high`: about as compressible as a scan is."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    values = np.exp(-3 * sum(axis**2 for axis in axes))
    for _ in range(4):
        centre, width = rng.uniform(-0.6, 0.6, len(shape)), rng.uniform(0.1, 0.3)
        offsets = zip(axes, centre, strict=True)
        values = values + 0.4 * np.exp(-sum((axis - c) ** 2 for axis, c in offsets) / width**2)
    values = values / values.max() + rng.normal(0, noise, shape)
    return np.clip(values * high, 0, high)


def coded(values: np.ndarray, syntax: UID, bits: int) -> bytes:
    """One frame, (height, width) or (height, width, 3), in the coding of a transfer syntax."""
    colour = values.ndim == 3
    if syntax in (JPEG2000Lossless, JPEG2000):
        lossless = syntax == JPEG2000Lossless
        return imagecodecs.jpeg2k_encode(
            values, 0 if lossless else 40, codecformat="J2K", reversible=lossless,
            bitspersample=bits, mct=colour,
        )  # fmt: skip
    if syntax == HTJ2KLossless:
        return imagecodecs.htj2k_encode(values, reversible=True)
    if syntax == JPEGLosslessSV1:
        kind = "rgb" if colour else None
        return imagecodecs.jpeg8_encode(
            values, lossless=True, predictor=1, bitspersample=bits, colorspace=kind,
            outcolorspace=kind,
        )  # fmt: skip
    if syntax == JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(values, level=95, bitspersample=12)
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "JPEG", quality=92, subsampling=1)
        return stream.getvalue()
    near = syntax == JPEGLSNearLossless
    return get_encoder(syntax).encode(
        values,
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=3 if colour else 1,
        number_of_frames=1,
        bits_allocated=values.itemsize * 8,
        bits_stored=bits,
        pixel_representation=int(values.dtype.kind == "i"),
        photometric_interpretation="RGB" if colour else "MONOCHROME2",
        planar_configuration=0,
        **({"jls_error": 2} if near else {}),
    )


def save(
    path: Path,
    values: np.ndarray,
    syntax: UID = ExplicitVRLittleEndian,
    bits: int = 12,
    sop_class: UID = CTImageStorage,
    **elements: object,
) -> Path:
    """Write an image.

    Args:
        path: the file.
        values: (frames, height, width, channels), integers.
        syntax: the transfer syntax.
        bits: stored.
        sop_class: what kind of image.
        elements: further elements by keyword; they win over those that follow from the values.
    """
    frames, rows, columns, channels = values.shape
    dataset = Dataset()
    meta = dataset.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, sop_class
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.7"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.SpecificCharacterSet, dataset.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY"]
    dataset.Modality, dataset.PatientName = MODALITIES[sop_class], "Test^Zoë"
    dataset.PatientID = "T1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4.5.6"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, channels
    dataset.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if channels == 1:
        signed = values.dtype.kind == "i"
        dataset.WindowCenter, dataset.WindowWidth = 0 if signed else 1 << (bits - 1), 1 << bits
    private = dataset.private_block(0x0009, "MEDSHIELD TEST", create=True)
    private.add_new(0x01, "OB", b"\xfe\xff\x00\xe0not a sequence")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if syntax.is_encapsulated:
        parts = [values[k, ..., 0] if channels == 1 else values[k] for k in range(frames)]
        data = encapsulate([bytes(coded(part, syntax, bits)) for part in parts])
    elif elements.get("PhotometricInterpretation") == "YBR_FULL_422":
        shared = values[:, :, ::2]
        pairs = (values[:, :, ::2, 0], values[:, :, 1::2, 0], shared[..., 1], shared[..., 2])
        data = np.stack(pairs, -1).tobytes()
    else:
        planes = elements.get("PlanarConfiguration")
        ordered = values.transpose(0, 3, 1, 2) if planes else values
        big = syntax == ExplicitVRBigEndian
        data = ordered.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset.add_new(
        "PixelData", "OW" if values.itemsize == 2 else "OB", data + b"\0" * (len(data) % 2)
    )
    if syntax.is_encapsulated:
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def _grey(bits: int = 12, frames: int = 1, signed: bool = False) -> np.ndarray:
    planes = [anatomy((64, 48), (1 << bits) - 1, seed) for seed in range(frames)]
    values = np.stack(planes)[..., None] - (1 << (bits - 1) if signed else 0)
    return values.astype(("<i" if signed else "<u") + ("1" if bits <= 8 else "2"))


def _colour(frames: int = 1) -> np.ndarray:
    planes = [anatomy((64, 48), 255, seed) for seed in range(3 * frames)]
    return np.stack(planes, -1).reshape(64, 48, frames, 3).transpose(2, 0, 1, 3).astype("u1")


def _form(values: Callable[[], np.ndarray], syntax: UID, bits: int, **elements: object):
    return lambda path: save(path, values(), syntax, bits, **elements)


def _palette(path: Path) -> Path:
    """Indices of a palette in which neighbours are alike."""
    ramp = np.arange(256, dtype="<u2") * 257
    colours = {"Red": ramp, "Green": ramp // 2, "Blue": ramp[::-1] // 3}
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in colours.items():
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = entries.astype("<u2").tobytes()
    return save(path, _grey(8), ExplicitVRLittleEndian, 8, **elements)


def _icon(path: Path) -> Path:
    """A slice with a thumbnail of itself."""
    small = Dataset()
    small.Rows = small.Columns = 16
    small.SamplesPerPixel, small.PhotometricInterpretation = 1, "MONOCHROME2"
    small.BitsAllocated, small.BitsStored, small.HighBit, small.PixelRepresentation = 8, 8, 7, 0
    small.PixelData = (_grey()[0, ::4, ::3, 0] >> 4).astype("u1").tobytes()
    small["PixelData"].VR = "OB"
    return save(path, _grey(), IconImageSequence=[small])


PHOTO = {"sop_class": VLPhotographicImageStorage}
CINE = {"sop_class": UltrasoundMultiFrameImageStorage}
LOSSY = {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"}
FORMS: dict[str, Callable[[Path], Path]] = {
    "explicit little endian": _form(_grey, ExplicitVRLittleEndian, 12),
    "implicit": _form(_grey, ImplicitVRLittleEndian, 12),
    "big endian": _form(_grey, ExplicitVRBigEndian, 12),
    "deflated": _form(_grey, DeflatedExplicitVRLittleEndian, 12),
    "RLE": _form(_grey, RLELossless, 12),
    "JPEG lossless": _form(_grey, JPEGLosslessSV1, 12),
    "JPEG-LS": _form(_grey, JPEGLSLossless, 12),
    "JPEG 2000": _form(_grey, JPEG2000Lossless, 12),
    "HTJ2K": _form(lambda: _grey(16), HTJ2KLossless, 16),
    "signed with padding and rescale": _form(
        lambda: _grey(12, signed=True),
        ExplicitVRLittleEndian,
        12,
        PixelPaddingValue=-2000,
        RescaleSlope=1,
        RescaleIntercept=-24,
        WindowCenter=40,
        WindowWidth=400,
    ),
    "MONOCHROME1": _form(
        _grey,
        ExplicitVRLittleEndian,
        12,
        PhotometricInterpretation="MONOCHROME1",
        sop_class=ComputedRadiographyImageStorage,
    ),
    "MR of 16 bits": _form(lambda: _grey(16), ExplicitVRLittleEndian, 16, sop_class=MRImageStorage),
    "8 bit, many frames": _form(lambda: _grey(8, 4), ExplicitVRLittleEndian, 8, **CINE),
    "colour": _form(_colour, ExplicitVRLittleEndian, 8, **PHOTO),
    "colour by plane": _form(_colour, ExplicitVRLittleEndian, 8, PlanarConfiguration=1, **PHOTO),
    "colour, RLE, many frames": _form(lambda: _colour(3), RLELossless, 8, **CINE),
    "colour, JPEG-LS": _form(_colour, JPEGLSLossless, 8, **PHOTO),
    "colour, JPEG lossless": _form(_colour, JPEGLosslessSV1, 8, **PHOTO),
    "colour, JPEG 2000": _form(
        _colour, JPEG2000Lossless, 8, PhotometricInterpretation="YBR_RCT", **PHOTO
    ),
    "shared colours": _form(
        _colour, ExplicitVRLittleEndian, 8, PhotometricInterpretation="YBR_FULL_422", **PHOTO
    ),
    "palette": _palette,
    "icon": _icon,
    "lossy JPEG": _form(lambda: _grey(8), JPEGBaseline8Bit, 8, **LOSSY),
    "lossy JPEG, colour": _form(
        _colour, JPEGBaseline8Bit, 8, PhotometricInterpretation="YBR_FULL_422", **LOSSY, **PHOTO
    ),
    "lossy JPEG of 12 bits": _form(_grey, JPEGExtended12Bit, 12, **LOSSY),
    "lossy JPEG-LS": _form(_grey, JPEGLSNearLossless, 12, **LOSSY),
    "lossy JPEG 2000": _form(_grey, JPEG2000, 12, **LOSSY),
}
