"""The table of what leaks: every score, both epochs, with intervals."""

from dataclasses import replace
from math import inf, nan

import pytest

from medshield import leakage_table
from medshield.evidence import CellResult, Leakage
from medshield.leakage_table import Leaked
from medshield.trials import BEST, CLEAN_BEST, LAST, Cell


def leakage(score, selection, estimate):
    return Leakage(
        score=score,
        selection=selection,
        estimate=estimate,
        low=estimate - 0.1,
        high=estimate + 0.1,
        clean=0.9,
        protected=0.6,
        floor=0.5,
        clean_low=0.8,
    )


def result(decision="balanced_accuracy", scores=("auroc", "balanced_accuracy")):
    return CellResult(
        cell=Cell("resnet18", "adversarial"),
        level="determined",
        scores={},
        leakages=tuple(
            leakage(score, selection, number / 10)
            for number, (score, selection) in enumerate(
                (score, selection) for score in scores for selection in (LAST, BEST, CLEAN_BEST)
            )
        ),
        decision=decision,
        floor=0.5,
        fitted=1.0,
        curves={},
    )


def test_the_decision_comes_before_the_ranking_and_each_epoch_has_a_column():
    header, row = leakage_table.lines([Leaked.under("robust", "8/255", result())])
    assert header == [
        "cell",
        "images",
        "balanced accuracy, last epoch",
        "balanced accuracy, clean-picked epoch",
        "auroc, last epoch",
        "auroc, clean-picked epoch",
    ]
    assert row[:2] == ["resnet18:adversarial", "robust 8/255"]
    assert row[2:4] == ["0.30 [0.20, 0.40]", "0.50 [0.40, 0.60]"]
    assert row[4:] == ["0.00 [-0.10, 0.10]", "0.20 [0.10, 0.30]"]


def test_a_task_that_is_judged_by_its_ranking_has_no_column_twice():
    header, _ = leakage_table.lines([Leaked.under("em", "8/255", result("auroc", ("auroc",)))])
    assert header[2:] == ["auroc, last epoch", "auroc, clean-picked epoch"]


def test_rows_are_ordered_by_cell_radius_and_method():
    table = [Leaked.under(method, eps, result()) for eps in ("8/255", "16/255") for method in "ba"]
    rows = leakage_table.lines(table)[1:]
    assert [row[1] for row in rows] == ["a 16/255", "b 16/255", "a 8/255", "b 8/255"]


def test_plain_data_has_every_number():
    (first, *_) = Leaked.under("em", "8/255", result()).to_json()["leakages"]
    assert first == {
        "score": "balanced_accuracy",
        "selection": LAST,
        "estimate": 0.3,
        "low": 0.3 - 0.1,
        "high": 0.3 + 0.1,
    }


@pytest.mark.parametrize(
    ("estimate", "low", "high", "said"),
    [
        (0.2, -inf, inf, "0.20 [no bounds]"),
        (0.2, -inf, 0.3, "0.20 [no bounds]"),
        (0.2, 0.1, inf, "0.20 [no bounds]"),
        (nan, nan, nan, "unknown"),
    ],
)
def test_what_is_not_known_is_said_in_words(estimate, low, high, said):
    unsure = replace(leakage("auroc", LAST, estimate), low=low, high=high)
    row = Leaked("em", "8/255", "resnet18:standard", {("auroc", LAST): unsure})
    assert leakage_table.lines([row])[1][2] == said
