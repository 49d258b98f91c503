"""The verbs of the command line as functions; `import medshield` offers them by the same names.

A keyword is the option of that name, with underscores, and has the same default: the command line
takes its defaults from here. Nothing here prints or ends the process. Messages name an option as
the command line does, so `--eps` is the keyword `eps`.

Importing this module brings no PyTorch; calling a verb does.
"""

# ruff: noqa: D417 (arguments that belong together share a line)
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import wraps
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

from medshield import processes
from medshield.budget import to_epsilon
from medshield.errors import InputError
from medshield.method_names import refuse_unknown

if TYPE_CHECKING:
    from medshield.bagging import Bag
    from medshield.benchmark_table import BenchmarkTable
    from medshield.checking import CheckResult
    from medshield.dataset.annotation_options import AnnotationOptions
    from medshield.dataset.scanned import Scan
    from medshield.fitting import FitOutcome
    from medshield.formats import Handling
    from medshield.preparation import Plan
    from medshield.protect_config import ProtectConfig
    from medshield.release_card import Card
    from medshield.release_run import Outcome
    from medshield.shares import ShareOutcome
    from medshield.verification import Verification
    from medshield.verifying import Evidence

StrPath = str | os.PathLike[str]
Eps = str | float | Fraction
"""A radius: "8/255", 8 / 255, 0.0314 or Fraction(8, 255)."""
TaskName = Literal["auto", "classification", "multilabel", "segmentation"]
Icons = Literal["regenerate", "remove", "refuse"]
Uid = Literal["keep", "new"]
Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["local", "ray"]
Threat = Literal["basic", "determined", "expert"]
FileFormat = Literal["png", "dicom"]

IMAGE_SIZES = (32, 2048)
"""Smallest and largest side of a grid, px."""
MOST_EFFORT = 1000
MEDMNIST = "medmnist"
"""A source that is no folder."""

P = ParamSpec("P")
Asked = TypeVar("Asked")
Result = TypeVar("Result")


def scan(
    source: StrPath,
    *,
    labels: StrPath | None = None,
    path_col: str | None = None,
    label_col: str | None = None,
    patient_col: str | None = None,
    split_col: str | None = None,
    masks: StrPath | None = None,
    label_tag: str | None = None,
    task: TaskName = "auto",
    allow_missing: bool = False,
    intensity: str = "auto",
    eps: Eps | None = None,
    icons: Icons = "regenerate",
    drop_signatures: bool = False,
    preview: StrPath | None = None,
    workers: int | None = None,
) -> Scan:
    """Read a folder and plan what to do with each file.

    Args:
        source: the folder of images; nothing is written to it.
        labels: a CSV with a label per image, or per folder of a patient; None to look for one.
            "none" to use none.
        path_col, label_col, patient_col, split_col: names of its columns.
        masks: a folder of masks, inside the source.
        label_tag: the DICOM tag that holds the class, "GGGG,EEEE".
        task: what is to be learned; "auto" to go by the labels.
        allow_missing: go on without images or rows that don't match.
        intensity: "auto", "window", "stored" or "LOW,HIGH".
        eps: also say each file's radius, and refuse files that are too coarse for it.
        icons: what becomes of small copies of the clean picture that a file carries.
        drop_signatures: remove signatures that changes would break.
        preview: a PNG file to draw a contact sheet of clean images to.
        workers: files read at a time; None for as many as there are processors, 8 at the most.

    Returns:
        The plan. Its `problem` says what keeps the folder from being protected, if anything does.

    Raises:
        InputError: the folder or an option can't be used.
    """
    epsilon = None if eps is None else to_epsilon(eps)
    folder, target = Path(source), _path(preview)
    from medshield import progress
    from medshield.dataset.scan import scan as run

    if target:
        from medshield import preview as sheets

        sheets.refuse_target(target, folder)
    with progress.bar("reading") as update:
        found = run(
            folder,
            _annotations(
                labels=labels,
                path_col=path_col,
                label_col=label_col,
                patient_col=patient_col,
                split_col=split_col,
                masks=masks,
                label_tag=label_tag,
                task=task,
                allow_missing=allow_missing,
            ),
            intensity=intensity,
            epsilon=epsilon,
            handling=_handling(icons, drop_signatures),
            workers=_workers(workers),
            progress=update,
        )
    if target:
        sheets.of_scan(found, target)
    return found


