"""NIfTI-1 and NIfTI-2: only the block of voxels is replaced, in the header's own data type."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.nifti_header import PAIR_REASON, Layout, find_signature, read_layout
from medshield.formats.reserved import step_back

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BACKGROUND_SHARE = 0.1
"""How much of a volume one value must fill to count as its background."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 540
_LARGEST_EXACT = 2**53  # floats, in which the change is computed, hold no larger integers exactly


@dataclass(frozen=True)
class _Container:
    """The source, and what stands around its voxels.

    Attributes:
        source: the file as it is.
        prefix, suffix: the inflated bytes before and after the voxels.
        dtype: of a voxel in the file.
        compressed: whether the source is a gzip file.
        background: the value that no voxel may take on, or None.
    """

    source: bytes
    prefix: bytes
    suffix: bytes
    dtype: np.dtype[Any]
    compressed: bool
    background: Any


class NiftiCodec(Codec):
    """NIfTI-1 and NIfTI-2 in one file, .nii or .nii.gz, of integers or floats.

    Voxel [x, y, z, t] of a volume is `stored[z + t * depth, y, x, 0]`: a frame is a plane of
    constant z (and t, ...), its rows run along y and its columns along x. That is the file's own
    order, so decoding moves no voxel.
    """

    name = "nifti"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By size and magic of the header, inflated first where the name ends with .gz.

        Both halves of a pair are recognised, the .img by its .hdr, so that they can be refused.
        """
        if path.suffix.lower() == ".gz":
            head = _inflated_head(head)
        if find_signature(head):
            return True
        return self._is_voxels_of_pair(path)

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one volume; see `Codec.decode`.

        NaN, infinities and the background are frozen, and no other voxel may become background.

        Raises:
            RefusedFile: damaged, half of a pair, CIFTI, colour or complex voxels, or integers
                beyond 2**53.
        """
        if self._is_voxels_of_pair(path):
            raise RefusedFile(PAIR_REASON)
        source = path.read_bytes()
        compressed = source.startswith(_GZIP_MAGIC)
        content = _inflate(source) if compressed else source
        layout = read_layout(content)
        stored = _frames(content, layout)
        lowest, highest = _limits(stored)
        background = background_value(stored)
        if background is not None and background == _finite(stored).min():
            lowest = float(_next_above(background))
        return DecodedImage(
            stored=stored,
            kind="NIfTI",
            slope=layout.slope,
            intercept=layout.intercept,
            lowest=lowest,
            highest=highest,
            frozen=_frozen(stored, background),
            details={
                "version": f"NIfTI-{layout.signature.version}",
                "data type": stored.dtype.name,
                "byte order": "little" if layout.signature.order == "<" else "big",
                "compression": "gzip" if compressed else "none",
            },
            container=_Container(
                source=source,
                prefix=content[: layout.offset],
                suffix=content[layout.end :],
                dtype=layout.dtype,
                compressed=compressed,
                background=background,
            ),
        )

    def write(
        self,
        image: DecodedImage,
        stored: NDArray[Any],
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other voxels; see `Codec.write`. Exact, so there are no notes.

        One exception to exact: a voxel that would become background is written one step nearer
        to its source.
        """
        container: _Container = image.container
        if container.background is not None:
            landed = (stored == container.background) & (image.stored != container.background)
            stored = step_back(stored, image.stored, landed)
        # As bytes, as NaN is unequal to itself and 0.0 equal to -0.0.
        if stored.tobytes() == image.stored.tobytes():
            target.write_bytes(container.source)
            return []
        voxels = stored.astype(container.dtype).tobytes()
        content = container.prefix + voxels + container.suffix
        target.write_bytes(_deflate(content) if container.compressed else content)
        return []

    def differences(self, source: Path, released: Path) -> list[str]:
        """Where two files differ outside their voxels, such as "header byte 112: differs"."""
        before, after = source.read_bytes(), released.read_bytes()
        if before.startswith(_GZIP_MAGIC) != after.startswith(_GZIP_MAGIC):
            return ["compression: differs"]
        if before.startswith(_GZIP_MAGIC):
            before, after = _inflate(before), _inflate(after)
        header, offset, end = _places(before)
        found = [
            f"header byte {place}: differs"
            for place, (old, new) in enumerate(zip(before[:header], after[:header], strict=False))
            if old != new
        ]
        if before[header:offset] != after[header:offset]:
            found.append("extensions: differ")
        if len(after) < end:
            found.append("voxels: missing")
        elif before[end:] != after[end:]:
            found.append("bytes after the voxels: differ")
        return found

    def _is_voxels_of_pair(self, path: Path) -> bool:
        """Whether a NIfTI header named .hdr stands beside this .img file."""
        header = path.with_name(re.sub(r"\.img(?=(\.gz)?$)", ".hdr", path.name))
        if header == path or not header.is_file():
            return False
        return self.recognises(header.read_bytes()[:_HEAD_BYTES], header)


def background_value(stored: NDArray[Any]) -> Any:
    """The constant that fills air or what was masked out, or None.

    It is the volume's most frequent value, if that is its minimum or 0 (in a volume of z-scores
    it is 0) and fills a tenth of it. Noise on a constant would show the perturbation in the
    clear, and masks made by comparing with that constant would no longer fit.
    """
    finite = _finite(stored)
    if not finite.size:
        return None
    candidates = {finite.min(), finite.dtype.type(0)}
    needed = BACKGROUND_SHARE * stored.size
    if all(np.count_nonzero(finite == candidate) < needed for candidate in candidates):
        return None  # spares the sort
    values, counts = np.unique(finite, return_counts=True)
    most = values[counts.argmax()]
    return most if most in candidates and counts.max() >= needed else None


def _inflated_head(head: bytes) -> bytes:
    """The first bytes that the start of a gzip file holds; none where it is no gzip file."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""


