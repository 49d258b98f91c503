"""What an auditor of a file format offers: a second reading that shares no code with the codecs.

A codec knows how it wrote a file; an auditor knows what its standard says and what an established
reader shows. A mistake that reading and writing have in common can't hide from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from medshield.audit import limits
from medshield.errors import RefusedFile

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class AuditedImage:
    """An image as an established reader gives it.

    Attributes:
        values: (frames, height, width, channels): what the file stores, or what is displayed
            where the stored form is no measure of brightness (palettes, YBR, JPEG).
        kind: as `medshield.json` names the kinds of images that share an intensity range.
        slope, intercept: real-world value = slope * value + intercept; one number for all
            frames or one a frame.
        colours: how many of the channels are colours (1 or 3); the others are alpha.
        fixed: True where a value must stay whatever it is; broadcasts to `values`.
        reserved: which of an image's values, or of another one's of the same shape, mean
            something other than brightness (padding, transparent, background, NaN): they stay,
            and no other value may become one of them.
    """

    values: NDArray[Any]
    kind: str
    slope: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    intercept: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    colours: int = 1
    fixed: NDArray[np.bool_] | None = None
    reserved: Callable[[NDArray[Any]], NDArray[np.bool_]] | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers."""
        return bool(np.issubdtype(self.values.dtype, np.integer))

    def scaling(self, frame: int) -> tuple[float, float]:
        """Slope and intercept of one frame."""
        slope, intercept = (np.ravel(part) for part in (self.slope, self.intercept))
        return (
            float(slope[frame if slope.size > 1 else 0]),
            float(intercept[frame if intercept.size > 1 else 0]),
        )


@dataclass(frozen=True)
class Allowed:
    """What may differ outside the pixels: what the release says that it changed.

    Attributes:
        notes: of the file's line in the manifest.
        icons, drop_signatures, uid: as `medshield.json` says under "handling".
        uids: told of every pair of UIDs that stand at the same place.
        pixels: whether pixels may differ; in what was copied they may not.
    """

    notes: tuple[str, ...] = ()
    icons: Literal["regenerate", "remove", "refuse"] = "regenerate"
    drop_signatures: bool = False
    uid: Literal["keep", "new"] = "keep"
    uids: Callable[[bytes, bytes], None] | None = None
    pixels: bool = True


NOTHING_ALLOWED = Allowed()


class Auditor(Protocol):
    """Reads one file format in its own way. Stateless: one instance serves every thread.

    Attributes:
        name: as in the manifest's `format`.
    """

    name: str

    def recognises(self, head: bytes, path: Path) -> bool:
        """Whether a file is of this format, by its first 512 bytes and its name."""

    def read(self, path: Path) -> AuditedImage:
        """The image of one file.

        Raises:
            NotAnImage: readable, but with no image in it.
            RefusedFile: no established reader decodes it.
        """

    def differences(self, source: Path, released: Path, allowed: Allowed) -> Iterator[str]:
        """What differs outside the pixels, in the order of the file.

        Each line names the place (element, chunk, segment, tag) and the byte, never a value.
        Nothing is yielded where every byte outside the pixels is the same or is one that
        `allowed` lets be another, with the only value that it may take.

        Raises:
            RefusedFile: one of the files can't be taken apart.
        """


def refuse_bomb(declared_bytes: int) -> None:
    """Refuse to decode or inflate more than any image is.

    Raises:
        RefusedFile: more than `limits.MOST_BYTES`.
    """
    if declared_bytes > limits.MOST_BYTES:
        raise RefusedFile(f"by its header it has {declared_bytes:,} bytes of pixels, too many")


def refuse_many(count: int, most: int, what: str) -> None:
    """Refuse to follow more parts than any file has.

    Raises:
        RefusedFile: more than `most`.
    """
    if count > most:
        raise RefusedFile(f"it has more than {most:,} {what}, too many")


def whole_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        RefusedFile: more than `limits.MOST_FILE_BYTES`.
    """
    refuse_many(path.stat().st_size, limits.MOST_FILE_BYTES, "bytes")
    return path.read_bytes()


def first_difference(before: bytes, after: bytes) -> int | None:
    """The first position at which two runs of bytes differ, or None where they are the same."""
    if before == after:
        return None
    shared = min(len(before), len(after))
    old, new = (np.frombuffer(data, np.uint8, shared) for data in (before, after))
    differing = np.flatnonzero(old != new)
    return int(differing[0]) if differing.size else shared


def byte(position: int) -> str:
    """A position as people read it: "byte 1,234" (the first byte is 0)."""
    return f"byte {position:,}"
