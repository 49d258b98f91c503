"""SimCLR and a probe: the encoder learns which views belong together, and never sees a label."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from medshield import contrastive, models
from medshield.budget import Budget
from medshield.contrastive import TEMPERATURE, Views, pretrain
from medshield.errors import InputError
from medshield.randomness import seeded
from medshield.tasks import Classification, MultiLabel, Segmentation
from medshield.threats import cells_of, parse_cell
from medshield.training import Recipe
from medshield.trials import SELF_SUPERVISED, Cell, Job, Parts, Schedule
from tests.test_trials import examples

CELL = Cell("small_convnet", SELF_SUPERVISED)


@pytest.fixture
def job(tmp_path):
    def some(count, seed):
        small = examples(count, seed)
        return replace(small, images=F.interpolate(small.images, (32, 32)))

    validation = some(8, 1)
    return Job(
        task=Classification(("dark", "bright")),
        cell=CELL,
        schedule=Schedule(2, 1, Budget(Fraction(4, 255)), adversary_steps=1),
        parts=Parts(some(32, 0), validation, validation, some(12, 2)),
        seed=0,
        device=torch.device("cpu"),
        cache=tmp_path / "trials",
        keep_model=True,
    )


def test_the_encoder_is_the_same_whatever_the_labels_say(job):
    train = job.parts.train
    turned = replace(train, targets=train.targets.roll(1))
    other = replace(job, parts=replace(job.parts, train=turned))
    states = []
    for each in (job, other):
        each.run()
        states.append(each.kept_model().state_dict())
    first, second = states
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith("backbone")} <= same
    assert not {"head.weight", "head.bias"} & same


def test_pretraining_changes_the_encoder_and_the_probe_learns(job):
    untrained = models.build_headed("small_convnet", 1, 2).state_dict()
    longer = replace(job, schedule=replace(job.schedule, standard=8))
    trial = longer.run()
    trained = longer.kept_model().state_dict()
    assert trained.keys() == untrained.keys()
    assert len(trial.losses) == 8
    assert trial.test_scores[-1]["balanced_accuracy"] > 0.9
    assert trial.cost.passes >= 8 * contrastive.PRETRAINING * 2 * 32  # two views


def test_the_loss_is_that_of_the_paper():
    """Formula (1), written out for every pair."""
    views = Views(models.build_headed("small_convnet", 1, 2)).eval()
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = F.normalize(views.projection(views.encoder.features(images)))
        logits = views(images)
    partner = torch.arange(6).roll(3)
    for row in range(6):
        like = [float(seen[row] @ seen[k]) / TEMPERATURE for k in range(6)]
        below = sum(torch.tensor(like[k]).exp() for k in range(6) if k != row)
        expected = -float(torch.tensor(like[partner[row]]).exp().div(below).log())
        found = float(F.cross_entropy(logits[row][None], partner[row][None]))
        assert found == pytest.approx(expected, abs=1e-4)


def test_partners_are_views_of_the_same_image():
    brightness = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 1, 32, 32)
    with seeded(0):
        views, partner = contrastive._two_views(brightness, torch.arange(3))
    means = views.mean((1, 2, 3))
    assert means.argsort()[:2].sort().values.tolist() == [0, 3]
    assert partner.tolist() == [3, 4, 5, 0, 1, 2]


def test_views_of_one_image_come_to_be_alike():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(48, 1, 4, 4, generator=generator)
    images = F.interpolate(coarse, (32, 32), mode="bilinear")

    def gap(encoder):
        """How much more alike partners are than other views."""
        with torch.no_grad(), seeded(9):
            views, partner = contrastive._two_views(images, torch.arange(48))
            seen = F.normalize(encoder.eval().features(views))
        likeness = seen @ seen.T
        partners = likeness[torch.arange(96), partner].mean()
        return float(partners - (likeness.sum() - likeness.trace()) / (96 * 95))

    with seeded(0):
        encoder = models.build_headed("small_convnet", 1, 2)
        before = gap(encoder)
        pretrain(encoder, images, Recipe(8))
    assert gap(encoder) > 2 * before
    assert gap(encoder) > 0.1


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "mobilenetv3_small_100"])
def test_any_classifier_comes_in_two_parts(name):
    model = models.build_headed(name, 3, 5).eval()
    images = torch.rand(2, 3, 32, 32)
    assert model(images).shape == (2, 5)
    assert torch.equal(model(images), model.head(model.features(images)))


def test_it_is_for_classes_and_findings_alone():
    assert CELL.applies_to(Classification(("a", "b")), 1)
    assert CELL.applies_to(MultiLabel(("a",)), 3)
    assert not CELL.applies_to(Segmentation(()), 1)
    with pytest.raises(InputError, match="is for classifiers"):
        parse_cell(f"unet_resnet18:{SELF_SUPERVISED}")
    assert Cell("resnet18", SELF_SUPERVISED) in cells_of("expert", "classification")
    assert not any(c.training == SELF_SUPERVISED for c in cells_of("expert", "segmentation"))
