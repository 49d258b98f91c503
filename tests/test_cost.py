"""Image-passes and seconds: how they are counted, kept, and shown beside a victim's."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from medshield import cost_table, models
from medshield.cost import Cost, mean_cost
from medshield.cost_table import Spent
from medshield.methods import METHODS
from medshield.methods import base as methods_base
from medshield.methods.published import adversarial_poisons, surrogate
from tests.builders import in_classes, medshield
from tests.test_methods import examples, setting
from tests.test_protect import interrupted_after, protected

IMAGES = torch.rand(6, 1, 32, 32)


@pytest.fixture(scope="module")
def model():
    return models.build("small_convnet", 1, 2)


def test_an_image_through_a_network_with_gradients_is_one_pass_and_without_a_third(model):
    cost = Cost()
    with cost.counting():
        model(IMAGES)
        with torch.no_grad():
            model(IMAGES[:3])
    model(IMAGES)
    assert cost.passes == pytest.approx(6 + 1)


def test_every_model_is_watched():
    for name in (*models.CLASSIFIERS, *models.SEGMENTERS):
        cost, built = Cost(), models.build(name, 1, 2).eval()
        with cost.counting(), torch.inference_mode():
            built(torch.rand(3, 1, 64, 64))
        assert cost.passes == pytest.approx(1), name


def test_counts_add_up_and_end_with_an_error_too(model):
    cost = Cost()

    def failing():
        with cost.counting():
            model(IMAGES)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing()
    model(IMAGES)
    assert cost.passes == 12


def test_only_the_making_of_items_is_counted(model):
    def made():
        for number in range(3):
            model(IMAGES)
            yield number

    cost, started = Cost(), time.perf_counter()
    for _ in cost.over(made()):
        model(IMAGES)
        time.sleep(0.05)
    assert cost.passes == 18
    assert cost.seconds < time.perf_counter() - started - 0.1


def test_the_mean_is_of_what_was_counted():
    assert mean_cost([Cost(1, 10), None, Cost(3, 30)]) == Cost(2, 20)
    assert mean_cost([None]) is None


def test_a_method_counts_what_it_does_itself(monkeypatch):
    monkeypatch.setattr(adversarial_poisons, "ATTACK_STEPS", 3)
    monkeypatch.setattr(adversarial_poisons, "EPOCHS", 2)
    monkeypatch.setattr(surrogate, "CLASSIFIER", "small_convnet")
    monkeypatch.setattr(methods_base, "BLOCK", 8)
    method, (images, targets, names) = METHODS["tap"](setting(effort=1)), examples(count=16)
    method.fit(images, targets)
    assert method.fitting.passes == 2 * 16
    assert method.applying == Cost()
    method.perturb(images, targets, names)
    assert method.applying.passes == 3 * 16
    assert method.applying.seconds > 0


def test_a_release_s_cost_is_private_and_only_whole_runs_have_one(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in", each=3)
    settings = ("--method", "lsp", "--eps", "8/255", "--workers", "1")
    release = protected(source, tmp_path / "out", *settings)
    assert "cost" not in (release / "medshield.json").read_text()
    kept = json.loads((tmp_path / "out.private" / "cost.json").read_text())
    assert kept["fit"] == {"seconds": 0, "passes": 0}
    assert set(kept["apply"]) == {"seconds", "passes"}
    with monkeypatch.context() as patch:
        interrupted_after(patch, 2)
        medshield("protect", source, "-o", tmp_path / "again", *settings)
    protected(source, tmp_path / "again", *settings, "--resume")
    kept = json.loads((tmp_path / "again.private" / "cost.json").read_text())
    assert kept == {"fit": None, "apply": None}


def test_a_benchmark_ends_with_what_it_cost(tmp_path):
    source = in_classes(tmp_path / "in", each=16)
    cells = ("--cells", "small_convnet", "--seeds", "1", "--epochs", "2", "--workers", "1")
    settings = ("--methods", "lsp,random-noise", "--eps", "8/255", *cells)
    done = medshield("benchmark", source, "-o", tmp_path / "bench", *settings)
    assert done.code == 0, done.err
    table = json.loads((tmp_path / "bench" / "in" / "table.json").read_text())
    victim, *methods = table["cost"]
    assert victim["what"] == "one small_convnet:standard"
    assert victim["fit passes"] == 2 * (victim["images"] // 16 * 16)
    assert [(row["what"], row["passes / victim's"]) for row in methods] == [
        ("lsp", 0.0),
        ("random-noise", 0.0),
    ]
    assert "| passes / victim's |" in (tmp_path / "bench" / "in" / "table.md").read_text()
    assert "passes / victim's" in done.out


def release_with(tmp_path, cost):
    private = tmp_path / "release.private"
    private.mkdir()
    (private / "cost.json").write_text(json.dumps(cost))
    return tmp_path / "release"


def evidence(**costs):
    facts = {"examples": {"train": 60, "val": 20, "test": 20}, "cost": costs}
    return SimpleNamespace(facts=facts | {"epochs": {"standard": 12, "adversarial": 5}})


def test_a_method_stands_beside_one_victim_of_the_same_images(tmp_path):
    release = release_with(
        tmp_path,
        {"fit": {"seconds": 3.0, "passes": 700.0}, "apply": {"seconds": 1.0, "passes": 20.0}},
    )
    found = evidence(
        **{
            "resnet18:adversarial": {"seconds": 9.0, "passes": 2880.0},
            "resnet18:standard": {"seconds": 2.0, "passes": 720.0},
        }
    )
    rows = cost_table.rows([Spent.on("em", "8/255", release, found)])
    assert rows == [
        ("one resnet18:standard", None, 60, 12, 2.0, None, 720, None, None, None),
        ("em", "8/255", 100, None, 3.0, 1.0, 700, 20, 1.2, 0.6),
    ]
    assert {len(line) for line in cost_table.lines(rows)} == {len(cost_table.HEADER)}


@pytest.mark.parametrize("kept", [{"fit": None, "apply": {"seconds": 1.0, "passes": 2.0}}, None])
def test_what_was_not_seen_from_beginning_to_end_is_not_guessed(tmp_path, kept):
    release = release_with(tmp_path, kept) if kept else tmp_path / "older"
    found = evidence(**{"resnet18:standard": None})
    _, row = cost_table.rows([Spent.on("em", "8/255", release, found)])
    assert row[4] is None
    assert row[-2:] == (None, None)
