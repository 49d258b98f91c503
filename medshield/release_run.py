"""One run of `protect`, whole or in shares: how it begins, what it writes, and how it ends.

The release grows in a folder with another name and gets its own only when it is whole, so that a
killed run is never mistaken for a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medshield import journal, manifest, progress
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dicom_release import DicomRelease, is_companion
from medshield.engines import Order, write_locally
from medshield.errors import InputError
from medshield.fitting import settled
from medshield.generator import Generator
from medshield.journal import Finished, Journal
from medshield.kept_lines import Chosen
from medshield.kept_run import keep_plan
from medshield.key_file import KEY
from medshield.manifest import Record
from medshield.method_names import plugin_facts, versions_of
from medshield.methods import Method
from medshield.places import PLAN, Places, sync_folder
from medshield.private import make_private_folder, private_file, write_private
from medshield.protect_config import ProtectConfig
from medshield.ray_engine import write_on_ray
from medshield.release_card import CardFacts, card_texts
from medshield.release_writer import Blocks, ReleaseWriter, work_of
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
        records: one per source file, sorted by path; each is read from the manifest when it is
            asked for.
        summary: what `medshield.json` says.
        backbone: the pretrained one that its generator asks, which the release does not tell.
        card: the names of the files that `--card` added.
    """

    release: Path
    records: Sequence[Record]
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


def to_write(found: Scan, log: Container[int] = ()) -> Sequence[SourceFile]:
    """The files of a plan that are no companions, and are not finished.

    Args:
        found: the plan.
        log: the numbers of what is finished.
    """
    wanted = (file.number for file in found.files if not is_companion(file))
    return Chosen(found.files, array("q", (number for number in wanted if number not in log)))


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

    @contextmanager
    def opened_journal(self, path: Path, wanted: Container[int] | None = None) -> Iterator[Journal]:
        """A journal that begins with what this run, or others at shares, have finished.

        Args:
            path: its file.
            wanted: the numbers of some files of the plan; None for all.
        """
        places, count = self.places, len(self.found.files)
        earlier = journal.whole(places.private, places.partial, count, wanted)
        with journal.opened(path, earlier, count) as log:
            yield log

    def write(self, files: Sequence[SourceFile], log: Journal, lock: int) -> None:
        """Write files that are no companions.

        Args:
            files: of the plan.
            log: told of each file.
            lock: see `engines.write_in_processes`.
        """
        config = self.config
        order = Order(self.found, self.places, config.device, config.min_ssim)
        blocks = Blocks.of(files)
        done, work, total = 0, 0.0, work_of(files)
        with progress.bar("protecting") as update:

            def keep(one: Finished) -> None:
                nonlocal done
                log.add(one)
                done += 1
                update(done, len(files), work / total)

            def tell(gained: float) -> None:
                nonlocal work
                work += gained
                update(done, len(files), min(1, work / total))

            if config.engine == "ray":
                write_on_ray(order, blocks, keep, address=config.ray_address, tell=tell)
            else:
                writer = ReleaseWriter(self.found, self.generator, self.places, config.min_ssim)
                write_locally(
                    order, writer, blocks, keep, workers=config.workers, lock=lock, tell=tell
                )

    def complete(self, log: Journal) -> Outcome:
        """Write companions and new UIDs, and the papers; then the release gets its name.

        Args:
            log: has every file but companions that are still to be written.

        Raises:
            InputError: not one image could be protected.
        """
        dicom = DicomRelease(self.found, self.places, log, self.config.workers)
        left = [number for number in range(len(self.found.files)) if number not in log]
        passes = [dicom.companions(Chosen(self.found.files, left))]
        if self.config.uid == "new":
            passes.append(dicom.renewed(self.generator.method.setting.key))
        with progress.bar("finishing") as update:
            for results in passes:
                with closing(results):
                    for _ in results:
                        update(len(log), len(self.found.files))
        return _finish(self.config, self.found, self.generator, self.places, log)

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
    log: Journal,
) -> Outcome:
    """Write the papers, and give the release its name.

    Raises:
        InputError: not one image could be protected.
    """
    records = manifest.write_manifest(places.partial, _records(log, places.private))
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
    manifest.write_summary(places.partial, summary)
    cards = {}
    if config.card:
        name = places.release.resolve().name
        cards = card_texts(places.partial, records, summary, CardFacts(), name=name)
    for paper, content in cards.items():
        (places.partial / paper).write_bytes(content)
    digests = {paper: hashlib.sha256(content).hexdigest() for paper, content in cards.items()}
    with (places.partial / manifest.CHECKSUMS).open("wb") as file:
        file.writelines(manifest.checksum_lines(places.partial, records, digests))
    task = {"task": setting.task.name, "classes": list(setting.task.classes)}
    write_private(places.private / LABEL_MAP, json.dumps(task, indent=2).encode() + b"\n")
    os.sync()
    places.partial.rename(places.release)
    sync_folder(places.release.parent)
    shutil.rmtree(places.scratch, ignore_errors=True)
    journal.remove(places.private)
    for name in (PLAN, KEY):  # the generator's folder holds the key
        (places.private / name).unlink(missing_ok=True)
    backbone = setting.pretrained.name if setting.pretrained else None
    return Outcome(places.release, records, summary, backbone, tuple(cards))


def _records(log: Journal, private: Path) -> Iterator[Record]:
    """Every line of the manifest; the source's checksums go into the private folder meanwhile."""
    with private_file(private / SOURCE_CHECKSUMS) as sums:
        for done in log.finished():
            if done.source_checksum:
                line = manifest.checksum_line(done.source_checksum, done.record.path)
                sums.write(line.encode("utf-8", "surrogateescape"))
            yield done.record
