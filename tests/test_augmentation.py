"""Flips and shifts are exact to the pixel, take masks along, and let gradients through."""

import itertools

import pytest
import torch

from medshield.augmentation import flip_and_shift, jitter_colours, resized
from medshield.randomness import seeded

COUNT, SIDE, REACH = 200, 16, 2


def numbered(count=COUNT, channels=2, height=SIDE, width=SIDE):
    """Images in which every pixel has a value of its own."""
    values = torch.arange(channels * height * width, dtype=torch.float32)
    return values.view(1, channels, height, width).repeat(count, 1, 1, 1)


def shifted(image, rows, columns, flipped):
    """What flip_and_shift should give, by padding and cutting out."""
    height, width = image.shape[-2:]
    padded = torch.nn.functional.pad(image[None], (REACH,) * 4, mode="reflect")[0]
    cut = padded[:, REACH + rows :, REACH + columns :][:, :height, :width]
    return cut.flip(-1) if flipped else cut


def variants(image):
    shifts = range(-REACH, REACH + 1)
    return [shifted(image, *each) for each in itertools.product(shifts, shifts, (False, True))]


def test_every_result_is_a_flip_and_a_shift_and_all_of_them_occur():
    images = numbered()
    with seeded(0):
        moved, _ = flip_and_shift(images, torch.arange(COUNT))
    expected = variants(images[0])
    found = [[i for i, each in enumerate(expected) if torch.equal(each, one)] for one in moved]
    assert all(len(matches) == 1 for matches in found)
    assert len({matches[0] for matches in found}) > 40  # of 50, in 200 draws
    flips = sum(matches[0] % 2 for matches in found)
    assert 70 < flips < 130


def test_an_oblong_image_keeps_its_shape():
    images = numbered(5, 1, 8, 24)
    with seeded(0):
        moved, _ = flip_and_shift(images, torch.arange(5))
    assert moved.shape == images.shape
    assert all(set(row.tolist()) <= set(images[0].flatten().tolist()) for row in moved[0, 0])


def test_masks_move_with_their_images():
    images = numbered(channels=1)
    masks = images[:, 0].long() % 3
    with seeded(0):
        moved, moved_masks = flip_and_shift(images, masks)
    assert moved_masks.dtype == masks.dtype
    assert torch.equal(moved_masks, moved[:, 0].long() % 3)
    assert not torch.equal(moved_masks, masks)


@pytest.mark.parametrize("targets", [torch.arange(COUNT), torch.ones(COUNT, 4)])
def test_labels_stay(targets):
    assert torch.equal(flip_and_shift(numbered(), targets)[1], targets)


def test_each_image_moves_by_its_own_draw():
    moved, _ = flip_and_shift(numbered(), torch.arange(COUNT))
    assert any(not torch.equal(moved[0], one) for one in moved)


def test_gradients_land_where_the_pixels_came_from():
    images = numbered(3).requires_grad_()
    with seeded(0):
        moved, _ = flip_and_shift(images, torch.arange(3))
    moved.sum().backward()
    for image, result, gradient in zip(images, moved, images.grad, strict=True):
        times_used = torch.bincount(result.detach().flatten().long(), minlength=gradient.numel())
        places = image.detach().flatten().long()
        assert torch.equal(gradient.flatten(), times_used[places].float())


def test_the_draw_hangs_on_the_global_seed():
    def draw(seed):
        with seeded(seed):
            return flip_and_shift(numbered(), torch.arange(COUNT))[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_seeded_block_gives_the_caller_its_state_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1):
        torch.rand(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_resizing_to_the_same_size_changes_nothing():
    images = torch.rand(2, 3, 20, 28)
    assert torch.equal(resized(images, 20, 28), images)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (64, 64), (32, 16)])
def test_resizing_keeps_the_mean_and_the_range(height, width):
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    small = resized(images, height, width)
    assert small.shape == (2, 1, height, width)
    assert small.mean() == pytest.approx(float(images.mean()), abs=0.01)
    assert small.min() >= images.min() - 1e-6
    assert small.max() <= images.max() + 1e-6


def test_halving_averages_and_does_not_just_pick():
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    inner = resized(stripes, 16, 16)[..., 2:-2]
    assert torch.allclose(inner, torch.full_like(inner, 0.5), atol=0.01)


def jittered(images, seed=0):
    with seeded(seed):
        return jitter_colours(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_keeps_shape_and_range_and_hangs_on_the_seed(channels):
    images = torch.rand(20, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    changed = jittered(images)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(changed, jittered(images))
    assert not torch.equal(changed, jittered(images, 1))


def test_brightness_and_contrast_vary_by_a_fifth_and_on_their_own():
    ramp = torch.linspace(0.3, 0.5, SIDE).expand(COUNT, 1, SIDE, SIDE)
    changed = jittered(ramp)
    brightness = changed.mean((1, 2, 3)) / 0.4
    contrast = changed.std((1, 2, 3)) / ramp[0].std() / brightness
    for factor in (brightness, contrast):
        assert factor.min() + 1e-5 >= 0.8
        assert factor.max() <= 1.2 + 1e-5
        assert factor.std() > 0.08
    assert abs(torch.corrcoef(torch.stack([brightness, contrast]))[0, 1]) < 0.2


def test_greys_stay_grey_and_colours_change():
    grey = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(
        -1, 3, -1, -1
    )
    changed = jittered(grey)
    assert torch.allclose(changed, changed[:, :1].expand_as(changed), atol=1e-6)
    red = torch.tensor([0.6, 0.3, 0.3]).view(1, 3, 1, 1).expand(COUNT, 3, 4, 4)
    shares = jittered(red)[..., 0, 0]
    shares = shares / shares.sum(1, keepdim=True)
    assert (shares.argmax(1) == 0).all(), "red turns into another colour"
    assert shares.std(0).min() > 0.005


def test_gradients_pass_the_colour_jitter():
    images = (0.4 + 0.1 * torch.rand(3, 3, 4, 4)).requires_grad_()
    jittered(images).sum().backward()
    assert (images.grad != 0).all()