def protection(
    source: StrPath,
    *,
    output: StrPath | None = None,
    method: str = "robust",
    eps: Eps | None = None,
    intensity: str = "auto",
    image_size: int | None = None,
    effort: float = 1.0,
    seed: int | None = None,
    surrogate_weights: StrPath | None = None,
    min_ssim: float | None = None,
    generator: StrPath | None = None,
    labels: StrPath | None = None,
    path_col: str | None = None,
    label_col: str | None = None,
    patient_col: str | None = None,
    split_col: str | None = None,
    masks: StrPath | None = None,
    label_tag: str | None = None,
    task: TaskName = "auto",
    allow_missing: bool = False,
    uid: Uid = "keep",
    icons: Icons = "regenerate",
    drop_signatures: bool = False,
    card: bool = False,
    resume: bool = False,
    engine: Engine = "local",
    ray_address: str | None = None,
    device: Device = "auto",
    workers: int | None = None,
) -> ProtectConfig:
    """What `protect` is asked to do.

    Args:
        source: the folder of images; nothing is written to it.
        output: the release; None for the source's name and "-protected".
        method: one of those that `medshield protect --help` lists.
        eps: radius as a fraction of the intensity range; needed unless there is a generator.
        intensity: range that eps is a fraction of: "auto", "window", "stored" or "LOW,HIGH".
        image_size: side of the grid that the perturbation is made on, px, 32 to 2048; None to
            choose.
        effort: times the training steps, above 0 to 1000.
        seed: for a repeatable key; None for a random one.
        surrogate_weights: FILE or NAME=FILE of ImageNet weights, for one more surrogate of robust.
        min_ssim: structural similarity that every frame keeps, in (0, 1).
        generator: apply this fitted generator instead of fitting a method.
        labels: a CSV with a label per image, or per folder of a patient; None to look for one.
            "none" to use none.
        path_col, label_col, patient_col, split_col: names of its columns.
        masks: a folder of masks, inside the source.
        label_tag: the DICOM tag that holds the class, "GGGG,EEEE".
        task: what is to be learned; "auto" to go by the labels.
        allow_missing: go on without images or rows that don't match.
        uid: SOP Instance UIDs of DICOM files.
        icons: what becomes of small copies of the clean picture that a file carries.
        drop_signatures: remove signatures that changes would break.
        card: also write `croissant.json` and `DATACARD.md`, see the verb `card`.
        resume: finish an interrupted run; with nothing to finish, start from the beginning.
        engine: who writes the files, this machine or a Ray cluster.
        ray_address: of the cluster.
        device: where to compute.
        workers: files at a time; None for as many as there are processors, 8 at the most.

    Raises:
        InputError: an option can't be used.
    """
    if generator is not None and method != _default(protection, "method"):
        raise InputError("--method: the generator has its own; leave one of the two out")
    if generator is not None and surrogate_weights is not None:
        raise InputError("--surrogate-weights: the generator is fitted; leave one of the two out")
    _see_to_fitting(method, image_size, effort)
    _see_to_choice("--uid", uid, Uid)
    _see_to_choice("--engine", engine, Engine)
    _see_to_choice("--device", device, Device)
    _see_to_ssim(min_ssim)
    epsilon = None if eps is None else to_epsilon(eps)
    from medshield.protect_config import ProtectConfig

    return ProtectConfig(
        source=Path(source),
        target=_path(output),
        method=method,
        epsilon=epsilon,
        annotations=_annotations(
            labels=labels,
            path_col=path_col,
            label_col=label_col,
            patient_col=patient_col,
            split_col=split_col,
            masks=masks,
            label_tag=label_tag,
            task=task,
            allow_missing=allow_missing,
        ),
        intensity=intensity,
        image_size=image_size,
        seed=seed,
        generator=_path(generator),
        device=device,
        workers=_workers(workers),
        engine=engine,
        ray_address=ray_address,
        resume=resume,
        effort=effort,
        surrogate_weights=_path(surrogate_weights),
        handling=_handling(icons, drop_signatures),
        uid=uid,
        min_ssim=min_ssim,
        card=card,
    )


