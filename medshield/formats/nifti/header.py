"""Where a NIfTI file's voxels lie and what they mean (nifti1.h, nifti2.h)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import nibabel
import numpy as np

from medshield.errors import NotAnImage, RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

ByteOrder = Literal["<", ">"]

MOST_HEADER_BYTES = 540
EXTENDER_BYTES = 4

_ORDERS: tuple[ByteOrder, ...] = ("<", ">")
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
_COLOUR_CHANNELS = {128: 3, 2304: 4}
"""RGB24 and RGBA32: bytes, interleaved."""
_REFUSED_TYPES = {
    1: ("1-bit voxels", "it has no values between, so save it as a mask of 8-bit integers"),
    32: ("complex64 voxels", "split it into magnitude and phase"),
    1536: ("float128 voxels", "save it as float64"),
    1792: ("complex128 voxels", "split it into magnitude and phase"),
    2048: ("complex256 voxels", "split it into magnitude and phase"),
}

# nifti1.h's NIFTI_INTENT_*, and those that FSL adds.
_CIFTI_INTENTS = range(3000, 3100)
_LABEL_INTENTS = frozenset({1002, 1003})
_STATISTIC_INTENTS = frozenset({*range(2, 25), 1001})
_VECTOR_INTENTS = frozenset({1004, 1005, 1007})
_DISPLACEMENT_INTENT = 1006
_WARP_INTENTS = frozenset({*range(2006, 2010), *range(2016, 2019)})
_POINT_INTENTS = frozenset({1008, 1009})


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
        channels: numbers of a voxel: 1, or 3 and 4 for colours.
        dtype: of such a number, with its byte order.
        offset: of the first voxel in the (inflated) file that holds the voxels.
        slope, intercept: real-world value = slope * stored + intercept; slope is never 0.
        intent: what the values are (nifti1.h, intent_code).
    """

    signature: Signature
    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    intent: int

    @property
    def numbers(self) -> int:
        """How many there are in the file."""
        return math.prod(self.shape) * self.channels

    @property
    def end(self) -> int:
        """Where the voxels end."""
        return self.offset + self.numbers * self.dtype.itemsize

    @property
    def kind(self) -> str:
        """Volumes of one kind share an intensity range: a z-score is no T1 signal."""
        if self.channels > 1:
            return "NIfTI colour"
        if self.intent in _STATISTIC_INTENTS:
            return "NIfTI statistic"
        return "NIfTI vectors" if self.intent in _VECTOR_INTENTS else "NIfTI"

    @property
    def says_labels(self) -> bool:
        """Whether its values are numbers of classes, by its intent and its data type."""
        return self.intent in _LABEL_INTENTS and self.dtype.kind in "iu" and self.channels == 1


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


def read_layout(head: bytes) -> Layout:
    """Read a header by its first `MOST_HEADER_BYTES`, of a single file or of a pair.

    Raises:
        RefusedFile: damaged, CIFTI, or voxels that are neither one real number nor a colour.
        NotAnImage: a displacement field, or points of a surface.
    """
    signature = find_signature(head)
    if signature is None:
        raise RefusedFile("damaged NIfTI: its first bytes are no NIfTI-1 or NIfTI-2 header")
    if len(head) < signature.header_bytes:
        raise RefusedFile("damaged NIfTI: it ends within its header")
    # nibabel's classes have annotations, but their constructors have none.
    kind: Any = nibabel.Nifti1Header if signature.version == 1 else nibabel.Nifti2Header
    header = kind(head[: signature.header_bytes], endianness=signature.order, check=False)
    shape, intent = _shape(header), int(header["intent_code"])
    _leave_out(intent, shape)
    dtype, channels = _voxel(header, signature.order)
    return Layout(
        signature=signature,
        shape=shape,
        channels=channels,
        dtype=dtype,
        offset=_offset(header, signature),
        intent=intent,
        **(_scaling(header) if channels == 1 else {"slope": 1.0, "intercept": 0.0}),
    )


def refuse_cifti(header: bytes, layout: Layout) -> None:
    """A CIFTI file is a matrix over brain surfaces in a NIfTI-2 envelope, and no image.

    Args:
        header: with its extensions.
        layout: of it.

    Raises:
        RefusedFile: it has CIFTI's extension; `read_layout` sees to CIFTI's intents.
    """
    if any(code == _CIFTI_EXTENSION for code, _ in _extensions(header, layout.signature)):
        raise RefusedFile(_CIFTI_REASON)


def header_end(header: bytes, signature: Signature) -> int:
    """Where the header and its extensions end, in bytes."""
    ends = [end for _, end in _extensions(header, signature)]
    return max([signature.header_bytes + EXTENDER_BYTES, *ends])


_CIFTI_REASON = (
    "CIFTI (a matrix over brain surfaces in a NIfTI-2 file) is not supported: it has no pixels "
    "on a grid; leave it out"
)


def _leave_out(intent: int, shape: tuple[int, ...]) -> None:
    """Tell what is no image from what is."""
    if intent in _CIFTI_INTENTS:
        raise RefusedFile(_CIFTI_REASON)
    vectors = intent == _DISPLACEMENT_INTENT and len(shape) == 5 and shape[4] > 1
    if vectors or (intent in _WARP_INTENTS and len(shape) == 4):
        raise NotAnImage("a displacement field: distances, and no picture")
    if intent in _POINT_INTENTS:
        raise NotAnImage("points or triangles of a surface, and no picture")


def _shape(header: Any) -> tuple[int, ...]:
    count = int(header["dim"][0])
    shape = tuple(int(length) for length in header["dim"][1 : 1 + count])
    if not 1 <= count <= 7 or min(shape) < 1:
        raise RefusedFile("damaged NIfTI: its header's dimensions (dim) are not 1 to 7 lengths")
    return shape


def _voxel(header: Any, order: ByteOrder) -> tuple[np.dtype[Any], int]:
    """The type of a voxel's numbers, and how many it has."""
    code = int(header["datatype"])
    if code in _COLOUR_CHANNELS:
        return np.dtype("u1"), _COLOUR_CHANNELS[code]
    if code not in _DTYPES:
        name, advice = _REFUSED_TYPES.get(code, ("unknown voxels", "convert it"))
        raise RefusedFile(
            f"NIfTI of {name} (data type {code}) is not supported, only integers and floats of "
            f"up to 64 bits and RGB are: {advice}, or leave it out"
        )
    return np.dtype(_DTYPES[code]).newbyteorder(order), 1


def _offset(header: Any, signature: Signature) -> int:
    offset = float(header["vox_offset"])
    least = 0 if signature.paired else signature.header_bytes + EXTENDER_BYTES
    if not (offset.is_integer() and offset >= least):
        raise RefusedFile(
            "damaged NIfTI: its voxels start (vox_offset) within its header, where each program "
            "reads other voxels"
        )
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


def _extensions(header: bytes, signature: Signature) -> Iterator[tuple[int, int]]:
    """Code and end of each extension after the header (nifti1.h, nifti1_extension)."""
    position = signature.header_bytes
    if header[position : position + 1] in (b"", b"\0"):
        return
    position += EXTENDER_BYTES
    while position + 8 <= len(header):
        size, code = struct.unpack_from(signature.order + "ii", header, position)
        if not 8 <= size <= len(header) - position:
            return
        position += size
        yield code, position
