"""Pairs made with another key: all methods make them, and what no key hides is taken away."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medshield import denoising
from medshield.dataset.examples import Examples
from medshield.denoising import KEYS, OtherKeys
from medshield.errors import InputError
from medshield.keys import Key
from medshield.methods import METHODS
from medshield.methods.base import UntrainedMethod
from medshield.tasks import Classification, MultiLabel, Segmentation
from medshield.threats import cells_of
from medshield.trials import DENOISED, Cell
from medshield.weighing import Weighing
from tests.test_verify import make_set, protect, run

COUNT, SIDE = 24, 32
SLOW = {"em", "huang-em", "tap", "sem"}
"""Fitted as the others are, by many more steps."""
EPSILON = Fraction(8, 255)
TASKS = {
    "classification": (Classification(("a", "b")), torch.arange(COUNT) % 2),
    "multilabel": (MultiLabel(("a", "b")), torch.eye(2)[torch.arange(COUNT) % 2]),
    "segmentation": (Segmentation(()), (torch.arange(SIDE) < 9).long().expand(COUNT, SIDE, SIDE)),
}


def examples(kind="classification", seed=0):
    coarse = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    images = 0.2 + 0.6 * F.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    names = tuple(f"{seed}/{number}" for number in range(COUNT))
    return Examples(images, TASKS[kind][1], names, np.arange(COUNT), np.full(COUNT, ""))


class Stripes(UntrainedMethod):
    """The same pattern whatever the key."""

    name = "stripes"

    def _delta(self, images, targets, names):
        rows = (torch.arange(SIDE) // 2 % 2 * 2 - 1).float()
        return self.setting.budget.radius * rows.view(1, 1, SIDE, 1).expand_as(images)


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS._own, "stripes", Stripes)
    task, _ = TASKS["classification"]
    cpu = torch.device("cpu")
    return OtherKeys("stripes", EPSILON, task, 0, cpu, tmp_path, effort=0.1, method_effort=0.01)


def left(denoiser, release, clean):
    """The share of the perturbation that is left."""
    delta = release.images - clean.images
    rest = denoiser.cleaned(release).images - clean.images
    return float((rest * delta).sum() / delta.square().sum())


def protected_by(method, some, trainer):
    """A release under the owner's key."""
    key = Key.from_seed(1)
    owner = METHODS[method](replace(trainer._setting(some, 0), key=key))
    return replace(some, images=some.images + owner.perturb(some.images, some.targets, some.names))


def test_what_no_key_hides_is_taken_away_and_what_a_key_hides_is_not(trainer):
    clean, own = examples(seed=1), examples(seed=2)
    known = trainer.denoiser(own)
    assert left(known, protected_by("stripes", clean, trainer), clean) < 0.3
    assert float((known.cleaned(clean).images - clean.images).abs().mean()) < 0.25 * float(EPSILON)
    unknown = replace(trainer, method="random-noise").denoiser(own)
    vertical = clean.images + float(EPSILON) * (torch.arange(SIDE) // 8 % 2 * 2 - 1).float()
    assert left(known, replace(clean, images=vertical), clean) > 0.6
    assert left(unknown, replace(clean, images=vertical), clean) > 0.6


def test_a_denoiser_is_kept_and_named_by_what_it_learned_from(trainer, monkeypatch):
    own = examples()
    trainer = replace(trainer, effort=0.01)
    first = trainer.denoiser(own)
    other = replace(trainer, seed=1)
    assert other._place(own) != trainer._place(own) != trainer._place(examples(seed=3))
    monkeypatch.setattr(denoising, "fit_denoiser", lambda _: pytest.fail("trained again"))
    again = trainer.denoiser(own).cleaned(own)
    assert torch.equal(first.cleaned(own).images, again.images)
    assert trainer.cache.stat().st_mode & 0o777 == 0o700


def test_a_trainer_s_keys_are_none_of_those_that_seeds_give(trainer):
    mine = {trainer.key(number).secret for number in range(KEYS)}
    mine |= {replace(trainer, seed=1).key(number).secret for number in range(KEYS)}
    assert len(mine) == 2 * KEYS
    assert not mine & {Key.from_seed(seed).secret for seed in range(10)}


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *((name, "classification") for name in METHODS if name not in SLOW),
        *(("robust", kind) for kind in ("multilabel", "segmentation")),
    ],
)
def test_methods_make_pairs(method, kind, trainer, monkeypatch):
    monkeypatch.setattr("medshield.methods.base.BLOCK", COUNT)  # fill no block up
    own = examples(kind)
    pairs = replace(trainer, method=method, task=TASKS[kind][0]).pairs(own)
    assert pairs.clean.shape == pairs.deltas.shape == (KEYS * COUNT, 1, SIDE, SIDE)
    assert 0 < float(pairs.deltas.abs().max()) <= float(EPSILON) + 1e-6
    moved = pairs.clean + pairs.deltas
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    source = make_set(tmp_path_factory.mktemp("denoising") / "images", patients=12)
    return protect(source, source.with_name("release"), "synthetic")


