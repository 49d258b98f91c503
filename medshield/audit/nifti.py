"""NIfTI-1 and NIfTI-2: nibabel's voxels, and every byte around them compared."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder

from medshield.audit import limits
from medshield.audit.base import (
    Allowed,
    AuditedImage,
    byte,
    first_difference,
    refuse_bomb,
    whole_file,
)
from medshield.errors import MedshieldError, NotAnImage, RefusedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# nibabel logs what it mends in a header, on standard error.
nibabel.imageglobals.logger.setLevel(logging.CRITICAL)

_GZIP = b"\x1f\x8b"
_SIZES = {b"\x5c\x01\0\0": 348, b"\0\0\x01\x5c": 348, b"\x1c\x02\0\0": 540, b"\0\0\x02\x1c": 540}
_BROKEN = "its gzip data is truncated or broken"
_BACKGROUND = 0.1  # of a volume that one value must fill to be its background
# What the values are, by nifti1.h's NIFTI_INTENT_* codes: statistics, vectors, and places.
_STATISTICS, _VECTORS = frozenset({*range(2, 25), 1001}), frozenset({1004, 1005, 1007})
_POINTS = frozenset({1008, 1009})
_WARPS = frozenset({*range(2006, 2010), *range(2016, 2019)})  # FSL's own codes


class _Volume(NamedTuple):
    """A volume as nibabel opens it, and where its voxels lie in `content`."""

    image: Any
    content: bytes
    start: int
    end: int


class NiftiAuditor:
    """NIfTI files, single or in pairs, as nibabel reads them."""

    name = "nifti"

    def recognises(self, head: bytes, path: Path) -> bool:
        """By the size of the header, which is its first number."""
        if head.startswith(_GZIP):
            try:
                head = zlib.decompressobj(wbits=31).decompress(head, 540)
            except zlib.error:
                return False
        if head[:4] not in _SIZES:
            return _header_beside(path) is not None
        magic = head[344:347] if _SIZES[head[:4]] == 348 else head[4:7]
        return magic in (b"n+1", b"ni1", b"n+2", b"ni2")

    def read(self, path: Path) -> AuditedImage:
        """The voxels as stored, before they are scaled; see `Auditor.read`."""
        volume = _opened(path)
        if _is_geometry(int(volume.image.header["intent_code"]), volume.image.shape):
            raise NotAnImage("distances or points in space, and no picture")
        try:
            values = _frames(np.asanyarray(volume.image.dataobj.get_unscaled()))
        except Exception as error:  # a damaged file may raise anything
            raise RefusedFile("no established reader decodes it") from error
        colour = values.shape[-1] > 1
        proxy = volume.image.dataobj
        return AuditedImage(
            values=values,
            kind=_kind(int(volume.image.header["intent_code"]), colour),
            slope=np.array([1.0 if colour else float(proxy.slope)]),
            intercept=np.array([0.0 if colour else float(proxy.inter)]),
            colours=min(values.shape[-1], 3),
            fixed=_black(values) if colour else None,
            reserved=None if colour else partial(_reserved, _background(values)),
        )

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """See `Auditor.differences`."""
        raw, other = whole_file(source), whole_file(released)
        if raw == other:  # such as the header of a pair, which no reader opens alone
            return
        before, after = _opened(source), _opened(released)
        yield from _envelope(raw, other, allowed)
        names = before.image.header.template_dtype.fields
        head = _SIZES.get(before.content[:4], 0)
        position = first_difference(before.content[: before.start], after.content[: before.start])
        if position is not None:
            field = next((n for n, (d, at) in names.items() if 0 <= position - at < d.itemsize), "")
            where = f"the header's {field}" if position < head else "the bytes before the voxels"
            yield f"{byte(position)} in {where}"
        if len(before.content) != len(after.content):
            yield f"its length is {len(after.content):,} bytes, not {len(before.content):,}"
        position = first_difference(before.content[before.end :], after.content[before.end :])
        if position is not None:
            yield f"{byte(before.end + position)}, behind the voxels"


def _opened(path: Path) -> _Volume:
    """Raises: RefusedFile, NotAnImage: nibabel can't open it, or it is the header of a pair."""
    raw = whole_file(path)
    beside = _header_beside(path)
    head = _inflated(whole_file(beside), limits.MOST_AROUND) if beside else _start(raw)
    try:
        if beside is None and b"n+" not in (head[344:346], head[4:6]):
            raise NotAnImage("the header of a pair; its voxels are in another file")
        content = _inflated(raw, _declared_end(head) + limits.MOST_AROUND)
        first = _SIZES[head[:4]] == 348
        if beside is not None:
            kind: Any = nibabel.Nifti1Pair if first else nibabel.Nifti2Pair
            files = {"header": head, "image": content}
            holders = {n: FileHolder(fileobj=BytesIO(part)) for n, part in files.items()}
            image = kind.from_file_map(holders)
        else:
            kind = nibabel.Nifti1Image if first else nibabel.Nifti2Image
            image = kind.from_bytes(content)
    except MedshieldError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise RefusedFile("no established reader decodes it") from error
    start = int(image.dataobj.offset)
    size = math.prod(image.shape) * image.get_data_dtype().itemsize
    return _Volume(image, content, start, start + size)


