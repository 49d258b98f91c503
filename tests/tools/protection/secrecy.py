"""`secrecy`: are two keys' patterns alike, and do one's own pairs clean another's release?

The training part is halved by patient. The owner protects one half under the secret key. Whoever
wants to clean that release has the other half, clean, and protects it by the same method under
keys of their own: from these pairs they take the average delta, or train a denoiser, and apply it
to the release. The denoiser is applied to validation and test images, too, as a trainer does.
Pairs under the secret key are the upper bound: what a leak of pairs, not of the key, gives away.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medshield.dataset.examples import Examples
from medshield.trials import Parts
from tests.tools.protection import correlation, victims
from tests.tools.protection.cleaning import (
    Denoiser,
    Pairs,
    fit_denoiser,
    left,
    without_average,
)
from tests.tools.protection.study import (
    Fitting,
    Options,
    Study,
    deltas,
    halves,
    in_processes,
    limited,
    load,
    moved,
)
from tests.tools.tables import table

SECRET = 0
"""The number of the secret key; the others are the attacker's."""


@dataclass(frozen=True)
class Duel:
    """One method's deltas on both sides.

    Attributes:
        owner: clean images of the owner.
        attacker: clean images of the attacker.
        owners: the owner's images' deltas under each key, each fitted on them; the first is the
            release's.
        secret: the deltas of validation images and of the attacker's by the owner's generator.
        attackers: the attacker's images' deltas under each of their keys.
    """

    owner: Examples
    attacker: Examples
    owners: list[Tensor]
    secret: tuple[Tensor, Tensor]
    attackers: list[Tensor]


def duel(method: str, study: Study, options: Options) -> Duel:
    """Fit the method for both sides, under all keys."""
    sides = halves(study.train, options.seed)
    owner, attacker = (limited(side, options.limit, options.seed) for side in sides)
    settings = [study.setting(options, options.key(number)) for number in range(options.keys)]
    first = Fitting(method, settings[SECRET], owner, (owner, study.validation, attacker))
    fittings = [
        first,
        *(Fitting(method, setting, owner, (owner,)) for setting in settings[1:]),
        *(Fitting(method, setting, attacker, (attacker,)) for setting in settings[1:]),
    ]
    found = in_processes(deltas, fittings, options.workers)
    own, validation, leaked = found[SECRET]
    others = [one[0] for one in found[1:]]
    half = len(settings) - 1
    return Duel(owner, attacker, [own, *others[:half]], (validation, leaked), others[half:])


def document(options: Options, scratch: Path) -> str:
    """Both tables, and what they are of."""
    study = load(options, scratch, shares=2)
    duels = {method: duel(method, study, options) for method in options.methods}
    owner = next(iter(duels.values())).owner
    return "\n\n".join(
        [
            victims.how(study, options, len(owner), options.seeds),
            f"Two keys: mean |cosine| over the pairs of {options.keys} keys.",
            alike(study, duels, options),
            f"Cleaning with pairs of {len(owner)} own images under {options.keys - 1} own keys, "
            "or under the secret one:",
            cleaned(study, duels, options),
        ]
    )


def alike(study: Study, duels: dict[str, Duel], options: Options) -> str:
    """How much alike the keys' deltas are."""
    owner = next(iter(duels.values())).owner
    settings = [study.setting(options, options.key(number)) for number in range(options.keys)]
    noise = [deltas(Fitting("random-noise", setting, owner, (owner,)))[0] for setting in settings]
    rows = [("random noise", noise), *((name, duel.owners) for name, duel in duels.items())]
    return table(
        correlation.HEADER,
        [[name, *correlation.row(found, study.task, owner.targets)] for name, found in rows],
    )


def cleaned(study: Study, duels: dict[str, Duel], options: Options) -> str:
    """Victims of the release as it is and cleaned in every way."""
    owner = next(iter(duels.values())).owner
    arms = {victims.CLEAN: study.parts(owner, study.validation)}
    rests: dict[str, tuple[float, float]] = {}
    for method, one in duels.items():
        for way, parts in ways(study, one, options).items():
            arms[f"{method}, {way}"] = parts
            rests[f"{method}, {way}"] = left(parts.train, owner, one.owners[SECRET])
    trained = victims.train(study, arms, options, options.seeds)
    rows = []
    for arm in arms:
        rest = [f"{value:.2f}" for value in rests.get(arm, ())] or ["", ""]
        rows.append([arm, *trained.cells(arm), *rest])
    header = ["images", *trained.header(), "delta left, cosine", "delta left, share"]
    return table(header, rows)


def ways(study: Study, one: Duel, options: Options) -> dict[str, Parts]:
    """The data of each arm of one method."""
    release = moved(one.owner, one.owners[SECRET])
    validation = moved(study.validation, one.secret[0])
    own = torch.cat(one.attackers)
    repeats = len(one.attackers)
    radius = float(options.epsilon)
    everyone = [torch.arange(len(release))]
    pairs = {
        "denoised with own pairs": Pairs(
            one.attacker.images.repeat(repeats, 1, 1, 1), own, radius, options.seed, options.effort
        ),
        "denoised with the secret key's pairs": Pairs(
            one.attacker.images, one.secret[1], radius, options.seed, options.effort
        ),
    }
    found = {
        "protected": study.parts(release, validation),
        "own average removed": study.parts(
            without_average(release, own.mean(0, keepdim=True), everyone), validation
        ),
    }
    owners = correlation.class_rows(study.task, one.owner.targets)
    theirs = correlation.class_rows(study.task, one.attacker.targets)
    if study.task.name == "classification" and len(owners) == len(theirs):
        by_class = torch.stack(
            [correlation.class_means(delta, theirs) for delta in one.attackers]
        ).mean(0)
        leaked = correlation.class_means(one.secret[1], theirs)
        for name, average in (("own", by_class), ("the secret key's", leaked)):
            train = without_average(release, average, owners)
            found[f"{name} class averages removed"] = study.parts(train, validation)
    denoisers = in_processes(fit_denoiser, list(pairs.values()), options.workers)
    for name, denoiser in zip(pairs, denoisers, strict=True):
        found[name] = _denoised(found["protected"], denoiser)
    return found


def _denoised(parts: Parts, denoiser: Denoiser) -> Parts:
    """Every part through a denoiser."""
    return Parts(
        *map(
            denoiser.cleaned,
            (parts.train, parts.validation, parts.clean_validation, parts.test),
        )
    )
