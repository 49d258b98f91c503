"""`medshield protect`: from a folder of images to a release.

scan -> fit -> one pass over the files: decode, perturb, write under a temporary name, rename,
decode again, measure.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from medshield.errors import InputError, Unfinished
from medshield.journal import JOURNAL
from medshield.kept_run import planned
from medshield.places import (
    PLAN,
    Places,
    default_release,
    keep_apart,
    locked,
    named,
    refuse_existing,
    target_errors,
)
from medshield.planning import known_generator, load_generator
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig

if TYPE_CHECKING:
    from medshield.release_run import Outcome, ReleaseRun


def protect(config: ProtectConfig) -> Outcome:
    """Write a release.

    With `resume` and nothing to resume, it starts from the beginning, so that a job script may
    always say so.

    Raises:
        InputError: the source or the target can't be used, or nothing could be protected.
    """
    places = places_of(config)
    if config.resume:
        places.refuse_links()
    else:
        places.refuse_leftovers()
    found = planned(config, known_generator(config), places.private, places.partial)
    from medshield.release_run import ReleaseRun  # and PyTorch, in what memory the scan gave back

    generator = load_generator(config)
    with target_errors(places.release, resumable=True):
        make_private_folder(places.private)
        with locked(places.private) as lock:
            places.refuse_others(resume=config.resume)
            is_resumed = (places.private / PLAN).is_file()
            shutil.rmtree(places.scratch, ignore_errors=True)
            try:
                return _written(ReleaseRun.begun(config, places, found, generator), lock)
            except Unfinished:
                raise
            except InputError:  # nothing can come of it, so nothing is worth keeping
                if not is_resumed:
                    places.remove_unfinished()
                raise


def places_of(config: ProtectConfig) -> Places:
    """Where a run writes.

    Raises:
        InputError: that is in the source or holds it, or there is something of that name.
    """
    target = named(config.target) if config.target else default_release(config.source)
    places = Places(target)
    keep_apart(config.source, places.all())
    refuse_existing(target, "release")
    return places


def _written(run: ReleaseRun, lock: int) -> Outcome:
    """All files, the papers, and the name."""
    from medshield.release_run import to_write

    with run.opened_journal(run.places.private / JOURNAL) as log:
        is_resumed = len(log) > 0
        run.write(to_write(run.found, log), log, lock)
        run.write_cost(applied=not is_resumed)
        return run.complete(log)
