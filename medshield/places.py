"""Where a release and its companions lie, and what must hold before anything is written there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medshield.errors import InputError

CONFIGURATION = "config.json"
PLAN = "plan.jsonl"
CHECKPOINT = "fitting.safetensors"
GENERATOR = "generator"
_BETWEEN_TRIES, _TRIES = 0.3, 10
"""Seconds, and how often a lock is tried that others hold for a moment."""
_PROCESS = secrets.token_hex(4)
"""Unlike those of other processes, on whatever machine."""


@dataclass(frozen=True)
class Places:
    """The folders of one release.

    Attributes:
        release: the finished release.
    """

    release: Path

    @property
    def partial(self) -> Path:
        """The release while it grows."""
        return self.release.with_name(self.release.name + ".partial")

    @property
    def private(self) -> Path:
        """The private folder."""
        return self.release.with_name(self.release.name + ".private")

    @property
    def scratch(self) -> Path:
        """Files while they are written: in the tree, a name may be taken or too long already."""
        return self.private / "scratch"

    def temporary(self, path: str) -> Path:
        """A name for a file of the release while this process writes it, of this file's own.

        Codecs may look at its end, such as `.nii.gz`.
        """
        own = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        return self.scratch / f"{own}-{_PROCESS}-{Path(path).name[-16:]}"

    def put(self, temporary: Path, path: str) -> None:
        """Give a whole file its place in the release that grows."""
        target = self.partial / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)

    def all(self) -> tuple[Path, ...]:
        """Every folder that a run writes to."""
        return self.release, self.partial, self.private

    def remove_unfinished(self) -> None:
        """Take away what a run that came to nothing has written."""
        shutil.rmtree(self.partial, ignore_errors=True)
        shutil.rmtree(self.private, ignore_errors=True)

    def refuse_leftovers(self) -> None:
        """Keep a new run from mixing with an old one.

        Raises:
            InputError: an interrupted run or one that goes on, or the private folder of an
                earlier release.
        """
        left = [folder for folder in (self.partial, self.private) if os.path.lexists(folder)]
        if self.private in left and self.private.is_dir() and not self.private.is_symlink():
            with locked(self.private):
                pass  # or another run is at it just now
        if self.partial in left:
            raise InputError(
                f"{self.partial}: left by an interrupted run; finish that run with --resume, or "
                f"remove it and {self.private.name} to start again"
            )
        if left:
            raise InputError(
                f"{self.private}: the private folder of an earlier release; move it away if its "
                "key is still needed, remove it if not, or choose another -o"
            )

    def refuse_others(self, *, resume: bool) -> None:
        """Once the private folder is locked: see that no other run has been there meanwhile.

        Raises:
            InputError: one has finished, or was interrupted and is not to be resumed.
        """
        refuse_existing(self.release, "release")
        if not resume and any(self.private.iterdir()):
            raise InputError(
                f"{self.private}: another run has written there meanwhile; choose another -o, or "
                "finish that run with --resume"
            )

    def refuse_links(self) -> None:
        """See to it that a run which is resumed writes where the interrupted one did.

        Raises:
            InputError: a symbolic link is among what that one left.
        """
        for folder in (self.partial, self.private):
            self._refuse_link(folder)
            for at, folders, names in os.walk(folder):
                for name in (*folders, *names):
                    self._refuse_link(Path(at, name))

    def _refuse_link(self, path: Path) -> None:
        if os.path.islink(path):  # noqa: PTH114 (False where no such name can be)
            raise InputError(
                f"{path}: a symbolic link, which no run leaves there; remove it, or "
                f"{self.partial.name} and {self.private.name} to start again"
            )


SOURCE_ADVICE = "give the folder that holds the images"
"""To who gave none."""


def require_folder(path: Path, advice: str) -> None:
    """See to it that there is a folder, before anything is looked for in it.

    Args:
        path: what was given.
        advice: what to do where it is none.

    Raises:
        InputError: nothing is there, a file is, or the system does not let one look.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        found = "no such folder"
    except OSError as error:
        found = f"can't be looked up ({error.strerror})"
    except ValueError:  # a null byte
        found = "no such folder"
    else:
        if stat.S_ISDIR(mode):
            return
        found = "is a file, not a folder"
    raise InputError(f"{path}: {found}; {advice}")


