"""Countermeasures keep shape and range, hang on the seed alone, and do what they are named."""

import pytest
import torch
import torch.nn.functional as F

from medshield.countermeasures import COUNTERMEASURES
from medshield.countermeasures.purification import Purified, rate
from medshield.countermeasures.ueraser import plasma
from medshield.randomness import seeded
from medshield.tasks import Classification, MultiLabel, Segmentation

COUNT, SIDE = 12, 32
CLASSES = ("a", "b", "c")
TASKS = {
    "classification": (Classification(CLASSES), torch.arange(COUNT) % 3),
    "multilabel": (MultiLabel(CLASSES), torch.eye(3)[torch.arange(COUNT) % 3]),
    "segmentation": (Segmentation(()), (torch.arange(SIDE) < 9).long().expand(COUNT, SIDE, SIDE)),
}


def noise(channels, count=COUNT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, SIDE, SIDE, generator=generator)


def smooth(channels=1):
    """A slow brightness ramp with a faint grain, as photographs have it."""
    ramp = torch.linspace(0.2, 0.8, SIDE).expand(COUNT, channels, SIDE, SIDE)
    return ramp + 0.02 * (noise(channels) - 0.5)


def in_training(name, task, images, targets, seed=0):
    """A training batch as a countermeasure leaves it."""
    with seeded(seed):
        fitted = COUNTERMEASURES[name].fitted(task, images, targets)
        return fitted.on_train_batch(fitted.on_training_set(images, targets), targets)


def in_testing(name, images):
    task, targets = TASKS["classification"]
    return COUNTERMEASURES[name].fitted(task, images, targets).on_test_images(images)


def applicable():
    return [
        pytest.param(name, kind, channels, id=f"{name}-{kind}-{channels}")
        for name, countermeasure in COUNTERMEASURES.items()
        for kind, (task, _) in TASKS.items()
        for channels in (1, 3)
        if countermeasure.applies_to(task, channels)
    ]


@pytest.mark.parametrize(("name", "kind", "channels"), applicable())
def test_laws(name, kind, channels):
    task, targets = TASKS[kind]
    images = noise(channels)
    before = images.clone()
    changed, truth = in_training(name, task, images, targets)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images), "it does nothing"
    assert torch.equal(images, before), "it spoils what it is given"
    logits = torch.zeros(COUNT, task.outputs, *truth.shape[1:] if truth.ndim == 3 else ())
    assert task.loss(logits, truth).shape == (COUNT,)
    again, truth_again = in_training(name, task, images, targets)
    assert torch.equal(changed, again)
    assert torch.equal(truth, truth_again)


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_test_images_keep_shape_and_range_and_are_done_the_same_way_twice(name):
    images = noise(3)
    changed = in_testing(name, images)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(in_testing(name, images), changed)


@pytest.mark.parametrize(
    "name", ["grey", "blur", "jpeg10", "jpeg75", "bit-depth", "median", "bilateral", "wavelet"]
)
def test_filters_are_for_test_images_too(name):
    images = noise(3)
    task, targets = TASKS["classification"]
    assert torch.equal(in_testing(name, images), in_training(name, task, images, targets)[0])


@pytest.mark.parametrize(
    "name",
    [
        "crop",
        "cutout",
        "mixup",
        "cutmix",
        "class-means",
        "strong",
        "projection",
        "ueraser",
        "purified",
    ],
)
def test_what_is_done_in_training_alone_leaves_test_images(name):
    assert torch.equal(in_testing(name, noise(3)), noise(3))


def distance(first, second):
    return float((first - second).square().mean().sqrt())


def test_grey_makes_the_channels_equal_and_does_not_apply_to_grey_images():
    changed = in_testing("grey", noise(3))
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert not COUNTERMEASURES["grey"].applies_to(TASKS["classification"][0], 1)


def test_lower_qualities_change_more():
    images = smooth(3)
    changes = [distance(in_testing(f"jpeg{q}", images), images) for q in (75, 50, 30, 10)]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 2


def test_blur_takes_grain_and_leaves_slow_changes():
    ramp = smooth() * 0 + torch.linspace(0.2, 0.8, SIDE)
    inner = (..., slice(3, -3))
    assert torch.allclose(in_testing("blur", ramp)[inner], ramp[inner], atol=1e-5)
    grain = noise(1)
    assert in_testing("blur", grain).std() < grain.std() / 2


