"""Telling a person how far a run is, on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from medshield.errors import InputError
from medshield.text import duration

logger = logging.getLogger("medshield")
SECONDS_BETWEEN_LINES = 15.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Update(Protocol):
    """Called with what is done and the total."""

    def __call__(self, done: int, total: int, share: float | None = None) -> None:
        """Take note.

        Args:
            done: items that are finished.
            total: of all items.
            share: of the work that is done, 0 to 1, where items take unlike times or very long:
                the time that is left is told by it. None where it is that of the items.
        """


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Lines on standard error."""


def set_up(*, quiet: bool, verbose: bool, log_file: Path | None, source: Path | None) -> None:
    """Send messages to standard error and, if asked for, to a file.

    Args:
        quiet: no progress on standard error; the file still has it.
        verbose: more in both.
        log_file: appended to, readable by its owner only.
        source: a folder that is never written to, not even a log.

    Raises:
        InputError: the file can't be written, or lies in the source.
    """
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    for handler in logger.handlers:
        handler.close()
    console = _Console(sys.stderr)
    console.setLevel(logging.WARNING if quiet else logging.DEBUG)
    logger.handlers = [console]
    if log_file is None:
        return
    if source and Path(os.path.realpath(log_file)).is_relative_to(os.path.realpath(source)):
        raise InputError(f"--log-file {log_file}: lies in the source, which is never written to")
    try:
        os.close(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"--log-file {log_file}: can't be written ({error.strerror})") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)


@contextmanager
def bar(label: str) -> Iterator[Update]:
    """A progress display for one stage; the total may become known with the first update."""
    if not logger.isEnabledFor(logging.INFO):
        yield _nothing
    elif sys.stderr.isatty() and _is_shown():
        with tqdm(
            desc=label, leave=False, file=sys.stderr, dynamic_ncols=True, bar_format=BAR
        ) as display:

            def update(done: int, total: int, share: float | None = None) -> None:
                display.total = total
                display.set_postfix_str(f"{done} of {total}", refresh=False)
                display.update((done if share is None else share * total) - display.n)

            yield update
    else:
        yield _plain_lines(label)


def _is_shown() -> bool:
    """Whether standard error takes progress."""
    return any(
        isinstance(handler, _Console) and handler.level <= logging.INFO
        for handler in logger.handlers
    )


def _nothing(done: int, total: int, share: float | None = None) -> None:
    """What nobody sees."""
    del done, total, share


def _plain_lines(label: str) -> Update:
    started = last = time.monotonic()
    has_ended = False

    def update(done: int, total: int, share: float | None = None) -> None:
        nonlocal last, has_ended
        now = time.monotonic()
        ends = done == total and not has_ended
        if now - last >= SECONDS_BETWEEN_LINES or (ends and now - started > 1):
            last, has_ended = now, has_ended or ends
            spent, left, percent = now - started, "", ""
            if share is None or done == total:
                share = done / total if total else 1
            else:
                percent = f" ({100 * share:.0f} %)"
            if 0 < share < 1:
                left = f", about {duration((1 - share) * spent / share)} left"
            logger.info("%s: %d of %d%s, %.0f s%s", label, done, total, percent, spent, left)

    return update
