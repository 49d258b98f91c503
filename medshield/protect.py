"""`medshield protect` and `medshield fit`: from a folder of images to a release.

scan -> fit -> one pass over the files: decode, perturb, write under a temporary name, rename,
decode again, measure. The release grows in a folder with another name and gets its own only when
it is whole, so that a killed run is never mistaken for a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medshield import __version__, journal, manifest, progress
from medshield.budget import Budget
from medshield.clusters import Clusters
from medshield.dataset import examples
from medshield.dataset.annotations import AnnotationOptions
from medshield.dataset.scan import Scan, SourceFile, scan
from medshield.dicom_release import DicomRelease, is_companion
from medshield.errors import InputError
from medshield.formats.base import DEFAULT_HANDLING, Handling
from medshield.generator import Generator, read_key
from medshield.journal import JOURNAL, Finished
from medshield.keys import Key
from medshield.manifest import Record
from medshield.methods import METHODS, Method, Setting
from medshield.models import pick_device
from medshield.places import (
    CONFIGURATION,
    GENERATOR,
    Places,
    default_release,
    keep_apart,
    locked,
    named,
    refuse_existing,
    target_errors,
)
from medshield.pretrained import Backbone, read_backbone
from medshield.private import make_private_folder, write_private
from medshield.release_writer import ReleaseWriter
from medshield.tasks import TASKS
from medshield.text import epsilon_text
from medshield.versions import versions

MOST_FIT_EXAMPLES = 20_000
KEY = "key"
SOURCE_CHECKSUMS = "SOURCE_SHA256SUMS"
LABEL_MAP = "labels.json"
COST = "cost.json"


@dataclass(frozen=True)
class ProtectConfig:
    """What `protect` and `fit` are asked to do.

    Attributes:
        source: the folder of images; never written to.
        target: the release, or the generator for `fit`; None for the source's name + "-protected".
        method: a key of METHODS.
        epsilon: radius as a fraction of the intensity range; None with a generator, which has one.
        annotations: where labels or masks are.
        intensity: the text of `--intensity`.
        image_size: side of the grid that the perturbation is made on, px; None to choose.
        seed: for a repeatable key; None for a random one.
        generator: apply this one instead of fitting.
        device: auto, cpu or cuda.
        workers: files read and written at a time.
        resume: go on where an interrupted run stopped.
        effort: multiplies the training steps of the method.
        surrogate_weights: FILE or NAME=FILE of ImageNet weights, for a surrogate that starts from
            them; None for none.
        handling: what becomes of thumbnails and signatures.
        uid: "keep" the SOP Instance UIDs of DICOM files, or "new" ones from the key.
        min_ssim: structural similarity that every frame keeps, in (0, 1); None for no such bound.
    """

    source: Path
    target: Path | None = None
    method: str = "robust"
    epsilon: Fraction | None = None
    annotations: AnnotationOptions = field(default_factory=AnnotationOptions)
    intensity: str = "auto"
    image_size: int | None = None
    seed: int | None = None
    generator: Path | None = None
    device: str = "auto"
    workers: int = 2
    resume: bool = False
    effort: float = 1.0
    surrogate_weights: Path | None = None
    handling: Handling = DEFAULT_HANDLING
    uid: Literal["keep", "new"] = "keep"
    min_ssim: float | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for `--resume`, and what `verify` needs to read the source."""
        annotations = replace(
            self.annotations,
            labels=_absolute(self.annotations.labels, self.source),
            masks=_absolute(self.annotations.masks, self.source),
        )
        settings = asdict(replace(self, annotations=annotations))
        for name in ("workers", "device", "resume", "target"):
            del settings[name]
        settings["source"] = str(self.source.resolve())
        settings["generator"] = self.generator and str(self.generator.resolve())
        settings["version"] = __version__
        return json.loads(json.dumps(settings, default=str))  # type: ignore[no-any-return]