def lesson(
    source: StrPath,
    *,
    output: StrPath,
    method: str = "robust",
    eps: Eps | None = None,
    intensity: str = "auto",
    image_size: int | None = None,
    effort: float = 1.0,
    seed: int | None = None,
    surrogate_weights: StrPath | None = None,
    labels: StrPath | None = None,
    path_col: str | None = None,
    label_col: str | None = None,
    patient_col: str | None = None,
    split_col: str | None = None,
    masks: StrPath | None = None,
    label_tag: str | None = None,
    task: TaskName = "auto",
    allow_missing: bool = False,
    icons: Icons = "regenerate",
    drop_signatures: bool = False,
    resume: bool = False,
    device: Device = "auto",
    workers: int | None = None,
) -> ProtectConfig:
    """What `fit` is asked to do.

    Args:
        source: the folder of images; nothing is written to it.
        output: the generator's folder.
        method, eps, intensity, image_size, effort, seed, surrogate_weights: as for `protect`.
        labels, path_col, label_col, patient_col, split_col: as for `protect`.
        masks, label_tag, task, allow_missing, icons, drop_signatures: as for `protect`.
        resume, device, workers: as for `protect`.

    Raises:
        InputError: an option can't be used.
    """
    return protection(
        source,
        output=output,
        method=method,
        eps=eps,
        intensity=intensity,
        image_size=image_size,
        effort=effort,
        seed=seed,
        surrogate_weights=surrogate_weights,
        labels=labels,
        path_col=path_col,
        label_col=label_col,
        patient_col=patient_col,
        split_col=split_col,
        masks=masks,
        label_tag=label_tag,
        task=task,
        allow_missing=allow_missing,
        icons=icons,
        drop_signatures=drop_signatures,
        resume=resume,
        device=device,
        workers=workers,
    )


