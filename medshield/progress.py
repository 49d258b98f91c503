"""Telling a person how far a run is: a bar on a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger("medshield")
SECONDS_BETWEEN_LINES = 15.0

Update = Callable[[int, int], None]
"""Called with what is done and the total."""


@contextmanager
def bar(label: str) -> Iterator[Update]:
    """A progress display for one stage; the total may become known with the first update."""
    if not logger.isEnabledFor(logging.INFO):
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        with tqdm(desc=label, leave=False, file=sys.stderr, dynamic_ncols=True) as display:

            def update(done: int, total: int) -> None:
                display.total = total
                display.update(done - display.n)

            yield update
    else:
        yield _plain_lines(label)


def _plain_lines(label: str) -> Update:
    started = last = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or (done == total and now - started > 1):
            last = now
            logger.info("%s: %d of %d, %.0f s", label, done, total, now - started)

    return update
