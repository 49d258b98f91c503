"""One pass over the files of a source: decode, perturb, write, rename, decode again, measure.

Memory is bounded by a block of images, whatever the size of the data set.
"""

from __future__ import annotations

import shutil
from collections import abc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medshield import manifest
from medshield.augmentation import resized
from medshield.dataset import examples
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dataset.walk import NO_MEMORY, see_source, see_unchanged, unreadable
from medshield.errors import RefusedFile
from medshield.formats import DecodedImage, IntensityRange, codec_named
from medshield.formats.base import PerFrame
from medshield.generator import Generator
from medshield.journal import Finished, Journal
from medshield.manifest import Record
from medshield.methods.base import BLOCK
from medshield.metrics import psnr, ssim
from medshield.places import Places
from medshield.visibility import Change, comparable

MOST_VALUES_A_BLOCK = 1 << 26
"""Stored values that are decoded at a time: 64 CT slices, or a dozen mammograms."""
STATUS_OF_ACTION = {"omit": "omitted", "refuse": "refused"}
NOTHING_MOVED = (
    "not one pixel moved, so the file would be the clean image: everything lies outside the "
    "intensity range, or epsilon is too small; widen --intensity or raise --eps"
)


class ReleaseWriter:
    """Writes files of a source into a release that grows.

    Args:
        found: the plan.
        generator: makes the perturbations.
        places: of the release.
        journal: told of each file as soon as it is whole.
        workers: files read and written at a time.
        min_ssim: structural similarity that every frame keeps; None for no such bound.
    """

    def __init__(
        self,
        found: Scan,
        generator: Generator,
        places: Places,
        journal: Journal,
        workers: int,
        min_ssim: float | None = None,
    ) -> None:
        self._found = found
        self._generator = generator
        self._places = places
        self._journal = journal
        self._workers = workers
        self._min_ssim = min_ssim

    def write(self, files: Sequence[SourceFile]) -> abc.Generator[Finished, None, None]:
        """Do what is planned for each file; yields as files are done, other files first.

        An interruption lets the files that are being written come to an end, and no more.
        """
        others = [file for file in files if file.action != "protect"]
        images = [file for file in files if file.action == "protect"]
        pool = ThreadPoolExecutor(self._workers)
        try:
            yield from pool.map(self._not_protected, others)
            for block in _blocks(images):
                yield from self._written_block(pool, block)
        finally:
            pool.shutdown(cancel_futures=True)

    def _written_block(
        self, pool: ThreadPoolExecutor, block: Sequence[SourceFile]
    ) -> Iterator[Finished]:
        ready: list[tuple[SourceFile, DecodedImage, Tensor]] = []
        for file, read in zip(block, pool.map(self._read, block), strict=True):
            if isinstance(read, str):
                yield self._journal.add(self._refused(file, read))
            else:
                ready.append((file, *read))
        deltas = self._deltas(ready)
        jobs = [
            pool.submit(self._protected, file, image, delta)
            for (file, image, _), delta in zip(ready, deltas, strict=True)
        ]
        for job in jobs:
            yield job.result()

    def _read(self, file: SourceFile) -> tuple[DecodedImage, Tensor] | str:
        """The image and its target, or why it is refused."""
        try:
            image = examples.decoded(self._found.source / file.path, self._found.handling)
            size = self._generator.method.setting.size
            return image, examples.target_tensor(file, self._found, size)
        except RefusedFile as error:
            return str(error)

    def _deltas(self, ready: Sequence[tuple[SourceFile, DecodedImage, Tensor]]) -> list[Tensor]:
        """The delta of each image on the working grid, (frames, channels, size, size)."""
        if not ready:
            return []
        setting = self._generator.method.setting
        images = [
            examples.image_tensor(image, self._found, setting.channels, setting.size)
            for _, image, _ in ready
        ]
        names = [name for file, _, _ in ready for name in examples.frame_names(file)]
        targets = torch.cat([target for _, _, target in ready])
        deltas = self._generator.perturb(torch.cat(images), targets, names)
        return list(torch.split(deltas, [len(image) for image in images]))

    def _not_protected(self, file: SourceFile) -> Finished:
        if file.action == "copy":
            return self._journal.add(self._copied(file))
        record = Record(file.path, STATUS_OF_ACTION[file.action], file.format, reason=file.reason)
        return self._journal.add(Finished(record))

    def _copied(self, file: SourceFile) -> Finished:
        temporary = self._places.temporary(file.path)
        try:
            source = (self._found.source / file.path).open("rb")
        except OSError as error:
            return self._refused(file, unreadable(error))
        with source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        try:
            see_unchanged(self._found.source, file)
        except RefusedFile as error:
            temporary.unlink()
            return self._refused(file, str(error))
        digest, size = manifest.sha256(temporary), temporary.stat().st_size
        self._places.put(temporary, file.path)
        record = Record(
            file.path, "copied", file.format, sha256=digest, bytes=size, reason=file.reason
        )
        return Finished(record, digest)

    def _protected(self, file: SourceFile, image: DecodedImage, delta: Tensor) -> Finished:
        temporary = self._places.temporary(file.path)
        try:
            finished = self._written(file, image, delta, temporary)
        except RefusedFile as error:
            temporary.unlink(missing_ok=True)
            return self._journal.add(self._refused(file, str(error)))
        except MemoryError:
            temporary.unlink(missing_ok=True)
            return self._journal.add(self._refused(file, NO_MEMORY))
        self._places.put(temporary, file.path)
        return self._journal.add(finished)

    def _written(
        self, file: SourceFile, image: DecodedImage, delta: Tensor, target: Path
    ) -> Finished:
        """Write one protected image and measure what was written.

        Raises:
            RefusedFile: what was written does not keep the promise.
        """
        intensity = self._found.ranges[file.kind]
        epsilon = self._generator.method.setting.budget.epsilon
        radius = image.epsilon_stored(intensity, epsilon)
        if image.is_grey:
            delta = delta.mean(1, keepdim=True)
        delta = resized(delta, *image.stored.shape[1:3]).expand(-1, image.colour_channels, -1, -1)
        codec = codec_named(file.format)

        def write(stored: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
            target.unlink(missing_ok=True)
            notes = codec.write(image, stored, target, float(np.max(radius)))
            return codec.read_back(image, target).stored, notes

        if self._min_ssim is None:
            again, notes = write(image.moved(delta.numpy(), intensity, epsilon))
        else:
            change = Change(image, delta.numpy(), intensity, epsilon)
            again, notes = change.written_unseen(write, self._min_ssim)
        furthest = _furthest(again, image.stored, radius)
        _refuse_moved(again, image, intensity)
        clean, released, width = comparable(image, again, intensity)
        record = Record(
            path=file.path,
            status="protected",
            format=file.format,
            sha256=manifest.sha256(target),
            bytes=target.stat().st_size,
            epsilon_stored=float(np.max(radius)),
            max_abs_delta=furthest,
            psnr=psnr(clean, released, width),
            ssim=ssim(clean, released, width),
            notes=notes,
        )
        try:
            checksum = manifest.sha256(self._found.source / file.path)
        except OSError as error:
            raise RefusedFile(unreadable(error)) from error
        see_unchanged(self._found.source, file)
        return Finished(record, checksum)

    def _refused(self, file: SourceFile, reason: str) -> Finished:
        """A file that is not released after all.

        Raises:
            SourceLost: because nothing of the source is left.
        """
        see_source(self._found.source)
        return Finished(Record(file.path, "refused", file.format, reason=reason))


def _blocks(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Runs of files that fill a block of the method's, or the memory that one may take."""
    block: list[SourceFile] = []
    frames = values = 0
    for file in files:
        block.append(file)
        frames += file.shape[0]
        values += prod(file.shape)
        if frames >= BLOCK or values >= MOST_VALUES_A_BLOCK:
            yield block
            block, frames, values = [], 0, 0
    if block:
        yield block


def _furthest(written: NDArray[Any], original: NDArray[Any], radius: PerFrame) -> float:
    """The greatest change in stored units, if the written file keeps the promise.

    Raises:
        RefusedFile: another shape, a value further from the source than epsilon (of its frame),
            or no change.
    """
    if written.shape != original.shape:
        raise RefusedFile("the written file decodes to another size; report this file's kind")
    undefined = np.isnan(written)
    if not np.array_equal(undefined, np.isnan(original)):
        raise RefusedFile("the written file has other undefined (NaN) values; report its kind")
    same = (written == original) | undefined  # infinities too, whose difference is NaN
    with np.errstate(invalid="ignore"):
        distance = np.abs(written.astype(np.float64) - original.astype(np.float64))
    moved = np.where(same, 0.0, distance)
    furthest = float(np.max(moved, initial=0.0))
    if not np.all(moved <= radius):
        raise RefusedFile("the written file left the bound when decoded; its coding can't hold it")
    if furthest == 0:
        raise RefusedFile(NOTHING_MOVED)
    return furthest


def _refuse_moved(written: NDArray[Any], image: DecodedImage, intensity: IntensityRange) -> None:
    """See to it that what has to stay is as it was.

    A codec is not told the range, so where values are bound to others (by JPEG's quantiser, by a
    palette), those outside a narrow range move with those inside.

    Raises:
        RefusedFile: a value moved that lies outside the range, or is frozen.
    """
    same = (written == image.stored) | (np.isnan(written) & np.isnan(image.stored))
    if np.any(~same & image.fixed(intensity)):
        raise RefusedFile(
            "its coding (JPEG, or a palette) can't leave values outside the intensity range as "
            "they are while others move; give the whole range, such as --intensity 0,255"
        )
