"""What established readers, which know nothing of medshield, see in a file."""

import warnings

import imagecodecs
import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

BYTE, SIXTEEN_BITS = 8, 16


def read(path):
    """(frames, height, width, channels) as stored or, of palettes and YCbCr, as displayed.

    Raises:
        Exception: whatever the reader raises of a file that it can't read.
    """
    name = path.name.lower()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith(".png"):
            return _png(path)
        if name.endswith((".jpg", ".jpeg")):
            return _planes(_pillow(path))
        if name.endswith((".tif", ".tiff")):
            return _tiff(path)
        if name.endswith((".nii", ".nii.gz", ".img", ".img.gz")):
            return _nifti(path)
        return _dicom(path)


def _planes(values):
    """One frame, with an axis of channels."""
    return values[None, ..., None] if values.ndim == 2 else values[None]


def _pillow(path):
    with Image.open(path) as image:
        if image.mode in ("P", "PA", "1"):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        return np.array(image)


def _png(path):
    head = path.read_bytes()[:26]
    if head[24] == SIXTEEN_BITS and head[25] in (2, 4, 6):  # Pillow reduces these to 8 bits
        return _planes(imagecodecs.png_decode(path.read_bytes()))
    values = _planes(_pillow(path))
    if head[25] == 0 and head[24] < BYTE:  # Pillow spreads 1, 2 and 4 bits over 0 to 255
        return values[..., :1] // (255 // (2 ** head[24] - 1))
    return values


def _tiff(path):
    with tifffile.TiffFile(path) as file:
        pages = [page.asarray() for page in file.pages]
        planar = [page.planarconfig == 2 and page.samplesperpixel > 1 for page in file.pages]
    return np.concatenate(
        [
            _planes(page.transpose(1, 2, 0) if apart else page)
            for page, apart in zip(pages, planar, strict=True)
        ]
    )


def _nifti(path):
    values = np.asarray(nibabel.load(path).dataobj.get_unscaled())
    width, height = (*values.shape, 1)[:2]
    flat = values.reshape(-1, order="F")
    if flat.dtype.names:  # colours are a record of three or four bytes
        flat = np.stack([flat[name] for name in flat.dtype.names], -1)
    return flat.reshape(-1, height, width, flat.shape[1] if flat.ndim > 1 else 1)


def _dicom(path):
    dataset = pydicom.dcmread(path)
    values = pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        if not dataset.original_encoding[1]:  # pydicom takes the tables' bytes as little endian
            for name in ("Red", "Green", "Blue"):
                element = dataset[f"{name}PaletteColorLookupTableData"]
                element.value = np.frombuffer(element.value, "u2").byteswap().tobytes()
        values = apply_color_lut(values, dataset)
    if dataset.get("ModalityLUTSequence"):
        values = apply_modality_lut(values, dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    return values.reshape(frames, dataset.Rows, dataset.Columns, -1)
