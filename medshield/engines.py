"""Who writes the files of a release: this process, processes of this machine, or a Ray cluster.

Whoever it is does whole blocks of files, from decoding to measuring; nothing but names goes out
and records come back. Blocks are the same everywhere and each is computed by one thread, so a
release does not depend on who wrote it, down to the last byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import get_spawning_popen

import torch

from medshield import pools
from medshield.dataset.scanned import Scan, SourceFile
from medshield.generator import Generator
from medshield.journal import Finished
from medshield.models import pick_device
from medshield.places import GENERATOR, Places
from medshield.pools import lost, pool_of
from medshield.release_writer import ReleaseWriter

BLOCKS_AHEAD = 2
"""Blocks that wait for each process, so that none has to wait for a block."""

Block = list[SourceFile]
Keep = Callable[[Finished], None]
"""Told of each file that is done."""


@dataclass(frozen=True)
class Order:
    """All that a process needs to know to write files of a release.

    Attributes:
        found: the plan, with or without its files.
        places: of the release; the private folder holds the generator.
        device: auto, cpu or cuda.
        min_ssim: see `ReleaseWriter`.
    """

    found: Scan
    places: Places
    device: str
    min_ssim: float | None

    @property
    def without_files(self) -> Order:
        """The same, quick to send: blocks bring their files with them."""
        return replace(self, found=self.found.without_files)

    def on(self, device: str) -> Order:
        """The same on another device."""
        return replace(self, device=device)

    def writer(self) -> ReleaseWriter:
        """With the generator that the private folder holds."""
        generator = Generator.load(self.places.private / GENERATOR, pick_device(self.device))
        return ReleaseWriter(self.found, generator, self.places, self.min_ssim)


def write_locally(
    order: Order,
    writer: ReleaseWriter,
    blocks: Sequence[Block],
    keep: Keep,
    *,
    workers: int,
    lock: int,
) -> None:
    """Write blocks on this machine: here, and in processes where there is much to do.

    Args:
        order: what to write.
        writer: of the release, for what is written here.
        blocks: of files.
        keep: told of each file.
        workers: processes at the most.
        lock: see `write_in_processes`.
    """
    most = pools.WORTH_STARTING if workers > 1 else None
    done = write_here(writer, blocks, keep, most_seconds=most)
    if done < len(blocks):
        write_in_processes(order, blocks[done:], keep, count=workers, lock=lock)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: with more, sums may be added up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_here(
    writer: ReleaseWriter, blocks: Sequence[Block], keep: Keep, *, most_seconds: float | None
) -> int:
    """Write blocks in this process.

    Args:
        writer: of the release.
        blocks: all of them.
        keep: told of each file.
        most_seconds: stop when the blocks that are left would take longer, going by those that are
            done; None to write all.

    Returns:
        How many are done.
    """
    started = time.monotonic()
    with one_thread():
        for done, block in enumerate(blocks, 1):
            for one in writer.written(block):
                keep(one)
            spent, left = time.monotonic() - started, len(blocks) - done
            if most_seconds is not None and left * spent / done > most_seconds:
                return done
    return len(blocks)


def write_in_processes(
    order: Order, blocks: Sequence[Block], keep: Keep, *, count: int, lock: int
) -> None:
    """Write blocks in processes of this machine.

    An interruption, or an error of one, lets the blocks that are at work come to an end and be
    kept, and no more.

    Args:
        order: what to write.
        blocks: of files.
        keep: told of each file, in the order in which blocks are done.
        count: of processes.
        lock: a descriptor whose lock lasts until the last process has ended.

    Raises:
        WorkerLost: one of them was killed.
        InputError: as `ReleaseWriter.written`.
    """
    pool = pool_of(min(count, len(blocks)), _begin, (order.without_files, _Inherited(lock)))
    waiting = iter(blocks)
    at_work: set[Future[list[Finished]]] = set()
    try:
        while True:
            while len(at_work) < BLOCKS_AHEAD * count and (block := next(waiting, None)):
                at_work.add(pool.submit(_write, block))
            if not at_work:
                break
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                at_work.remove(future)
                for one in future.result():
                    keep(one)
    except BrokenProcessPool:
        raise lost() from None
    finally:
        pool.shutdown(cancel_futures=True)
        for future in at_work:
            for one in () if future.cancelled() or future.exception() else future.result():
                keep(one)


class _Inherited:
    """A descriptor that a process which is being started gets as well."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[type[_Inherited], tuple[int]]:
        starting = get_spawning_popen()
        assert starting is not None  # noqa: S101 (only what starts a process carries one)
        return _Inherited, (starting.duplicate_for_child(self._descriptor),)


_writer: ReleaseWriter
"""Of a process that writes blocks."""


def _begin(order: Order, _lock: _Inherited) -> None:
    """Get ready to write."""
    global _writer
    torch.set_num_threads(1)
    _writer = order.writer()


def _write(block: Block) -> list[Finished]:
    return list(_writer.written(block))
