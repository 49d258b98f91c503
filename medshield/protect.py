"""`medshield protect` and `medshield fit`: from a folder of images to a release.

scan -> fit -> one pass over the files: decode, perturb, write under a temporary name, rename,
decode again, measure. The release grows in a folder with another name and gets its own only when
it is whole, so that a killed run is never mistaken for a finished one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medshield import manifest, progress
from medshield.augmentation import resized
from medshield.budget import Budget
from medshield.dataset import examples
from medshield.dataset.annotations import AnnotationOptions
from medshield.dataset.scan import Scan, SourceFile, scan
from medshield.errors import InputError, RefusedFile
from medshield.formats import DecodedImage, codec_named
from medshield.generator import Generator
from medshield.keys import Key
from medshield.manifest import Record
from medshield.methods import METHODS, Setting
from medshield.methods.base import BLOCK
from medshield.metrics import psnr, ssim
from medshield.models import pick_device
from medshield.places import CONFIGURATION, GENERATOR, Places
from medshield.private import make_private_folder, write_private
from medshield.tasks import TASKS
from medshield.versions import versions

MOST_FIT_EXAMPLES = 20_000
JOURNAL = "progress.jsonl"
SOURCE_CHECKSUMS = "SOURCE_SHA256SUMS"
LABEL_MAP = "labels.json"


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
    """

    source: Path
    target: Path | None = None
    method: str = "em"
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

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for `--resume`, and what `verify` needs to read the source."""
        settings = asdict(self)
        for name in ("workers", "device", "resume", "target"):
            del settings[name]
        settings["source"] = str(self.source.resolve())
        return json.loads(json.dumps(settings, default=str))  # type: ignore[no-any-return]


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


def plan(config: ProtectConfig) -> Scan:
    """The scan that `protect` would act on, with every file's radius; writes nothing.

    Raises:
        InputError: nothing in the folder can be protected.
    """
    generator = _load_generator(config)
    return _plan(config, generator)


def _plan(config: ProtectConfig, generator: Generator | None) -> Scan:
    epsilon = generator.method.setting.budget.epsilon if generator else config.epsilon
    if epsilon is None:
        raise InputError("--eps is missing; 8/255 is the usual radius")
    with progress.bar("reading") as update:
        found = scan(
            config.source,
            config.annotations,
            intensity=config.intensity,
            epsilon=epsilon,
            known_ranges=generator.ranges if generator else {},
            known_classes=generator.method.setting.task.classes if generator else None,
            workers=config.workers,
            progress=update,
        )
    if found.problem:
        raise InputError(found.problem)
    if not found.with_action("protect"):
        refused = found.with_action("refuse")
        why = f"; the first: {refused[0].path}: {refused[0].reason}" if refused else ""
        raise InputError(
            f"{config.source}: no image can be protected ({len(refused)} refused{why})"
        )
    return found


def _load_generator(config: ProtectConfig) -> Generator | None:
    if config.generator is None:
        return None
    return Generator.load(config.generator, pick_device(config.device))


def _key(config: ProtectConfig) -> Key:
    return Key.generate() if config.seed is None else Key.from_seed(config.seed)


def fit(config: ProtectConfig) -> Generator:
    """Learn a generator and save it to `config.target`.

    Raises:
        InputError: the source or the target can't be used.
    """
    if config.target is None:
        raise InputError("-o GENERATOR is missing; name the folder to write")
    _refuse_existing(config.target, "generator")
    _keep_apart(config.source, config.target)
    found = _plan(config, None)
    with _target_errors(config.target):
        generator = _fitted(config, found, _key(config), refused={})
        generator.save(config.target)
    return generator


def _fitted(
    config: ProtectConfig, found: Scan, key: Key, refused: dict[str, str]
) -> Generator:
    """Fit the method on the scanned images; files that can't be read go to `refused`."""
    assert found.annotations is not None
    assert config.epsilon is not None
    files = found.with_action("protect")
    setting = Setting(
        task=TASKS[found.annotations.task](found.annotations.classes),
        channels=found.channels,
        size=examples.auto_size(files, config.image_size),
        budget=Budget(config.epsilon),
        key=key,
        device=pick_device(config.device),
        effort=config.effort,
    )
    method = METHODS[config.method](setting)
    if method.trains:
        with progress.bar("loading") as update:
            known = examples.load(
                found,
                files,
                channels=setting.channels,
                size=setting.size,
                refused=refused,
                progress=update,
            )
        if len(known) > MOST_FIT_EXAMPLES:
            order = key.numpy("fit", "subset").permutation(len(known))
            known = known.rows(np.sort(order[:MOST_FIT_EXAMPLES]))
        with progress.bar(f"fitting {config.method}") as update:
            method.fit(
                known.images, known.targets, lambda share: update(round(1000 * share), 1000)
            )
    return Generator(method, found.ranges)


