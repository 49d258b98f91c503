"""Where a NIfTI image's bytes lie: in one file or two, deflated or not, with a limit on all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats.base import refuse_too_large
from medshield.formats.gzip_stream import GZIP_MAGIC, Envelope, inflate, inflated_head
from medshield.formats.limits import MOST_NIFTI_TRAILING_BYTES
from medshield.formats.nifti.header import (
    EXTENDER_BYTES,
    MOST_HEADER_BYTES,
    Layout,
    find_signature,
    header_end,
    read_layout,
    refuse_cifti,
)
from medshield.formats.series import content_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medshield.formats.series import Content

_HEAD_BYTES = 1 << 16
"""Enough of a gzip file to inflate a header from, its file name and comment included."""


@dataclass(frozen=True)
class NiftiFile:
    """The file that holds the voxels of an image.

    Attributes:
        source: its bytes.
        content: inflated.
        envelope: what `content` was in; None where it is not compressed.
        header: of a pair, the content of the header file; None for a single file.
        layout: what the header says.
    """

    source: Content
    content: Content
    envelope: Envelope | None
    header: bytes | None
    layout: Layout


def whole_header(head: bytes, path: Path) -> bytes:
    """The start of a file, inflated where its name says that it is compressed."""
    if path.suffix.lower() == ".gz":
        return inflated_head(head, MOST_HEADER_BYTES)
    return head[:MOST_HEADER_BYTES]


def header_beside(path: Path) -> Path | None:
    """The header file of the pair that this .img file belongs to, or None."""
    for candidate in header_names(path):
        if candidate.is_file():
            signature = find_signature(whole_header(_head(candidate), candidate))
            if signature and signature.paired:
                return candidate
    return None


def header_names(path: Path) -> Iterator[Path]:
    """What the header file of an .img file may be called, compressed like it or not."""
    found = re.fullmatch(r"(.*)\.(img|IMG)(\.gz|\.GZ)?", path.name, re.DOTALL)
    if found:
        stem, suffix, packed = found.groups()
        name = f"{stem}.{'HDR' if suffix.isupper() else 'hdr'}"
        yield path.with_name(name + (packed or ""))
        yield path.with_name(name + ("" if packed else ".gz"))


def read_file(path: Path, header: bytes | None = None) -> NiftiFile:
    """Read the file with the voxels, and of a pair the header beside it.

    Args:
        path: the single file, or the .img file of a pair.
        header: the content of the pair's header file, where it does not lie beside `path`.

    Raises:
        RefusedFile: damaged, or larger than any image; see also `read_layout`.
        NotAnImage: the header file of a pair; see also `read_layout`.
    """
    if header is None:
        beside = header_beside(path)
        header = _header_file(beside) if beside else None
    head = whole_header(_head(path), path) if header is None else header
    if not find_signature(head):
        raise RefusedFile("damaged NIfTI: its first bytes are no NIfTI-1 or NIfTI-2 header")
    layout = read_layout(head[:MOST_HEADER_BYTES])
    if layout.signature.paired and header is None:
        _leave_header_alone(path)
    refuse_too_large(layout.end)
    source, content, envelope = _read(path, layout.end + MOST_NIFTI_TRAILING_BYTES)
    if len(content) < layout.end:
        raise RefusedFile(
            f"damaged NIfTI: it has {len(content)} bytes, and its header speaks of {layout.end}"
        )
    refuse_cifti(content[: layout.offset] if header is None else header, layout)
    return NiftiFile(source, content, envelope, header, layout)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _header_file(path: Path) -> bytes:
    """The content of a header file."""
    content = _read(path, MOST_NIFTI_TRAILING_BYTES)[1]
    return content[: len(content)]


def _leave_header_alone(path: Path) -> None:
    """Raise for the header file of a pair, as what it is, or as damaged if it is more.

    A file that holds more than a header may hold voxels, which must not be copied.
    """
    content = _header_file(path)
    signature = find_signature(content)
    if signature and len(content) <= max(
        header_end(content, signature), signature.header_bytes + EXTENDER_BYTES
    ):
        raise NotAnImage("the header of a NIfTI pair: its voxels are in the .img file")
    raise RefusedFile(
        "damaged NIfTI: by its header the voxels are in an .img file, and yet more follows; "
        "save it as one .nii file"
    )


def _read(path: Path, most_bytes: int) -> tuple[Content, Content, Envelope | None]:
    """A file as it is, inflated, and the envelope if it had one."""
    size = path.stat().st_size
    if size > most_bytes:
        raise RefusedFile(
            f"damaged NIfTI: it has {size} bytes, many more than its header speaks of"
        )
    source = content_of(path)
    if source[: len(GZIP_MAGIC)] != GZIP_MAGIC:
        return source, source, None
    return source, *inflate(source, most_bytes)
