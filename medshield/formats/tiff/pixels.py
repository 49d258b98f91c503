"""The samples of a TIFF page, put together from its strips or tiles, and cut again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.tiff.coding import decode_segment, encode_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medshield.formats.tiff.page import Form, Page, Segment
    from medshield.formats.tiff.structure import Structure


def read_samples(structure: Structure, page: Page) -> NDArray[Any]:
    """All samples of a page, (height, width, samples), in the machine's byte order.

    Raises:
        RefusedFile: damaged.
    """
    form = page.form
    shape = form.height, form.width, form.samples
    samples = np.empty((0, *shape[1:]), form.dtype)
    for segment in page.segments:
        block = _block(structure, page, segment)
        if samples.shape != shape:  # now that one is whole: a short file may declare gigabytes
            samples = np.empty(shape, form.dtype)
        place = _part(samples, segment)
        place[:] = block[: place.shape[0], : place.shape[1]]
    return samples


def changed_segments(
    structure: Structure, page: Page, old: NDArray[Any], new: NDArray[Any]
) -> Iterator[tuple[Segment, bytes]]:
    """Every strip or tile whose samples differ, with its new bytes.

    Args:
        structure: of the source.
        page: of the source.
        old: what `read_samples` gave for it.
        new: what should stand there; same shape and dtype.

    Raises:
        RefusedFile: an encoder does not give back what went in.
    """
    for segment in page.segments:
        part = _part(new, segment)
        # By bytes, as NaN is never equal to itself.
        if part.tobytes() == _part(old, segment).tobytes():
            continue
        block = _filled(structure, page, segment, part)
        data = encode_segment(page, segment, structure.order, block)
        again = decode_segment(page, segment, structure.order, data)
        if again.tobytes() != np.ascontiguousarray(block).tobytes():
            raise RefusedFile("its pixels can't be written back exactly; report this file's kind")
        yield segment, data


def frames_of(form: Form, samples: NDArray[Any]) -> NDArray[Any]:
    """(frames, height, width, channels) of one page's samples; see `Form.are_planes`."""
    if form.are_planes:
        return np.ascontiguousarray(samples.transpose(2, 0, 1))[..., np.newaxis]
    return samples[np.newaxis]


def samples_of(form: Form, frames: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `frames_of`."""
    return frames[..., 0].transpose(1, 2, 0) if form.are_planes else frames[0]


def _part(samples: NDArray[Any], segment: Segment) -> NDArray[Any]:
    """The part of a page that a segment holds, without what of it lies beyond the edges."""
    return samples[
        segment.top : segment.top + segment.rows,
        segment.left : segment.left + segment.columns,
        segment.plane : segment.plane + segment.samples,
    ]


def _block(structure: Structure, page: Page, segment: Segment) -> NDArray[Any]:
    data = structure.data[segment.start : segment.end]
    return decode_segment(page, segment, structure.order, data)


def _filled(structure: Structure, page: Page, segment: Segment, part: NDArray[Any]) -> NDArray[Any]:
    """A whole segment: beyond the image's edges as constant as before, or like the edges.

    Some writers repeat the picture's edge there, which would stay as a strip of clean pixels.
    """
    below, beside = segment.rows - part.shape[0], segment.columns - part.shape[1]
    if not (below or beside):
        return part
    old = _block(structure, page, segment)
    block = np.pad(part, ((0, below), (0, beside), (0, 0)), mode="edge")
    beyond = np.ones(old.shape[:2], np.bool_)
    beyond[: part.shape[0], : part.shape[1]] = False
    if (old[beyond] == old[beyond][0]).all():
        block[beyond] = old[beyond]
    return block
