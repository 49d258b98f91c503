"""A release in shares, for schedulers that start many jobs alike; `merge` completes it.

Jobs need nothing but a common file system. The first one plans and fits, and the others wait for
it; each writes every Nth file and a journal of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medshield.dataset.scanned import SourceFile
from medshield.errors import InputError, Unfinished
from medshield.generator import Generator
from medshield.journal import JOURNAL, SHARES
from medshield.kept_lines import Chosen
from medshield.kept_run import damaged, kept_settings, planned
from medshield.places import (
    CONFIGURATION,
    GENERATOR,
    PLAN,
    Places,
    joined,
    locked,
    named,
    refuse_existing,
    target_errors,
)
from medshield.planning import known_generator, load_generator
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig
from medshield.protecting import places_of
from medshield.release_run import Outcome, ReleaseRun, to_write


@dataclass(frozen=True)
class Share:
    """Every `count`th file, beginning with the `number`th.

    Attributes:
        number: from 1 to `count`.
        count: of all shares.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read I/N.

        Raises:
            InputError: it is none.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise InputError(f"--shard: {text!r} is no share; expected I/N with I from 1 to N")
        return cls(number, count)

    @property
    def name(self) -> str:
        """As a file may be called."""
        return f"{self.number}-of-{self.count}"

    def of(self, files: Sequence[SourceFile]) -> Sequence[SourceFile]:
        """The files of this share; large ones often stand side by side, so these do not."""
        return files[self.number - 1 :: self.count]


@dataclass(frozen=True)
class ShareOutcome:
    """What one job did.

    Attributes:
        release: that will be.
        share: which one.
        files: how many it has.
        written: how many of them this run has done, and not an earlier one.
        refused: how many of its images will not be in the release.
    """

    release: Path
    share: Share
    files: int
    written: int
    refused: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "release": str(self.release),
            "shard": f"{self.share.number}/{self.share.count}",
            "files": self.files,
            "written": self.written,
            "refused": self.refused,
        }


def protect_share(config: ProtectConfig, share: Share) -> ShareOutcome:
    """Write a share of a release, as far as it is not written yet.

    Raises:
        InputError: the source or the target can't be used, nothing can be protected, or another
            process is at this share.
    """
    places = places_of(config)
    places.refuse_links()
    generator = load_generator(config)

    def is_ready() -> bool:
        is_planned = places.partial.is_dir() and (places.private / PLAN).is_file()
        return is_planned and Generator.is_complete(places.private / GENERATOR)

    def begun() -> ReleaseRun:
        found = planned(config, known_generator(config), places.private, places.partial)
        return ReleaseRun.begun(config, places, found, generator)

    def get_ready() -> None:
        is_resumed = (places.private / PLAN).is_file()
        try:
            begun()
        except Unfinished:
            raise
        except InputError:
            if not is_resumed:
                places.remove_unfinished()
            raise

    with target_errors(places.release, resumable=True):
        make_private_folder(places.private)
        with joined(places.private, is_ready, get_ready, is_first=share.number == 1):
            refuse_existing(places.release, "release")  # by now, after waiting
            return _share_written(begun(), share)


def _share_written(run: ReleaseRun, share: Share) -> ShareOutcome:
    own = run.places.private / SHARES / share.name
    make_private_folder(own)
    with locked(own) as lock:
        mine = share.of(to_write(run.found))
        numbers = {file.number for file in mine}
        with run.opened_journal(own / JOURNAL, numbers) as log:
            left = [place for place, file in enumerate(mine) if file.number not in log]
            run.write(Chosen(mine, left), log, lock)
            refused = sum(one.record.status == "refused" for one in log.finished())
    return ShareOutcome(run.places.release, share, len(mine), len(left), refused)


def merge(release: Path, *, device: str = "auto", workers: int = 1) -> Outcome:
    """Complete a release whose shares are written.

    Args:
        release: its name, which it gets now.
        device: auto, cpu or cuda.
        workers: DICOM files that are given new UIDs at a time.

    Raises:
        InputError: there is no such run, a share is missing or still at work, or what the run
            kept is damaged.
    """
    places = Places(named(release))
    refuse_existing(places.release, "release")
    if not os.path.isfile(places.private / PLAN):  # noqa: PTH113 (False where no such name can be)
        raise InputError(
            f"{places.release}: no shares of such a release; expected {places.private.name} and "
            f"{places.partial.name} beside it, as `protect --shard` leaves them"
        )
    places.refuse_links()
    settings = kept_settings(places.private, places.partial)
    try:
        config = ProtectConfig.from_fingerprint(settings, places.release, device, workers)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(places.private / CONFIGURATION, places.partial) from None
    found = planned(config, None, places.private, places.partial)
    with target_errors(places.release, resumable=True), locked(places.private):
        run = ReleaseRun.begun(config, places, found, None)
        with run.opened_journal(places.private / JOURNAL) as log:
            left = to_write(found, log)
            if left:
                raise Unfinished(
                    f"{places.release}: {len(left)} of {len(to_write(found))} files are not "
                    f"written yet, such as {left[0].path}; run the shards that did not finish "
                    "again, then merge"
                )
            run.write_cost(applied=False)
            return run.complete(log)
