"""Leakage of predictions that were made up so that its true value is known."""

from dataclasses import replace

import numpy as np
import pytest

from medshield import sample
from medshield.arms import ALONE, CLEAN, PROTECTED
from medshield.evidence import (
    CellResult,
    Leakage,
    Verdict,
    measured,
    open_cells,
    summarise,
    worst,
)
from medshield.sample import Sample
from medshield.tasks import Classification
from medshield.trials import Cell

TASK = Classification(("benign", "malignant"))
COUNT, SEEDS = 400, 3
TARGETS = np.arange(COUNT) % 2
GROUPS = np.arange(COUNT) // 2
FLOOR = 0.5


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(sample, "BOOTSTRAP_DRAWS", 100)


def predictions(accuracy, seed=0):
    """One array per seed that is right on a random share of the examples."""
    rng = np.random.default_rng(seed)
    arms = []
    for _ in range(SEEDS):
        right = rng.random(COUNT) < accuracy
        said = np.where(right, TARGETS, 1 - TARGETS)
        sure = rng.uniform(0.55, 0.95, COUNT)
        malignant = np.where(said == 1, sure, 1 - sure)
        arms.append(np.stack([1 - malignant, malignant], 1))
    return arms


def constant():
    return [np.tile([0.6, 0.4], (COUNT, 1))] * SEEDS


def perfect(count=SEEDS):
    sure = np.where(TARGETS == 1, 0.9, 0.1)
    return [np.stack([1 - sure, sure], 1)] * count


def leakage(clean, protected, score="balanced_accuracy", seed=0, groups=GROUPS, alone=None):
    arms = {CLEAN: clean, PROTECTED: protected} | ({ALONE: alone} if alone else {})
    drawn = Sample.of(TASK, arms, TARGETS, groups, np.random.default_rng(seed))
    found = measured(drawn, {"balanced_accuracy": FLOOR, "auroc": 0.9}, "last epoch")
    return next(each for each in found if each.score == score)


def test_nothing_learned_is_protected():
    found = leakage(predictions(0.95), constant())
    assert found.estimate == 0
    assert -0.03 < found.low < 0 < found.high < 0.03
    assert (found.protected, found.floor) == (0.5, 0.5)
    assert found.verdict is Verdict.PROTECTED


def test_everything_learned_is_not_protected():
    found = leakage(predictions(0.95), predictions(0.95, seed=1))
    assert found.estimate == pytest.approx(1, abs=0.05)
    assert found.verdict is Verdict.NOT_PROTECTED


def test_a_third_is_partly():
    found = leakage(predictions(0.95), predictions(0.62, seed=1))
    assert found.verdict is Verdict.PARTLY


def test_half_of_it_is_not_protected_as_the_upper_end_decides():
    found = leakage(predictions(0.95), predictions(0.725, seed=1))
    assert found.estimate == pytest.approx(0.5, abs=0.1)
    assert found.verdict is Verdict.NOT_PROTECTED


def test_the_clean_arm_at_its_floor_tells_nothing():
    found = leakage(constant(), constant())
    assert np.isnan(found.estimate)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_a_clean_arm_that_beats_its_floor_by_luck_tells_nothing():
    found = leakage(predictions(0.505, seed=4), constant())
    assert not found.clean_low > found.floor
    assert found.verdict is Verdict.INCONCLUSIVE


def test_worse_than_the_floor_is_negative_by_decision_and_leakage_by_ranking():
    """A ranking that is wrong throughout is turned around with one sign."""
    wrong = predictions(0.05, seed=1)
    decided = leakage(predictions(0.95), wrong)
    assert decided.estimate < -0.8
    assert decided.verdict is Verdict.PROTECTED
    ranked = leakage(predictions(0.95), wrong, "auroc")
    assert ranked.estimate == pytest.approx(1, abs=0.1)
    assert ranked.verdict is Verdict.NOT_PROTECTED


def test_a_ranking_has_the_floor_of_a_coin_whatever_the_constant_scores():
    assert leakage(predictions(0.95), constant(), "auroc").floor == 0.5


def test_rankings_by_chance_do_not_look_like_leakage():
    """Many victims that rank at random, each by chance a little away from 0.5: 0 is no surprise."""
    rng = np.random.default_rng(0)
    victims = [np.stack([1 - p, p], 1) for p in rng.random((10, COUNT))]
    found = leakage(perfect(10), victims, "auroc")
    assert found.estimate > 0
    assert found.low <= 0 < found.high