def named(path: Path) -> Path:
    """The path, with a name at its end that companions can be called after (`..` has none).

    Raises:
        InputError: the root of the file system.
    """
    found = path if path.name not in ("", "..") else Path(os.path.abspath(path))  # noqa: PTH100 (links stay)
    if not found.name:
        raise InputError(f"{path}: the root of the file system can't be used; name a folder")
    return found


def default_release(source: Path) -> Path:
    """`dicoms-protected` for `dicoms`, beside it."""
    folder = named(source)
    return folder.with_name(folder.name + "-protected")


def keep_apart(source: Path, targets: Iterable[Path]) -> None:
    """See to it that nothing is ever written to the source.

    Raises:
        InputError: a target lies in the source, or holds it.
    """
    outer = Path(os.path.realpath(source))
    for target in targets:
        inner = Path(os.path.realpath(target))
        if inner.is_relative_to(outer) or outer.is_relative_to(inner):
            raise InputError(
                f"{target}: the target and the source may not contain each other; choose another -o"
            )


def refuse_existing(target: Path, what: str) -> None:
    """Never overwrite what is finished.

    Raises:
        InputError: there is something of that name.
    """
    if os.path.lexists(target):
        raise InputError(
            f"{target}: already exists; a finished {what} is never overwritten: remove it or "
            "choose another -o"
        )


def sync_folder(folder: Path) -> None:
    """See to it that names given in a folder outlive a loss of power, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems know no such thing
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep two runs, say of a job that was started again, from writing to one release.

    Yields the descriptor that holds the lock.

    Raises:
        InputError: another process is at it.
    """
    with _opened(folder) as descriptor:
        _lock_soon(descriptor, fcntl.LOCK_EX, folder)
        yield descriptor


@contextmanager
def joined(
    folder: Path, is_ready: Callable[[], bool], get_ready: Callable[[], None], *, is_first: bool
) -> Iterator[None]:
    """Let many runs write to one release, which one of them gets ready while the others wait.

    Args:
        folder: is locked, against runs that want it for themselves.
        is_ready: whether nothing is left to get ready.
        get_ready: called by one.
        is_first: this run may get ready where the file system has no locks to agree by.

    Raises:
        InputError: a run has it for itself, or there are no locks.
    """
    with _opened(folder) as descriptor:
        while not is_ready():
            has_it = _lock(descriptor, fcntl.LOCK_EX)
            if has_it or (has_it is None and is_first):
                if not is_ready():
                    get_ready()
                break
            if has_it is None:
                raise InputError(
                    f"{folder}: the file system has no locks to agree by; start shard 1 of them, "
                    "and the others as soon as it writes files"
                )
            time.sleep(_BETWEEN_TRIES)
        _lock_soon(descriptor, fcntl.LOCK_SH, folder)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool | None:
    """Whether it has the lock now; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # as safe as it was
    return True


def _lock_soon(descriptor: int, kind: int, folder: Path) -> None:
    """Take a lock that others may hold for a moment: processes of a run that was just killed."""
    for _ in range(_TRIES):
        if _lock(descriptor, kind) is not False:
            return
        time.sleep(_BETWEEN_TRIES)
    raise InputError(f"{folder}: another run is writing there; wait for it, or choose another -o")


@contextmanager
def target_errors(target: Path, *, resumable: bool) -> Iterator[None]:
    """Turn what the file system says of the target into one line.

    Raises:
        InputError: the target can't be written.
    """
    again = "run again with --resume" if resumable else "run again"
    advice = {
        errno.ENOSPC: f"free some space, then {again}",
        errno.EDQUOT: f"the quota is used up; free some space, then {again}",
        errno.EROFS: "choose another place with -o",
        errno.EACCES: "choose a place with -o that you may write to",
        errno.EPERM: "choose a place with -o that you may write to",
        errno.ENAMETOOLONG: "choose a shorter -o",
    }
    try:
        yield
    except OSError as error:
        what_to_do = advice.get(error.errno or 0, f"mend that and {again}, or choose another -o")
        reason = error.strerror or type(error).__name__
        raise InputError(f"{target}: can't be written ({reason}); {what_to_do}") from error