def verification(
    release: StrPath | None = None,
    *,
    source: StrPath | None = None,
    threat: Threat = "basic",
    cells: str | Sequence[str] = (),
    seeds: int = 3,
    most_seeds: int = 10,
    seed: int = 0,
    epochs: int | None = None,
    image_size: int | None = None,
    adv_eps: Eps = "4/255",
    adv_steps: int = 3,
    output: StrPath | None = None,
    no_pictures: bool = False,
    junit: StrPath | None = None,
    fail_above: float | None = None,
    weights: StrPath | Sequence[StrPath] = (),
    labels: StrPath | None = None,
    path_col: str | None = None,
    label_col: str | None = None,
    patient_col: str | None = None,
    split_col: str | None = None,
    masks: StrPath | None = None,
    label_tag: str | None = None,
    task: TaskName = "auto",
    allow_missing: bool = False,
    device: Device = "auto",
    workers: int | None = None,
) -> Verification:
    """What `verify` is asked to do.

    Args:
        release: its folder; None for the one release in the current folder.
        source: the clean images; None for those that the private folder records.
        threat: what the trainer is taken to do; each level includes those below.
        cells: run only these, as victim[:training[:countermeasure]].
        seeds: trainings of each arm, at least 1.
        most_seeds: the same of a cell that these leave open.
        seed: of the split, the victims and drawn patients.
        epochs: of each victim; None to choose.
        image_size: side of the victims' input, px, 32 to 2048; None to choose.
        adv_eps, adv_steps: radius and gradient steps of adversarial training.
        output: folder of the reports; None for `verify` in the private folder.
        no_pictures: show no images on report.html.
        junit: a file to write the cells to, as JUnit XML.
        fail_above: the highest upper end of a leakage interval that is good enough.
        weights: files of ImageNet weights, FILE or NAME=FILE; what is missing is downloaded.
        labels, path_col, label_col, patient_col, split_col: as for `protect`.
        masks, label_tag, task, allow_missing: as for `protect`.
        device: where to train.
        workers: files read, and on a CPU victims trained, at a time; None for as many as there
            are processors, 8 at the most.

    Raises:
        InputError: an option can't be used, or there is not one release in the current folder.
    """
    _see_to_choice("--threat", threat, Threat)
    _see_to_choice("--device", device, Device)
    _see_to_victims(seeds, epochs, image_size, adv_steps)
    _see_to_least("--most-seeds", most_seeds)
    if fail_above is not None:
        see_to_limit(fail_above)
    adversary, count = to_epsilon(adv_eps), _workers(workers)
    from medshield.manifest import find_release, require_release
    from medshield.places import SOURCE_ADVICE, require_folder

    chosen = find_release(Path()) if release is None else Path(release)
    require_release(chosen)  # before PyTorch is loaded, which takes seconds
    if source is not None:
        require_folder(Path(source), SOURCE_ADVICE)
    from medshield.verification import Verification
    from medshield.verify_config import VerifyConfig

    told = _annotations(
        labels=labels,
        path_col=path_col,
        label_col=label_col,
        patient_col=patient_col,
        split_col=split_col,
        masks=masks,
        label_tag=label_tag,
        task=task,
        allow_missing=allow_missing,
    )
    config = VerifyConfig(
        release=chosen,
        source=_path(source),
        threat=threat,
        cells=_words(cells),
        seeds=seeds,
        most_seeds=most_seeds,
        seed=seed,
        epochs=epochs,
        image_size=image_size,
        adversary=adversary,
        adversary_steps=adv_steps,
        annotations=told if told != type(told)() else None,
        device=device,
        workers=processes.current().workers(count),
        weights=_paths(weights),
        fail_above=fail_above,
    )
    return Verification(config, _path(output), not no_pictures, _path(junit))


def _asked(
    describe: Callable[P, Asked],
) -> Callable[[Callable[[Asked], Result]], Callable[P, Result]]:
    """Give a function of what is asked the arguments that say what is asked."""

    def decorate(work: Callable[[Asked], Result]) -> Callable[P, Result]:
        @wraps(work)
        def verb(*arguments: P.args, **keywords: P.kwargs) -> Result:
            _see_to_one_process(work.__name__)
            return work(describe(*arguments, **keywords))

        _tell(verb, work, describe)
        return verb

    return decorate


def _asked_of_a_share(
    describe: Callable[P, Asked],
) -> Callable[[Callable[[str, Asked], Result]], Callable[Concatenate[str, P], Result]]:
    """The same of a function that is told first which share it is to do."""

    def decorate(work: Callable[[str, Asked], Result]) -> Callable[Concatenate[str, P], Result]:
        @wraps(work)
        def verb(shard: str, /, *arguments: P.args, **keywords: P.kwargs) -> Result:
            _see_to_one_process(work.__name__)
            return work(shard, describe(*arguments, **keywords))

        _tell(verb, work, describe, "shard")
        return verb

    return decorate


def _tell(
    verb: Callable[..., Any],
    work: Callable[..., Any],
    describe: Callable[..., Any],
    *first: str,
) -> None:
    """Give a verb the signature and the words that `help` shows.

    Args:
        verb: that is called.
        work: what it does, and returns.
        describe: the function that its arguments are for.
        first: names of arguments before these, which `work` has as well.
    """
    own = signature(work)
    asked = signature(describe).parameters.values()
    shown = [own.parameters[name].replace(kind=Parameter.POSITIONAL_ONLY) for name in first]
    shown += asked
    verb.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    if not (work.__doc__ and describe.__doc__):  # as under `python -OO`
        return
    told, arguments = cleandoc(work.__doc__), cleandoc(describe.__doc__)
    head, _, rest = told.partition("\n\n")
    meaning = arguments[arguments.index("Args:") :].partition("\n\nRaises:")[0]
    if rest.startswith("Args:"):
        before, _, rest = rest.partition("\n\n")
        meaning = meaning.replace("Args:", before, 1)
    verb.__doc__ = f"{head}\n\n{meaning}\n\n{rest}"