def _inflate(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise RefusedFile("damaged NIfTI: its gzip data is truncated or broken") from error


def _deflate(content: bytes) -> bytes:
    """A gzip file without a name and a time, so that the same voxels give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def _frames(content: bytes, layout: Layout) -> NDArray[Any]:
    """(frames, height, width, 1) in the machine's byte order.

    NIfTI's first axis runs fastest, so the reversed shape in NumPy's order is the volume as it
    lies in the file, and all axes before the last two are frames.
    """
    width, height = (*layout.shape, 1)[:2]
    voxels = np.frombuffer(content, layout.dtype, math.prod(layout.shape), layout.offset)
    native = voxels.astype(layout.dtype.newbyteorder("="))
    return native.reshape(-1, height, width, 1)


def _finite(stored: NDArray[Any]) -> NDArray[Any]:
    """The finite values, flat."""
    return stored.ravel() if stored.dtype.kind in "iu" else stored[np.isfinite(stored)]


def _limits(stored: NDArray[Any]) -> tuple[float, float]:
    """What a voxel may become: the limits of its type, or of exact arithmetic."""
    if stored.dtype.kind == "f":
        limits = np.finfo(stored.dtype)
        return float(limits.min), float(limits.max)
    bounds = np.iinfo(stored.dtype)
    lowest, highest = max(bounds.min, -_LARGEST_EXACT), min(bounds.max, _LARGEST_EXACT)
    if int(stored.min()) < lowest or int(stored.max()) > highest:
        raise RefusedFile("NIfTI with integers beyond 2**53, which can't be moved exactly")
    return lowest, highest


def _next_above(value: Any) -> Any:
    """The smallest value of the same type that is larger."""
    if np.issubdtype(value.dtype, np.integer):
        return int(value) + 1
    return np.nextafter(value, value.dtype.type(math.inf))


def _frozen(stored: NDArray[Any], background: Any) -> NDArray[np.bool_] | None:
    """True for NaN, infinities and the background; None where there are none."""
    frozen = ~np.isfinite(stored)
    if background is not None:
        frozen |= stored == background
    return frozen if frozen.any() else None


_BYTES_OF_TYPE = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}


def _places(content: bytes) -> tuple[int, int, int]:
    """Where the header ends, the voxels start and the voxels end.

    It shares no code with `decode`, so that a mistake there can't hide here.
    """
    order = "<" if content[:1] in (b"\x5c", b"\x1c") else ">"
    first_version = struct.pack(order + "i", 348) == content[:4]
    try:
        if first_version:  # nifti1.h: dim at 40, datatype at 70, vox_offset at 108
            dimensions = struct.unpack_from(order + "8h", content, 40)
            (kind,) = struct.unpack_from(order + "h", content, 70)
            offset = int(struct.unpack_from(order + "f", content, 108)[0])
        else:  # nifti2.h: dim at 16, datatype at 12, vox_offset at 168
            dimensions = struct.unpack_from(order + "8q", content, 16)
            (kind,) = struct.unpack_from(order + "h", content, 12)
            (offset,) = struct.unpack_from(order + "q", content, 168)
        voxels = math.prod(dimensions[1 : 1 + dimensions[0]])
        return (348 if first_version else 540), offset, offset + voxels * _BYTES_OF_TYPE[kind]
    except (struct.error, KeyError, ValueError, OverflowError) as error:
        raise RefusedFile("damaged NIfTI: its header can't be read") from error
