"""`keys`: how much the protection depends on the luck of the key."""

from collections.abc import Sequence
from pathlib import Path

from medshield.sample import CHANCE_RANKING
from tests.tools.protection import victims
from tests.tools.protection.study import Fitting, Options, deltas, in_processes, load, moved
from tests.tools.tables import table


def document(options: Options, scratch: Path) -> str:
    """A row for each method: mean, spread and worst over the keys, each with one victim."""
    study = load(options, scratch)
    order = [(method, number) for method in options.methods for number in range(options.keys)]
    fittings = [
        Fitting(
            method,
            study.setting(options, options.key(number)),
            study.train,
            (study.train, study.validation),
        )
        for method, number in order
    ]
    found = in_processes("making deltas", deltas, fittings, options.workers)
    arms = {victims.CLEAN: study.parts(study.train, study.validation)}
    for (method, number), (train, validation) in zip(order, found, strict=True):
        arms[f"{method}, key {number}"] = study.parts(
            moved(study.train, train), moved(study.validation, validation)
        )
    trained = victims.train(study, arms, options, seeds=1)
    columns = [(score, selection) for selection in victims.SELECTIONS for score in trained.scores]
    rows = []
    for name in (victims.CLEAN, *options.methods):
        keys = [arm for arm in arms if arm.split(", ")[0] == name]
        cells = []
        for score, selection in columns:
            values = [trained.values(arm, score, selection)[0] for arm in keys]
            cells.append(_over_keys(values, ranking=score == study.task.ranking))
        rows.append([name, *cells])
    header = ["images", *trained.header()[:-1]]
    return "\n\n".join(
        [
            victims.how(study, options, len(study.train), seeds=1),
            f"Mean ± standard deviation over {options.keys} keys, each fitted anew, with one seed "
            "for all victims; in brackets the worst key: the highest score, or the ranking "
            "furthest from 0.5.",
            table(header, rows),
        ]
    )


def _over_keys(values: Sequence[float], *, ranking: bool) -> str:
    """Mean, standard deviation and worst; the score alone where there is but one."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    worst = max(values, key=lambda value: abs(value - CHANCE_RANKING) if ranking else value)
    return f"{victims.spread(values)} ({worst:.3f})"