@_asked(protection)
def protect(config: ProtectConfig) -> Outcome:
    """Learn the perturbation and write the release.

    Returns:
        The release, with a record of every file of the source.

    Raises:
        InputError: the source, the target or an option can't be used, or nothing could be
            protected.
        Unfinished: the run can't go on now; `resume=True` finishes it.
    """
    from medshield.protecting import protect as run

    return run(config)


@_asked(protection)
def plan_protect(config: ProtectConfig) -> Scan:
    """What `protect` would do with the same arguments (`protect --dry-run`); writes nothing.

    Returns:
        The plan, with every file's radius.

    Raises:
        InputError: nothing in the folder can be protected, or an option can't be used.
    """
    from medshield.planning import plan

    return plan(config)


@_asked_of_a_share(protection)
def protect_share(shard: str, config: ProtectConfig) -> ShareOutcome:
    """Write every Nth file of a release alone (`protect --shard I/N`); then `merge`.

    Args:
        shard: "I/N", with I from 1 to N; all else is the same for all shares. A share that was
            interrupted is gone on with.

    Raises:
        InputError: the source, the target or an option can't be used, or another process is at
            this share.
        Unfinished: the run can't go on now; the same call finishes it.
    """
    from medshield.shares import Share
    from medshield.shares import protect_share as run

    return run(config, Share.parse(shard))


def merge(release: StrPath, *, device: Device = "auto", workers: int | None = None) -> Outcome:
    """Complete a release that was written in shares (see `protect_share`).

    Args:
        release: its name, which it gets now.
        device: where to compute.
        workers: DICOM files that are given new UIDs at a time; None for as many as there are
            processors, 8 at the most.

    Raises:
        InputError: there is no such run.
        Unfinished: a share is missing, or still at work.
    """
    _see_to_one_process("merge")
    _see_to_choice("--device", device, Device)
    from medshield.shares import merge as run

    return run(Path(release), device=device, workers=_workers(workers))


def card(
    release: StrPath,
    *,
    name: str | None = None,
    license: str | None = None,  # noqa: A002 (as Croissant names it)
    creator: str | None = None,
    contact: str | None = None,
    url: str | None = None,
    published: str | None = None,
    cite_as: str | None = None,
    release_version: str | None = None,
    verdict: bool = False,
    overwrite: bool = False,
    edited: bool = False,
) -> Card:
    """Write `croissant.json` and `DATACARD.md` into a finished release, and their checksums.

    Args:
        release: its folder; no other file of it changes.
        name: of the data set; None for that of the folder.
        license: the address of a licence, or its name.
        creator: the organisation that made the data set.
        contact: whom to ask for permission and for the originals.
        url: address of the data set's page.
        published: the day, "YYYY-MM-DD".
        cite_as: how to cite it, best as BibTeX.
        release_version: of the data set, such as "1.0.0".
        verdict: also say what `verify` found, from the private folder.
        overwrite: replace a card that was filled in or edited.
        edited: keep both files as they are, and renew their checksums alone.

    Returns:
        The release, and how many lines are still to be filled in.

    Raises:
        InputError: the folder is no sound release, an option can't be used, or there is a card
            that must not be replaced.
    """
    _see_to_one_process("card")
    told = {
        "name": name,
        "license": license,
        "creator": creator,
        "contact": contact,
        "url": url,
        "published": published,
        "cite_as": cite_as,
        "version": release_version,
    }
    if edited:
        wrong = [word for word, text in told.items() if text is not None]
        wrong += [word for word, asked in (("verdict", verdict), ("overwrite", overwrite)) if asked]
        if wrong:
            raise InputError(
                f"--edited: takes the card as it is, so leave out what it is to say or do else "
                f"({', '.join(wrong)})"
            )
    from medshield.release_card import CardFacts, write_card

    return write_card(
        Path(release), CardFacts(**told), verdict=verdict, edited=edited, overwrite=overwrite
    )


