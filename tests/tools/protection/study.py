"""A labelled set in memory with its split, and methods fitted on it and applied to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from medshield import medmnist_folder, models, progress
from medshield.budget import Budget
from medshield.dataset import examples
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.examples import Examples
from medshield.dataset.scan import scan
from medshield.dataset.scanned import Scan
from medshield.errors import InputError
from medshield.formats.base import READ_ONLY
from medshield.keys import Key
from medshield.methods import METHODS, Setting
from medshield.splits import split_by_group
from medshield.tasks import TASKS, Task
from medshield.trials import Cell, Parts

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """What every table is asked for.

    Attributes:
        source: a folder as the command line takes it, or a MedMNIST set, NAME.npz.
        annotations: where labels or masks are.
        methods: keys of METHODS.
        epsilon: radius as a fraction of the intensity range.
        limit: training images that a victim sees at the most; None for all.
        image_size: side of the grid and of the victims' input, px; None to choose.
        effort: multiplies the methods' and denoisers' training steps.
        cell: the victim and how it trains; None for the task's first victim.
        epochs: of every victim; None to choose by the size of the set.
        seeds: victims of each arm.
        seed: of the split, the victims, the keys and the bootstrap.
        keys: how many keys are tried.
        workers: processes, of one thread each.
        cache: folder of finished victims.
    """

    source: Path
    annotations: AnnotationOptions
    methods: tuple[str, ...]
    epsilon: Fraction
    limit: int | None
    image_size: int | None
    effort: float
    cell: Cell | None
    epochs: int | None
    seeds: int
    seed: int
    keys: int
    workers: int
    cache: Path

    def key(self, number: int) -> Key:
        """The number-th of the keys that are tried; repeatable, as measurements must be."""
        return Key.from_seed(1000 * self.seed + number)


@dataclass(frozen=True)
class Study:
    """A set, read at the victims' size and split by patient.

    Attributes:
        name: of the set.
        task: of its labels.
        train, validation, test: clean examples.
    """

    name: str
    task: Task
    train: Examples
    validation: Examples
    test: Examples

    def setting(self, options: Options, key: Key) -> Setting:
        """What a method works under here."""
        return Setting(
            task=self.task,
            channels=self.train.images.shape[1],
            size=self.train.images.shape[-1],
            budget=Budget(options.epsilon),
            key=key,
            device=models.pick_device("auto"),
            effort=options.effort,
        )

    def parts(self, train: Examples, validation: Examples) -> Parts:
        """The data of an arm that trains on these; the rest is clean."""
        return Parts(train, validation, self.validation, self.test)


def source_folder(options: Options, scratch: Path, training_images: int | None) -> Path:
    """The folder of the set; a MedMNIST set is written to `scratch` first."""
    if options.source.suffix != ".npz":
        return options.source
    name = options.source.stem
    medmnist_folder.export(name, scratch / name, root=options.source.parent, limit=training_images)
    return scratch / name


def scanned(folder: Path, options: Options) -> Scan:
    """What a folder holds.

    Raises:
        InputError: nothing that a victim could be trained on.
    """
    found = scan(
        folder,
        options.annotations,
        epsilon=options.epsilon,
        handling=READ_ONLY,
        workers=options.workers,
    )
    if found.problem:
        raise InputError(f"{folder}: {found.problem}")
    return found


def load(options: Options, scratch: Path, shares: int = 1) -> Study:
    """Read the set, split it, and keep `shares` times as many training images as the limit says."""
    wanted = options.limit and shares * options.limit
    folder = source_folder(options, scratch, wanted)
    found = scanned(folder, options)
    files = found.with_action("protect")
    size = examples.auto_size(files, options.image_size)
    everything = examples.load(found, files, channels=found.channels, size=size, refused={})
    rows = split_by_group(everything, options.seed, notes=[])
    return Study(
        name=folder.name,
        task=TASKS[found.annotations.task](found.annotations.classes),
        train=limited(everything.rows(rows["train"]), wanted, options.seed),
        validation=everything.rows(rows["val"]),
        test=everything.rows(rows["test"]),
    )


def limited(some: Examples, most: int | None, seed: int) -> Examples:
    """At most so many of the examples, drawn at random."""
    if most is None or len(some) <= most:
        return some
    chosen = np.random.default_rng(seed).permutation(len(some))[:most]
    return some.rows(np.sort(chosen))


def halves(some: Examples, seed: int) -> tuple[Examples, Examples]:
    """Two halves without a common patient, of about the same mixture of classes."""
    targets = some.targets.numpy()
    strata = targets if targets.ndim == 1 else np.zeros(len(some), dtype=np.int64)
    groups, first = np.unique(some.groups, return_index=True)
    chance = np.random.default_rng(seed).random(len(groups))
    order = groups[np.lexsort((chance, strata[first]))]
    one, other = (np.flatnonzero(np.isin(some.groups, order[k::2])) for k in (0, 1))
    return some.rows(one), some.rows(other)


@dataclass(frozen=True)
class Fitting:
    """A method to be fitted on some images and applied to others.

    Attributes:
        method: a key of METHODS.
        setting: with the key.
        images: what it is fitted on.
        applied_to: what it is applied to.
    """

    method: str
    setting: Setting
    images: Examples
    applied_to: tuple[Examples, ...]


def deltas(fitting: Fitting) -> tuple[Tensor, ...]:
    """The delta of each image, for each set of examples that the method is applied to."""
    method = METHODS[fitting.method](fitting.setting)
    method.fit(fitting.images.images, fitting.images.targets)
    return tuple(
        method.perturb(some.images, some.targets, some.names) for some in fitting.applied_to
    )


def moved(some: Examples, delta: Tensor) -> Examples:
    """The examples with a delta added."""
    return replace(some, images=(some.images + delta).clamp(0, 1))


def in_processes(
    label: str, work: Callable[[Work], Result], jobs: Sequence[Work], workers: int
) -> list[Result]:
    """The results in the order of the jobs, several made at a time on a CPU."""
    workers = min(workers, len(jobs))
    with ExitStack() as stack:
        update = stack.enter_context(progress.bar(label))
        results: Iterator[Result] = map(work, jobs)
        if workers > 1 and models.pick_device("auto").type == "cpu":
            context = torch.multiprocessing.get_context("spawn")
            pool = stack.enter_context(context.Pool(workers, torch.set_num_threads, (1,)))
            results = pool.imap(work, jobs)
        found = []
        for result in results:
            found.append(result)
            update(len(found), len(jobs))
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads inside the block; small models gain nothing from more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
