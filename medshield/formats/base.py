"""What every file format offers: bytes to stored values and back, and nothing else moved.

A codec never decides how an image is perturbed. It hands out the stored values with what they
mean, takes a change of them, and puts the result into the bytes of the source so that everything
outside the pixels stays as it was.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.series import Frames, MadeFrames, runs, size_of

VALUES_AT_A_TIME = 1 << 17
"""Stored values that are moved at a time: their copies in float64, a megabyte each, stay in the
processor's cache, and a long series takes no more memory than a short one."""


def whole_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        RefusedFile: more than `limits.MOST_FILE_BYTES`.
        OSError: it can't be read.
    """
    size_of(path)
    return path.read_bytes()


def refuse_too_large(declared_bytes: int) -> None:
    """Refuse an image by the size that its header declares.

    Raises:
        RefusedFile: more than `limits.MOST_STORED_BYTES`.
    """
    if declared_bytes > limits.MOST_STORED_BYTES:
        raise RefusedFile(
            f"its header declares {declared_bytes} bytes of pixels, at most "
            f"{limits.MOST_STORED_BYTES} are decoded; split it into smaller files, or remove it "
            "if its header is damaged"
        )


def refuse_too_many(count: int, most: int, what: str) -> None:
    """Refuse a file of more parts than real ones have.

    Raises:
        RefusedFile: more than `most`.
    """
    if count > most:
        raise RefusedFile(
            f"it has more than {most} {what}, which no known file needs; it is damaged, or made "
            "to do harm: leave it out"
        )


@dataclass(frozen=True)
class Handling:
    """What to do with what would keep an image from being released faithfully.

    Attributes:
        icons: with small copies of the clean picture that a file carries (Icon Image Sequence,
            EXIF and TIFF thumbnails): "regenerate" them from the protected picture, "remove"
            them, or "refuse" the file.
        drop_signatures: remove digital signatures over the pixels instead of refusing the file.
    """

    icons: Literal["regenerate", "remove", "refuse"] = "regenerate"
    drop_signatures: bool = False


DEFAULT_HANDLING = Handling()
READ_ONLY = Handling(icons="remove", drop_signatures=True)
"""For whoever writes nothing: what a file carries beside its pixels does not matter then."""


@dataclass(frozen=True)
class IntensityRange:
    """The declared range that epsilon is a fraction of, the same for all files of one kind.

    Attributes:
        low, high: in the file's real-world units (HU for CT, grey levels for PNG), low < high.
        reason: why this range, for a person to read.
    """

    low: float
    high: float
    reason: str

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low


PerFrame = float | NDArray[np.float64]
"""One number for all frames of an image, or an array of shape (frames, 1, 1, 1)."""


def stored_radius(
    intensity: IntensityRange, epsilon: Fraction, slope: PerFrame, is_integer: bool
) -> PerFrame:
    """Epsilon in stored units: a whole number for integers, floored; exact for floats.

    Returns:
        A number, or one for each frame, of the shape of `slope`.
    """
    if isinstance(slope, np.ndarray):
        slopes, places = np.unique(slope, return_inverse=True)
        each = [stored_radius(intensity, epsilon, float(one), is_integer) for one in slopes]
        return np.array(each)[places].reshape(slope.shape)
    # A slope may be so small that the radius is larger than any float.
    radius = min(
        epsilon * Fraction(intensity.width) / abs(Fraction(slope)), Fraction(sys.float_info.max)
    )
    return float(math.floor(radius)) if is_integer else float(radius)


@dataclass(frozen=True)
class DecodedImage:
    """An image as its file stores it.

    Attributes:
        stored: (frames, height, width, channels); integers exactly as on disk, or floats.
            Channels are 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha). An array, or of an
            image too large to hold, frames that are read when they are asked for.
        kind: files of one kind share one intensity range, such as "PNG 8-bit" or "DICOM CT".
        slope, intercept: real-world value = slope * stored + intercept; slope is never 0. Where
            they differ between frames (enhanced PET and MR), each is an array of shape
            (frames, 1, 1, 1).
        lowest, highest: inclusive limits of what a stored value may become.
        step: the least, in stored units, by which a value of an integer image can move: 1, or
            more where the file can't store every value (palette); never consulted for floats.
        frozen: True where a value must stay as it is (padding, NaN, alpha); broadcasts to
            `stored`; None where every value may move.
        inverted: low values are displayed bright (DICOM's MONOCHROME1).
        tied: the channels of a pixel can't move without each other (palette, YBR), so that where
            one has to stay, all do.
        labels: the values are numbers of classes and no intensities, as in a volume of labels:
            to be copied like a mask, whatever it is found beside.
        declared: ranges that the file or its format declares, real-world (low, high); an 8-bit
            format declares (0, 255), a DICOM its VOI windows; empty where nothing is declared.
        patient: what groups images of one person, or None. Never printed or logged.
        details: technical facts that `scan` may print (bit depth, transfer syntax); nothing
            that could identify a person.
        container: what the codec needs to write the file back; for the codec alone.
    """

    stored: Frames
    kind: str
    slope: PerFrame = 1.0
    intercept: PerFrame = 0.0
    lowest: float = -math.inf
    highest: float = math.inf
    step: float = 1.0
    tied: bool = False
    frozen: Frames | None = None
    inverted: bool = False
    labels: bool = False
    declared: tuple[tuple[float, float], ...] = ()
    patient: str | None = field(default=None, repr=False)
    details: dict[str, str] = field(default_factory=dict)
    container: Any = field(default=None, repr=False)

    @property
    def is_integer(self) -> bool:
        """Whether the stored values are integers."""
        return bool(np.issubdtype(self.stored.dtype, np.integer))

    @property
    def colour_channels(self) -> int:
        """Channels without alpha: 1 or 3."""
        return 3 if self.stored.shape[-1] >= 3 else 1

    @property
    def is_grey(self) -> bool:
        """Whether every pixel is grey, in an RGB file too (then it must stay grey)."""
        if self.colour_channels == 1:
            return True
        return all(_is_grey(part.stored[:]) for _, part in self.parts())

    def pixels(self, intensity: IntensityRange) -> NDArray[np.float32]:
        """(frames, colour channels, height, width) in [0, 1] of the range: low is dark, NaN 0."""
        with np.errstate(over="ignore", invalid="ignore"):  # values near the end of float64
            real = self._real(self.stored[:][..., : self.colour_channels])
            real -= intensity.low
            real /= intensity.width
        if not self.is_integer:
            np.nan_to_num(real, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        scaled = np.clip(real, 0.0, 1.0, out=real)
        if self.inverted:
            scaled = np.subtract(1.0, scaled, out=scaled)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)

    def epsilon_stored(self, intensity: IntensityRange, epsilon: Fraction) -> PerFrame:
        """The radius in stored units, of each frame where they are scaled differently."""
        return stored_radius(intensity, epsilon, self.slope, self.is_integer)

    def outside(self, intensity: IntensityRange) -> NDArray[np.bool_]:
        """True where a value lies outside the range and therefore stays as it is."""
        stored = self.stored[:]
        if self._is_inside(stored, intensity):
            return np.zeros(stored.shape, np.bool_)
        values = self._real(stored)
        return ~((values >= intensity.low) & (values <= intensity.high))

    def fixed(self, intensity: IntensityRange) -> NDArray[np.bool_]:
        """True where a value must stay as it is: outside the range, alpha, or frozen."""
        fixed = self.outside(intensity)
        fixed[..., self.colour_channels :] = True
        if self.frozen is not None:
            fixed |= np.broadcast_to(self.frozen[:], fixed.shape)
        if self.tied:
            colours = fixed[..., : self.colour_channels]
            colours |= colours.any(axis=-1, keepdims=True)
        return fixed

    def moved(
        self, delta: NDArray[np.floating[Any]], intensity: IntensityRange, epsilon: Fraction
    ) -> NDArray[Any]:
        """The stored values with `delta` added: never further than epsilon, never out of limits.

        Args:
            delta: (frames, colour channels, height, width), as fractions of the range, in the
                sense of `pixels` (positive is brighter).
            intensity: the declared range.
            epsilon: radius as a fraction of the range.

        Returns:
            An array of the shape and dtype of `stored`. Integers are truncated towards zero.
        """
        result = np.empty(self.stored.shape, self.stored.dtype)
        for frames, part in self._small_parts():
            radius = part.epsilon_stored(intensity, epsilon)
            with np.errstate(over="ignore", invalid="ignore"):  # NaN, and the ends of float64
                result[frames] = part._moved(delta[frames], intensity, radius)
        return result

    def part(self, frames: slice) -> DecodedImage:
        """Some of the frames, in memory, as an image of its own."""
        return replace(
            self,
            stored=self.stored[frames],
            slope=_of_frames(self.slope, frames),
            intercept=_of_frames(self.intercept, frames),
            frozen=_of_frames(self.frozen, frames),
        )

    def parts(self) -> Iterator[tuple[slice, DecodedImage]]:
        """The image in runs of frames, each with its place, however large the whole is."""
        for frames in runs(self.stored.shape):
            yield frames, self.part(frames)

    def _small_parts(self) -> Iterator[tuple[slice, DecodedImage]]:
        """The same in runs that fit a processor's cache."""
        number = len(self.stored)
        step = max(1, VALUES_AT_A_TIME * number // max(1, math.prod(self.stored.shape)))
        for start in range(0, number, step):
            frames = slice(start, min(start + step, number))
            yield frames, self.part(frames)

    def _moved(
        self, delta: NDArray[np.floating[Any]], intensity: IntensityRange, radius: PerFrame
    ) -> NDArray[Any]:
        step = delta.astype(np.float64).transpose(0, 2, 3, 1)
        step *= intensity.width / self.slope
        if self.inverted:
            np.negative(step, out=step)
        np.clip(step, -radius, radius, out=step)
        if self.is_integer:
            step += np.copysign(1e-6, step)
            np.trunc(step, out=step)  # 7.9999997 grey levels are 8
        colour = self.stored[:][..., : self.colour_channels]
        one, other = (
            np.asarray((bound - self.intercept) / self.slope)
            for bound in (intensity.low, intensity.high)
        )
        low = np.maximum(np.minimum(one, other), self.lowest)
        high = np.minimum(np.maximum(one, other), self.highest)
        if self.is_integer:
            low, high = np.ceil(low), np.floor(high)
        # Rounding may put a bound just past a value that lies on it; that value may stay there.
        values = colour.astype(np.float64)
        if not (values.size and np.all(low <= values.min()) and np.all(values.max() <= high)):
            low, high = np.minimum(low, values), np.maximum(high, values)
        target = np.clip(values + step, low, high)
        # No step at all leaves the very bits, of a negative zero too.
        fixed = self.fixed(intensity)[..., : self.colour_channels] | (step == 0)
        result = self.stored[:].copy()
        result[..., : self.colour_channels] = np.where(fixed, colour, target.astype(colour.dtype))
        if not self.is_integer:
            result = self._within(result, radius)
        return result

    def _is_inside(self, stored: NDArray[Any], intensity: IntensityRange) -> bool:
        """Whether every value lies in the range, told by the outermost: scaling keeps the order."""
        if not stored.size or isinstance(self.slope, np.ndarray):
            return False
        ends = self._real(np.array([stored.min(), stored.max()], stored.dtype))
        return bool(np.all((ends >= intensity.low) & (ends <= intensity.high)))

    def _real(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """Real-world values of stored ones; infinite where float64 does not reach."""
        with np.errstate(over="ignore", invalid="ignore"):
            real: NDArray[np.float64] = stored.astype(np.float64) * self.slope + self.intercept
        return real

    def _within(self, moved: NDArray[Any], radius: PerFrame) -> NDArray[Any]:
        """Pull floats back where rounding to the file's own precision stepped over the radius."""
        # Infinity less itself is NaN, which is not over.
        stored = self.stored[:]
        over = np.abs(moved.astype(np.float64) - stored.astype(np.float64)) > radius
        return np.where(over, np.nextafter(moved, stored), moved).astype(moved.dtype)


def _is_grey(stored: NDArray[Any]) -> bool:
    red, green, blue = (stored[..., i] for i in range(3))
    return bool(np.array_equal(red, green) and np.array_equal(green, blue))


Part = TypeVar("Part")


def _of_frames(values: Part, frames: slice) -> Part:
    """What belongs to some frames, of what may be one for all: a number, or an array of one."""
    if isinstance(values, MadeFrames) or (
        isinstance(values, np.ndarray) and values.ndim == 4 and len(values) > 1
    ):
        return cast("Part", values[frames])
    return values


class Codec(ABC):
    """Reads and writes one file format. Stateless: one instance serves every thread.

    Attributes:
        name: as printed and as in the manifest, such as "png".
    """

    name: str

    @abstractmethod
    def recognises(self, head: bytes, path: Path) -> bool:
        """Whether a file is of this format, by its first 512 bytes.

        The name helps only where the format has no signature.
        """

    @abstractmethod
    def decode(self, path: Path, handling: Handling = DEFAULT_HANDLING) -> DecodedImage:
        """Read one file.

        Args:
            path: the file.
            handling: decides, with what `write` needs of it kept in the container, what becomes
                of thumbnails and signatures; what it does not cover is refused here.

        Raises:
            RefusedFile: an image that can't be protected faithfully, or that is damaged.
            NotAnImage: readable, but with no pixels to protect.
        """

    def read_back(self, image: DecodedImage, written: Path) -> DecodedImage:
        """Decode what `write` made of `image`, before it has its place in the release.

        Where an image lies in several files, `written` is alone; the others are the source's.

        Raises:
            RefusedFile, NotAnImage: as `decode`.
        """
        return self.decode(written)

    @abstractmethod
    def write(self, image: DecodedImage, stored: Frames, target: Path, radius: float) -> list[str]:
        """Write the source's bytes to `target` with `stored` in place of the pixels.

        The source is in `image.container`; only one too large to hold is read again. Writing
        `image.stored` back gives the source byte for byte where the coding allows it, and its
        pixels exactly always.

        Args:
            image: what `decode` returned.
            stored: same shape and dtype as `image.stored`, nowhere further from it than
                `radius`; may be made as it is asked for, from `image.stored` too. A lossy codec
                comes as near to it as its quantiser lets it.
            radius: what no decoded value of the written file may exceed, in stored units; the
                largest of all frames where they differ (the caller checks each by its own).
            target: does not exist; the caller renames it once it is whole.

        Returns:
            Notes for the manifest: each element that had to change beside the pixels.

        Raises:
            RefusedFile: no encoder gives these values back exactly.
        """
