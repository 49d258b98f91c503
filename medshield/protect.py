"""`medshield protect`: from a folder of images to a release.

scan -> fit -> one pass over the files: decode, perturb, write under a temporary name, rename,
decode again, measure. The release grows in a folder with another name and gets its own only when
it is whole, so that a killed run is never mistaken for a finished one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medshield import journal, manifest, progress
from medshield.dataset.kept_plan import has_changed, read_plan, write_plan
from medshield.dataset.scanned import Scan
from medshield.dataset.walk import see_source
from medshield.dicom_release import DicomRelease, is_companion
from medshield.errors import InputError, SourceLost
from medshield.fitting import fitted, new_key
from medshield.generator import Generator, read_key
from medshield.journal import JOURNAL, Finished
from medshield.keys import Key
from medshield.manifest import Record
from medshield.methods import Method
from medshield.models import pick_device
from medshield.places import (
    CONFIGURATION,
    GENERATOR,
    PLAN,
    Places,
    default_release,
    keep_apart,
    locked,
    named,
    refuse_existing,
    sync_folder,
    target_errors,
)
from medshield.planning import load_generator, plan_for
from medshield.private import make_private_folder, write_private
from medshield.protect_config import ProtectConfig
from medshield.release_writer import ReleaseWriter
from medshield.text import epsilon_text
from medshield.versions import versions

KEY = "key"
SOURCE_CHECKSUMS = "SOURCE_SHA256SUMS"
LABEL_MAP = "labels.json"
COST = "cost.json"


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        release: its folder.
        records: one per source file, sorted by path.
        summary: what `medshield.json` says.
        backbone: the pretrained one that its generator asks, which the release does not tell.
    """

    release: Path
    records: tuple[Record, ...]
    summary: dict[str, Any]
    backbone: str | None = None

    @property
    def refused(self) -> list[Record]:
        """The images that are not in the release."""
        return [record for record in self.records if record.status == "refused"]


def protect(config: ProtectConfig) -> Outcome:
    """Write a release.

    With `resume` and nothing to resume, it starts from the beginning, so that a job script may
    always say so.

    Raises:
        InputError: the source or the target can't be used, or nothing could be protected.
    """
    target = named(config.target) if config.target else default_release(config.source)
    places = Places(target)
    keep_apart(config.source, places.all())
    refuse_existing(target, "release")
    if not config.resume:
        places.refuse_leftovers()
    generator = load_generator(config)
    found = _planned(config, generator, places)
    with target_errors(target, resumable=True):
        make_private_folder(places.private)
        with locked(places.private):
            _open_places(config, found, places)
            kept = places.private / GENERATOR
            if Generator.is_complete(kept):
                generator = Generator.load(kept, pick_device(config.device))
            try:
                return _protect(config, found, generator, places)
            except SourceLost:
                raise
            except InputError:  # nothing can come of it, so nothing is worth keeping
                places.remove_unfinished()
                raise


def _protect(
    config: ProtectConfig, found: Scan, generator: Generator | None, places: Places
) -> Outcome:
    fitted_here = generator is None
    if generator is None:
        generator = fitted(config, found, _run_key(config, places), refused={})
    if not Generator.is_complete(places.private / GENERATOR):
        generator.save(places.private / GENERATOR)
    path = places.private / JOURNAL
    finished = journal.read(path, places.partial)
    from_the_start = not finished
    todo = [file for file in found.files if file.path not in finished]
    companions = [file for file in todo if is_companion(file)]
    first = [file for file in todo if not is_companion(file)]
    with journal.opened(path, finished.values()) as log, progress.bar("protecting") as update:
        writer = ReleaseWriter(found, generator, places, log, config.workers, config.min_ssim)
        dicom = DicomRelease(found, places, log, config.workers, finished)
        passes = [writer.write(first), dicom.companions(companions)]
        if config.uid == "new":
            passes.append(dicom.renewed(generator.method.setting.key))
        for results in passes:
            with closing(results):
                for done in results:
                    finished[done.record.path] = done
                    update(len(finished), len(found.files))
    _write_cost(places, generator.method, fitted=fitted_here, applied=from_the_start)
    return _finish(config, found, generator, places, [finished[name] for name in sorted(finished)])


