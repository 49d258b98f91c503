"""One pass over the files of a source: decode, perturb, write, rename, decode again, measure.

Memory is bounded by a block of images, whatever the size of the data set.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from medshield.formats import DecodedImage, codec_named
from medshield.formats.series import Frames, MadeFrames, held
from medshield.generator import Generator
from medshield.journal import Finished
from medshield.kept_lines import OnDemand
from medshield.manifest import Record
from medshield.methods.base import BLOCK, Progress, part, untold
from medshield.movement import Movement
from medshield.places import Places
from medshield.visibility import Change

MOST_VALUES_A_BLOCK = 1 << 26
"""Stored values that are decoded at a time: 64 CT slices, or a dozen mammograms."""
WORK_OF_ANY_FILE = 0.01
"""Of what it takes to protect a frame: nothing beside that, but more than nothing."""
MAKING = 0.9
"""Share of a block's time that goes into its deltas, as long as none is known."""
STATUS_OF_ACTION = {"omit": "omitted", "refuse": "refused"}
Deltas = Callable[[slice], Tensor]
"""Gives the delta of some frames of an image on the working grid, (n, channels, size, size)."""


class ReleaseWriter:
    """Writes files of a source into a release that grows.

    Args:
        found: the plan; its files play no part.
        generator: makes the perturbations.
        places: of the release.
        min_ssim: structural similarity that every frame keeps; None for no such bound.
    """

    def __init__(
        self, found: Scan, generator: Generator, places: Places, min_ssim: float | None = None
    ) -> None:
        self._found = found
        self._generator = generator
        self._places = places
        self._min_ssim = min_ssim
        self._making = MAKING

    def written(
        self, block: Sequence[SourceFile], progress: Progress = untold
    ) -> Iterator[Finished]:
        """Do what is planned for each file; yields as files are done.

        Args:
            block: not many, as all of its images that are not huge are held in memory.
            progress: told the share of the work that is done, within files, too.

        Raises:
            SourceLost: nothing of the source is left.
            OSError: the release can't be written.
        """
        started, before = time.monotonic(), self._seconds_making
        ready: list[tuple[SourceFile, DecodedImage, Tensor]] = []
        for file in block:
            if file.action != "protect":
                yield self._not_protected(file)
                continue
            read = self._read(file)
            if isinstance(read, str):
                yield self._refused(file, read)
            else:
                ready.append((file, *read))
        making = self._making if any(_is_held(image) for _, image, _ in ready) else 0.0

        def writing(share: float) -> None:
            progress(making + (1 - making) * share)

        deltas = self._deltas(ready, lambda share: progress(making * share), writing)
        if not isinstance(deltas, str):
            for number, ((file, image, _), delta) in enumerate(zip(ready, deltas, strict=True), 1):
                yield self._protected(file, image, delta)
                writing(number / len(ready))
            if making:
                spent = time.monotonic() - started
                self._making = min(1.0, (self._seconds_making - before) / max(spent, 1e-6))
        elif len(ready) == 1:
            yield self._refused(ready[0][0], deltas)
        else:
            files = [file for file, _, _ in ready]
            ready.clear()  # to make room, as does the next line
            del read
            for file in files:
                yield from self.written([file])

    @property
    def _seconds_making(self) -> float:
        """What deltas have taken so far."""
        return self._generator.method.applying.seconds

    def _read(self, file: SourceFile) -> tuple[DecodedImage, Tensor] | str:
        """The image and its target, or why it is refused."""
        try:
            with _within_memory():
                image = examples.decoded(self._found.source / file.path, self._found.handling)
                size = self._generator.method.setting.size
                return image, examples.target_tensor(file, self._found, size)
        except RefusedFile as error:
            return str(error)

    def _deltas(
        self,
        ready: Sequence[tuple[SourceFile, DecodedImage, Tensor]],
        making: Progress,
        writing: Progress,
    ) -> list[Deltas] | str:
        """What gives the delta of some frames of each image on the working grid, or why none does.

        Those of images that are held are made here, together; of others, when they are asked for.
        So there is a progress for what is made here, and one for what is made later.
        """
        held = [one for one in ready if _is_held(one[1])]
        try:
            with _within_memory():
                deltas = self._made_deltas(held, making)
        except RefusedFile as error:
            return str(error)
        made = dict(zip((file.path for file, _, _ in held), deltas, strict=True))
        return [
            made[file.path].__getitem__
            if file.path in made
            else partial(
                self._delta_of_frames, file, image, target, part(writing, number, len(ready))
            )
            for number, (file, image, target) in enumerate(ready)
        ]

    def _made_deltas(
        self, held: Sequence[tuple[SourceFile, DecodedImage, Tensor]], progress: Progress
    ) -> Sequence[Tensor]:
        """The delta of each image, (frames, channels, size, size)."""
        if not held:
            return []
        setting = self._generator.method.setting
        images = [
            examples.image_tensor(image, self._found, setting.channels, setting.size)
            for _, image, _ in held
        ]
        names = [name for file, _, _ in held for name in examples.frame_names(file)]
        targets = torch.cat([target for _, _, target in held])
        deltas = self._generator.perturb(torch.cat(images), targets, names, progress)
        return torch.split(deltas, [len(image) for image in images])

    def _delta_of_frames(
        self,
        file: SourceFile,
        image: DecodedImage,
        target: Tensor,
        progress: Progress,
        frames: slice,
    ) -> Tensor:
        """The delta of some frames, as if all had been perturbed together."""
        setting = self._generator.method.setting
        grid = examples.grid_tensor(
            image.part(frames), self._found.ranges[file.kind], setting.channels, setting.size
        )
        names = examples.frame_names(file)
        before, count = range(len(names))[frames].start, len(names)
        return self._generator.perturb(
            grid,
            target[frames],
            names[frames],
            lambda share: progress((before + share * len(grid)) / count),
        )

    def _not_protected(self, file: SourceFile) -> Finished:
        if file.action == "copy":
            return self._copied(file)
        record = Record(file.path, STATUS_OF_ACTION[file.action], file.format, reason=file.reason)
        return Finished(file.number, record)

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
        return Finished(file.number, record, digest)

    def _protected(self, file: SourceFile, image: DecodedImage, delta: Deltas) -> Finished:
        temporary = self._places.temporary(file.path)
        try:
            with _within_memory():
                finished = self._written(file, image, delta, temporary)
        except RefusedFile as error:
            temporary.unlink(missing_ok=True)
            return self._refused(file, str(error))
        self._places.put(temporary, file.path)
        return finished

    def _written(
        self, file: SourceFile, image: DecodedImage, delta: Deltas, target: Path
    ) -> Finished:
        """Write one protected image and measure what was written.

        Raises:
            RefusedFile: what was written does not keep the promise.
        """
        intensity = self._found.ranges[file.kind]
        epsilon = self._generator.method.setting.budget.epsilon
        radius = image.epsilon_stored(intensity, epsilon)
        codec = codec_named(file.format)

        def write(stored: Frames) -> tuple[Frames, list[str]]:
            target.unlink(missing_ok=True)
            notes = codec.write(image, stored, target, float(np.max(radius)))
            return codec.read_back(image, target).stored, notes

        change = Change(image, _at_native_size(delta, image), intensity, epsilon)
        if self._min_ssim is None:
            again, notes = write(change.full())
        else:
            again, notes = change.written_unseen(write, self._min_ssim)
        movement = Movement.of(image, again, intensity, radius)
        record = Record(
            path=file.path,
            status="protected",
            format=file.format,
            sha256=manifest.sha256(target),
            bytes=target.stat().st_size,
            epsilon_stored=float(np.max(radius)),
            max_abs_delta=movement.furthest,
            psnr=movement.psnr,
            ssim=movement.ssim,
            notes=notes,
        )
        try:
            checksum = manifest.sha256(self._found.source / file.path)
        except OSError as error:
            raise RefusedFile(unreadable(error)) from error
        see_unchanged(self._found.source, file)
        return Finished(file.number, record, checksum)

    def _refused(self, file: SourceFile, reason: str) -> Finished:
        """A file that is not released after all.

        Raises:
            SourceLost: because nothing of the source is left.
        """
        see_source(self._found.source)
        return Finished(file.number, Record(file.path, "refused", file.format, reason=reason))


