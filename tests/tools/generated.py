"""One file of each kind, for the kinds that few public files have."""

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from tests import dicom_forms, tiff_forms
from tests.dicom_forms import anatomy

NIFTI_TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
JPEG_KINDS = {
    "grey": ("L", {}),
    "444": ("RGB", {"subsampling": 0}),
    "422": ("RGB", {"subsampling": 1}),
    "420": ("RGB", {"subsampling": 2}),
    "progressive": ("RGB", {"progressive": True}),
    "restart": ("RGB", {"restart_marker_rows": 1}),
}


def write_all(folder: Path) -> None:
    """DICOM and TIFF of each coding and layout, NIfTI and JPEG of each type."""
    for name, forms in (("dcm", dicom_forms.FORMS), ("tif", tiff_forms.FORMS)):
        for form, make in forms.items():
            make(folder / f"{form}.{name}")
    for dtype in NIFTI_TYPES:
        for order in "<>":
            _nifti(folder / f"{dtype} {'big' if order == '>' else 'little'}.nii", order + dtype)
    _nifti(folder / "compressed.nii.gz", "<i2")
    _nifti(folder / "pair.img", "<i2", nibabel.Nifti1Pair)
    _nifti(folder / "second.nii", "<i2", nibabel.Nifti2Image)
    _nifti(folder / "second pair.img", "<f4", nibabel.Nifti2Pair)
    for name, (mode, options) in JPEG_KINDS.items():
        planes = [anatomy((96, 80), 255, seed, noise=0.02) for seed in range(3)]
        image = Image.fromarray(np.stack(planes, -1).astype("u1")).convert(mode)
        image.save(folder / f"{name}.jpg", quality=90, **options)


def _nifti(path: Path, dtype: str, kind: type = nibabel.Nifti1Image) -> None:
    kind_of_number = np.dtype(dtype).newbyteorder("=")
    high = 1000.0 if kind_of_number.kind == "f" else min(np.iinfo(kind_of_number).max, 4000)
    values = anatomy((12, 14, 5), high).astype(kind_of_number)
    header = kind.header_class(endianness=dtype[0])
    header.set_data_dtype(np.dtype(dtype))
    nibabel.save(kind(values, np.eye(4), header), path)
