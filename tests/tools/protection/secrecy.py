"""`secrecy`: are two keys' patterns alike, and do one's own pairs clean another's release?

The training part is halved by patient. The owner protects one half under the secret key. Whoever
wants to clean that release has the other half, clean, and protects it by the same method under
keys of their own: from these pairs they take the average delta, or train a denoiser, and apply it
to the release. The denoiser is applied to validation and test images, too, as a trainer does.
Pairs under the secret key are the upper bound: what a leak of pairs, not of the key, gives away.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from medshield.dataset.examples import Examples
from medshield.denoising import Denoiser, Pairs, fit_denoiser
from medshield.models import pick_device
from medshield.trials import Parts
from tests.tools.protection import correlation, victims
from tests.tools.protection.cleaning import left, without_average
from tests.tools.protection.correlation import class_means, class_rows
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
    found = in_processes("making deltas", deltas, fittings, options.workers)
    own, validation, leaked = found[SECRET]
    others = [one[0] for one in found[1:]]
    half = len(settings) - 1
    return Duel(owner, attacker, [own, *others[:half]], (validation, leaked), others[half:])


def document(options: Options, scratch: Path) -> str:
    """Both tables, and what they are of."""
    study = load(options, scratch, shares=2)
    duels = {method: duel(method, study, options) for method in options.methods}
    first = next(iter(duels.values()))
    return "\n\n".join(
        [
            victims.how(study, options, len(first.owner), options.seeds),
            f"Two keys: mean |cosine| over the pairs of {options.keys} keys.",
            alike(study, duels, options),
            f"Cleaning with pairs of {len(first.attacker)} own images under {options.keys - 1} "
            "own keys, or under the secret one:",
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
    protected = study.parts(
        moved(one.owner, one.owners[SECRET]), moved(study.validation, one.secret[0])
    )
    found = {"protected": protected}
    for name, train in without_averages(study, one, protected.train).items():
        found[name] = replace(protected, train=train)
    pairs = {"own": one.attackers, "the secret key's": [one.secret[1]]}
    jobs = [
        Pairs(
            clean=one.attacker.images.repeat(len(known), 1, 1, 1),
            deltas=torch.cat(known),
            radius=float(options.epsilon),
            seed=options.seed,
            effort=options.effort,
            device=pick_device("auto"),
        )
        for known in pairs.values()
    ]
    denoisers = in_processes("training denoisers", fit_denoiser, jobs, options.workers)
    for name, denoiser in zip(pairs, denoisers, strict=True):
        found[f"denoised with {name} pairs"] = denoised(protected, denoiser)
    return found


def without_averages(study: Study, one: Duel, release: Examples) -> dict[str, Examples]:
    """The released training images less what the attacker's pairs have in common.

    Labels are released with the images, so averages may be those of classes.
    """
    everyone = [torch.arange(len(release))]
    overall = torch.cat(one.attackers).mean(0, keepdim=True)
    found = {"own average removed": without_average(release, overall, everyone)}
    owners = class_rows(study.task, one.owner.targets)
    theirs = class_rows(study.task, one.attacker.targets)
    if study.task.name != "classification" or len(owners) != len(theirs):
        return found
    pairs = {"own": one.attackers, "the secret key's": [one.secret[1]]}
    for name, known in pairs.items():
        average = torch.stack([class_means(delta, theirs) for delta in known]).mean(0)
        found[f"{name} class averages removed"] = without_average(release, average, owners)
    return found


def denoised(parts: Parts, denoiser: Denoiser) -> Parts:
    """Every part through a denoiser, as a trainer would have it."""
    return Parts(
        train=denoiser.cleaned(parts.train),
        validation=denoiser.cleaned(parts.validation),
        clean_validation=denoiser.cleaned(parts.clean_validation),
        test=denoiser.cleaned(parts.test),
    )