def test_bit_depth_leaves_eight_levels():
    assert len(in_testing("bit-depth", noise(1)).unique()) == 8


def test_median_takes_specks_and_keeps_edges():
    edge = (torch.arange(SIDE) >= SIDE // 2).float().expand(COUNT, 1, SIDE, SIDE)
    specked = edge.clone()
    specked[..., 5, 5], specked[..., 20, 28] = 1, 0
    assert torch.equal(in_testing("median", specked), edge)


@pytest.mark.parametrize("name", ["bilateral", "wavelet"])
def test_denoisers_come_nearer_to_the_image_without_the_noise(name):
    edge = 0.3 + 0.4 * (torch.arange(SIDE) >= SIDE // 2).float().expand(COUNT, 1, SIDE, SIDE)
    noisy = edge + 8 / 255 * (2 * noise(1) - 1)
    left = distance(in_testing(name, noisy), edge)
    assert left < 0.7 * distance(noisy, edge)
    blurred = distance(in_testing("blur", noisy), edge)
    assert left < blurred, "a blur does better: the edge is lost"


def test_resize_takes_what_is_finer_than_half_the_grid():
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2
    board = board.float().expand(COUNT, 1, SIDE, SIDE)
    assert in_testing("resize", board).std() < 0.1 * board.std()


def test_resize_draws_its_interpolation():
    task, targets = TASKS["classification"]
    images = noise(1)
    drawn = [in_training("resize", task, images, targets, seed)[0] for seed in range(12)]
    assert len({round(float(one.std()), 4) for one in drawn}) > 2


@pytest.mark.parametrize("name", ["crop", "cutmix", "mixup"])
def test_masks_move_and_mix_with_their_images(name):
    masks = (noise(1)[:, 0] > 0.5).repeat_interleave(4, 1)[:, :SIDE].long()
    changed, truth = in_training(name, TASKS["segmentation"][0], masks[:, None].float(), masks)
    assert distance(changed[:, 0], truth.float()) < (0.25 if name == "crop" else 1e-6)
    assert not torch.equal(truth, masks.to(truth.dtype))


def test_crop_shows_at_least_half_of_the_area():
    ramp = torch.linspace(0, 1, SIDE).expand(COUNT, 1, SIDE, SIDE)
    cropped, _ = in_training("crop", *TASKS["classification"][:1], ramp, TASKS["classification"][1])
    shown = cropped.amax((1, 2, 3)) - cropped.amin((1, 2, 3))
    assert shown.min() > 0.55  # the square root of a half, stretched by the root of 4/3
    assert shown.min() < 0.95


def test_cutout_makes_one_grey_hole_of_at_most_a_quarter():
    task, targets = TASKS["classification"]
    images = 0.1 * noise(1)
    changed, truth = in_training("cutout", task, images, targets)
    holes = changed != images
    assert (changed[holes] == 0.5).all()
    assert 0 < holes.float().mean((1, 2, 3)).max() <= 0.26
    assert torch.equal(truth, targets)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_targets_are_mixed_in_the_shares_of_their_images(name, kind):
    task, targets = TASKS[kind]
    brightness = torch.tensor([0.0, 0.5, 1.0])
    images = brightness[torch.arange(COUNT) % 3][:, None, None, None].expand(-1, 1, SIDE, SIDE)
    changed, truth = in_training(name, task, images, targets)
    assert torch.allclose(truth.sum(1), torch.ones(COUNT))
    assert torch.allclose(changed.mean((1, 2, 3)), truth @ brightness, atol=1e-6)
    assert ((truth > 0).sum(1) > 1).any()


def grating(cycles_down, cycles_across, count):
    """Waves of amplitude 1, each with a phase of its own."""
    phases = torch.rand(count, 1, 1, generator=torch.Generator().manual_seed(3))
    rows = torch.arange(SIDE)[:, None] * cycles_down + torch.arange(SIDE) * cycles_across
    return torch.sin(2 * torch.pi * (rows / SIDE + phases))[:, None]


def planted(count=90):
    """Three classes of smooth noise, the first with a grating of 8/255; and the same without."""
    targets = torch.arange(count) % 3
    clean = in_testing("blur", noise(1, count)) * 0.8 + 0.1
    waves = 8 / 255 * grating(5, 7, count)
    return torch.where(targets[:, None, None, None] == 0, clean + waves, clean), clean, targets


def amplitude(images, down, across):
    return torch.fft.fft2(images).abs()[:, 0, down, across].mean()


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_notch_removes_a_grating_in_one_class(kind):
    images, clean, labels = planted()
    targets = labels if kind == "classification" else torch.eye(3)[labels]
    notch = COUNTERMEASURES["notch"].fitted(TASKS[kind][0], images, targets)
    left, first = notch.on_training_set(images, targets), labels == 0
    assert amplitude(left[first], 5, 7) < 0.2 * amplitude(images[first], 5, 7)
    assert notch.kept.mean() > 0.95, "it removes more than peaks"
    assert distance(left[~first], clean[~first]) < 0.3 * clean.std()
    assert torch.equal(notch.on_test_images(images), left)


def test_notch_leaves_images_in_which_no_class_has_a_peak():
    _, clean, targets = planted()
    notch = COUNTERMEASURES["notch"].fitted(TASKS["classification"][0], clean, targets)
    assert notch.kept.mean() > 0.99


def test_notch_finds_a_grating_that_every_image_to_be_segmented_has():
    images = in_testing("blur", noise(1, 90)) * 0.8 + 0.1 + 8 / 255 * grating(5, 7, 90)
    notch = COUNTERMEASURES["notch"].fitted(TASKS["segmentation"][0], images, torch.zeros(90))
    assert notch.kept[5, 7] == 0
    assert notch.kept.mean() > 0.9


def class_difference(measure, images, targets):
    values = measure(images)
    return distance(values[targets == 0].mean(0), values[targets != 0].mean(0))


def test_class_means_makes_the_mean_images_of_classes_equal():
    _, clean, targets = planted()
    pattern = 8 / 255 * noise(1, 1, seed=8).sub(0.5).sign()
    images = torch.where(targets[:, None, None, None] == 0, clean + pattern, clean)
    left = COUNTERMEASURES["class-means"].on_training_set(images, targets)
    before = class_difference(lambda x: x, images, targets)
    assert class_difference(lambda x: x, left, targets) < 0.1 * before


def test_class_spectra_makes_the_mean_spectra_of_classes_equal():
    images, _, targets = planted()
    left = COUNTERMEASURES["class-spectra"].on_training_set(images, targets)

    def spectrum(x):
        return torch.fft.fft2(x).abs().clamp(min=1e-3).log()

    before = class_difference(spectrum, images, targets)
    assert class_difference(spectrum, left, targets) < 0.2 * before


def test_effects_are_those_of_all_images_however_many_are_held_at_a_time(monkeypatch):
    images, _, targets = planted()
    whole = COUNTERMEASURES["class-spectra"].on_training_set(images, targets)
    monkeypatch.setattr("medshield.countermeasures.statistics.AT_ONCE", 7)
    parts = COUNTERMEASURES["class-spectra"].on_training_set(images, targets)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_strong_draws_for_each_image():
    task, targets = TASKS["classification"]
    images = smooth(3)[:1].expand(COUNT, -1, -1, -1)
    changed, _ = in_training("strong", task, images, targets)
    kinds = {round(distance(one, images[0]), 4) for one in changed}
    assert len(kinds) > COUNT / 2


def linear_pattern(count=120):
    """Smooth noise of two classes, a fixed pattern added to one and taken from the other."""
    targets = torch.arange(count) % 2
    clean = in_testing("blur", noise(1, count)) * 0.6 + 0.2
    pattern = noise(1, 1, seed=8).sub(0.5).sign()[0]
    strength = 8 / 255 * (2 * targets - 1)[:, None, None, None]
    return clean + strength * pattern, clean, targets, pattern


def separation(images, targets, pattern):
    """How far apart the classes lie along a pattern, in units of 8/255 of it."""
    along = (images * pattern).mean((1, 2, 3)) * 255 / 8
    return float((along[targets == 1].mean() - along[targets == 0].mean()).abs())


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_projection_takes_away_what_a_line_separates_and_little_else(kind):
    images, clean, labels, pattern = linear_pattern()
    if kind == "classification":
        task, targets = Classification(("a", "b")), labels
    else:  # the second finding is a coin's
        task = MultiLabel(("a", "b"))
        targets = torch.stack([labels, torch.arange(len(labels)) // 2 % 2], 1).float()
    left = COUNTERMEASURES["projection"].fitted(task, images, targets)
    left = left.on_training_set(images, targets)
    assert separation(images, labels, pattern) > 1.9
    assert separation(left, labels, pattern) < 0.2
    assert distance(left, clean) < 0.3 * clean.std()
    assert left.mean() == pytest.approx(float(images.mean()), abs=0.01)


def test_projection_leaves_nothing_that_a_linear_model_learns_again():
    images, _, targets, _ = linear_pattern()
    task = Classification(("a", "b"))
    projection = COUNTERMEASURES["projection"].fitted(task, images, targets)

    def fits(some):
        flat = some.flatten(1)
        weights = projection._weights(flat, flat.mean(0), targets)
        logits = (flat - flat.mean(0)) @ weights.T
        return float((logits.argmax(1) == targets).float().mean()), float(weights.norm())

    before, strength = fits(images)
    _, left = fits(projection.on_training_set(images, targets))
    assert before == 1
    assert left < 0.5 * strength


def test_ueraser_leaves_masks_and_the_places_of_what_they_show():
    task, masks = TASKS["segmentation"]
    images = 0.4 + 0.2 * masks[:, None].float()
    changed, truth = in_training("ueraser", task, images, masks)
    assert torch.equal(truth, masks)
    edge = slice(8, 10)  # of the masks, between rows or columns 8 and 9
    step = changed[..., edge].diff(dim=-1).abs().mean()
    assert step > 2 * changed[..., 12:].diff(dim=-1).abs().mean()


def test_ueraser_shuffles_channels_and_changes_brightness_differently_across_an_image():
    _, targets = TASKS["classification"]
    flat = torch.tensor([0.3, 0.5, 0.7])[:, None, None].expand(COUNT, 3, SIDE, SIDE)
    eraser = COUNTERMEASURES["ueraser"]
    with seeded(1):
        changed, _ = eraser.on_train_batch(flat, targets)
    assert (changed.std((-2, -1)) > 0.05).float().mean() > 0.4
    orders = {tuple(image[:, 0, 0].argsort().tolist()) for image in changed}
    assert len(orders) > 2


def test_plasma_is_smooth_where_its_roughness_is_small():
    with seeded(0):
        maps = plasma(torch.Size((2, 1, 40, 28)), torch.tensor([0.1, 0.9]).view(2, 1, 1, 1))
    assert maps.shape == (2, 1, 40, 28)
    assert (maps.amin((1, 2, 3)) == 0).all()
    assert (maps.amax((1, 2, 3)) == 1).all()
    smooth, rough = maps.diff(dim=-1).abs().mean((1, 2, 3))
    assert smooth < rough / 2


def test_purification_takes_a_fine_pattern_of_a_class_and_leaves_what_images_show():
    coarse = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    clean = 0.2 + 0.6 * F.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    targets = torch.arange(60) % 2
    pattern = noise(1, 1, seed=8).sub(0.5).sign()[0]
    images = clean + 8 / 255 * targets[:, None, None, None] * pattern
    with seeded(0):
        left = COUNTERMEASURES["purified"].on_training_set(images, targets)
    assert separation(images, targets, pattern) > 0.9
    assert separation(left, targets, pattern) < 0.3
    assert distance(left, clean) < 0.6 * clean.std()
    shown = torch.stack([left.flatten(), clean.flatten()])
    assert torch.corrcoef(shown)[0, 1] > 0.8


def test_the_code_of_purification_tells_no_more_than_its_rate():
    images = noise(1)
    rates = []
    for target in (0.3, 20.0):
        with seeded(0), torch.enable_grad():
            model = Purified(rate=target, images_seen=1_600, passes=200).trained(images)
        with torch.no_grad():
            rates.append(float(rate(*model.coded(images))))
    assert rates[0] < 0.5
    assert rates[1] > 1.5 * rates[0]