def protect(config: ProtectConfig) -> Outcome:
    """Write a release.

    Raises:
        InputError: the source or the target can't be used, or nothing could be protected.
    """
    source = config.source
    target = config.target or source.resolve().with_name(source.resolve().name + "-protected")
    places = Places(target)
    _keep_apart(source, target)
    _refuse_existing(target, "release")
    if not config.resume:
        _refuse_leftovers(places)
    generator = _load_generator(config)
    found = _plan(config, generator)
    with _target_errors(target):
        _open_places(places, config)
        try:
            return _protect(config, found, generator, places)
        except InputError:
            shutil.rmtree(places.partial, ignore_errors=True)
            shutil.rmtree(places.private, ignore_errors=True)
            raise


def _protect(
    config: ProtectConfig, found: Scan, generator: Generator | None, places: Places
) -> Outcome:
    refused: dict[str, str] = {}
    kept = places.private / GENERATOR
    if Generator.is_complete(kept):
        generator = Generator.load(kept, pick_device(config.device))
    else:
        if generator is None:
            generator = _fitted(config, found, _journaled_key(config, places), refused)
        generator.save(kept)
    records = _read_journal(places)
    todo = [file for file in found.files if file.path not in records]
    with (places.private / JOURNAL).open("a") as journal, progress.bar("protecting") as update:
        for record, checksum in _released(config, found, generator, places, todo):
            records[record.path] = (record, checksum)
            journal.write(json.dumps([record.to_line(), checksum]) + "\n")
            journal.flush()
            update(len(records), len(found.files))
    return _finish(found, generator, places, records)


def _journaled_key(config: ProtectConfig, places: Places) -> Key:
    """The key of this run, the same again when an interrupted run is resumed."""
    path = places.private / "key"
    if path.is_file():
        return Key(bytes.fromhex(path.read_text().strip()))
    key = _key(config)
    write_private(path, key.secret.hex().encode() + b"\n")
    return key


def _released(
    config: ProtectConfig,
    found: Scan,
    generator: Generator,
    places: Places,
    todo: list[SourceFile],
) -> Iterator[tuple[Record, str | None]]:
    """Records of the files as they are done, each with the source's checksum."""
    for file in todo:
        if file.action == "copy":
            yield _copied(config.source, places, file)
        elif file.action != "protect":
            status = {"omit": "omitted", "refuse": "refused"}[file.action]
            yield Record(file.path, status, file.format, reason=file.reason), None
    images = [file for file in todo if file.action == "protect"]
    with ThreadPoolExecutor(config.workers) as pool:
        for block in _blocks(images):
            decoded = list(pool.map(lambda file: _decoded(found, file), block))
            sound = [pair for pair in zip(block, decoded, strict=True) if not isinstance(pair[1], str)]
            deltas = _deltas(found, generator, sound)  # type: ignore[arg-type]
            jobs = [
                pool.submit(_written, found, generator, places, file, image, delta)  # type: ignore[arg-type]
                for (file, image), delta in zip(sound, deltas, strict=True)
            ]
            for file, image in zip(block, decoded, strict=True):
                if isinstance(image, str):
                    yield Record(file.path, "refused", file.format, reason=image), None
            for job in jobs:
                yield job.result()


