"""`unseen`: does a generator protect images that it was not fitted on?

The training part is halved by patient. One victim trains on the second half as a generator
protects it that was fitted on the first, the other as one does that was fitted on the second
half itself, under the same key.
"""

from pathlib import Path

from medshield.trials import CLEAN_BEST, LAST
from tests.tools.protection import victims
from tests.tools.protection.study import (
    Fitting,
    Options,
    deltas,
    halves,
    in_processes,
    limited,
    load,
    moved,
)
from tests.tools.tables import table


def document(options: Options, scratch: Path) -> str:
    """Both tables, and what they are of."""
    study = load(options, scratch, shares=2)
    sides = halves(study.train, options.seed)
    first, second = (limited(side, options.limit, options.seed) for side in sides)
    setting = study.setting(options, options.key(0))
    order = [
        (f"{method}, {word}", Fitting(method, setting, fitted_on, (second, study.validation)))
        for method in options.methods
        for word, fitted_on in (("seen", second), ("unseen", first))
    ]
    found = in_processes(
        "making deltas", deltas, [fitting for _, fitting in order], options.workers
    )
    arms = {victims.CLEAN: study.parts(second, study.validation)}
    for (arm, _), (train, validation) in zip(order, found, strict=True):
        arms[arm] = study.parts(moved(second, train), moved(study.validation, validation))
    trained = victims.train(study, arms, options, options.seeds)
    differences = [
        [
            method,
            score.replace("_", " "),
            victims.short(selection),
            victims.interval(trained.leakage(f"{method}, seen", score, selection)),
            victims.interval(trained.leakage(f"{method}, unseen", score, selection)),
            trained.difference(f"{method}, unseen", f"{method}, seen", score, selection),
        ]
        for method in options.methods
        for score in trained.scores
        for selection in (LAST, CLEAN_BEST)
    ]
    header = ("method", "score", "epoch", "leakage, seen", "leakage, unseen", "unseen - seen")
    return "\n\n".join(
        [
            victims.how(study, options, len(second), options.seeds),
            table(["images", *trained.header()], [[arm, *trained.cells(arm)] for arm in arms]),
            f"Generators fitted on {len(second)} and on {len(first)} images:",
            table(header, differences),
        ]
    )
