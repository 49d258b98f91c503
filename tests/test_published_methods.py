"""What the published methods, which this project's own are compared with, do by their papers."""

import pytest
import torch

from medshield import models
from medshield.methods import METHODS
from medshield.methods.published import surrogate, unlearnable_examples
from medshield.methods.published.surrogate import viewed_alike
from tests.test_methods import BUDGET, SIZE, examples, setting


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small surrogates: what is asked here does not depend on their size."""
    monkeypatch.setattr(surrogate, "CLASSIFIER", "small_convnet")


class ByBrightness(torch.nn.Module):
    """Tells three classes by the mean of the image; `bias` makes it sure of one of them."""

    def __init__(self, bias=(0.0, 0.0, 0.0)):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]))
        self.bias = torch.tensor(bias)

    def forward(self, images):
        return (images.mean((1, 2, 3))[:, None] - 0.5) * self.scale + self.bias


def losses(method, images, targets):
    with torch.no_grad():
        return method.setting.task.loss(method.surrogate(images), targets)


@pytest.mark.parametrize("name", ["huang-em", "sem"])
def test_error_minimizing_noise_makes_the_surrogate_s_loss_small(name):
    method, (images, targets, names) = METHODS[name](setting()), examples()
    method.surrogate = ByBrightness()
    perturbed = images + method.perturb(images, targets, names)
    dark, bright = targets == 0, targets == 2
    dark[:2] = bright[:2] = False  # black and white images can move in one direction only
    before, after = (losses(method, each, targets) for each in (images, perturbed))
    assert (after < before)[dark | bright].all()


def test_tap_makes_the_next_class_s_loss_small():
    method, (images, _, names) = METHODS["tap"](setting()), examples()
    method.surrogate = ByBrightness()
    targets = torch.ones(len(images)).long()
    perturbed = images + method.perturb(images, targets, names)
    before, after = (losses(method, each, targets + 1) for each in (images, perturbed))
    assert (after < before)[[0, *range(2, len(images))]].all()


@pytest.mark.parametrize("key", [0, 1])
def test_tap_targets_the_next_class_by_number_whatever_the_key(key):
    assert METHODS["tap"](setting(key=key))._wrong(torch.arange(3)).tolist() == [1, 2, 0]


@pytest.mark.parametrize(("target", "rounds"), [(1, 1), (2, 4)])
def test_huang_s_game_ends_when_the_surrogate_hardly_errs(monkeypatch, target, rounds):
    """Here one that always says class 1."""
    monkeypatch.setattr(unlearnable_examples, "MOST_ROUNDS", 4)
    monkeypatch.setattr(unlearnable_examples, "NOISE_STEPS", 1)
    method, (images, targets, _) = METHODS["huang-em"](setting(effort=1)), examples()
    method.surrogate = ByBrightness(bias=(0.0, 1000.0, 0.0))
    passes = []
    monkeypatch.setattr(
        method, "_less_loss", lambda images, targets, start: passes.append(1) or start
    )
    method.fit(images, torch.full_like(targets, target))
    assert len(passes) == rounds


@pytest.mark.parametrize(("task", "wrong"), [("multilabel", 1 / 3), ("segmentation", 60 / SIZE**2)])
def test_errors_are_counted_by_finding_and_by_pixel(task, wrong):
    method, (images, targets, _) = METHODS["huang-em"](setting(task)), examples(task)
    said = targets.clone()
    if task == "multilabel":
        said[:, 1] = 1 - said[:, 1]
    else:
        said[:, :2, :30] = 1
    logits = 20.0 * said - 10
    method.surrogate = lambda _: logits[:, None] if task == "segmentation" else logits
    assert torch.allclose(method._errors(images, targets), torch.full((len(images),), wrong))


def test_lsp_paints_squares_that_a_linear_model_tells_apart():
    images, targets, names = torch.full((60, 3, SIZE, SIZE), 0.5), torch.arange(60) % 3, range(60)
    method = METHODS["lsp"](setting(channels=3))
    delta = method.perturb(images, targets, [f"{number}.png" for number in names])
    corners = delta[:, :, ::8, ::8]
    assert torch.equal(delta, corners.repeat_interleave(8, -2).repeat_interleave(8, -1))
    assert torch.allclose(delta.abs().amax((1, 2, 3)), torch.tensor(BUDGET.radius), atol=1e-6)
    codes, one_hot = corners.flatten(1), torch.nn.functional.one_hot(targets, 3).float()
    weights = torch.linalg.lstsq(codes[:30], one_hot[:30]).solution
    assert torch.equal((codes[30:] @ weights).argmax(1), targets[30:])
    assert len(codes.unique(dim=0)) == len(codes)


def test_one_view_serves_all_images_and_their_masks():
    image = torch.rand(1, 3, SIZE, SIZE)
    images, masks = image.expand(4, -1, -1, -1), (image[:, 0] > 0.5).long().expand(4, -1, -1)
    torch.manual_seed(1)
    viewed, moved = viewed_alike(images, masks)
    assert not torch.equal(viewed, images)
    assert all(torch.equal(each, viewed[0]) for each in viewed)
    assert torch.equal(moved, (viewed[:, 0] > 0.5).long())


def test_the_surrogates_are_resnets_by_default(monkeypatch):
    monkeypatch.undo()
    built = []
    monkeypatch.setattr(models, "build", lambda name, *_: built.append(name) or torch.nn.Identity())
    for name in ("huang-em", "tap", "sem"):
        for task in ("classification", "segmentation"):
            METHODS[name](setting(task))
    assert built == 3 * ["resnet18", "unet_resnet18"]