def _blocks(files: list[SourceFile]) -> Iterator[list[SourceFile]]:
    """Runs of files with at least BLOCK frames each, so that few places in a block stay empty."""
    block: list[SourceFile] = []
    frames = 0
    for file in files:
        block.append(file)
        frames += file.shape[0]
        if frames >= BLOCK:
            yield block
            block, frames = [], 0
    if block:
        yield block


def _decoded(found: Scan, file: SourceFile) -> DecodedImage | str:
    """The image, or why it is refused."""
    try:
        return codec_named(file.format).decode(found.source / file.path)
    except RefusedFile as error:
        return str(error)
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _deltas(
    found: Scan, generator: Generator, block: list[tuple[SourceFile, DecodedImage]]
) -> list[torch.Tensor]:
    """The delta of each image on the working grid, (frames, channels, size, size)."""
    if not block:
        return []
    setting = generator.method.setting
    images = [
        examples.image_tensor(image, found, setting.channels, setting.size) for _, image in block
    ]
    targets = [examples.target_tensor(file, found, setting.size) for file, _ in block]
    names = [name for file, _ in block for name in examples.frame_names(file)]
    deltas = generator.method.perturb(torch.cat(images), torch.cat(targets), names)
    return list(deltas.split([len(image) for image in images]))


def _written(
    found: Scan,
    generator: Generator,
    places: Places,
    file: SourceFile,
    image: DecodedImage,
    delta: torch.Tensor,
) -> tuple[Record, str | None]:
    """Write one image into the release and measure what was written."""
    intensity = found.ranges[file.kind]
    epsilon = generator.method.setting.budget.epsilon
    radius = image.epsilon_stored(intensity, epsilon)
    if image.is_grey:
        delta = delta.mean(1, keepdim=True)
    delta = resized(delta, *image.stored.shape[1:3]).expand(-1, image.colour_channels, -1, -1)
    stored = image.moved(delta.numpy(), intensity, epsilon)
    codec = codec_named(file.format)
    target = places.partial / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    try:
        notes = codec.write(image, stored, temporary, radius)
        written = _remeasured(codec_named(file.format).decode(temporary), image, radius)
    except RefusedFile as error:
        temporary.unlink(missing_ok=True)
        return Record(file.path, "refused", file.format, reason=str(error)), None
    temporary.replace(target)
    width = intensity.width / abs(image.slope)
    moved = np.abs(written.astype(np.float64) - image.stored.astype(np.float64))
    colour = image.colour_channels
    record = Record(
        path=file.path,
        status="protected",
        format=file.format,
        sha256=manifest.sha256(target),
        bytes=target.stat().st_size,
        epsilon_stored=radius,
        max_abs_delta=float(np.nanmax(moved, initial=0.0)),
        psnr=psnr(image.stored[..., :colour], written[..., :colour], width),
        ssim=ssim(image.stored[..., :colour], written[..., :colour], width),
        notes=notes,
    )
    return record, manifest.sha256(found.source / file.path)


def _remeasured(
    again: DecodedImage, image: DecodedImage, radius: float
) -> np.ndarray[Any, np.dtype[Any]]:
    """The stored values of the written file, if they keep the promise.

    Raises:
        RefusedFile: another shape, or a value further from the source than epsilon.
    """
    if again.stored.shape != image.stored.shape:
        raise RefusedFile("the written file decodes to another size; report this file's kind")
    moved = np.abs(again.stored.astype(np.float64) - image.stored.astype(np.float64))
    if not np.nanmax(moved, initial=0.0) <= radius:
        raise RefusedFile("the written file left the bound when decoded; its coding can't hold it")
    return again.stored


def _copied(source: Path, places: Places, file: SourceFile) -> tuple[Record, str | None]:
    target = places.partial / file.path
    if file.path in manifest.OWN_FILES:
        return Record(file.path, "omitted", file.format, reason="papers of another release"), None
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    shutil.copyfile(source / file.path, temporary)
    temporary.replace(target)
    digest = manifest.sha256(target)
    size = target.stat().st_size
    record = Record(
        file.path, "copied", file.format, sha256=digest, bytes=size, reason=file.reason
    )
    return record, digest