def bag(
    release: StrPath,
    *,
    output: StrPath | None = None,
    info: str | Sequence[str] = (),
    workers: int | None = None,
) -> Bag:
    """Make a BagIt bag (RFC 8493) of a finished release.

    Args:
        release: its folder, which stays as it is.
        output: the bag; None for the release's name and "-bag".
        info: lines of `bag-info.txt`, such as "Source-Organization: Example Hospital".
        workers: files read at a time; None for as many as there are processors, 8 at the most.

    Returns:
        The bag, and whether its files are links to those of the release.

    Raises:
        InputError: the folder is no sound release, a line is none, or the target can't be used.
    """
    _see_to_one_process("bag")
    from medshield.bagging import make_bag

    lines = (info,) if isinstance(info, str) else tuple(info)
    return make_bag(Path(release), _path(output), lines, _workers(workers))


@_asked(lesson)
def fit(config: ProtectConfig) -> FitOutcome:
    """Only learn the noise generator, for `protect(..., generator=...)`.

    Returns:
        The generator and where it is saved. Whoever has it can undo the protection.

    Raises:
        InputError: the source, the target or an option can't be used.
        Unfinished: the run can't go on now; `resume=True` finishes it.
    """
    from medshield.fitting import fit as run

    return run(config)


@_asked(lesson)
def plan_fit(config: ProtectConfig) -> Scan:
    """What `fit` would do with the same arguments (`fit --dry-run`); writes nothing.

    Returns:
        The plan, with every file's radius.

    Raises:
        InputError: nothing in the folder can be protected, or an option can't be used.
    """
    from medshield.planning import plan

    return plan(config)


def check(
    release: StrPath,
    *,
    source: StrPath | None = None,
    preview: StrPath | None = None,
    workers: int | None = None,
) -> CheckResult:
    """Re-read every file of a release: checksums, the bound, and nothing but pixels changed.

    Args:
        release: the folder that `protect` wrote.
        source: the clean images to compare with; None for checksums and readability alone.
        preview: a PNG file to draw a contact sheet to, of clean and protected images.
        workers: files read at a time; None for as many as there are processors, 8 at the most.

    Returns:
        What was found; `passed` says whether the release is sound.

    Raises:
        InputError: the folder is no release, or the source is no folder.
    """
    folder, clean, target = Path(release), _path(source), _path(preview)
    if target and clean is None:
        raise InputError("--preview: needs --source, the clean images to show beside the release")
    from medshield import preview as sheets
    from medshield.checking import check as run

    if target:
        sheets.refuse_target(target, clean, folder)
    result = run(folder, clean, _workers(workers))
    if target and clean:
        sheets.of_check(result, clean, target)
    return result


@_asked(verification)
def verify(asked: Verification) -> Evidence:
    """Train victim models on clean and protected images, and write the reports.

    Returns:
        What was found: `verdict`, `is_good_enough` (None where that can't be told), `reports`.

    Raises:
        InputError: the release, the source or an option can't be used.
    """
    evidence = asked.run()
    assert evidence is not None  # noqa: S101 (there is one process)
    return evidence


@_asked(verification)
def plan_verify(asked: Verification) -> Plan:
    """What `verify` would train, and about how long it would take (`verify --dry-run`).

    Raises:
        InputError: the release, the source or an option can't be used.
    """
    return asked.plan()


