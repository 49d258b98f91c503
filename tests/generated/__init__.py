"""Files of every format and kind, made by Hypothesis, with the values that they hold.

Their bytes are laid out here by hand, with nothing of medshield, so that what a codec reads can be
compared with what was written.
"""

from tests.generated import dicom, jpeg, nifti, png, tiff
from tests.generated.base import Generated

STRATEGIES = {
    "png": png.files,
    "jpeg": jpeg.files,
    "tiff": tiff.files,
    "dicom": dicom.files,
    "nifti": nifti.files,
}

__all__ = ["STRATEGIES", "Generated"]