def _write_cost(places: Places, method: Method, *, fitted: bool, applied: bool) -> None:
    """What the method cost; null for what another run did, or a part of it."""
    spent = {
        "fit": method.fitting.to_json() if fitted else None,
        "apply": method.applying.to_json() if applied else None,
    }
    write_private(places.private / COST, json.dumps(spent).encode() + b"\n")


def _run_key(config: ProtectConfig, places: Places) -> Key:
    """The key of this run, the same again when an interrupted run is resumed."""
    path = places.private / KEY
    if not path.is_file():
        write_private(path, new_key(config).secret.hex().encode() + b"\n")
    return read_key(path)


def _finish(
    config: ProtectConfig,
    found: Scan,
    generator: Generator,
    places: Places,
    finished: list[Finished],
) -> Outcome:
    """Write the papers, and give the release its name.

    Raises:
        InputError: not one image could be protected.
    """
    records = [done.record for done in finished]
    counts = Counter(record.status for record in records)
    if not counts["protected"]:
        first = next(record for record in records if record.status == "refused")
        raise InputError(f"no image could be protected; the first: {first.path}: {first.reason}")
    setting = generator.method.setting
    summary = {
        "format_version": manifest.FORMAT_VERSION,
        "method": generator.method.name,
        "epsilon": epsilon_text(setting.budget.epsilon),
        **({} if config.min_ssim is None else {"min_ssim": config.min_ssim}),
        "task": setting.task.name,
        "channels": setting.channels,
        "labels_used": generator.clusters is None,
        "intensity": {
            kind: {"low": r.low, "high": r.high, "reason": r.reason}
            for kind, r in sorted(found.ranges.items())
        },
        "handling": {"uid": config.uid, **asdict(config.handling)},
        "counts": dict(sorted(counts.items())),
        "versions": versions(),
    }
    manifest.write_papers(places.partial, records, summary)
    _write_private_papers(places, generator, finished)
    os.sync()
    places.partial.rename(places.release)
    sync_folder(places.release.parent)
    shutil.rmtree(places.scratch, ignore_errors=True)
    for name in (JOURNAL, PLAN, KEY):  # the generator's folder holds the key
        (places.private / name).unlink(missing_ok=True)
    backbone = setting.pretrained.name if setting.pretrained else None
    return Outcome(places.release, tuple(records), summary, backbone)


def _write_private_papers(places: Places, generator: Generator, finished: list[Finished]) -> None:
    """What only the owner needs: the source's checksums and the meaning of class numbers."""
    sums = "".join(
        manifest.checksum_line(done.source_checksum, done.record.path)
        for done in finished
        if done.source_checksum
    )
    write_private(places.private / SOURCE_CHECKSUMS, sums.encode("utf-8", "surrogateescape"))
    task = generator.method.setting.task
    labels = {"task": task.name, "classes": list(task.classes)}
    write_private(places.private / LABEL_MAP, json.dumps(labels, indent=2).encode() + b"\n")


def _planned(config: ProtectConfig, generator: Generator | None, places: Places) -> Scan:
    """The plan of the run to resume; or a new one, where there is none.

    Raises:
        InputError: the run to resume was another one, or nothing can be protected.
    """
    configuration = places.private / CONFIGURATION
    if not os.path.isfile(configuration):  # noqa: PTH113 (False where no such name can be)
        return plan_for(config, generator)
    earlier, wanted = json.loads(configuration.read_text()), config.fingerprint()
    other = sorted(name for name in wanted if earlier.get(name) != wanted[name])
    if other:
        raise _another_run(places, f"the interrupted run had other settings ({', '.join(other)})")
    if not (places.private / PLAN).is_file():  # of a release that was finished, and is gone
        return plan_for(config, generator)
    see_source(config.source)
    found = read_plan(places.private / PLAN, config.source)
    if has_changed(found):
        raise _another_run(places, "the source changed since the run was interrupted")
    return found


def _another_run(places: Places, what: str) -> InputError:
    return InputError(
        f"{places.private}: {what}; resume with the same ones, or remove it and "
        f"{places.partial.name} to start again"
    )


def _open_places(config: ProtectConfig, found: Scan, places: Places) -> None:
    """Make the folders of a run, or clean those of the run to resume."""
    places.partial.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(places.scratch, ignore_errors=True)
    make_private_folder(places.scratch)
    if not (places.private / PLAN).is_file():
        write_plan(found, places.private / PLAN)
        settings = json.dumps(config.fingerprint(), indent=2)
        write_private(places.private / CONFIGURATION, settings.encode() + b"\n")
