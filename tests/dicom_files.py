"""DICOM files as the tests need them, written by pydicom and the encoders alone."""

import io
from fractions import Fraction

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medshield.formats.base import IntensityRange

PATIENT = "SECRET-PATIENT-77"
GREY, COLOUR = (1, 21, 18, 1), (1, 21, 18, 3)
TWELVE = {"bits": 12}


def smooth(shape, bits=12, signed=False):
    """Values that fill most of their range, some next to each other."""
    frames, height, width, channels = shape
    frame, y, x, channel = np.ogrid[:frames, :height, :width, :channels]
    values = (y * 37 + x * 11 + frame * 5 + channel * 3) % (1 << bits)
    size = 1 if bits <= 8 else 2 if bits <= 16 else 4
    if signed:
        return (values - (1 << (bits - 1))).astype(f"i{size}")
    return values.astype(f"u{size}")


def header(values, bits=None, **elements):
    """A data set with everything but Pixel Data, some of it unusual."""
    frames, height, width, channels = values.shape
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.Modality = "CT"
    dataset.PatientName = "Müller^Ångström"
    dataset.PatientID = PATIENT
    private = dataset.private_block(0x0009, "MEDSHIELD TEST", create=True)
    private.add_new(0x01, "UN", b"\xca\xfe\xba\xbe")
    private.add_new(0x02, "OB", b"\xfe\xff\x00\xe0not a sequence")
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3.4"
    dataset.ReferencedImageSequence = Sequence([inner, Dataset()])
    dataset.ReferencedImageSequence.is_undefined_length = True
    dataset.SamplesPerPixel = channels
    dataset.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = height, width
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.DataSetTrailingPadding = b"\0" * 6
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(path, dataset, syntax=ExplicitVRLittleEndian):
    """Write a data set with a preamble that is not all zeros."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.2"
    meta.PrivateInformationCreatorUID = "1.2.826.0.1.3680043.8.498.3"
    meta.PrivateInformation = b"\x01\x02"
    dataset.file_meta = meta
    dataset.preamble = bytes(range(128))
    dataset.save_as(path, enforce_file_format=True)
    return path


def native(path, values, syntax=ExplicitVRLittleEndian, vr=None, extra=b"", **elements):
    dataset = header(values, **elements)
    ordered = values.transpose(0, 3, 1, 2) if elements.get("PlanarConfiguration") else values
    big = syntax == ExplicitVRBigEndian
    data = ordered.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes() + extra
    data += b"\0" * (len(data) % 2)
    vr = vr or ("OB" if values.dtype.itemsize == 1 else "OW")
    if big and vr == "OW" and values.dtype.itemsize == 1:
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    dataset.add_new("PixelData", vr, data)
    return saved(path, dataset, syntax)


def coded(path, values, syntax, encode, table=False, bits=None, **elements):
    dataset = header(values, bits, **elements)
    frames = [bytes(encode(frame[..., 0] if frame.shape[-1] == 1 else frame)) for frame in values]
    dataset.PixelData = encapsulate(frames, has_bot=table)
    dataset["PixelData"].is_undefined_length = True
    return saved(path, dataset, syntax)


def by_pydicom(syntax, bits, **options):
    def encode(frame):
        return get_encoder(syntax).encode(
            frame,
            rows=frame.shape[0],
            columns=frame.shape[1],
            samples_per_pixel=1 if frame.ndim == 2 else 3,
            number_of_frames=1,
            bits_allocated=frame.itemsize * 8,
            bits_stored=bits,
            pixel_representation=int(frame.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2" if frame.ndim == 2 else "RGB",
            planar_configuration=0,
            **options,
        )

    return encode


def j2k(**options):
    return lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", **options)


def jpeg_lossless(frame, bits=None):
    colours = "rgb" if frame.ndim == 3 else None
    return imagecodecs.jpeg8_encode(
        frame,
        lossless=True,
        predictor=1,
        bitspersample=bits or frame.itemsize * 8,
        colorspace=colours,
        outcolorspace=colours,
    )


def jpeg_baseline(frame):
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()


def full_range(image):
    """A range with every value in it, as wide as 1000 grey levels at least."""
    values = image.stored * image.slope + image.intercept
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    return IntensityRange(low, max(high, low + 1000), "test")


def moved(image, steps):
    """Every movable value up or down by `steps` stored units, through the interface."""
    intensity = full_range(image)
    epsilon = Fraction(steps) * abs(Fraction(image.slope)) / Fraction(intensity.width)
    frames, height, width, _ = image.stored.shape
    shape = (frames, image.colour_channels, height, width)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], shape)
    return image.moved(signs * float(epsilon), intensity, epsilon)


def around_pixels(path):
    """What stands before the value of Pixel Data, and what stands behind, as pydicom finds it."""
    raw = path.read_bytes()
    with path.open("rb") as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        start = file.tell()
    pixels = pydicom.dcmread(path).get_item("PixelData")
    length = len(pixels.value)
    implicit = dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    value = start + (8 if implicit or pixels.VR == "UT" else 12)
    coded_end = 8 if dataset.file_meta.TransferSyntaxUID.is_encapsulated else 0
    return raw[:value], raw[value + length + coded_end :]
