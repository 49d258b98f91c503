"""NIfTI-1 and NIfTI-2: only the block of voxels is replaced, in the header's own data type.

The display window of the header (cal_min, cal_max) is not taken for a declared intensity range:
programs derive it from each image's own values, or carry it along when the values change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.base import DEFAULT_HANDLING, Codec, DecodedImage, Handling
from medshield.formats.gzip_stream import Envelope, deflate
from medshield.formats.nifti.files import NiftiFile, header_beside, read_file, whole_header
from medshield.formats.nifti.header import Layout, find_signature
from medshield.formats.reserved import step_back

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BACKGROUND_SHARE = 0.1
"""How much of a volume one value must fill to count as its background."""

MOST_LABELS = 1024
"""Distinct values that a volume of labels may have; more are an image under a wrong name."""

_LARGEST_EXACT = 2**53  # floats, in which the change is computed, hold no larger integers exactly


@dataclass(frozen=True)
class _Container:
    """The source, and what stands around its voxels.

    Attributes:
        source: the file that holds the voxels, as it is.
        header: of a pair, the other file's content; None for a single file.
        prefix, suffix: the inflated bytes before and after the voxels.
        dtype: of a voxel's numbers in the file.
        envelope: of a gzip file; None where the source is not compressed.
        background: the value that no voxel may take on, or None.
    """

    source: bytes
    header: bytes | None
    prefix: bytes
    suffix: bytes
    dtype: np.dtype[Any]
    envelope: Envelope | None
    background: Any


class NiftiCodec(Codec):
    """NIfTI-1 and NIfTI-2 of integers, floats or colours: .nii, or .hdr and .img; with gzip too.

    Voxel [x, y, z, t] of a volume is `stored[z + t * depth, y, x]`: a frame is a plane of
    constant z (and t, ...), its rows run along y and its columns along x. That is the file's own
    order, so decoding moves no voxel.

    Of a pair, the .img file is the image; the .hdr file holds no pixels and is copied.
    """

    name = "nifti"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By size and magic of the header, inflated first where the name ends with .gz.

        The .img file of a pair has no signature: it is recognised by the .hdr file beside it.
        """
        return bool(find_signature(whole_header(head, path))) or header_beside(path) is not None

    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one volume; see `Codec.decode`.

        NaN, infinities and the background are frozen, and no other voxel may become background.

        Raises:
            RefusedFile: damaged, CIFTI, complex voxels, or integers beyond 2**53.
            NotAnImage: the header file of a pair, a displacement field, or points of a surface.
        """
        return _decoded(read_file(path))

    def read_back(self, image: DecodedImage, written: Path) -> DecodedImage:
        """Decode what `write` made, with the header of the pair where the image is of one."""
        return _decoded(read_file(written, image.container.header))

    def write(
        self,
        image: DecodedImage,
        stored: NDArray[Any],
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other voxels; see `Codec.write`.

        Exact, with one exception: a voxel that would become background is written one step
        nearer to its source.
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
        notes: list[str] = []
        if container.envelope:
            content, notes = deflate(content, container.envelope)
        target.write_bytes(content)
        return notes


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


def _decoded(file: NiftiFile) -> DecodedImage:
    """The volume that a file holds."""
    layout, content = file.layout, file.content
    stored = _frames(content, layout)
    lowest, highest = _limits(stored)
    colour = layout.channels > 1
    background = None if colour else background_value(stored)
    if background is not None and background == _finite(stored).min():
        lowest = float(_next_above(background))
    return DecodedImage(
        stored=stored,
        kind=layout.kind,
        slope=layout.slope,
        intercept=layout.intercept,
        lowest=lowest,
        highest=highest,
        frozen=_black(stored) if colour else _frozen(stored, background),
        declared=((0.0, 255.0),) if _is_eight_bit(layout) else (),
        labels=layout.says_labels and len(np.unique(stored)) <= MOST_LABELS,
        details={
            "version": f"NIfTI-{layout.signature.version}"
            + (" pair" if layout.signature.paired else ""),
            "data type": stored.dtype.name + {3: " RGB", 4: " RGBA"}.get(layout.channels, ""),
            "byte order": "little" if layout.signature.order == "<" else "big",
            "compression": "gzip" if file.envelope else "none",
        },
        container=_Container(
            source=file.source,
            header=file.header,
            prefix=content[: layout.offset],
            suffix=content[layout.end :],
            dtype=layout.dtype,
            envelope=file.envelope,
            background=background,
        ),
    )


def _is_eight_bit(layout: Layout) -> bool:
    """Whether the values are grey levels as those of any 8-bit image."""
    return layout.dtype.str == "|u1" and (layout.slope, layout.intercept) == (1.0, 0.0)


def _frames(content: bytes, layout: Layout) -> NDArray[Any]:
    """(frames, height, width, channels) in the machine's byte order.

    NIfTI's first axis runs fastest, so the reversed shape in NumPy's order is the volume as it
    lies in the file, and all axes before the last two are frames.
    """
    width, height = (*layout.shape, 1)[:2]
    voxels = np.frombuffer(content, layout.dtype, layout.numbers, layout.offset)
    native = voxels.astype(layout.dtype.newbyteorder("="))
    return native.reshape(-1, height, width, layout.channels)


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
        raise RefusedFile(
            "NIfTI with integers beyond 2**53, which can't be moved exactly; save it as float64"
        )
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


def _black(stored: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """True for black voxels of a colour volume, where they fill what counts as background."""
    black = (stored[..., :3] == 0).all(-1, keepdims=True)
    return black if black.mean() >= BACKGROUND_SHARE else None
