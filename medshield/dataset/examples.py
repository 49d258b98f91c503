"""Images and targets as tensors on a square grid, as a trainer's loader would make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medshield.augmentation import resized
from medshield.dataset.intensity import range_of
from medshield.dataset.mask_files import read_foreground
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dataset.walk import NO_MEMORY, see_source, unreadable
from medshield.errors import InputError, NotAnImage, RefusedFile
from medshield.formats import DecodedImage, Handling, IntensityRange, recognise
from medshield.formats.series import runs
from medshield.models import SIZE_STEP

LARGEST_AUTO_SIZE = 64
UNKNOWN = -1
"""The target of an image without a label."""


@dataclass(frozen=True)
class Examples:
    """A labelled set in memory, one example per frame.

    Attributes:
        images: (n, channels, size, size) float32 in [0, 1].
        targets: as the task has them.
        names: (n) "path" or "path#frame".
        groups: (n) patient numbers; images of one patient never part.
        splits: (n) "train", "val", "test" or "".
    """

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    groups: NDArray[np.int64]
    splits: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, index: NDArray[np.int64]) -> Examples:
        """The examples at `index`."""
        where = torch.from_numpy(index)
        return Examples(
            self.images[where],
            self.targets[where],
            tuple(self.names[i] for i in index),
            self.groups[index],
            self.splits[index],
        )


def joined(one: Examples, other: Examples) -> Examples:
    """Examples of both, whose patients are numbered alike."""
    return Examples(
        torch.cat([one.images, other.images]),
        torch.cat([one.targets, other.targets]),
        one.names + other.names,
        np.concatenate([one.groups, other.groups]),
        np.concatenate([one.splits, other.splits]),
    )


def auto_size(
    files: Iterable[SourceFile], wanted: int | None, largest: int = LARGEST_AUTO_SIZE
) -> int:
    """The side of a grid, px: what is wanted, or the files' median side, in steps of 32.

    Args:
        files: that are to fit.
        wanted: None for the median side.
        largest: of what is not asked for.
    """
    if wanted is not None:
        return max(SIZE_STEP, round(wanted / SIZE_STEP) * SIZE_STEP)
    sides = [max(file.shape[1:3]) for file in files]
    steps = round(float(np.median(sides)) / SIZE_STEP) if sides else 1
    return min(largest, max(1, steps) * SIZE_STEP)


def frame_names(file: SourceFile) -> list[str]:
    """The identity of each frame."""
    return [file.path] if file.shape[0] == 1 else [f"{file.path}#{i}" for i in range(file.shape[0])]


def image_tensor(
    image: DecodedImage,
    found: Scan,
    channels: int,
    size: int,
    frames: NDArray[np.int64] | None = None,
) -> Tensor:
    """(frames, channels, size, size) in [0, 1], of all frames or of some, in their order."""
    return grid_tensor(image, range_of(image, found.ranges), channels, size, frames)


def grid_tensor(
    image: DecodedImage,
    intensity: IntensityRange,
    channels: int,
    size: int,
    frames: NDArray[np.int64] | None = None,
) -> Tensor:
    """The same, with a range that is known."""
    places = np.arange(len(image.stored)) if frames is None else frames
    grid = torch.empty(len(places), channels, size, size)
    for run in runs(image.stored.shape):
        here = (places >= run.start) & (places < run.stop)
        if here.any():
            small = _on_grid(image.part(run), intensity, channels, size)
            grid[torch.from_numpy(here)] = small[places[here] - run.start]
    return grid


def _on_grid(image: DecodedImage, intensity: IntensityRange, channels: int, size: int) -> Tensor:
    """The same of an image in memory."""
    pixels = torch.from_numpy(image.pixels(intensity))
    small = resized(pixels, size, size).clamp(0, 1)
    if small.shape[1] == channels:
        return small
    return small.expand(-1, channels, -1, -1) if channels == 3 else small.mean(1, keepdim=True)


def target_tensor(file: SourceFile, found: Scan, size: int) -> Tensor:
    """The target of each frame of an annotated image; UNKNOWN where no labels are used.

    Raises:
        RefusedFile: its mask can't be read, or has another shape than the image.
    """
    annotation = file.annotation
    frames = file.shape[0]
    if annotation is None or found.annotations is None:
        raise RefusedFile("no label or mask; add one")
    if found.annotations.task == "segmentation":
        return _mask_tensor(found.source / str(annotation.mask), file, size)
    if found.annotations.task == "multilabel":
        return torch.tensor(annotation.findings, dtype=torch.float32).expand(frames, -1)
    label = annotation.label if found.annotations.labelled else UNKNOWN
    return torch.tensor(label).expand(frames)


def decoded(path: Path, handling: Handling) -> DecodedImage:
    """Read one image.

    Raises:
        RefusedFile: it can't be read, whatever the cause.
    """
    try:
        codec = recognise(path)
        if codec is None:
            raise RefusedFile("of an unknown format")
        return codec.decode(path, handling)
    except NotAnImage as error:
        raise RefusedFile(str(error)) from error
    except OSError as error:
        raise RefusedFile(unreadable(error)) from error
    except MemoryError as error:
        raise RefusedFile(NO_MEMORY) from error


def _mask_tensor(path: Path, file: SourceFile, size: int) -> Tensor:
    try:
        foreground = read_foreground(path)
    except (RefusedFile, OSError) as error:
        why = unreadable(error) if isinstance(error, OSError) else str(error)
        raise RefusedFile(f"its mask can't be used: {why}") from error
    if foreground.shape != file.shape[:3]:
        raise RefusedFile("its mask has another size than the image; resample the mask")
    return torch.cat([_mask_on_grid(foreground[run], size) for run in runs(foreground.shape)])


def _mask_on_grid(foreground: NDArray[np.bool_], size: int) -> Tensor:
    mask = torch.from_numpy(foreground[:, None].astype(np.float32))
    return (resized(mask, size, size)[:, 0] >= 0.5).long()


def load(
    found: Scan,
    files: Sequence[SourceFile],
    *,
    channels: int,
    size: int,
    root: Path | None = None,
    frames: Mapping[str, NDArray[np.int64]] | None = None,
    refused: dict[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Examples:
    """Decode files into one set of examples.

    Args:
        found: the scan of the source, whose ranges and masks count.
        files: annotated images to protect.
        channels: of the tensors, 1 or 3.
        size: of the tensors, px.
        root: read images from here instead of the source (a release).
        frames: which frames of each file to keep; None for all of all files.
        refused: takes path and reason of files that can't be read, which are then left out;
            without it, the first one raises.
        progress: told the number of files read and their total.

    Raises:
        RefusedFile: a file can't be read and `refused` is None.
        InputError: no file could be read.
    """
    images: list[Tensor] = []
    targets: list[Tensor] = []
    names: list[str] = []
    groups: list[str] = []
    splits: list[str] = []
    for number, file in enumerate(files, 1):
        kept = np.arange(file.shape[0]) if frames is None else frames[file.path]
        try:
            image = decoded((root or found.source) / file.path, found.handling)
            target = target_tensor(file, found, size)
            pixels = image_tensor(image, found, channels, size, kept)
        except RefusedFile as error:
            see_source(root or found.source)
            if refused is None:
                raise RefusedFile(f"{file.path}: {error}") from error
            refused[file.path] = str(error)
            continue
        images.append(pixels)
        targets.append(target[kept])
        identities = frame_names(file)
        names += [identities[index] for index in kept]
        patient = file.annotation.patient if file.annotation else None
        groups += [f"patient {patient}" if patient else f"file {file.path}"] * len(kept)
        splits += [(file.annotation.split if file.annotation else None) or ""] * len(kept)
        progress(number, len(files))
    if not images:
        first = next(iter((refused or {}).items()), None)
        raise InputError(
            "no image could be read" + (f"; the first: {first[0]}: {first[1]}" if first else "")
        )
    return Examples(
        torch.cat(images),
        torch.cat(targets),
        tuple(names),
        np.unique(groups, return_inverse=True)[1].astype(np.int64),
        np.array(splits),
    )
