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
from medshield.formats.gzip_stream import deflate, deflated_notes
from medshield.formats.nifti.files import NiftiFile, header_beside, read_file, whole_header
from medshield.formats.nifti.header import Layout, find_signature
from medshield.formats.reserved import step_back
from medshield.formats.series import (
    Frames,
    MadeFrames,
    distinct,
    held,
    pieces_of,
    runs,
    write_pieces,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from medshield.formats.series import Content

BACKGROUND_SHARE = 0.1
"""How much of a volume one value must fill to count as its background."""

MOST_LABELS = 1024
"""Distinct values that a volume of labels may have; more are an image under a wrong name."""

_LARGEST_EXACT = 2**53  # floats, in which the change is computed, hold no larger integers exactly


@dataclass(frozen=True)
class _Container:
    """The source, and what stands around its voxels.

    Attributes:
        file: the file that holds the voxels.
        background: the value that no voxel may take on, or None.
    """

    file: NiftiFile
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
        return _decoded(read_file(written, image.container.file.header))

    def write(
        self,
        image: DecodedImage,
        stored: Frames,
        target: Path,
        radius: float,
    ) -> list[str]:
        """Write the source with other voxels; see `Codec.write`.

        Exact, with one exception: a voxel that would become background is written one step
        nearer to its source.
        """
        container: _Container = image.container
        file, before = container.file, image.stored
        if container.background is not None:
            stored = _off_background(stored, before, container.background)
        # As bytes, as NaN is unequal to itself and 0.0 equal to -0.0.
        if all(stored[run].tobytes() == before[run].tobytes() for run in runs(stored.shape)):
            write_pieces(target, pieces_of(file.source))
            return []
        content = _content_with(stored, file)
        if file.envelope is None:
            write_pieces(target, content)
            return []
        write_pieces(target, deflate(content, file.envelope))
        return deflated_notes(file.envelope)


def _off_background(wanted: Frames, before: Frames, background: Any) -> Frames:
    """Frames in which no voxel has newly become background."""

    def stepped(frames: slice) -> NDArray[Any]:
        voxels, source = wanted[frames], before[frames]
        return step_back(voxels, source, (voxels == background) & (source != background))

    return held(MadeFrames(wanted.shape, wanted.dtype, stepped))


def _content_with(stored: Frames, file: NiftiFile) -> Iterator[bytes]:
    """The inflated content of a file with other voxels."""
    content, layout = file.content, file.layout
    yield content[: layout.offset]
    for run in runs(stored.shape):
        yield stored[run].astype(layout.dtype).tobytes()
    yield content[layout.end : len(content)]


@dataclass(frozen=True)
class _Extent:
    """What one pass over the voxels tells of their finite values.

    Attributes:
        lowest, highest: of them; None where there is none.
        at_lowest, at_zero: how many have the lowest value, and 0.
        finite: how many there are.
    """

    lowest: Any = None
    highest: Any = None
    at_lowest: int = 0
    at_zero: int = 0
    finite: int = 0

    @classmethod
    def of(cls, stored: Frames) -> _Extent:
        """Of all frames."""
        whole = cls()
        for run in runs(stored.shape):
            values = _finite(stored[run])
            if values.size:
                whole = whole.joined(values)
        return whole

    def joined(self, values: NDArray[Any]) -> _Extent:
        """With more values."""
        least, most = values.min(), values.max()
        lowest = least if self.lowest is None else min(least, self.lowest)
        return _Extent(
            lowest=lowest,
            highest=most if self.highest is None else max(most, self.highest),
            at_lowest=int(np.count_nonzero(values == lowest))
            + (self.at_lowest if self.lowest == lowest else 0),
            at_zero=self.at_zero + int(np.count_nonzero(values == 0)),
            finite=self.finite + values.size,
        )


def background_value(stored: Frames) -> Any:
    """The constant that fills air or what was masked out, or None.

    It is the volume's most frequent value, if that is its minimum or 0 (in a volume of z-scores
    it is 0) and fills a tenth of it. Noise on a constant would show the perturbation in the
    clear, and masks made by comparing with that constant would no longer fit.
    """
    return _background(stored, _Extent.of(stored))


def _background(stored: Frames, extent: _Extent) -> Any:
    needed = BACKGROUND_SHARE * math.prod(stored.shape)
    if not extent.finite or max(extent.at_lowest, extent.at_zero) < needed:
        return None  # spares the sort
    values = _frequent(stored)
    counts = _count(stored, values)
    most = values[counts.argmax()]
    return most if most in (extent.lowest, 0) and counts.max() >= needed else None


def _frequent(stored: Frames) -> NDArray[Any]:
    """Every value that may fill as much as a background of the whole, sorted.

    Such a value fills that share of one run of frames or more; half of it, to be on the safe side.
    """
    found = []
    for run in runs(stored.shape):
        frames = stored[run]
        values, counts = np.unique(_finite(frames), return_counts=True)
        found.append(values[counts >= BACKGROUND_SHARE / 2 * frames.size])
    return np.unique(np.concatenate(found))


def _count(stored: Frames, values: NDArray[Any]) -> NDArray[np.int64]:
    """How often each of some sorted values occurs."""
    total = np.zeros(len(values), np.int64)
    for run in runs(stored.shape):
        frames = stored[run].ravel()
        places = np.searchsorted(values, frames).clip(max=len(values) - 1)
        total += np.bincount(places[values[places] == frames], minlength=len(values))
    return total


def _decoded(file: NiftiFile) -> DecodedImage:
    """The volume that a file holds."""
    layout = file.layout
    stored = held(_frames(file.content, layout))
    extent = _Extent.of(stored)
    lowest, highest = _limits(stored.dtype, extent)
    colour = layout.channels > 1
    background = None if colour else _background(stored, extent)
    if background is not None and background == extent.lowest:
        lowest = float(_next_above(background))
    return DecodedImage(
        stored=stored,
        kind=layout.kind,
        slope=layout.slope,
        intercept=layout.intercept,
        lowest=lowest,
        highest=highest,
        frozen=_black(stored) if colour else _frozen(stored, background, extent),
        declared=((0.0, 255.0),) if _is_eight_bit(layout) else (),
        labels=layout.says_labels and len(distinct(stored, MOST_LABELS)) <= MOST_LABELS,
        details={
            "version": f"NIfTI-{layout.signature.version}"
            + (" pair" if layout.signature.paired else ""),
            "data type": stored.dtype.name + {3: " RGB", 4: " RGBA"}.get(layout.channels, ""),
            "byte order": "little" if layout.signature.order == "<" else "big",
            "compression": "gzip" if file.envelope else "none",
        },
        container=_Container(file, background),
    )


def _is_eight_bit(layout: Layout) -> bool:
    """Whether the values are grey levels as those of any 8-bit image."""
    return layout.dtype.str == "|u1" and (layout.slope, layout.intercept) == (1.0, 0.0)


def _frames(content: Content, layout: Layout) -> Frames:
    """(frames, height, width, channels) in the machine's byte order.

    NIfTI's first axis runs fastest, so the reversed shape in NumPy's order is the volume as it
    lies in the file, and all axes before the last two are frames.
    """
    width, height = (*layout.shape, 1)[:2]
    frame = height * width * layout.channels
    native = layout.dtype.newbyteorder("=")

    def read(frames: slice) -> NDArray[Any]:
        start, stop = (
            layout.offset + place * frame * native.itemsize for place in (frames.start, frames.stop)
        )
        voxels = np.frombuffer(content[start:stop], layout.dtype).astype(native)
        shaped: NDArray[Any] = voxels.reshape(-1, height, width, layout.channels)
        return shaped

    return MadeFrames((layout.numbers // frame, height, width, layout.channels), native, read)


def _finite(stored: NDArray[Any]) -> NDArray[Any]:
    """The finite values, flat."""
    return stored.ravel() if stored.dtype.kind in "iu" else stored[np.isfinite(stored)]


def _limits(dtype: np.dtype[Any], extent: _Extent) -> tuple[float, float]:
    """What a voxel may become: the limits of its type, or of exact arithmetic."""
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return float(limits.min), float(limits.max)
    bounds = np.iinfo(dtype)
    lowest, highest = max(bounds.min, -_LARGEST_EXACT), min(bounds.max, _LARGEST_EXACT)
    if int(extent.lowest) < lowest or int(extent.highest) > highest:
        raise RefusedFile(
            "NIfTI with integers beyond 2**53, which can't be moved exactly; save it as float64"
        )
    return lowest, highest


def _next_above(value: Any) -> Any:
    """The smallest value of the same type that is larger."""
    if np.issubdtype(value.dtype, np.integer):
        return int(value) + 1
    return np.nextafter(value, value.dtype.type(math.inf))


def _frozen(stored: Frames, background: Any, extent: _Extent) -> Frames | None:
    """True for NaN, infinities and the background; None where there are none."""

    def frozen(frames: slice) -> NDArray[Any]:
        values = stored[frames]
        still: NDArray[np.bool_] = ~np.isfinite(values)
        if background is not None:
            still |= values == background
        return still

    if background is None and extent.finite == math.prod(stored.shape):
        return None
    return held(MadeFrames(stored.shape, np.bool_, frozen))


def _black(stored: Frames) -> Frames | None:
    """True for black voxels of a colour volume, where they fill what counts as background."""

    def black(frames: slice) -> NDArray[Any]:
        found: NDArray[Any] = (stored[frames][..., :3] == 0).all(-1, keepdims=True)
        return found

    found = held(MadeFrames((*stored.shape[:3], 1), np.bool_, black))
    number = sum(np.count_nonzero(found[run]) for run in runs(found.shape))
    return found if number / math.prod(found.shape) >= BACKGROUND_SHARE else None
