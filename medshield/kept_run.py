"""What an unfinished run keeps for whoever goes on with it: settings, plan, key, checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.dataset.kept_plan import has_changed, read_plan, write_plan
from medshield.dataset.scanned import Scan
from medshield.dataset.walk import see_source
from medshield.errors import Unfinished
from medshield.generator_facts import GeneratorFacts
from medshield.key_file import KEY, read_key, write_key
from medshield.keys import Key
from medshield.places import CHECKPOINT, CONFIGURATION, PLAN
from medshield.planning import plan_for
from medshield.private import write_private
from medshield.protect_config import ProtectConfig


def planned(
    config: ProtectConfig, known: GeneratorFacts | None, folder: Path, *companions: Path
) -> Scan:
    """The plan of the run to resume; or a new one, where there is none.

    Args:
        config: what is asked for.
        known: of `--generator`; None where one is still to be fitted.
        folder: where a run keeps its plan.
        companions: what else is to be removed by who wants to start again.

    Raises:
        Unfinished: the run to resume was another one, or what it kept is damaged.
        InputError: nothing can be protected.
    """
    if not os.path.isfile(folder / CONFIGURATION):  # noqa: PTH113 (False where no such name can be)
        return plan_for(config, known)
    earlier, wanted = kept_settings(folder, *companions), config.fingerprint()
    other = sorted(name for name in wanted if earlier.get(name) != wanted[name])
    remove = " and ".join(["it", *(path.name for path in companions)])
    again = f"resume with the same ones, or remove {remove} to start again"
    if other:
        what = f"the interrupted run had other settings ({', '.join(other)})"
        raise Unfinished(f"{folder}: {what}; {again}")
    if not (folder / PLAN).is_file():  # of a release that was finished, and is gone
        return plan_for(config, known)
    see_source(config.source)
    try:
        found = read_plan(folder / PLAN, config.source)
    except ValueError:
        raise damaged(folder / PLAN, *companions) from None
    if has_changed(found):
        raise Unfinished(f"{folder}: the source changed since the run was interrupted; {again}")
    return found


def kept_settings(folder: Path, *companions: Path) -> dict[str, Any]:
    """What the run to resume was asked for, as `ProtectConfig.fingerprint` gives it.

    Args:
        folder: where it keeps that.
        companions: as for `planned`.

    Raises:
        Unfinished: it is damaged.
        OSError: it can't be read.
    """
    path = folder / CONFIGURATION
    try:
        kept = parsed_json(read_bounded(path, MOST_DESCRIPTION_BYTES))
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise damaged(path, *companions)
    return kept


def damaged(path: Path, *companions: Path) -> Unfinished:
    """Says that a file is not as the run to resume kept it, and what to do.

    Args:
        path: the file.
        companions: as for `planned`.
    """
    remove = " and ".join(folder.name for folder in (path.parent, *companions))
    return Unfinished(f"{path}: damaged; restore it, or remove {remove} to start again")


def keep_plan(config: ProtectConfig, found: Scan, folder: Path) -> None:
    """Keep settings and plan, if they are not there; the plan comes last and says that both are."""
    if (folder / PLAN).is_file():
        return
    settings = json.dumps(config.fingerprint(), indent=2)
    write_private(folder / CONFIGURATION, settings.encode() + b"\n")
    write_plan(found, folder / PLAN)


def kept_key(config: ProtectConfig, folder: Path) -> Key:
    """The key of this run, the same again when an interrupted run is resumed."""
    path = folder / KEY
    if not path.is_file():
        key = Key.generate() if config.seed is None else Key.from_seed(config.seed)
        write_key(key, folder)
    return read_key(path)


def forget_checkpoint(folder: Path) -> None:
    """Remove where a fit was, and what a kill left of its next checkpoint."""
    for path in folder.glob(f"{CHECKPOINT}*"):
        path.unlink()
