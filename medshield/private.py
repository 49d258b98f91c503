"""Files for the owner's eyes only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medshield.errors import InputError


def make_private_folder(folder: Path) -> None:
    """Create a folder (and its parents) that only its owner can open, mode 0700.

    Raises:
        InputError: a symbolic link is there, which may lead to where others can read.
    """
    if folder.is_symlink():
        raise InputError(
            f"{folder}: a symbolic link, where a private folder is to be; remove the link"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Write a file, mode 0600, whole or not at all."""
    with private_file(path) as file:
        file.write(content)


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, mode 0600 whatever the umask, which gets its name when it is whole.

    Two processes may write the same one: each has a temporary file of its own.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk has no room for it
        raise