def _finish(
    found: Scan,
    generator: Generator,
    places: Places,
    journal: dict[str, tuple[Record, str | None]],
) -> Outcome:
    assert found.annotations is not None
    records = [journal[path][0] for path in sorted(journal)]
    counts = Counter(record.status for record in records)
    if not counts["protected"]:
        first = next(record for record in records if record.status == "refused")
        raise InputError(f"no image could be protected; the first: {first.path}: {first.reason}")
    setting = generator.method.setting
    summary = {
        "format_version": manifest.FORMAT_VERSION,
        "method": generator.method.name,
        "epsilon": str(setting.budget.epsilon),
        "task": setting.task.name,
        "intensity": {
            kind: {"low": r.low, "high": r.high, "reason": r.reason}
            for kind, r in sorted(found.ranges.items())
        },
        "counts": dict(sorted(counts.items())),
        "versions": versions(),
    }
    manifest.write_papers(places.partial, records, summary)
    sums = "".join(
        manifest.checksum_line(digest, path)
        for path, (_, digest) in sorted(journal.items())
        if digest
    )
    write_private(places.private / SOURCE_CHECKSUMS, sums.encode("utf-8", "surrogateescape"))
    write_private(
        places.private / LABEL_MAP,
        json.dumps({"task": setting.task.name, "classes": list(setting.task.classes)}).encode(),
    )
    os.sync()
    places.partial.rename(places.release)
    (places.private / JOURNAL).unlink(missing_ok=True)
    (places.private / "key").unlink(missing_ok=True)  # the generator's folder holds it
    return Outcome(places.release, tuple(records), summary)


def _read_journal(places: Places) -> dict[str, tuple[Record, str | None]]:
    """What an interrupted run finished, as far as its files are there and whole."""
    path = places.private / JOURNAL
    done: dict[str, tuple[Record, str | None]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            text, checksum = json.loads(line)
            record = Record.from_line(text)
        except ValueError:
            continue  # the line that the interruption cut short
        if record.sha256 is None or _is_whole(places.partial / record.path, record.sha256):
            done[record.path] = (record, checksum)
    return done


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and manifest.sha256(path) == digest


def _keep_apart(source: Path, target: Path) -> None:
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(
            f"{target}: the target and the source may not contain each other; choose another -o"
        )


def _refuse_existing(target: Path, what: str) -> None:
    if target.exists() or target.is_symlink():
        raise InputError(
            f"{target}: already exists; a finished {what} is never overwritten: remove it or "
            "choose another -o"
        )


def _refuse_leftovers(places: Places) -> None:
    for folder in (places.partial, places.private):
        if folder.exists():
            raise InputError(
                f"{folder}: left by an earlier run; finish that run with --resume, or remove "
                f"{places.partial.name} and {places.private.name}"
            )


def _open_places(places: Places, config: ProtectConfig) -> None:
    """Make the folders of a run, or find those of the run to resume.

    Raises:
        InputError: the run to resume was another one.
    """
    configuration = places.private / CONFIGURATION
    wanted = config.fingerprint()
    if configuration.is_file() and json.loads(configuration.read_text()) != wanted:
        raise InputError(
            f"{places.private}: the interrupted run had other settings; resume with the same "
            "ones, or remove it and start again"
        )
    make_private_folder(places.private)
    places.partial.mkdir(parents=True, exist_ok=True)
    write_private(configuration, json.dumps(wanted, indent=2).encode() + b"\n")


@contextmanager
def _target_errors(target: Path) -> Iterator[None]:
    """Turn what the file system says of the target into one line."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space, then run again with --resume",
            errno.EDQUOT: "the quota is used up; free some space, then run again with --resume",
            errno.EROFS: "choose another place with -o",
            errno.EACCES: "choose a place with -o that you may write to",
            errno.EPERM: "choose a place with -o that you may write to",
        }.get(error.errno or 0, "mend that or choose another place with -o, then use --resume")
        raise InputError(f"{target}: can't be written ({error.strerror}); {advice}") from error