def benchmark(
    source: StrPath,
    *,
    sets: str | Sequence[str] = (),
    root: StrPath | None = None,
    limit: int | None = None,
    file_format: FileFormat = "png",
    output: StrPath = "benchmark.private",
    methods: str | Sequence[str] = ("robust", "em", "advt", "synthetic"),
    eps: Eps | Sequence[Eps] = ("8/255", "16/255"),
    cells: str | Sequence[str] = (),
    seeds: int = 3,
    seed: int = 0,
    epochs: int | None = None,
    image_size: int | None = None,
    adv_steps: int = 3,
    min_ssim: float | None = None,
    surrogate_weights: StrPath | None = None,
    weights: StrPath | Sequence[StrPath] = (),
    labels: StrPath | None = None,
    path_col: str | None = None,
    label_col: str | None = None,
    patient_col: str | None = None,
    split_col: str | None = None,
    masks: StrPath | None = None,
    label_tag: str | None = None,
    task: TaskName = "auto",
    allow_missing: bool = False,
    device: Device = "auto",
    workers: int | None = None,
) -> dict[str, BenchmarkTable]:
    """Compare methods, eps and ways of training on a labelled folder, or on MedMNIST sets.

    Args:
        source: the folder, or "medmnist".
        sets: with "medmnist": names of its sets.
        root: with "medmnist": a folder of NAME.npz; None to download them.
        limit: training images, at least 1; of a folder, whole patients are drawn by the seed and
            their files copied into the output, and other parts are cut, too.
        file_format: with "medmnist": what the files become (`--format`).
        output: where releases, trials and tables are kept; private.
        methods, eps: every combination is run.
        cells: of each; none for those of the paper: "resnet18", or "unet_resnet18" for masks, with
            standard training, and with adversarial training of half of eps.
        seeds: trainings of each arm, at least 1.
        seed: of keys and victims.
        epochs: of each victim; None to choose.
        image_size: side of grid and input, px, 32 to 2048; None to choose.
        adv_steps: gradient steps of adversarial training.
        min_ssim, surrogate_weights: as for `protect`.
        weights: as for `verify`.
        labels, path_col, label_col, patient_col, split_col: as for `protect`.
        masks, label_tag, task, allow_missing: as for `protect`.
        device, workers: as for `verify`.

    Returns:
        A table for each set, by the name of the set or of the folder.

    Raises:
        InputError: the source, the output or an option can't be used.
    """
    _see_to_one_process("benchmark")
    _see_to_choice("--format", file_format, FileFormat)
    _see_to_choice("--device", device, Device)
    _see_to_victims(seeds, epochs, image_size, adv_steps)
    _see_to_ssim(min_ssim)
    _see_to_least("--limit", limit)
    names = _words(methods)
    for name in names:
        refuse_unknown(name, "--methods")
    radii = _words(eps) if isinstance(eps, str) else eps if isinstance(eps, Sequence) else [eps]
    epsilons = tuple(map(to_epsilon, radii))
    told = _annotations(
        labels=labels,
        path_col=path_col,
        label_col=label_col,
        patient_col=patient_col,
        split_col=split_col,
        masks=masks,
        label_tag=label_tag,
        task=task,
        allow_missing=allow_missing,
    )
    from medshield import medmnist_folder
    from medshield.benchmarking import BenchmarkConfig, run

    folder, kept = Path(source), Path(output)
    own = folder.name or folder.resolve().name
    sources: dict[str, tuple[Path, tuple[str, ...]]] = {own: (folder, ())}
    is_medmnist = str(folder) == MEDMNIST and not folder.exists()
    if is_medmnist:
        sources = {}
        for name in _words(sets) or ("",):
            place = kept / "sets" / name
            note = medmnist_folder.export(
                name, place, root=_path(root), limit=limit, file_format=file_format
            )
            sources[name] = (place, (note,) if note else ())
    return {
        name: run(
            BenchmarkConfig(
                source=place,
                output=kept / name,
                methods=names,
                epsilons=epsilons,
                cells=_words(cells),
                seeds=seeds,
                epochs=epochs,
                image_size=image_size,
                adversary_steps=adv_steps,
                min_ssim=min_ssim,
                seed=seed,
                annotations=told,
                device=device,
                workers=_workers(workers),
                surrogate_weights=_path(surrogate_weights),
                weights=_paths(weights),
                limit=None if is_medmnist else limit,
                notes=notes,
            )
        )
        for name, (place, notes) in sources.items()
    }


