"""The scores, against scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medshield import metrics

BINS = 8
PROBABILITIES = st.integers(0, 6).map(lambda n: n / 6) | st.floats(0, 1)
WHOLE_BINS = st.integers(0, BINS - 1)


@st.composite
def scored(draw, values=PROBABILITIES):
    """Scores with many ties, and a truth with both kinds."""
    truth = draw(st.lists(st.integers(0, 1), min_size=2, max_size=30))
    truth[:2] = [0, 1]
    order = draw(st.permutations(range(len(truth))))
    scores = draw(st.lists(values, min_size=len(truth), max_size=len(truth)))
    return np.array(scores), np.array(truth)[order]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_balanced_accuracy(pairs):
    decided, targets = np.array(pairs).T
    expected = sklearn.metrics.recall_score(
        targets, decided, labels=np.unique(targets), average="macro", zero_division=0
    )
    assert metrics.balanced_accuracy(decided, targets) == pytest.approx(expected)


@settings(deadline=None)
@given(scored())
def test_auroc(case):
    scores, truth = case
    expected = sklearn.metrics.roc_auc_score(truth, scores)
    assert metrics.auroc(scores, truth) == pytest.approx(expected)
    assert metrics.auroc(-scores, truth) == pytest.approx(1 - expected)


@settings(deadline=None)
@given(scored())
def test_average_precision(case):
    scores, truth = case
    expected = sklearn.metrics.average_precision_score(truth, scores)
    assert metrics.average_precision(scores, truth) == pytest.approx(expected)


def test_tied_scores_are_worth_the_same_in_any_order():
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    for truth in ([1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [1, 0, 1, 0, 0]):
        assert metrics.auroc(scores, np.array(truth)) == pytest.approx(5 / 6)
        assert metrics.average_precision(scores, np.array(truth)) == pytest.approx(0.75)


def test_a_constant_is_worth_a_half_and_the_share_of_positives():
    truth = np.array([1, 0, 0, 0])
    assert metrics.auroc(np.zeros(4), truth) == 0.5
    assert metrics.average_precision(np.zeros(4), truth) == 0.25


@pytest.mark.parametrize("seed", range(3))
def test_macro_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, (60, 4)) / 8
    truth = rng.integers(0, 2, (60, 4))
    auroc = sklearn.metrics.roc_auc_score(truth, scores, average="macro")
    precision = sklearn.metrics.average_precision_score(truth, scores, average="macro")
    assert metrics.macro_auroc(scores, truth) == pytest.approx(auroc)
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(precision)


def test_macro_auroc_of_classes_is_one_against_the_rest():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 80)
    targets = rng.integers(0, 3, 80)
    expected = sklearn.metrics.roc_auc_score(targets, scores, multi_class="ovr")
    assert metrics.macro_auroc(scores, np.eye(3)[targets]) == pytest.approx(expected)


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    scores = np.array([[0.9, 0.3], [0.2, 0.4], [0.4, 0.1]])
    truth = np.array([[1, 0], [0, 0], [1, 0]])
    assert metrics.macro_auroc(scores, truth) == 1
    assert metrics.mean_average_precision(scores, truth) == 1


@pytest.mark.parametrize("score", [metrics.macro_auroc, metrics.mean_average_precision])
def test_what_can_t_be_told_is_nan(score):
    assert np.isnan(score(np.full((3, 2), 0.5), np.zeros((3, 2))))


def test_one_class_alone_has_no_auroc():
    assert np.isnan(metrics.auroc(np.arange(3), np.ones(3)))
    assert metrics.average_precision(np.arange(3), np.ones(3)) == 1
    assert np.isnan(metrics.average_precision(np.array([]), np.array([])))


@settings(deadline=None)
@given(scored(WHOLE_BINS))
def test_auroc_from_counts_is_auroc_of_the_bins(case):
    scores, truth = case
    negatives = np.bincount(scores[truth == 0], minlength=BINS)
    positives = np.bincount(scores[truth == 1], minlength=BINS)
    found = metrics.auroc_from_counts(negatives, positives)
    assert found == pytest.approx(metrics.auroc(scores, truth))


def test_auroc_from_no_counts_is_nan():
    none, some = np.zeros(BINS), np.ones(BINS)
    assert np.isnan(metrics.auroc_from_counts(none, some))
    assert np.isnan(metrics.auroc_from_counts(some, none))


def test_psnr():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 20, 20, 1)).astype(np.uint8)
    changed = np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(image, changed, data_range=255)
    assert metrics.psnr(image, changed, 255) == pytest.approx(expected)
    assert metrics.psnr(image, image, 255) == np.inf


def test_psnr_of_a_uniform_shift_of_one_part_in_ten_is_20_db():
    image = np.full((1, 8, 8, 1), 100, np.uint8)
    assert metrics.psnr(image, image - 10, 100) == pytest.approx(20)


@pytest.mark.parametrize("shape", [(1, 7, 7, 1), (2, 40, 23, 3), (1, 100, 71, 1)])
@pytest.mark.parametrize(("kind", "width"), [(np.uint8, 255), (np.int16, 4096), (np.float32, 1.0)])
def test_ssim_is_that_of_scikit_image(shape, kind, width):
    rng = np.random.default_rng(0)
    clean = (rng.random(shape) * width).astype(kind)
    changed = (clean + rng.normal(0, 0.05 * width, shape)).clip(0, width).astype(kind)
    expected = [
        structural_similarity(
            a.astype(np.float64), b.astype(np.float64), data_range=width, channel_axis=-1
        )
        for a, b in zip(clean, changed, strict=True)
    ]
    assert metrics.ssim_of_frames(clean, changed, width) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(np.int16, -4657, 4657), (np.int16, -4658, 4658), (np.uint16, 0, 65535), (np.int32, -9, 9e8)],
)
def test_ssim_of_integers_is_not_cut_off(kind, low, high):
    rng = np.random.default_rng(0)
    clean = rng.choice([low, high], (1, 12, 12, 1)).astype(kind)
    changed = np.where(rng.random(clean.shape) < 0.1, low, clean).astype(kind)
    expected = structural_similarity(
        *(image[0, ..., 0].astype(np.float64) for image in (clean, changed)), data_range=high - low
    )
    assert metrics.ssim_of_frames(clean, changed, high - low) == pytest.approx([expected])


def test_ssim():
    rng = np.random.default_rng(0)
    image = rng.random((2, 16, 16, 3))
    assert metrics.ssim(image, image, 1) == pytest.approx(1)
    slight, strong = (image + rng.normal(0, s, image.shape) for s in (0.02, 0.2))
    assert 1 > metrics.ssim(image, slight, 1) > metrics.ssim(image, strong, 1)
    assert np.isnan(metrics.ssim(image[:, :6], image[:, :6], 1))