QUICK = ["--epochs", 1, "--seeds", 1, "--workers", 1, "--json", "-q"]
CELLS = ["--cells", f"small_convnet,small_convnet:{DENOISED}"]


def test_verify_runs_it_and_a_second_time_trains_nothing(release, monkeypatch):
    monkeypatch.setattr(denoising, "IMAGES_SEEN", 10 * denoising.BATCH)
    first = json.loads(run("verify", release, *CELLS, *QUICK).stdout)
    assert [cell["cell"] for cell in first["cells"]][1] == f"small_convnet:{DENOISED}"
    monkeypatch.setattr(denoising, "fit_denoiser", lambda _: pytest.fail("trained again"))
    monkeypatch.setattr("medshield.trials._train", lambda *_: pytest.fail("trained again"))
    second = json.loads(run("verify", release, *CELLS, *QUICK).stdout)
    assert second["cells"] == first["cells"]


def test_it_may_be_the_only_cell(release, monkeypatch):
    monkeypatch.setattr(denoising, "IMAGES_SEEN", 10 * denoising.BATCH)
    weighed = []
    monkeypatch.setattr(
        "medshield.verifying.Weighing", lambda *found: weighed.append(found) or Weighing(*found)
    )
    document = json.loads(run("verify", release, "--cells", CELLS[1].split(",")[1], *QUICK).stdout)
    assert document["use"]["victim"] == f"small_convnet:{DENOISED}"
    _, parts, *_ = weighed[0]  # the floor is that of all training images, whoever is left out
    assert len(parts.train) == document["examples"]["train"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "of-tomorrow"}, "no method 'of-tomorrow'"),
        ({"labels_used": False}, "made without labels"),
    ],
)
def test_what_nobody_can_imitate_is_not_run(release, change, reason, monkeypatch):
    path = release / "medshield.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | change))
    level = dict.fromkeys((Cell("small_convnet"), Cell("small_convnet", DENOISED)), "expert")
    monkeypatch.setattr("medshield.chosen_cells.declared_cells", lambda *_: level)
    labels = ["--labels", release.with_name("images") / "labels.csv"]
    try:
        with pytest.raises(InputError, match=reason):
            run("verify", release, *CELLS, *labels, *QUICK)
        document = json.loads(run("verify", release, "--threat", "expert", *labels, *QUICK).stdout)
    finally:
        path.write_text(before)
    (said,) = document["not_run"]["expert"]
    assert said.startswith(f"small_convnet:{DENOISED}: ")
    assert reason in said
    assert document["levels"]["expert"] != "protected"


@pytest.mark.parametrize("task", TASKS)
def test_expert_declares_it(task):
    assert any(cell.training == DENOISED for cell in cells_of("expert", task))
