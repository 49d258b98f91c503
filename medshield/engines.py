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
from medshield.methods.base import untold
from medshield.models import pick_device
from medshield.places import GENERATOR, Places
from medshield.pools import SECONDS_BETWEEN_LOOKS, Shares, lost, pool_of
from medshield.release_writer import ReleaseWriter, work_of

BLOCKS_AHEAD = 2
"""Blocks that wait for each process, so that none has to wait for a block."""

Block = list[SourceFile]
Keep = Callable[[Finished], None]
"""Told of each file that is done."""
Tell = Callable[[float], None]
"""Told of work that was done since it was told last, in the units of `work_of`."""


def gains(block: Block, tell: Tell) -> Callable[[float], None]:
    """A progress of a block, of which the gains are told; it never goes back.

    Args:
        block: of files.
        tell: told of work.
    """
    work, reached = work_of(block), 0.0

    def progress(share: float) -> None:
        nonlocal reached
        if share > reached:
            gained, reached = share - reached, share
            tell(gained * work)

    return progress


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
    tell: Tell = untold,
) -> None:
    """Write blocks on this machine: here, and in processes where there is much to do.

    Args:
        order: what to write.
        writer: of the release, for what is written here.
        blocks: of files.
        keep: told of each file.
        workers: processes at the most.
        lock: see `write_in_processes`.
        tell: told of work, within blocks, too.
    """
    most = pools.WORTH_STARTING if workers > 1 else None
    done = write_here(writer, blocks, keep, most_seconds=most, tell=tell)
    if done < len(blocks):
        write_in_processes(order, blocks[done:], keep, count=workers, lock=lock, tell=tell)


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
    writer: ReleaseWriter,
    blocks: Sequence[Block],
    keep: Keep,
    *,
    most_seconds: float | None,
    tell: Tell = untold,
) -> int:
    """Write blocks in this process.

    Args:
        writer: of the release.
        blocks: all of them.
        keep: told of each file.
        most_seconds: stop when the blocks that are left would take longer, going by those that are
            done; None to write all.
        tell: told of work, within blocks, too.

    Returns:
        How many are done.
    """
    started = time.monotonic()
    with one_thread():
        for done, block in enumerate(blocks, 1):
            progress = gains(block, tell)
            for one in writer.written(block, progress):
                keep(one)
            progress(1)
            spent, left = time.monotonic() - started, len(blocks) - done
            if most_seconds is not None and left * spent / done > most_seconds:
                return done
    return len(blocks)


def write_in_processes(
    order: Order,
    blocks: Sequence[Block],
    keep: Keep,
    *,
    count: int,
    lock: int,
    tell: Tell = untold,
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
        tell: told of work, within blocks, too.

    Raises:
        WorkerLost: one of them was killed.
        InputError: as `ReleaseWriter.written`.
    """
    shares = pools.new_shares([0.0] * (BLOCKS_AHEAD * count))
    given = order.without_files, _Inherited(lock), shares
    pool = pool_of(min(count, len(blocks)), _begin, given)
    waiting = iter(blocks)
    free = list(range(len(shares)))
    at_work: dict[Future[list[Finished]], tuple[int, Callable[[float], None]]] = {}
    try:
        while True:
            while free and (block := next(waiting, None)):
                place = free.pop()
                shares[place] = 0
                at_work[pool.submit(_write, place, block)] = place, gains(block, tell)
            if not at_work:
                break
            done = wait(at_work, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done
            for place, progress in at_work.values():
                progress(shares[place])
            for future in done:
                place, progress = at_work.pop(future)
                free.append(place)
                for one in future.result():
                    keep(one)
                progress(1)
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
_shares: Shares
"""How far the blocks are that are at work, as all processes see it."""


def _begin(order: Order, _lock: _Inherited, shares: Shares) -> None:
    """Get ready to write."""
    global _writer, _shares
    torch.set_num_threads(1)
    _writer, _shares = order.writer(), shares


def _write(place: int, block: Block) -> list[Finished]:
    def progress(share: float) -> None:
        _shares[place] = share

    return list(_writer.written(block, progress))
