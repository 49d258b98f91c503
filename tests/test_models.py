"""Models: convolutions that leave out what padding multiplies are the same convolutions."""

import pytest
import torch
from torch import nn

from medshield import models
from medshield.models import LeanConv2d


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (1, 3), (3, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize(
    "form",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "bias": False, "stride": (2, 1)},
        {"kernel_size": 5, "padding": 2, "stride": 4},
        {"kernel_size": (1, 3), "padding": (0, 1), "stride": 3},
        {"kernel_size": 3, "padding": 3, "stride": 7},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    ],
    ids=str,
)
def test_a_lean_convolution_gives_what_a_plain_one_gives_forward_and_back(form, side):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, **form).double()
    lean = LeanConv2d(4, 6, **form).double()
    lean.load_state_dict(plain.state_dict())
    images = torch.randn(5, 4, *side, dtype=torch.double)
    found = []
    for convolution in (plain, lean):
        seen = images.clone().requires_grad_()
        out = convolution(seen)
        (out**3).sum().backward()
        found.append([out, seen.grad, *(each.grad for each in convolution.parameters())])
    for expected, got in zip(*found, strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-9)


def test_one_pixel_needs_no_convolution(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("multiplied by padding"))
    assert LeanConv2d(4, 6, 3, padding=1)(torch.rand(2, 4, 1, 1)).shape == (2, 6, 1, 1)
    assert LeanConv2d(4, 6, 3, padding=1, stride=2)(torch.rand(2, 4, 2, 2)).shape == (2, 6, 1, 1)


@pytest.mark.parametrize("name", [*models.CLASSIFIERS, *models.SEGMENTERS])
def test_models_of_small_images_say_the_same_with_lean_convolutions(name, monkeypatch):
    torch.manual_seed(0)
    lean = models.build(name, 3, 2).eval()
    images = torch.rand(2, 3, 32, 32)
    found = lean(images)
    if name != "small_convnet":
        assert any(isinstance(module, LeanConv2d) for module in lean.modules())
    monkeypatch.setattr(LeanConv2d, "forward", nn.Conv2d.forward)
    expected = lean(images)
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("side", "tokens"), [(32, 16), (64, 64), (96, 144)])
def test_a_vision_transformer_sees_small_images_as_many_patches(side, tokens):
    model = models.build("vit_tiny", 1, 3).eval()
    seen = []
    model[1].blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    assert model(torch.rand(2, 1, side, side)).shape == (2, 3)
    assert seen == [tokens + 1]  # and the class's own
