"""The training loop: of several copies of an image, the one that the model does worst on."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from medshield.countermeasures import Countermeasure
from medshield.randomness import seeded
from medshield.tasks import Classification, Segmentation
from medshield.training import Recipe, hardest, train

TASK = Classification(("dark", "bright"))


class Brightness(nn.Module):
    """Logits by mean brightness; remembers what it was shown with gradients."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shown = []

    def forward(self, images):
        if torch.is_grad_enabled():
            self.shown.append(images)
        bright = self.scale * images.mean((1, 2, 3))
        return torch.stack([-bright, bright], 1)


@dataclass(frozen=True)
class Dimming(Countermeasure):
    """Each image at a brightness of its own."""

    copies: int = 4
    name = "dimming"

    def on_train_batch(self, images, targets):
        return images * torch.rand(len(images), 1, 1, 1), targets


def test_the_hardest_copy_is_that_with_the_largest_loss_of_each_image():
    brightness = torch.tensor([[0.2, 0.9], [0.5, 0.1], [0.7, 0.6]])  # copy, image
    targets = torch.tensor([0, 1])
    drawn = [(row.view(2, 1, 1, 1).expand(2, 1, 4, 4), targets) for row in brightness]
    images, truth = hardest(Brightness(), TASK, drawn)
    assert images[:, 0, 0, 0].tolist() == pytest.approx([0.7, 0.1])
    assert torch.equal(truth, targets)


def test_masks_come_from_the_copy_of_their_image():
    class Same(nn.Module):
        def forward(self, images):
            return 5 * images - 2.5

    masks = [torch.zeros(2, 4, 4).long(), torch.ones(2, 4, 4).long()]
    wrong, right = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    drawn = [(torch.cat([wrong[:1], right[:1]]), masks[0]), (torch.ones(2, 1, 4, 4), masks[1])]
    images, truth = hardest(Same(), Segmentation(()), drawn)
    assert torch.equal(truth[0], masks[0][0])
    assert torch.equal(images[0], wrong[0])


def test_the_hardest_is_searched_in_the_first_third_of_epochs_alone():
    images, targets = torch.ones(16, 1, 8, 8), torch.zeros(16).long()
    model = Brightness()
    with seeded(0):
        list(train(model, TASK, images, targets, Recipe(10, countermeasures=(Dimming(),))))
    shown = torch.stack([batch.mean() for batch in model.shown])
    assert len(shown) == 10
    assert (shown[:3] > 0.7).all()  # the largest of four, 0.8 on average
    assert (shown[3:] < 0.7).all()  # one, 0.5 on average


def test_without_such_a_countermeasure_each_batch_is_drawn_once():
    recipe = Recipe(10)
    assert [recipe.copies(epoch) for epoch in (0, 9)] == [1, 1]
