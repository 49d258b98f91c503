"""The processes that one command was started in, by torchrun or what sets the same variables.

Without these variables there is one process, and `torch.distributed` is not even imported. What
the processes tell each other are small facts; results are passed on as files, in a folder that
all of them see.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

from medshield.errors import InputError, MedshieldError
from medshield.private import make_private_folder

LONGEST_WAIT = timedelta(days=30)
"""For another process to come as far; one that ends is noticed at once."""
SECONDS_TO_APPEAR = 90.0
"""In which a file is seen by all processes: a network file system may remember for a minute that
there was none."""
SECONDS_BETWEEN_LOOKS = 0.5

_have_met = False
"""Whether this process has heard of others."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """All processes of this command, as one of them sees them.

    Attributes:
        rank: of this one, counted from 0.
        count: of all.
        local_rank: of this one among those of its machine.
        local_count: of those.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those that this process is to see to; every one is some process's."""
        return items[self.rank :: self.count]

    def workers(self, wanted: int) -> int:
        """How many of so many workers of a machine are this process's."""
        return max(1, wanted // self.local_count)


ALONE = Processes()


def current() -> Processes:
    """As the environment says.

    Raises:
        InputError: its variables contradict each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    try:
        found = Processes(
            rank=int(os.environ["RANK"]),
            count=int(os.environ["WORLD_SIZE"]),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_count=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    except ValueError:
        found = None
    if found is None or not 0 <= found.rank < found.count or found.local_count < 1:
        raise InputError(
            "RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE in the environment are not what "
            "torchrun sets; start with torchrun, or unset them"
        )
    return found


@contextmanager
def joined() -> Iterator[None]:
    """A block in which the processes hear of each other; does nothing where there is one."""
    team = current()
    if team.count == 1:
        yield
        return
    import torch.distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(team.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo"
    global _have_met
    torch.distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    _have_met = True
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several ends at once: threads that PyTorch leaves behind abort a process now and then
    when Python takes itself down, upon which torchrun would end the others, though all is done.
    """
    if not _have_met:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def agreed(flags: Sequence[bool]) -> list[bool]:
    """What the first process says, where all ask the same; others may see files a bit later."""
    if current().count == 1:
        return list(flags)
    import torch
    import torch.distributed

    told = torch.tensor(flags, dtype=torch.uint8)
    with others_may_end():
        torch.distributed.broadcast(told, 0)
    return [bool(flag) for flag in told]


def in_turn(work: Callable[[], Result]) -> Result:
    """Do the same in all processes, the first one before the others, who find what it has kept."""
    if current().is_first:
        result = work()
        agreed([True])
        return result
    agreed([True])
    return work()


def meet() -> None:
    """Wait until all processes are here."""
    if current().count == 1:
        return
    import torch
    import torch.distributed

    with others_may_end():
        torch.distributed.all_reduce(torch.zeros(1))


def see_to_shared(folder: Path) -> None:
    """Make a folder, and make sure that all processes see what the first one writes there.

    Raises:
        InputError: one does not.
    """
    team = current()
    if team.count == 1:
        return
    import torch
    import torch.distributed

    number = torch.tensor(secrets.randbits(62))
    with others_may_end():
        torch.distributed.broadcast(number, 0)
    note = folder / f"seen-by-all-{number.item()}"
    if team.is_first:
        make_private_folder(folder)
        note.touch()
    last = time.monotonic() + SECONDS_TO_APPEAR
    while not (seen := note.is_file()) and time.monotonic() < last:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    blind = torch.tensor(0 if seen else 1)
    with others_may_end():
        torch.distributed.all_reduce(blind)
    if team.is_first:
        note.unlink(missing_ok=True)
    if blind.item():
        raise InputError(
            f"{folder}: {blind.item()} of {team.count} processes don't see what the first one "
            "writes there; all need one file system: put the release where all machines see it"
        )


def wait_for(is_there: Callable[[], bool]) -> None:
    """Wait for what another process writes; who starts the processes ends all if one fails."""
    while not is_there():
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def others_may_end() -> Iterator[None]:
    """A block that waits for other processes.

    Raises:
        MedshieldError: one has ended.
    """
    try:
        yield
    except RuntimeError as error:  # what gloo makes of a closed connection
        raise MedshieldError("another process ended; its own message says why") from error