def _absolute(path: Path | None, source: Path) -> Path | None:
    """What an option names, from the working folder or else from the source, wherever we are."""
    candidates = [base / path for base in (Path.cwd(), source.absolute())] if path else []
    return next((Path(os.path.normpath(found)) for found in candidates if found.exists()), path)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        release: its folder.
        records: one per source file, sorted by path.
        summary: what `medshield.json` says.
    """

    release: Path
    records: tuple[Record, ...]
    summary: dict[str, Any]

    @property
    def refused(self) -> list[Record]:
        """The images that are not in the release."""
        return [record for record in self.records if record.status == "refused"]


@dataclass(frozen=True)
class FitOutcome:
    """What `fit` made.

    Attributes:
        generator: saved.
        refused: path and reason of the images that it did not learn from.
    """

    generator: Generator
    refused: dict[str, str]


def plan(config: ProtectConfig) -> Scan:
    """The scan that `protect` would act on, with every file's radius; writes nothing.

    Raises:
        InputError: nothing in the folder can be protected.
    """
    found = _plan(config, _load_generator(config))
    assert found.annotations is not None  # noqa: S101 (`_plan` saw to it)
    _backbone(config, found.annotations.task)
    return found


def _plan(config: ProtectConfig, generator: Generator | None) -> Scan:
    epsilon, annotations = config.epsilon, config.annotations
    known = generator.method.setting if generator else None
    if generator and known:
        if epsilon is not None and epsilon != known.budget.epsilon:
            raise InputError(
                f"--eps: the generator was fitted for {epsilon_text(known.budget.epsilon)}; "
                "leave --eps out, or fit another generator"
            )
        if annotations.task not in ("auto", known.task.name):
            raise InputError(f"--task: the generator was fitted for {known.task.name}")
        epsilon = known.budget.epsilon
        annotations = _as_fitted(annotations, generator)
    if epsilon is None:
        raise InputError("--eps is missing; 8/255 is the usual radius")
    with progress.bar("reading") as update:
        found = scan(
            config.source,
            annotations,
            intensity=config.intensity,
            epsilon=epsilon,
            known_ranges=generator.ranges if generator else {},
            known_classes=known.task.classes if known else None,
            handling=config.handling,
            workers=config.workers,
            progress=update,
        )
    if found.problem:
        raise InputError(f"{config.source}: {found.problem}")
    if not found.with_action("protect"):
        refused = found.with_action("refuse")
        why = f" ({len(refused)} refused; the first: {refused[0].path}: {refused[0].reason})"
        raise InputError(f"{config.source}: no image can be protected{why if refused else ''}")
    return found


def _as_fitted(annotations: AnnotationOptions, generator: Generator) -> AnnotationOptions:
    """The options with the task of a generator, and with labels only if it was fitted to some.

    Raises:
        InputError: the user asks for the other.
    """
    if generator.clusters is None and annotations.no_labels:
        raise InputError(
            "--labels none: the generator was fitted to labels, and needs them; leave it out, or "
            "fit another generator with --labels none"
        )
    for option, value in (
        ("--labels", annotations.labels),
        ("--label-col", annotations.label_column),
        ("--label-tag", annotations.label_tag),
    ):
        if generator.clusters and value is not None:
            raise InputError(
                f"{option}: the generator was fitted without labels, and uses none; leave it out, "
                "or fit another generator with it"
            )
    task = generator.method.setting.task.name
    return replace(annotations, task=task, no_labels=generator.clusters is not None)


def _load_generator(config: ProtectConfig) -> Generator | None:
    if config.generator is None:
        return None
    return Generator.load(config.generator, pick_device(config.device))


def _key(config: ProtectConfig) -> Key:
    return Key.generate() if config.seed is None else Key.from_seed(config.seed)


def fit(config: ProtectConfig) -> FitOutcome:
    """Learn a generator and save it to `config.target`, whole or not at all.

    Raises:
        InputError: the source or the target can't be used.
    """
    if config.target is None:
        raise InputError("-o GENERATOR is missing; name the folder to write")
    target = named(config.target)
    growing = Places(target).partial
    keep_apart(config.source, (target, growing))
    refuse_existing(target, "generator")
    found = _plan(config, None)
    refused = {file.path: file.reason for file in found.with_action("refuse")}
    with target_errors(target, resumable=False):
        make_private_folder(growing)  # before hours of fitting, not after
        try:
            generator = _fitted(config, found, _key(config), refused)
            generator.save(growing)
            growing.rename(target)
        except BaseException:
            shutil.rmtree(growing, ignore_errors=True)
            raise
    return FitOutcome(generator, refused)


def _fitted(config: ProtectConfig, found: Scan, key: Key, refused: dict[str, str]) -> Generator:
    """Fit the method on the scanned images; files that can't be read go to `refused`."""
    assert found.annotations is not None  # noqa: S101 (`_plan` saw to both)
    assert config.epsilon is not None  # noqa: S101
    files = found.with_action("protect")
    setting = Setting(
        task=TASKS[found.annotations.task](found.annotations.classes),
        channels=found.channels,
        size=examples.auto_size(files, config.image_size),
        budget=Budget(config.epsilon),
        key=key,
        device=pick_device(config.device),
        effort=config.effort,
        pretrained=_backbone(config, found.annotations.task),
    )
    method = METHODS[config.method](setting)
    clusters = None
    if setting.task.name in method.trains or not found.annotations.labelled:
        frames = _chosen_frames(files, key)
        with progress.bar("loading") as update:
            known = examples.load(
                found,
                [file for file in files if file.path in frames],
                channels=setting.channels,
                size=setting.size,
                frames=frames,
                refused=refused,
                progress=update,
            )
        targets = known.targets
        if not found.annotations.labelled:
            with progress.bar("finding clusters") as update:
                clusters = Clusters.fit(
                    known.images, len(setting.task.classes), key, progress=update
                )
            targets = clusters.assign(known.images)
        with progress.bar(f"fitting {config.method}") as update:
            method.fit(known.images, targets, lambda share: update(round(1000 * share), 1000))
    return Generator(method, found.ranges, clusters)


