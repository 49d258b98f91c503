"""What `protect` and `fit` would do with a folder; nothing here writes.

PyTorch, which takes as much memory as the scan of a hundred thousand files, is loaded only where it
is needed, and best when the scan is over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medshield import progress
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.dataset.scanned import Scan
from medshield.errors import InputError
from medshield.generator_facts import GeneratorFacts
from medshield.method_names import plugin_of, refuse_unknown, tell_of_namesakes
from medshield.protect_config import ProtectConfig
from medshield.release_card import refuse_taken
from medshield.text import epsilon_text

if TYPE_CHECKING:
    from medshield.generator import Generator
    from medshield.methods import Method
    from medshield.pretrained import Backbone


def plan(config: ProtectConfig) -> Scan:
    """The scan that `protect` would act on, with every file's radius; writes nothing.

    Raises:
        InputError: nothing in the folder can be protected.
    """
    found = plan_for(config, known_generator(config))
    load_generator(config)
    assert found.annotations is not None  # noqa: S101 (`plan_for` saw to it)
    backbone_for(config, found.annotations.task)
    return found


def plan_for(config: ProtectConfig, known: GeneratorFacts | None) -> Scan:
    """The scan with the radius, the task and the ranges of a fitted generator, if there is one.

    Raises:
        InputError: nothing in the folder can be protected, or what is asked contradicts the
            generator.
    """
    epsilon, annotations = config.epsilon, config.annotations
    if known:
        if epsilon is not None and epsilon != known.epsilon:
            raise InputError(
                f"--eps: the generator was fitted for {epsilon_text(known.epsilon)}; "
                "leave --eps out, or fit another generator"
            )
        if annotations.task not in ("auto", known.task):
            raise InputError(f"--task: the generator was fitted for {known.task}")
        epsilon = known.epsilon
        annotations = _as_fitted(annotations, known)
    else:
        refuse_unknown(config.method)
        tell_of_namesakes(config.method)
        if plugin_of(config.method):
            _method(config.method)  # before anything is read, if it can't be used
    if epsilon is None:
        raise InputError("--eps is missing; 8/255 is the usual radius")
    with progress.bar("reading") as update:
        found = scan(
            config.source,
            annotations,
            intensity=config.intensity,
            epsilon=epsilon,
            known_ranges=known.ranges if known else {},
            known_classes=known.classes if known else None,
            handling=config.handling,
            workers=config.workers,
            progress=update,
        )
    if found.problem:
        raise InputError(f"{config.source}: {found.problem}")
    if config.card:
        refuse_taken(config.source, (f.path for f in found.files if f.action != "omit"))
    if not found.with_action("protect"):
        refused = found.with_action("refuse")
        why = f" ({len(refused)} refused; the first: {refused[0].path}: {refused[0].reason})"
        raise InputError(f"{config.source}: no image can be protected{why if refused else ''}")
    assert found.annotations is not None  # noqa: S101 (or there were a problem)
    method = _method(known.method if known else config.method)
    refuse_other_task(method, found.annotations.task)
    return found


def refuse_other_task(method: type[Method], task: str) -> None:
    """See to it that a method is for a task.

    Raises:
        InputError: it is not.
    """
    if task not in method.tasks:
        raise InputError(
            f"--method {method.name}: is for {' and '.join(sorted(method.tasks))}, and this is "
            f"{task}; take another method, or another --task"
        )


def _method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        MethodError: it is another package's, and can't be used.
    """
    from medshield.methods import METHODS

    return METHODS[name]


def known_generator(config: ProtectConfig) -> GeneratorFacts | None:
    """What the generator says that `--generator` names; None where one is still to be fitted.

    Raises:
        InputError: there is none, or it can't be read.
    """
    return GeneratorFacts.read(config.generator) if config.generator else None


def load_generator(config: ProtectConfig) -> Generator | None:
    """The fitted generator that `--generator` names; None where one is still to be fitted.

    Raises:
        InputError: there is none, or it can't be read.
    """
    if config.generator is None:
        return None
    from medshield.generator import Generator
    from medshield.models import pick_device

    return Generator.load(config.generator, pick_device(config.device))


def backbone_for(config: ProtectConfig, task: str) -> Backbone | None:
    """What `--surrogate-weights` names.

    Raises:
        InputError: it can't be used, or the method has no use for it.
    """
    if config.surrogate_weights is None:
        return None
    from medshield.methods import METHODS
    from medshield.pretrained import read_backbone

    if task not in METHODS[config.method].asks_pretrained:
        raise InputError(
            f"--surrogate-weights: {config.method} on {task} asks no pretrained model; leave them "
            "out, or take --method robust on images with labels"
        )
    return read_backbone(config.surrogate_weights)


def _as_fitted(annotations: AnnotationOptions, known: GeneratorFacts) -> AnnotationOptions:
    """The options with the task of a generator, and with labels only if it was fitted to some.

    Raises:
        InputError: the user asks for the other.
    """
    if known.labels_used and annotations.no_labels:
        raise InputError(
            "--labels none: the generator was fitted to labels, and needs them; leave it out, or "
            "fit another generator with --labels none"
        )
    for option, value in (
        ("--labels", annotations.labels),
        ("--label-col", annotations.label_column),
        ("--label-tag", annotations.label_tag),
    ):
        if not known.labels_used and value is not None:
            raise InputError(
                f"{option}: the generator was fitted without labels, and uses none; leave it out, "
                "or fit another generator with it"
            )
    return replace(annotations, task=known.task, no_labels=not known.labels_used)