@contextmanager
def _within_memory() -> Iterator[None]:
    """A block that may need more memory than the system hands out.

    Raises:
        RefusedFile: it did.
    """
    try:
        yield
    except MemoryError as error:
        raise RefusedFile(NO_MEMORY) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # as PyTorch calls what hands memory out
            raise
        raise RefusedFile(NO_MEMORY) from error


def _is_held(image: DecodedImage) -> bool:
    """Whether all of an image is in memory, as it is unless it is huge."""
    return isinstance(image.stored, np.ndarray)


def work_of(files: Iterable[SourceFile]) -> float:
    """About how much there is to do for files, in frames that are protected."""
    frames = (_frames(file) if file.action == "protect" else 0 for file in files)
    return sum(WORK_OF_ANY_FILE + count for count in frames)


def _frames(file: SourceFile) -> int:
    return file.shape[0] if file.shape else 1


class Blocks(OnDemand[list[SourceFile]]):
    """Runs of files that fill a block of the method's, or the memory that one may take.

    Args:
        files: of all blocks.
        ends: where each block ends among them, after a 0.
    """

    def __init__(self, files: Sequence[SourceFile], ends: Sequence[int]) -> None:
        self._files = files
        self._ends = ends

    @classmethod
    def of(cls, files: Sequence[SourceFile]) -> Blocks:
        """The blocks of these files."""
        ends = [0]
        frames = values = 0
        for number, file in enumerate(files, 1):
            frames += _frames(file)
            values += prod(file.shape)
            if frames >= BLOCK or values >= MOST_VALUES_A_BLOCK or number == len(files):
                ends.append(number)
                frames = values = 0
        return cls(files, ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, place: int) -> list[SourceFile]:
        return list(self._files[self._ends[place] : self._ends[place + 1]])


def _at_native_size(delta: Deltas, image: DecodedImage) -> Frames:
    """(frames, colour channels, height, width); a grey image stays grey, in an RGB file too."""
    frames, height, width, _ = image.stored.shape
    is_grey = image.is_grey

    def native(run: slice) -> NDArray[Any]:
        grid = delta(run)
        if is_grey:
            grid = grid.mean(1, keepdim=True)
        return resized(grid, height, width).expand(-1, image.colour_channels, -1, -1).numpy()

    shape = frames, image.colour_channels, height, width
    return held(MadeFrames(shape, np.float32, native))