def _backbone(config: ProtectConfig, task: str) -> Backbone | None:
    """What `--surrogate-weights` names.

    Raises:
        InputError: it can't be used, or the method has no use for it.
    """
    if config.surrogate_weights is None:
        return None
    if task not in METHODS[config.method].asks_pretrained:
        raise InputError(
            f"--surrogate-weights: {config.method} on {task} asks no pretrained model; leave them "
            "out, or take --method robust on images with labels"
        )
    return read_backbone(config.surrogate_weights)


def _chosen_frames(files: list[SourceFile], key: Key) -> dict[str, NDArray[np.int64]]:
    """The frames that a method learns from: all, or as many as fit into memory, by the key."""
    starts = np.cumsum([0, *(file.shape[0] for file in files)])
    order = key.numpy("fit", "subset").permutation(starts[-1])[:MOST_FIT_EXAMPLES]
    owners = np.searchsorted(starts, order, side="right") - 1
    return {
        files[owner].path: np.sort(order[owners == owner] - starts[owner])
        for owner in np.unique(owners)
    }


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
    generator = _load_generator(config)
    found = _plan(config, generator)
    with target_errors(target, resumable=True):
        make_private_folder(places.private)
        with locked(places.private):
            _open_places(places, config.fingerprint() | {"plan": _digest(found)})
            kept = places.private / GENERATOR
            if Generator.is_complete(kept):
                generator = Generator.load(kept, pick_device(config.device))
            try:
                return _protect(config, found, generator, places)
            except InputError:  # nothing can come of it, so nothing is worth keeping
                places.remove_unfinished()
                raise


def _protect(
    config: ProtectConfig, found: Scan, generator: Generator | None, places: Places
) -> Outcome:
    fitted_here = generator is None
    if generator is None:
        generator = _fitted(config, found, _run_key(config, places), refused={})
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
        write_private(path, _key(config).secret.hex().encode() + b"\n")
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
    shutil.rmtree(places.scratch, ignore_errors=True)
    for name in (JOURNAL, KEY):  # the generator's folder holds the key
        (places.private / name).unlink(missing_ok=True)
    return Outcome(places.release, tuple(records), summary)


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


def _digest(found: Scan) -> str:
    """What the plan hangs on, so that a source that changed is not resumed as if it had not."""
    digest = hashlib.sha256()
    for file in found.files:
        status = (found.source / file.path).lstat()
        facts = [file.path, file.action, status.st_size, status.st_mtime_ns]
        if file.annotation:
            facts += [file.annotation.label, file.annotation.findings, file.annotation.mask]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _open_places(places: Places, wanted: dict[str, Any]) -> None:
    """Make the folders of a run, or find those of the run to resume.

    Raises:
        InputError: the run to resume was another one.
    """
    configuration = places.private / CONFIGURATION
    if configuration.is_file():
        _same_run(places, json.loads(configuration.read_text()), wanted)
    places.partial.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(places.scratch, ignore_errors=True)
    make_private_folder(places.scratch)
    write_private(configuration, json.dumps(wanted, indent=2).encode() + b"\n")


def _same_run(places: Places, earlier: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises: InputError: settings or source are not those of the interrupted run."""
    other = sorted(name for name in wanted if earlier.get(name) != wanted[name])
    if not other:
        return
    what = (
        "the source changed since the run was interrupted"
        if other == ["plan"]
        else f"the interrupted run had other settings ({', '.join(other)})"
    )
    raise InputError(
        f"{places.private}: {what}; resume with the same ones, or remove it and "
        f"{places.partial.name} to start again"
    )
