"""Processes of this machine that share work: Python's threads would wait for each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from ctypes import Array, c_double
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from medshield.errors import WorkerLost

WORTH_STARTING = 10.0
"""Seconds of work left, above which processes are started: each takes about two to begin."""
CHUNK = 32
"""Items that are sent at a time."""
CHUNKS_AHEAD = 4
"""Of each process: so that none waits, and memory does not grow with the number of items."""
SECONDS_BETWEEN_LOOKS = 1.0
"""At what other processes have done meanwhile."""
Shares: TypeAlias = "Array[c_double]"
"""How far each of several pieces of work is, 0 to 1, as all processes see it."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def new_shares(at_first: Sequence[float]) -> Shares:
    """Shares that processes tell each other, to be given to them as they start."""
    made: Shares = RawArray("d", list(at_first))
    return made


@contextmanager
def _without_main() -> Iterator[None]:
    """A block in which there is no script that is being run."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Process(SpawnProcess):
    """One that does not begin with running the caller's script again.

    Nothing here needs what that defines; and a script that calls medshield without asking for
    `__name__` would start processes without end.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 (its name there)
        with _without_main():
            return SpawnProcess._Popen(process_obj)


class Spawning(SpawnContext):
    """Processes that are started afresh, and know nothing of the caller's script."""

    Process = _Process


def lost() -> WorkerLost:
    """What is raised where a process of a pool was killed."""
    return WorkerLost(
        "a process was killed, perhaps because memory ran out; run again (protect: with --resume), "
        "and with fewer --workers if that may be"
    )


def pool_of(
    count: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Processes that end with this one, and leave Ctrl-C to it.

    Args:
        count: how many.
        begin: called once in each, with `arguments`; None where there is nothing to do.
        arguments: sent when a process is started.
    """
    return ProcessPoolExecutor(count, Spawning(), _begun, (begin, arguments))


def shared_out(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Result, None, None]:
    """What a function makes of each item, in their order.

    It begins here, and goes on in processes where that is seen to be worth it.

    Args:
        function: can be sent to a process, as its results can.
        items: all of them.
        workers: processes at the most.

    Raises:
        WorkerLost: a process was killed.
    """
    started = time.monotonic()
    done = 0
    for item in items:
        yield function(item)
        done += 1
        if done == 1:
            started = time.monotonic()  # the first may have loaded libraries
        elif workers > 1:
            spent = time.monotonic() - started
            if (len(items) - done) * spent / (done - 1) > WORTH_STARTING:
                break
    if done < len(items):
        yield from _in_processes(function, items[done:], workers)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Result, None, None]:
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    at_work: deque[Future[list[Result]]] = deque()
    pool = pool_of(workers)
    try:
        for chunk in chunks:
            at_work.append(pool.submit(_each, function, chunk))
            if len(at_work) > CHUNKS_AHEAD * workers:
                yield from at_work.popleft().result()
        while at_work:
            yield from at_work.popleft().result()
    except BrokenProcessPool:
        raise lost() from None
    finally:
        pool.shutdown(cancel_futures=True)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _begun(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process sees to an orderly end
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    if begin:
        begin(*arguments)


def _end_after(parent: BaseProcess | None) -> None:
    if parent:
        parent.join()
        os._exit(1)
