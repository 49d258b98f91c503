"""One run of `protect`, whole or in shares: how it begins, what it writes, and how it ends.

The release grows in a folder with another name and gets its own only when it is whole, so that a
killed run is never mistaken for a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medshield import journal, manifest, progress
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dicom_release import DicomRelease
from medshield.engines import Order, write_locally
from medshield.errors import InputError
from medshield.fitting import settled
from medshield.generator import KEY, Generator
from medshield.journal import Finished
from medshield.kept_run import keep_plan
from medshield.manifest import Record
from medshield.method_names import plugin_facts, versions_of
from medshield.methods import Method
from medshield.places import PLAN, Places, sync_folder
from medshield.private import make_private_folder, write_private
from medshield.protect_config import ProtectConfig
from medshield.ray_engine import write_on_ray
from medshield.release_card import CardFacts, card_texts
from medshield.release_writer import ReleaseWriter, blocks_of
from medshield.text import epsilon_text
from medshield.versions import versions

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
        card: the names of the files that `--card` added.
    """

    release: Path
    records: tuple[Record, ...]
    summary: dict[str, Any]
    backbone: str | None = None
    card: tuple[str, ...] = ()

    @property
    def refused(self) -> list[Record]:
        """The images that are not in the release."""
        return [record for record in self.records if record.status == "refused"]

    @property
    def private(self) -> Path:
        """The private folder, which holds the key: never publish it."""
        return Places(self.release).private

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "release": str(self.release),
            "private": str(self.private),
            **self.summary,
            **({"card": list(self.card)} if self.card else {}),
            "refused": [{"path": one.path, "reason": one.reason} for one in self.refused],
        }


@dataclass(frozen=True)
class ReleaseRun:
    """A run whose plan and generator are settled, and kept in the private folder.

    Attributes:
        config: what is asked for.
        places: of the release.
        found: the plan.
        generator: makes the perturbations.
        fitted_here: whether it was fitted by this process, from the beginning.
    """

    config: ProtectConfig
    places: Places
    found: Scan
    generator: Generator
    fitted_here: bool

    @classmethod
    def begun(
        cls, config: ProtectConfig, places: Places, found: Scan, generator: Generator | None
    ) -> ReleaseRun:
        """Keep the plan, and fit a generator or take the one that is there.

        Args:
            config: what is asked for.
            places: of the release; its private folder is there.
            found: the plan.
            generator: of `--generator`; None for that of the private folder, or a new one.

        Raises:
            InputError: there is nothing to fit a generator to.
        """
        _open_places(config, found, places)
        generator, fitted_here = settled(config, found, places.private, {}, generator)
        return cls(config, places, found, generator, fitted_here)

    def finished(self, wanted: Container[str] | None = None) -> dict[str, Finished]:
        """By path, what this run and earlier ones, or others at shares, have finished.

        Args:
            wanted: these paths alone; None for all.
        """
        return journal.read(self.places.private, self.places.partial, wanted)

    def write(self, files: Sequence[SourceFile], log: journal.Journal, lock: int) -> list[Finished]:
        """Write files that are no companions.

        Args:
            files: of the plan.
            log: told of each file.
            lock: see `engines.write_in_processes`.
        """
        config = self.config
        order = Order(self.found, self.places, config.device, config.min_ssim)
        blocks = list(blocks_of(files))
        done: list[Finished] = []
        with progress.bar("protecting") as update:

            def keep(one: Finished) -> None:
                done.append(log.add(one))
                update(len(done), len(files))

            if config.engine == "ray":
                write_on_ray(order, blocks, keep, address=config.ray_address)
            else:
                writer = ReleaseWriter(self.found, self.generator, self.places, config.min_ssim)
                write_locally(order, writer, blocks, keep, workers=config.workers, lock=lock)
        return done

    def complete(self, finished: dict[str, Finished], log: journal.Journal) -> Outcome:
        """Write companions and new UIDs, and the papers; then the release gets its name.

        Args:
            finished: every file but companions that are still to be written.
            log: told of each file.

        Raises:
            InputError: not one image could be protected.
        """
        finished = dict(finished)
        dicom = DicomRelease(self.found, self.places, log, self.config.workers, finished)
        left = [file for file in self.found.files if file.path not in finished]
        passes = [dicom.companions(left)]
        if self.config.uid == "new":
            passes.append(dicom.renewed(self.generator.method.setting.key))
        with progress.bar("finishing") as update:
            for results in passes:
                with closing(results):
                    for done in results:
                        finished[done.record.path] = done
                        update(len(finished), len(self.found.files))
        ordered = [finished[name] for name in sorted(finished)]
        return _finish(self.config, self.found, self.generator, self.places, ordered)

    def write_cost(self, *, applied: bool) -> None:
        """Keep what the method cost; null for what another run did, or a part of it.

        Args:
            applied: whether this run has written all images.
        """
        method: Method = self.generator.method
        spent = {
            "fit": method.fitting.to_json() if self.fitted_here else None,
            "apply": method.applying.to_json() if applied else None,
        }
        write_private(self.places.private / COST, json.dumps(spent).encode() + b"\n")


def _open_places(config: ProtectConfig, found: Scan, places: Places) -> None:
    """Make the folders of a run, if they are not there."""
    places.partial.mkdir(parents=True, exist_ok=True)
    make_private_folder(places.scratch)
    keep_plan(config, found, places.private)


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
        **plugin_facts(generator.method.name),
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
        "versions": versions() | versions_of(generator.method.name),
    }
    manifest.write_papers(places.partial, records, summary)
    cards = {}
    if config.card:
        name = places.release.resolve().name
        cards = card_texts(places.partial, records, summary, CardFacts(), name=name)
    for paper, content in cards.items():
        (places.partial / paper).write_bytes(content)
    digests = {paper: hashlib.sha256(content).hexdigest() for paper, content in cards.items()}
    sums = manifest.checksums_text(places.partial, records, digests)
    (places.partial / manifest.CHECKSUMS).write_bytes(sums)
    _write_private_papers(places, generator, finished)
    os.sync()
    places.partial.rename(places.release)
    sync_folder(places.release.parent)
    shutil.rmtree(places.scratch, ignore_errors=True)
    journal.remove(places.private)
    for name in (PLAN, KEY):  # the generator's folder holds the key
        (places.private / name).unlink(missing_ok=True)
    backbone = setting.pretrained.name if setting.pretrained else None
    return Outcome(places.release, tuple(records), summary, backbone, tuple(cards))


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
