"""Components of variance, and Fieller's interval, on numbers whose answer is known."""

import numpy as np
import pytest

from medshield.intervals import Components, Ratio

OVER, UNDER = np.array([1.0, 0]), np.array([0, 1.0])


def components(means=(0.3, 1.0), patients=(0.0, 0.0), trainings=(0.0, 0.0), count=3):
    return Components(
        means=np.array(means),
        patients=np.diag(patients).astype(float),
        trainings=np.diag(trainings).astype(float),
        both=np.zeros((2, 2)),
        training_count=count,
        patient_count=10_001,
    )


def test_patients_alone_give_the_normal_margin():
    found = components(patients=(0.01, 0)).margin(OVER, 0.95)
    assert found == pytest.approx(1.96 * 0.1, rel=1e-3)


def test_three_trainings_alone_give_student_s_margin():
    found = components(trainings=(0.01, 0)).margin(OVER, 0.95)
    assert found == pytest.approx(4.303 * 0.1, rel=1e-3)


def test_margins_add_in_quadrature():
    found = components(patients=(0.01, 0), trainings=(0.01, 0)).margin(OVER, 0.95)
    assert found == pytest.approx(np.hypot(1.96, 4.303) * 0.1, rel=1e-3)


def test_one_training_tells_nothing_of_others():
    found = components(patients=(0.01, 0), trainings=(9.0, 0), count=1).margin(OVER, 0.95)
    assert found == pytest.approx(1.96 * 0.1, rel=1e-3)


def test_what_patients_and_trainings_cause_together_counts_once():
    """Victims that err independently: their spread is that of the patients, nothing more."""
    rng = np.random.default_rng(0)
    right = rng.random((3, 5000)) < 0.7
    rows = rng.integers(0, 5000, (400, 5000))
    drawn = right[:, rows].mean(2).T[:, :, None]
    found = Components.of(right.mean(1)[:, None], drawn, 5000)
    assert found.both[0, 0] == pytest.approx(found.patients[0, 0], rel=0.2)
    deviation = np.sqrt(0.7 * 0.3 / 5000 / 3)
    assert found.patients[0, 0] ** 0.5 == pytest.approx(deviation, rel=0.1)


def test_a_ratio_with_a_sure_denominator():
    ratio = Ratio(components(patients=(0.01, 0)), OVER, UNDER)
    low, high = ratio.interval(0.95)
    assert ratio.estimate == pytest.approx(0.3)
    assert (low, high) == (
        pytest.approx(0.3 - 0.196, abs=1e-3),
        pytest.approx(0.3 + 0.196, abs=1e-3),
    )


def test_fieller_s_ends():
    """Both ends solve (x - r y)^2 = z^2 (v_x + r^2 v_y), an equation of the second degree."""
    low, high = Ratio(components(patients=(0.01, 0.04)), OVER, UNDER).interval(0.95)
    z = 1.9602
    roots = np.roots([1 - z**2 * 0.04, -2 * 0.3, 0.3**2 - z**2 * 0.01])
    assert sorted(roots) == [pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3)]


def test_a_denominator_that_may_be_zero_leaves_the_ratio_open():
    ratio = Ratio(components(patients=(0.01, 0.36)), OVER, UNDER)
    assert ratio.under_low(0.95) < 0
    assert ratio.interval(0.95) == (-np.inf, np.inf)


def test_a_denominator_below_zero_has_no_ratio():
    ratio = Ratio(components(means=(0.3, -0.1)), OVER, UNDER)
    assert np.isnan([ratio.estimate, *ratio.interval(0.95)]).all()


def test_no_doubt_at_all():
    assert Ratio(components(), OVER, UNDER).interval(0.95) == (0.3, 0.3)


def test_draws_without_a_score_are_left_out():
    scores = np.array([[0.5, 0.9], [0.6, 0.8]])
    drawn = np.tile(scores, (5, 1, 1)) + np.arange(5)[:, None, None] / 100
    spoilt = np.concatenate([drawn, np.full((1, 2, 2), np.nan)])
    assert np.allclose(
        Components.of(scores, spoilt, 9).patients, Components.of(scores, drawn, 9).patients
    )
    assert np.isnan(Components.of(scores, np.full((5, 2, 2), np.nan), 9).patients).all()


def test_the_lower_end_is_no_higher_than_that_of_the_lesser_means():
    own = components(means=(0.3, 1.0), patients=(0.01, 0))
    lesser = components(means=(0.1, 1.0), patients=(0.01, 0))
    ratio = Ratio(own, OVER, UNDER, lesser)
    assert ratio.estimate == pytest.approx(0.3)
    assert ratio.interval(0.95) == (
        pytest.approx(0.1 - 0.196, abs=1e-3),
        pytest.approx(0.3 + 0.196, abs=1e-3),
    )


def test_few_patients_who_vary_enough_are_given_no_further_variance():
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (4000, 1, 1))
    scores = np.array([[0.5]])
    for least, expected in ((0.0, 0.01), (0.005, 0.01), (0.04, 0.04)):
        found = Components.of(scores, drawn, 50, least)
        assert found.patients[0, 0] == pytest.approx(expected, rel=0.05)