def _start(raw: bytes) -> bytes:
    """The header of a file, inflated."""
    if not raw.startswith(_GZIP):
        return raw[:540]
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, 540)
    except zlib.error as error:
        raise RefusedFile(_BROKEN) from error


def _declared_end(head: bytes) -> int:
    """Where the voxels end, by the header.

    Raises:
        RefusedFile: behind what any image has.
    """
    size = _SIZES[head[:4]]
    kind: Any = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
    header = kind(head[:size], check=False)
    shape = [max(0, int(length)) for length in header.get_data_shape()]
    end = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
    refuse_bomb(end - limits.MOST_AROUND)
    return int(end)


def _header_beside(path: Path) -> Path | None:
    """The .hdr that an .img file belongs to, compressed like it or not; None without one."""
    stem, dot, ending = path.name.rpartition(".img" if ".img" in path.name else ".IMG")
    if not dot or ending.lower() not in ("", ".gz"):
        return None
    name = stem + {".img": ".hdr", ".IMG": ".HDR"}[dot]
    for found in (path.with_name(name + end) for end in (ending, "", ".gz")):
        if found.is_file():
            head = _inflated(whole_file(found), limits.MOST_AROUND)[:348]
            return found if head[344:346] == b"ni" or head[4:6] == b"ni" else None
    return None


def _inflated(raw: bytes, most: int) -> bytes:
    """The content of a file that may be compressed and has no more than so many bytes."""
    if not raw.startswith(_GZIP):
        return raw
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw)) as file:
            content = file.read(most + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise RefusedFile(_BROKEN) from error
    if len(content) > most:
        raise RefusedFile("it inflates to more than its header speaks of")
    return content


def _envelope(raw: bytes, other: bytes, allowed: Allowed) -> Iterator[str]:
    """The gzip headers (RFC 1952 2.3): what they say of times, names and systems stays."""
    old, new = (data.startswith(_GZIP) for data in (raw, other))
    if old != new:
        yield f"{byte(0)}: one of the files is compressed, the other is not"
    if not (old and new):
        return
    before, after = (list(_gzip_headers(data)) for data in (raw, other))
    blocks = any(header[3] & 4 for _, header in before)  # extra fields say how long blocks are
    if blocks and len(after) == 1 and any(note.startswith("gzip:") for note in allowed.notes):
        return
    if len(before) != len(after):
        yield f"the number of its gzip members: {len(after)}, not {len(before)}"
    for (_, one), (start, two) in zip(before, after, strict=False):
        position = first_difference(one, two)
        if position is not None:
            yield f"{byte(start + position)} in a gzip header"


def _gzip_headers(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Start and bytes of the header of each member, and what follows the last one."""
    at = 0
    while raw[at : at + 2] == _GZIP:
        start, flags = at, raw[at + 3]
        at += 10
        if flags & 4:
            at += 2 + int.from_bytes(raw[at : at + 2], "little")
        for flag in (8, 16):
            if flags & flag:
                at = raw.index(b"\0", at) + 1
        at += 2 if flags & 2 else 0
        yield start, raw[start:at]
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(raw[at:])
        at = len(raw) - len(inflater.unused_data) + 8
    yield at, raw[at:].ljust(4, b"\0")


def _frames(voxels: NDArray[Any]) -> NDArray[Any]:
    """(frames, height, width, channels): x runs along a row, y down, all other axes are frames."""
    if voxels.dtype.names:  # RGB and RGBA
        voxels = np.stack([voxels[name] for name in voxels.dtype.names], -1)
        channels = voxels.shape[-1]
        moved = np.moveaxis(voxels, -1, 0).T
        return moved.reshape(-1, *(*voxels.shape[:-1], 1)[1::-1], channels)
    width, height = (*voxels.shape, 1)[:2]
    values: NDArray[Any] = voxels.T.reshape(-1, height, width, 1)
    return values.astype(values.dtype.newbyteorder("="))


def _kind(intent: int, colour: bool) -> str:
    """As `medshield.json` names it."""
    if colour:
        return "NIfTI colour"
    if intent in _STATISTICS:
        return "NIfTI statistic"
    return "NIfTI vectors" if intent in _VECTORS else "NIfTI"


def _is_geometry(intent: int, shape: tuple[int, ...]) -> bool:
    """Whether the values are places or displacements (1006, along the fifth axis)."""
    if intent in _WARPS:
        return len(shape) == 4
    return intent in _POINTS or (intent == 1006 and len(shape) == 5 and shape[4] > 1)


def _background(values: NDArray[Any]) -> Any:
    """The constant around the body, or None: the most frequent value, if it is the lowest or 0."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        return None
    known, counts = np.unique(finite, return_counts=True)
    most = known[counts.argmax()]
    usual = most in (known[0], 0)
    return most if usual and counts.max() >= _BACKGROUND * values.size else None


def _reserved(background: Any, values: NDArray[Any]) -> NDArray[np.bool_]:
    """True for NaN, infinities and the background."""
    result = ~np.isfinite(values)
    return np.asarray(result if background is None else result | (values == background))


def _black(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which voxels of a colour volume are black, where they fill what counts as background."""
    black = (values[..., :3] == 0).all(-1, keepdims=True)
    return black if black.mean() >= _BACKGROUND else None