def test_the_floor_is_what_the_trainer_had_anyway():
    """Trained with the release 0.75, without it 0.65, with all of the clean images 0.95."""
    alone = predictions(0.65, seed=2)
    found = leakage(predictions(0.95), predictions(0.75, seed=1), alone=alone)
    assert found.floor == pytest.approx(0.65, abs=0.03)
    assert found.estimate == pytest.approx(1 / 3, abs=0.1)
    assert found.low < found.estimate < found.high


def test_clean_images_that_add_nothing_to_a_fifth_of_them_tell_nothing():
    alone = predictions(0.9, seed=2)
    found = leakage(predictions(0.9), predictions(0.7, seed=1), alone=alone)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_the_interval_contains_the_truth():
    """Nineteen times in twenty, in experiments whose leakage is known to be 0.4."""
    hits = []
    for seed in range(12):
        clean, protected = predictions(0.9, seed=2 * seed), predictions(0.66, seed=2 * seed + 1)
        found = leakage(clean, protected, seed=seed)
        assert found.low < found.estimate < found.high
        hits.append(found.low <= 0.4 <= found.high)
    assert sum(hits) >= 10


def test_patients_are_drawn_as_a_whole():
    """Forty patients with ten equal images each tell less than four hundred patients."""
    patient = np.arange(COUNT) // 10
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(COUNT // 10) < 0.75, 10)
    malignant = np.where(right, TARGETS, 1 - TARGETS).astype(float)
    arm = [np.stack([1 - malignant, malignant], 1)] * SEEDS
    together = leakage(predictions(0.95), arm, groups=patient)
    apart = leakage(predictions(0.95), arm, groups=np.arange(COUNT))
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_trainings_that_differ_widen_the_interval():
    """Three victims that learned 0.55, 0.65 and 0.75 tell less than three that learned 0.65."""
    apart = [predictions(share, seed=9)[0] for share in (0.55, 0.65, 0.75)]
    alike = [predictions(0.65, seed=seed)[0] for seed in (9, 10, 11)]
    wide, narrow = leakage(predictions(0.95), apart), leakage(predictions(0.95), alike)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.low < 0, "three trainings so far apart do not exclude that nothing leaks"


def test_few_patients_who_are_all_predicted_alike_leave_doubt():
    few = slice(0, 16)  # 8 patients
    arms = {CLEAN: [one[few] for one in perfect()], PROTECTED: [one[few] for one in constant()]}
    rng = np.random.default_rng(0)
    drawn = Sample.of(TASK, arms, TARGETS[few], GROUPS[few], rng)
    assert drawn.drawn[..., 0].std(0).max() == 0, "the bootstrap alone sees no doubt"
    found = measured(drawn, {"balanced_accuracy": FLOOR, "auroc": FLOOR}, "last epoch")[0]
    assert found.high > 0.15


def test_an_interval_among_many_is_wider():
    drawn = Sample.of(
        TASK,
        {CLEAN: predictions(0.95), PROTECTED: predictions(0.7, seed=1)},
        TARGETS,
        GROUPS,
        np.random.default_rng(0),
    )
    floor = {"balanced_accuracy": FLOOR, "auroc": FLOOR}
    single, of_many = (measured(drawn, floor, "", comparisons=n)[0] for n in (1, 100))
    assert of_many.low_all < single.low_all == single.low
    assert of_many.high_all > single.high_all == single.high
    assert (of_many.low, of_many.high) == (single.low, single.high)


def test_what_leaks_surely_does_so_whatever_else_was_looked_at():
    sure = Leakage("auroc", "last epoch", 0.6, 0.3, 0.9, 0.9, 0.7, 0.5, 0.8, low_all=0.2)
    unsure = replace(sure, low_all=0.1)
    assert sure.surely_leaks
    assert not unsure.surely_leaks
    assert not replace(sure, clean_low=0.5).surely_leaks


def test_a_level_is_broken_by_what_counts_at_it():
    decided = Leakage("balanced_accuracy", "last epoch", 0.1, 0, 0.2, 0.9, 0.5, 0.5, 0.8, 0.0, 0.2)
    ranked = Leakage("auroc", "last epoch", 0.9, 0.8, 1.0, 0.9, 0.8, 0.5, 0.8, 0.7, 1.1)
    found = (decided, ranked)
    cell = CellResult(Cell("x"), "basic", {}, found, decided.score, 0.5, 0.9, {})
    assert cell.decisive("basic") is decided
    assert not cell.surely_leaks("basic")
    assert cell.decisive("determined") is ranked
    assert cell.surely_leaks("determined")


def test_fewer_than_three_trainings_find_a_leak_but_no_protection():
    def judged(high):
        found = Leakage("balanced_accuracy", "last epoch", 0.0, 0.0, high, 0.9, 0.6, 0.5, 0.85)
        cell = CellResult(Cell("x"), "basic", {}, (found,), found.score, 0.5, 0.9, {}, seeds=2)
        return cell.judged("basic")[0]

    assert judged(0.1) is judged(0.4) is Verdict.INCONCLUSIVE
    assert judged(0.9) is Verdict.NOT_PROTECTED


def test_the_same_randomness_gives_the_same_interval():
    clean, protected = predictions(0.9), predictions(0.7, seed=1)
    assert leakage(clean, protected) == leakage(clean, protected)
    assert leakage(clean, protected).low != leakage(clean, protected, seed=1).low


@pytest.mark.parametrize(
    ("high", "clean_low", "verdict"),
    [
        (0.15, 0.6, Verdict.PROTECTED),
        (0.151, 0.6, Verdict.PARTLY),
        (0.5, 0.6, Verdict.PARTLY),
        (0.501, 0.6, Verdict.NOT_PROTECTED),
        (float("nan"), 0.6, Verdict.NOT_PROTECTED),
        (0.0, 0.5, Verdict.INCONCLUSIVE),
        (1.0, float("nan"), Verdict.INCONCLUSIVE),
    ],
)
def test_where_verdicts_begin(high, clean_low, verdict):
    found = Leakage("auroc", "last epoch", 0.0, 0.0, high, 0.9, 0.5, 0.5, clean_low)
    assert found.verdict is verdict


def test_a_part_that_leaks_decides_before_one_that_could_not_tell():
    order = [Verdict.PROTECTED, Verdict.INCONCLUSIVE, Verdict.PARTLY, Verdict.NOT_PROTECTED]
    for number in range(1, 5):
        assert worst(order[:number]) is worst(order[:number][::-1]) is order[number - 1]


@pytest.mark.parametrize(
    ("high", "fitted", "verdict"),
    [
        (0.1, 0.9, Verdict.PROTECTED),
        (0.4, 0.9, Verdict.PARTLY),
        (0.1, 0.7, Verdict.INCONCLUSIVE),
        (0.4, 0.7, Verdict.INCONCLUSIVE),
        (0.9, 0.7, Verdict.NOT_PROTECTED),
    ],
)
def test_a_victim_that_did_not_fit_may_find_a_leak_but_no_protection(high, fitted, verdict):
    found = Leakage("balanced_accuracy", "last epoch", high / 2, 0.0, high, 0.9, 0.6, 0.5, 0.85)
    cell = CellResult(Cell("resnet18"), "basic", {}, (found,), found.score, 0.5, fitted, {})
    assert cell.judged("basic")[0] is verdict


def test_no_cell_tells_nothing():
    assert worst([]) is Verdict.INCONCLUSIVE


def test_verdicts_are_the_contract_s_words():
    words = {"protected", "partly", "not protected", "inconclusive"}
    assert {str(verdict) for verdict in Verdict} == words


def test_a_summary():
    found = summarise([1.0, 2.0, 4.0])
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["sd"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert found["n"] == 3
    assert summarise([0.5]) == {"mean": 0.5, "sd": None, "n": 1}


def judged_cell(name, *, estimate=0.0, high=0.1, interim=None, fitted=0.9, clean_low=0.8):
    found = Leakage(
        *("balanced_accuracy", "last epoch", estimate, -0.5, high, 0.9, 0.5, 0.5, clean_low),
        high_interim=high if interim is None else interim,
    )
    return CellResult(Cell(name), "basic", {}, (found,), found.score, 0.5, fitted, {})


HOLDS = judged_cell("holds")
WIDE = judged_cell("wide", high=0.4)
NARROW_BY_CHANCE = judged_cell("narrow", high=0.1, interim=0.2)
LEAKS = judged_cell("leaks", estimate=0.3, high=0.6)
UNFIT = judged_cell("unfit", high=0.4, fitted=0.6)
AT_ITS_FLOOR = judged_cell("floor", high=0.4, clean_low=0.5)


@pytest.mark.parametrize(
    ("cells", "again"),
    [
        ([HOLDS], []),
        ([WIDE], [WIDE]),
        ([WIDE, HOLDS, NARROW_BY_CHANCE], [WIDE, NARROW_BY_CHANCE]),
        ([WIDE, LEAKS], []),
        ([WIDE, UNFIT], []),
        ([WIDE, AT_ITS_FLOOR], []),
        ([replace(WIDE, seeds=2)], []),
    ],
)
def test_more_trainings_are_for_cells_that_only_a_wide_interval_keeps_open(cells, again):
    assert open_cells(cells, "basic") == again


def test_an_early_end_takes_a_wider_interval():
    found = leakage(predictions(0.95), predictions(0.5, seed=1))
    assert found.high < found.high_interim