def defaults_of(verb: Callable[..., Any]) -> dict[str, Any]:
    """The default of each keyword of a verb."""
    return {name: one.default for name, one in signature(verb).parameters.items()}


def _default(verb: Callable[..., Any], name: str) -> Any:
    return defaults_of(verb)[name]


def _annotations(
    *,
    labels: StrPath | None,
    path_col: str | None,
    label_col: str | None,
    patient_col: str | None,
    split_col: str | None,
    masks: StrPath | None,
    label_tag: str | None,
    task: TaskName,
    allow_missing: bool,
) -> AnnotationOptions:
    """Where labels or masks are."""
    _see_to_choice("--task", task, TaskName)
    from medshield.dataset.annotation_options import AnnotationOptions

    no_labels = labels is not None and Path(labels) == Path("none")
    return AnnotationOptions(
        labels=None if no_labels else _path(labels),
        no_labels=no_labels,
        path_column=path_col,
        label_column=label_col,
        patient_column=patient_col,
        split_column=split_col,
        masks=_path(masks),
        label_tag=label_tag,
        task=task,
        allow_missing=allow_missing,
    )


def _handling(icons: Icons, drop_signatures: bool) -> Handling:
    """What becomes of thumbnails and signatures."""
    _see_to_choice("--icons", icons, Icons)
    from medshield.formats import Handling

    return Handling(icons, drop_signatures)


def _path(given: StrPath | None) -> Path | None:
    return None if given is None else Path(given)


def _paths(given: StrPath | Sequence[StrPath]) -> tuple[Path, ...]:
    return tuple(map(Path, [given] if isinstance(given, str | os.PathLike) else given))


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """Words that are given as such, or separated by commas."""
    return tuple(filter(None, given.split(","))) if isinstance(given, str) else tuple(given)


def _workers(given: int | None) -> int:
    """How many, or one for each processor."""
    if given is None:
        return max(1, min(8, os.cpu_count() or 1))
    _see_to_least("--workers", given)
    return given


def _see_to_one_process(verb: str) -> None:
    """See to it that no other process does the same by the same call.

    Raises:
        InputError: torchrun started this one among others.
    """
    if processes.current().count > 1:
        raise InputError(
            f"medshield.{verb} shares no work among processes; call it in one that was started "
            "without torchrun, or use the command line (fit and verify)"
        )


def _see_to_fitting(method: str, image_size: int | None, effort: float) -> None:
    refuse_unknown(method)
    _see_to_size(image_size)
    if not 0 < effort <= MOST_EFFORT:
        raise InputError(f"--effort: {effort:g} is not above 0 and at most {MOST_EFFORT}")


def _see_to_victims(seeds: int, epochs: int | None, image_size: int | None, adv_steps: int) -> None:
    for option, value in (("--seeds", seeds), ("--epochs", epochs), ("--adv-steps", adv_steps)):
        _see_to_least(option, value)
    _see_to_size(image_size)


def _see_to_size(size: int | None) -> None:
    low, high = IMAGE_SIZES
    if size is not None and not low <= size <= high:
        raise InputError(f"--image-size: {size} is outside {low} to {high}")


def _see_to_ssim(value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise InputError(f"--min-ssim: {value:g} is outside (0, 1); 0.9 is a usual one")


def _see_to_least(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{option}: {value} is less than 1")


def _see_to_choice(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise InputError(f"{option}: {value!r} is not one of {known}")


HIGHEST_LIMIT = 5
"""Of leakage: 1 is all that clean images teach, but ends of intervals may lie far above."""


def see_to_limit(limit: float) -> None:
    """See to it that a limit of leakage is one.

    Raises:
        InputError: it is not above 0, or so high that a percentage was meant.
    """
    if not 0 < limit <= HIGHEST_LIMIT:
        raise InputError(
            f"--fail-above {limit:g}: expected a leakage above 0 and at most {HIGHEST_LIMIT}, such "
            "as 0.3 for 30 % of what clean images teach; 0.15 is what `protected` means"
        )
