"""Losses, predictions and scores of each task, and what a constant predictor is worth."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from medshield.tasks import PROBABILITY_BINS, TASKS, Classification, MultiLabel, Segmentation

COUNT, SIDE = 6, 8
THREE, FINDINGS, FOREGROUND = (
    Classification(("a", "b", "c")),
    MultiLabel(("x", "y")),
    Segmentation(("foreground",)),
)


def examples(task, count=COUNT, seed=0):
    """Logits and targets as a model and a loader would give them."""
    generator = torch.Generator().manual_seed(seed)
    if task.name == "classification":
        return torch.randn(count, 3, generator=generator), torch.arange(count) % 3
    if task.name == "multilabel":
        targets = torch.randint(0, 2, (count, 2), generator=generator).float()
        return torch.randn(count, 2, generator=generator), targets
    shape = (count, SIDE, SIDE)
    logits = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return logits, torch.randint(0, 2, shape, generator=generator)


every_task = pytest.mark.parametrize(
    "task", [THREE, FINDINGS, FOREGROUND], ids=lambda task: task.name
)


def test_tasks_go_by_their_names():
    assert set(TASKS) == {"classification", "multilabel", "segmentation"}
    assert all(name == task.name for name, task in TASKS.items())


@every_task
@pytest.mark.parametrize("scale", [0, 1, 1000])
def test_the_loss_is_finite_per_example_and_has_gradients(task, scale):
    logits, targets = examples(task)
    logits = (logits * scale).requires_grad_()
    loss = task.loss(logits, targets)
    assert loss.shape == (COUNT,)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert logits.grad.isfinite().all()


@every_task
def test_the_loss_of_an_example_does_not_depend_on_its_neighbours(task):
    logits, targets = examples(task)
    together = task.loss(logits, targets)
    alone = torch.cat([task.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(COUNT)])
    assert torch.allclose(together, alone)


@every_task
def test_right_is_cheaper_than_wrong(task):
    _, targets = examples(task)
    if task.name == "classification":
        sure = torch.nn.functional.one_hot(targets, 3) * 20.0
    else:
        sure = (targets.float() * 2 - 1) * 10
        sure = sure[:, None] if task.name == "segmentation" else sure
    assert (task.loss(sure, targets) < 0.01).all()
    assert (task.loss(-sure, targets) > 1).all()


@every_task
def test_conditions_are_maps_of_the_targets(task):
    _, targets = examples(task)
    maps = task.conditions(targets, SIDE)
    assert maps.shape == (COUNT, task.condition_channels, SIDE, SIDE)
    assert set(maps.unique().tolist()) <= {0, 1}
    if task.name == "multilabel":
        assert torch.equal(maps[:, :, 0, 0], targets)
    else:
        assert (maps.sum(1) == 1).all()
        expected = targets if targets.ndim == 3 else targets[:, None, None]
        assert (maps.argmax(1) == expected).all()


@every_task
def test_a_score_for_the_decision_and_one_for_the_ranking(task):
    logits, targets = examples(task)
    predictions = task.predictions(logits, targets).numpy()
    scores = task.scores(predictions, targets.numpy())
    assert len(predictions) == COUNT
    assert {task.decision, task.ranking} <= set(scores)
    assert all(0 <= value <= 1 for value in scores.values())
    rows = np.array([4, 1, 1])
    part = task.scores(predictions[rows], targets.numpy()[rows])  # as a bootstrap draws them
    assert set(part) == set(scores)


@every_task
def test_a_constant_ranks_like_a_coin(task):
    _, targets = examples(task, 30)
    scores = task.constant_scores(targets.numpy()[:15], targets.numpy()[15:])
    assert scores[task.ranking] == pytest.approx(0.5)


def test_classification_scores():
    logits, targets = examples(THREE, 40)
    predictions, truth = THREE.predictions(logits, targets).numpy(), targets.numpy()
    assert predictions.shape == (40, 3)
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-5)
    scores, decided = THREE.scores(predictions, truth), predictions.argmax(1)
    assert scores == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(truth, decided),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, decided),
            "auroc": sklearn.metrics.roc_auc_score(truth, predictions, multi_class="ovr"),
        },
        abs=1e-6,
    )


def test_the_constant_class_is_the_most_frequent_of_the_training_part():
    train, test = np.array([2, 2, 2, 0, 1]), np.array([0, 0, 0, 2, 1])
    scores = THREE.constant_scores(train, test)
    assert scores["accuracy"] == pytest.approx(1 / 5)
    assert scores["balanced_accuracy"] == pytest.approx(1 / 3)


def test_multilabel_scores():
    logits, targets = examples(FINDINGS, 40)
    predictions, truth = FINDINGS.predictions(logits, targets).numpy(), targets.numpy()
    assert predictions.shape == (40, 2)
    assert FINDINGS.scores(predictions, truth) == pytest.approx(
        {
            "accuracy": ((predictions > 0.5) == truth).mean(),
            "map": sklearn.metrics.average_precision_score(truth, predictions),
            "auroc": sklearn.metrics.roc_auc_score(truth, predictions),
        },
        abs=1e-6,
    )


def test_the_constant_finding_is_its_prevalence():
    truth = np.array([[1, 0], [0, 0], [0, 0], [1, 1]])
    assert FINDINGS.constant_scores(truth, truth)["map"] == pytest.approx((0.5 + 0.25) / 2)


def test_segmentation_keeps_counts_per_image():
    logits, targets = examples(FOREGROUND)
    kept = FOREGROUND.predictions(logits, targets)
    assert kept.shape == (COUNT, 2, PROBABILITY_BINS)
    assert (kept.sum((1, 2)) == SIDE * SIDE).all()
    assert torch.equal(kept[:, 1].sum(1), targets.sum((1, 2)).float())


def test_segmentation_scores_against_a_direct_computation():
    logits, targets = examples(FOREGROUND)
    kept = FOREGROUND.predictions(logits, targets).numpy()
    probability, truth = logits[:, 0].sigmoid().numpy().ravel(), targets.numpy().ravel()
    found = probability >= 0.5
    scores = FOREGROUND.scores(kept, targets.numpy())
    assert scores["iou"] == pytest.approx(sklearn.metrics.jaccard_score(truth, found))
    assert scores["dice"] == pytest.approx(sklearn.metrics.f1_score(truth, found))
    assert scores["predicted_foreground"] == pytest.approx(found.mean())
    exact = sklearn.metrics.roc_auc_score(truth, probability)
    assert scores["pixel_auroc"] == pytest.approx(exact, abs=0.01)  # 64 bins
    binned = sklearn.metrics.roc_auc_score(truth, np.floor(probability * PROBABILITY_BINS))
    assert scores["pixel_auroc"] == pytest.approx(binned)


@pytest.mark.parametrize(("logit", "share"), [(0.0, 1), (-1e-3, 0), (50, 1), (-50, 0)])
def test_a_probability_of_one_half_is_foreground(logit, share):
    targets = torch.ones(1, 2, 2, dtype=torch.long)
    kept = FOREGROUND.predictions(torch.full((1, 1, 2, 2), logit), targets).numpy()
    assert FOREGROUND.scores(kept, targets.numpy())["iou"] == share


def test_the_constant_mask_is_all_foreground():
    _, targets = examples(FOREGROUND)
    truth = targets.numpy()
    scores = FOREGROUND.constant_scores(truth, truth)
    assert scores["iou"] == pytest.approx(truth.mean())
    assert scores["predicted_foreground"] == 1


def test_no_foreground_anywhere_is_no_error():
    targets = torch.zeros(2, 4, 4, dtype=torch.long)
    logits = torch.full((2, 1, 4, 4), -3.0)
    assert FOREGROUND.loss(logits, targets).isfinite().all()
    scores = FOREGROUND.scores(FOREGROUND.predictions(logits, targets).numpy(), targets.numpy())
    assert scores["iou"] == 0
    assert np.isnan(scores["pixel_auroc"])


@every_task
def test_scores_of_draws_are_the_scores_of_the_drawn_rows(task):
    logits, targets = examples(task, count=40)
    predictions, truth = task.predictions(logits, targets).numpy(), targets.numpy()
    if task is THREE:
        predictions = predictions.round(1)  # ties
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 40, (20, 40))
    rows[0] = np.flatnonzero(truth == 0)[0] if task is THREE else 0  # a single class
    weights = np.stack([np.bincount(row, minlength=40) for row in rows]).astype(float)
    found = task.scores_of_draws(predictions, truth, weights)
    assert {task.decision, task.ranking} == set(found)
    for number, row in enumerate(rows):
        wanted = task.scores(predictions[row], truth[row])
        for name, values in found.items():
            assert values[number] == pytest.approx(wanted[name], nan_ok=True)


def test_two_classes_have_one_auroc():
    task = Classification(("no", "yes"))
    predictions = torch.randn(30, 2, generator=torch.Generator().manual_seed(1)).softmax(1).numpy()
    truth = np.arange(30) % 2
    found = task.scores_of_draws(predictions, truth, np.ones((1, 30)))["auroc"]
    assert found == pytest.approx(task.scores(predictions, truth)["auroc"])


def test_recall_is_told_by_class_and_auroc_by_finding():
    predictions = np.eye(3)[[0, 0, 1, 1, 1, 1]]
    assert THREE.per_class(predictions, np.array([0, 0, 1, 1, 0, 2])) == {
        "a": pytest.approx(2 / 3),
        "b": 1.0,
        "c": 0.0,
    }
    known = FINDINGS.per_class(np.array([[0.1, 0.5], [0.9, 0.5]]), np.array([[0, 1], [1, 1]]))
    assert known == {"x": 1.0}, "a finding that all have has no AUROC"
