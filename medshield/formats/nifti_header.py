"""Where a NIfTI file's voxels lie and what they mean (nifti1.h, nifti2.h)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import nibabel
import numpy as np

from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

ByteOrder = Literal["<", ">"]

PAIR_REASON = "NIfTI as a pair of .hdr and .img is not supported: save it as one .nii file"

_ORDERS: tuple[ByteOrder, ...] = ("<", ">")
_EXTENDER_BYTES = 4
_CIFTI_INTENTS = range(3000, 3100)
_CIFTI_EXTENSION = 32

# Real numbers of one channel that NumPy holds exactly; the code is nifti1.h's DT_*.
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_REFUSED_TYPES = {
    1: "1-bit",
    32: "complex64",
    128: "RGB",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA",
}


@dataclass(frozen=True)
class Signature:
    """What tells a NIfTI header from others.

    Attributes:
        version: 1 or 2.
        order: "<" or ">", the byte order of header and voxels.
        paired: the voxels lie in an .img file of their own.
    """

    version: int
    order: ByteOrder
    paired: bool

    @property
    def header_bytes(self) -> int:
        """Size of the header without extensions."""
        return 348 if self.version == 1 else 540


@dataclass(frozen=True)
class Layout:
    """What decoding needs of a header.

    Attributes:
        signature: version and byte order.
        shape: voxels along x, y, z, t, ...; 1 to 7 numbers, each at least 1.
        dtype: of a voxel, with its byte order.
        offset: of the first voxel in the (inflated) file.
        slope, intercept: real-world value = slope * stored + intercept; slope is never 0.
    """

    signature: Signature
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def end(self) -> int:
        """Where the voxels end."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def find_signature(head: bytes) -> Signature | None:
    """Recognise a header by its size in either byte order and its magic, or return None."""
    for order in _ORDERS:
        size = head[:4]
        if size == struct.pack(order + "i", 348) and head[344:348] in (b"n+1\0", b"ni1\0"):
            return Signature(1, order, paired=head[345:346] == b"i")
        if size == struct.pack(order + "i", 540) and head[4:12] in (
            b"n+2\0\r\n\x1a\n",
            b"ni2\0\r\n\x1a\n",
        ):
            return Signature(2, order, paired=head[5:6] == b"i")
    return None


def read_layout(content: bytes) -> Layout:
    """Read the header of an inflated single file.

    Raises:
        RefusedFile: damaged, one half of a pair, CIFTI, or voxels that are not one real number.
    """
    signature = find_signature(content)
    if signature is None:
        raise RefusedFile("damaged NIfTI: its first bytes are no NIfTI-1 or NIfTI-2 header")
    if signature.paired:
        raise RefusedFile(PAIR_REASON)
    if len(content) < signature.header_bytes + _EXTENDER_BYTES:
        raise RefusedFile("damaged NIfTI: it ends within its header")
    # nibabel's classes have annotations, but their constructors have none.
    kind: Any = nibabel.Nifti1Header if signature.version == 1 else nibabel.Nifti2Header
    header = kind(content[: signature.header_bytes], endianness=signature.order, check=False)
    layout = Layout(
        signature=signature,
        shape=_shape(header),
        dtype=_dtype(header, signature.order),
        offset=_offset(header, signature),
        **_scaling(header),
    )
    if len(content) < layout.end:
        raise RefusedFile(
            f"damaged NIfTI: it has {len(content)} bytes, and its header speaks of {layout.end}"
        )
    _refuse_cifti(content, header, layout)
    return layout


def _shape(header: Any) -> tuple[int, ...]:
    count = int(header["dim"][0])
    shape = tuple(int(length) for length in header["dim"][1 : 1 + count])
    if not 1 <= count <= 7 or min(shape) < 1:
        raise RefusedFile("damaged NIfTI: its header's dimensions (dim) are not 1 to 7 lengths")
    return shape


def _dtype(header: Any, order: ByteOrder) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code not in _DTYPES:
        name = _REFUSED_TYPES.get(code, "unknown")
        raise RefusedFile(
            f"NIfTI of {name} voxels (data type {code}) is not supported: only integers and "
            "floats of up to 64 bits are; convert it, or leave it out"
        )
    return np.dtype(_DTYPES[code]).newbyteorder(order)


def _offset(header: Any, signature: Signature) -> int:
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and offset >= signature.header_bytes + _EXTENDER_BYTES):
        raise RefusedFile("damaged NIfTI: its voxels start (vox_offset) within its header")
    return int(header["vox_offset"])


def _scaling(header: Any) -> dict[str, float]:
    """A slope of 0 or NaN means that voxels are not scaled (nifti1.h, scl_slope)."""
    try:
        slope, intercept = header.get_slope_inter()
    except nibabel.spatialimages.HeaderDataError as error:
        raise RefusedFile("damaged NIfTI: scl_slope is a number, but scl_inter is not") from error
    if slope is None:
        return {"slope": 1.0, "intercept": 0.0}
    return {"slope": slope, "intercept": intercept}


def _refuse_cifti(content: bytes, header: Any, layout: Layout) -> None:
    """A CIFTI file is a matrix over brain surfaces in a NIfTI-2 envelope, and no image."""
    if int(header["intent_code"]) in _CIFTI_INTENTS or _CIFTI_EXTENSION in _extension_codes(
        content, layout
    ):
        raise RefusedFile("CIFTI (a matrix in a NIfTI-2 file) is not supported: leave it out")


def _extension_codes(content: bytes, layout: Layout) -> Iterator[int]:
    """The code of each extension between the header and the voxels (nifti1.h, nifti1_extension)."""
    position = layout.signature.header_bytes
    if content[position] == 0:
        return
    position += _EXTENDER_BYTES
    while position + 8 <= layout.offset:
        size, code = struct.unpack_from(layout.signature.order + "ii", content, position)
        if size < 8:
            return
        yield code
        position += size
