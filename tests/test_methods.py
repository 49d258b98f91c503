"""What every method promises, in one table; and what each of them is for."""

from fractions import Fraction
from functools import cache

import pytest
import torch

from medshield import models
from medshield.budget import Budget
from medshield.keys import Key
from medshield.methods import METHODS, Setting, adversarial_targeted, error_minimizing, fresh_victim
from medshield.methods import base as methods_base
from medshield.methods.base import UntrainedMethod
from medshield.methods.published import (
    adversarial_poisons,
    stable_noise,
    surrogate,
    unlearnable_examples,
)
from medshield.methods.surrogates import FreshSurrogate
from medshield.randomness import seeded
from medshield.tasks import Classification, MultiLabel, Segmentation
from medshield.training import Recipe, train

FULL_BLOCK = methods_base.BLOCK
SIZE = 32
COUNT = 11
BUDGET = Budget(Fraction(8, 255))
CLASSES = ("a", "b", "c")
TASK_TYPES = {task.name: task for task in (Classification, MultiLabel, Segmentation)}
TRAINED = [name for name, method in METHODS.items() if method.trains]
UNTRAINED = [
    (name, task)
    for name, method in METHODS.items()
    for task in TASK_TYPES
    if task not in method.trains
]
TABLE = [(name, task, channels) for name in METHODS for task in TASK_TYPES for channels in (1, 3)]

every_method = pytest.mark.parametrize(("name", "task", "channels"), TABLE)
every_trained_method = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Blocks, attacks and games of a size for tests; what is promised does not depend on it."""
    monkeypatch.setattr(methods_base, "BLOCK", 8)
    monkeypatch.setattr(adversarial_targeted, "ATTACK_STEPS", 2)
    monkeypatch.setattr(adversarial_targeted.MisleadingSeveral, "lineup", SMALL_LINEUP)
    monkeypatch.setattr(error_minimizing, "BATCH", 4)
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 1)
    monkeypatch.setattr(error_minimizing, "REFINING_STEPS", 2)
    monkeypatch.setattr(surrogate, "CLASSIFIER", "small_convnet")
    monkeypatch.setattr(surrogate, "SEGMENTER", "one_convolution")
    monkeypatch.setitem(models.SEGMENTERS, "one_convolution", one_convolution)
    monkeypatch.setattr(adversarial_poisons, "ATTACK_STEPS", 3)
    monkeypatch.setattr(unlearnable_examples, "BATCH", 8)
    monkeypatch.setattr(unlearnable_examples, "BATCHES_A_ROUND", 1)
    monkeypatch.setattr(unlearnable_examples, "NOISE_STEPS", 3)
    monkeypatch.setattr(stable_noise, "BATCH", 4)
    monkeypatch.setattr(stable_noise, "DRAWS", 2)
    monkeypatch.setattr(stable_noise, "NOISE_STEPS", 2)


SMALL_LINEUP = (
    FreshSurrogate("small_convnet", "one_convolution"),
    FreshSurrogate("small_convnet", "one_convolution", adversarial=True),
)


def one_convolution(channels, outputs):
    return torch.nn.Conv2d(channels, outputs, 5, padding=2)


def setting(task="classification", channels=1, key=0, classes=CLASSES, effort=0.001):
    return Setting(
        task=TASK_TYPES[task](("foreground",) if task == "segmentation" else classes),
        channels=channels,
        size=SIZE,
        budget=BUDGET,
        key=Key.from_seed(key),
        device=torch.device("cpu"),
        effort=effort,
    )


def examples(task="classification", channels=1, count=COUNT, seed=0):
    """Images, some of them all black or all white, their targets and names."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, channels, SIZE, SIZE, generator=generator)
    images[:2] = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    targets = torch.arange(count) % len(CLASSES)
    if task == "multilabel":
        targets = torch.randint(0, 2, (count, len(CLASSES)), generator=generator).float()
        targets[3] = 0
    elif task == "segmentation":
        targets = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
        targets[:, 8:20, 5:25] = 1
    return images, targets, tuple(f"{number}.png" for number in range(count))


@cache
def fitted(name, task, channels):
    method = METHODS[name](setting(task, channels))
    images, targets, _ = examples(task, channels)
    method.fit(images, targets)
    return method


def picked(data, rows):
    images, targets, names = data
    return images[rows], targets[rows], [names[row] for row in rows]


@every_method
def test_images_stay_within_epsilon_and_the_unit_range(name, task, channels):
    data = examples(task, channels)
    delta = fitted(name, task, channels).perturb(*data)
    perturbed = data[0] + delta
    assert delta.shape == data[0].shape
    assert delta.dtype == torch.float32
    assert not delta.requires_grad
    assert delta.abs().max() <= BUDGET.radius + 1e-6
    assert perturbed.min() >= -1e-6
    assert perturbed.max() <= 1 + 1e-6
    assert (delta[2:].abs().mean((1, 2, 3)) > BUDGET.radius / 10).all()


@every_method
def test_a_delta_does_not_depend_on_batch_or_order_down_to_the_last_bit(name, task, channels):
    method, data = fitted(name, task, channels), examples(task, channels)
    together = method.perturb(*data)
    for rows in ([9], [10, 2], list(range(COUNT))[::-1], [4, 4, 5, 4]):
        assert torch.equal(method.perturb(*picked(data, rows)), together[rows]), rows


@every_method
def test_the_same_key_gives_the_same_delta_and_another_key_another(name, task, channels):
    data = picked(examples(task, channels), [2, 3])
    deltas = [METHODS[name](setting(task, channels, key)).perturb(*data) for key in (0, 0, 1)]
    assert torch.equal(deltas[0], deltas[1])
    for one, other in zip(deltas[0], deltas[2], strict=True):
        assert (one - other).abs().mean() > BUDGET.radius / 20


@every_method
def test_what_was_learned_survives_being_kept(name, task, channels):
    method, data = fitted(name, task, channels), picked(examples(task, channels), [2, 7, 3])
    state = {key: value.clone() for key, value in method.state().items()}
    other = METHODS[name](setting(task, channels))
    other.load(state)
    assert torch.equal(other.perturb(*data), method.perturb(*data))


@pytest.mark.parametrize("name", METHODS)
def test_no_images_have_no_delta(name):
    images, targets, _ = examples(channels=3)
    delta = fitted(name, "classification", 3).perturb(images[:0], targets[:0], [])
    assert delta.shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize("name", METHODS)
def test_perturbing_tells_how_far_it_is(name):
    told = []
    method = fitted(name, "classification", 1)
    method.perturb(*examples(count=20), told.append)  # three blocks of eight
    assert told == sorted(told)
    assert told[-1] == 1
    steps_of_last_block = {share for share in told if share > 2 / 3}
    takes_steps = name not in {"synthetic", "lsp", "random-noise"}
    assert len(steps_of_last_block) >= (2 if takes_steps else 1)
    told.clear()
    method.perturb(*examples())
    assert told == []


@pytest.mark.parametrize("name", ["em", "synthetic"])
def test_blocks_of_full_size_keep_neighbours_apart_too(name, monkeypatch):
    monkeypatch.setattr(methods_base, "BLOCK", FULL_BLOCK)
    method, data = fitted(name, "classification", 1), examples(count=70)
    together = method.perturb(*data)
    for rows in ([69], [0, 65, 30], list(range(70))[::-1]):
        assert torch.equal(method.perturb(*picked(data, rows)), together[rows]), rows


@pytest.mark.parametrize("name", ["em", "advt", "robust", "synthetic"])
@pytest.mark.parametrize("task", TASK_TYPES)
def test_the_delta_hangs_on_the_target(name, task):
    method, (images, targets, names) = fitted(name, task, 1), examples(task)
    other = (targets + 1) % 3 if task == "classification" else 1 - targets
    first, second = (method.perturb(images, each, names) for each in (targets, other))
    assert ((first - second)[2:].abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", ["em", "synthetic", "random-noise"])
def test_two_images_of_one_class_get_unlike_deltas(name):
    """Otherwise the mean over a class would show the pattern, and subtracting would undo it."""
    method, (images, targets, names) = fitted(name, "classification", 1), examples()
    grey = images[2:3].expand(3, -1, -1, -1)
    delta = method.perturb(grey, targets[[2, 2, 2]], names[:3]).flatten(1)
    alike = torch.corrcoef(delta) - torch.eye(3)
    assert alike.abs().max() < 0.5


@every_trained_method
def test_fitting_is_repeatable_and_leaves_the_global_randomness_alone(name):
    images, targets, _ = examples()
    method = METHODS[name](setting())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    method.fit(images, targets)
    assert torch.equal(torch.get_rng_state(), before)
    again = fitted(name, "classification", 1).state()
    assert all(torch.equal(value, again[key]) for key, value in method.state().items())


@every_trained_method
def test_fitting_learns_something_whose_size_does_not_grow_with_the_data(name):
    method = METHODS[name](setting())
    before = {key: value.clone() for key, value in method.state().items()}
    images, targets, _ = examples(count=3 * COUNT)
    method.fit(images, targets)
    after = method.state()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    small = fitted(name, "classification", 1).state()
    assert {key: value.shape for key, value in after.items()} == {
        key: value.shape for key, value in small.items()
    }


@every_trained_method
def test_progress_goes_from_none_to_all(name):
    images, targets, _ = examples()
    told = []
    METHODS[name](setting()).fit(images, targets, told.append)
    assert told == sorted(told)
    assert told[0] > 0
    assert told[-1] == 1


@pytest.mark.parametrize("name", ["advt", "robust"])
def test_progress_goes_on_while_wrong_classes_are_tried(name):
    images, targets, _ = examples(count=3 * COUNT)
    told = []
    METHODS[name](setting()).fit(images, targets, told.append)
    surrogates = {"advt": 1, "robust": 2}[name]
    trained = surrogates / (surrogates + 1)
    assert [share for share in told if trained < share < 1]


def test_progress_is_told_within_a_round_of_the_game():
    images, targets, _ = examples()
    told = []
    METHODS["em"](setting(effort=0.02)).fit(images, targets, told.append)
    assert told == sorted(told)
    assert told[0] < 1 / (2 * (error_minimizing.MOST_TURNS + 1))


@pytest.mark.parametrize(("name", "task"), UNTRAINED)
def test_what_needs_no_training_keeps_nothing(name, task):
    assert METHODS[name](setting(task)).state() == {}


def test_a_texture_for_masks_needs_no_training():
    assert ("robust", "segmentation") in UNTRAINED


def test_no_method_can_leave_the_ball():
    class Rude(UntrainedMethod):
        name = "rude"

        def _delta(self, images, targets, names):
            return torch.full_like(images, 5.0)

    images, targets, names = examples()
    perturbed = images + Rude(setting()).perturb(images, targets, names)
    assert torch.allclose(perturbed, (images + BUDGET.radius).clamp(max=1))


# Random noise


def test_random_noise_is_a_sign_per_pixel_alike_in_all_channels():
    images, targets, names = examples(channels=3)
    delta = METHODS["random-noise"](setting(channels=3)).perturb(
        torch.full_like(images, 0.5), targets, names
    )
    assert torch.allclose(delta.abs(), torch.full_like(delta, BUDGET.radius))
    assert torch.equal(delta[:, 0], delta[:, 1])
    assert torch.equal(delta[:, 0], delta[:, 2])
    assert delta.mean().abs() < BUDGET.radius / 10


# Synthetic


def spectra(delta):
    """Power over the plane of frequencies, smoothed, of unit length: (n, frequencies)."""
    power = torch.fft.rfft2(delta[:, 0]).abs() ** 2
    smooth = torch.nn.functional.avg_pool2d(power.roll(SIZE // 2, 1)[:, None], 3, 1, 1)
    return torch.nn.functional.normalize(smooth.flatten(1), dim=1)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("key", [0, 1])
def test_the_textures_of_classes_differ_in_their_spectra(count, key):
    """So that an image's texture names its class, wherever it is cut out or flipped."""
    each = 12
    targets = torch.arange(count).repeat(each)
    names = [f"{number}.png" for number in range(len(targets))]
    classes = tuple(f"class {number}" for number in range(count))
    method = METHODS["synthetic"](setting(key=key, classes=classes))
    delta = method.perturb(torch.full((len(targets), 1, SIZE, SIZE), 0.5), targets, names)
    known, asked = spectra(delta[: len(delta) // 2]), spectra(delta[len(delta) // 2 :].flip(-1))
    means = torch.stack([known[targets[: len(known)] == k].mean(0) for k in range(count)])
    means = torch.nn.functional.normalize(means, dim=1)
    told = (asked @ means.T).argmax(1)
    assert (told == targets[len(known) :]).float().mean() > 0.9


def test_the_bands_are_the_key_s():
    images, targets, names = torch.full((6, 1, SIZE, SIZE), 0.5), torch.zeros(6).long(), "abcdef"
    found = [
        spectra(METHODS["synthetic"](setting(key=key)).perturb(images, targets, names)).mean(0)
        for key in range(6)
    ]
    likeness = torch.stack(found) @ torch.stack(found).T
    assert likeness.min() < 0.5 * likeness.max()


def test_images_without_any_finding_have_a_texture_of_their_own():
    method, (images, targets, names) = METHODS["synthetic"](setting("multilabel")), examples()
    targets = torch.zeros(COUNT, len(CLASSES))
    delta = method.perturb(images, targets, names)
    assert (delta[2:].abs().mean((1, 2, 3)) > BUDGET.radius / 10).all()


def test_of_masks_the_foreground_has_a_texture_and_an_empty_mask_the_whole_image():
    method, (images, targets, names) = METHODS["synthetic"](setting("segmentation")), examples()
    targets = torch.zeros(COUNT, SIZE, SIZE, dtype=torch.long)
    targets[:5, 8:20, 5:25] = 1
    delta = method.perturb(images, targets, names)
    foreground = targets[2:5, None] == 1
    assert (delta[2:5][foreground].abs() > BUDGET.radius / 10).float().mean() > 0.8
    assert not delta[2:5][~foreground].any()
    assert (delta[5:].abs().mean((1, 2, 3)) > BUDGET.radius / 2).all()


def test_green_moves_against_red_and_blue_and_grey_images_stay_grey():
    images, targets, names = examples(channels=3)
    images = torch.full_like(images, 0.5)
    images[1::2, 0] = 0.6
    method = METHODS["synthetic"](setting(channels=3))
    red, green, blue = method.perturb(images, targets, names).unbind(1)
    assert red.any()
    assert torch.allclose(red, blue, atol=1e-6)
    assert torch.allclose(red[1::2], -green[1::2], atol=1e-6)
    assert torch.allclose(red[::2], green[::2], atol=1e-6)


# Adversarial, targeted


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_wrong_class_is_never_the_own_and_each_class_is_one_s_target(count):
    targets = torch.arange(count)
    drawn = set()
    for key in range(3):
        classes = tuple(map(str, range(count)))
        wrong = METHODS["advt"](setting(key=key, classes=classes))._wrong(targets)
        assert (wrong != targets).all()
        assert sorted(wrong.tolist()) == targets.tolist()
        drawn.add(tuple(wrong.tolist()))
    assert len(drawn) > 1 or count == 2


@pytest.mark.parametrize("name", ["advt", "robust"])
def test_the_wrong_classes_that_were_chosen_are_each_once_and_kept(name):
    method = fitted(name, "classification", 1)
    again = METHODS[name](setting(key=5))
    again.load(method.state())
    wrong = getattr(again, "chosen", again)._wrong(torch.arange(len(CLASSES)))
    assert sorted(wrong.tolist()) == [0, 1, 2]
    assert (wrong != torch.arange(len(CLASSES))).all()
    assert torch.equal(wrong, getattr(method, "chosen", method).wrong_classes)


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_findings_and_masks_are_turned_around(task):
    _, targets, _ = examples(task)
    wrong = fitted("advt", task, 1)._wrong(targets)
    assert torch.equal(wrong, 1 - targets)


def test_the_surrogate_takes_every_image_for_the_wrong_class_more_than_before():
    """Here a surrogate that knows three classes by their brightness."""
    method, (images, targets, names) = METHODS["advt"](setting()), examples()
    by_brightness = torch.nn.Linear(1, 3)
    by_brightness.weight.data = torch.tensor([[-10.0], [0.0], [10.0]])
    pool = torch.nn.AdaptiveAvgPool2d(1)
    model = torch.nn.Sequential(pool, torch.nn.Flatten(), by_brightness)
    method.surrogates = torch.nn.ModuleList([model])
    delta = method.perturb(images, targets, names)
    with torch.no_grad():
        before, after = (
            method.setting.task.loss(model(each), method._wrong(targets))
            for each in (images, images + delta)
        )
    assert (after < before)[2:].all()  # a black image can't grow darker


def test_robust_asks_two_families_one_of_them_trained_adversarially(monkeypatch):
    monkeypatch.undo()
    lineup = METHODS["robust"](setting()).chosen.lineup
    assert len({each.classifier for each in lineup}) > 1
    assert sum(each.adversarial for each in lineup) == len(lineup) / 2
    recipes = [each.recipe(setting(effort=1), 1000) for each in lineup]
    radii = {each.adversarial.budget.epsilon for each in recipes if each.adversarial}
    assert radii == {BUDGET.epsilon / 2}


@pytest.mark.parametrize(("images", "epochs"), [(10, 40), (1000, 12), (100_000, 8)])
def test_surrogates_of_small_sets_train_for_more_epochs(images, epochs):
    (surrogate,) = METHODS["advt"].lineup
    assert surrogate.recipe(setting(effort=1), images).epochs == epochs


# Error-minimizing


def last_loss(images, targets, task):
    """Of a young model after a few epochs."""
    with seeded(0):
        model = models.build("small_convnet", 1, task.outputs)
        *_, loss = train(model, task, images, targets, Recipe(epochs=8))
    return loss


def test_error_minimizing_noise_leaves_a_young_model_little_to_learn(monkeypatch):
    """Labels that have nothing to do with the images, until the noise tells them."""
    monkeypatch.setattr(error_minimizing, "BATCH", 16)
    noise, targets, names = examples(count=48)
    images = 0.5 + 0.1 * (noise - 0.5)
    unfitted, method = METHODS["em"](setting()), METHODS["em"](setting(effort=0.1))
    method.fit(images, targets)
    clean, before, after = (
        last_loss(perturbed, targets, method.setting.task)
        for perturbed in (
            images,
            images + unfitted.perturb(images, targets, names),
            images + method.perturb(images, targets, names),
        )
    )
    assert after < 0.5 * clean
    assert after < before


class ScriptedVictim:
    """Learns as much from one look to the next as it is told."""

    def __init__(self, *learned):
        self.learned = list(learned)
        self.looks = 0

    def learns(self, perturb):
        self.looks += 1
        return self.learned[self.looks - 1]


def fitted_before(victim, monkeypatch):
    """The method, and its state after each round of the game."""
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 9)
    monkeypatch.setattr(error_minimizing.FreshVictim, "of", lambda *_: victim)
    method, states = METHODS["em"](setting()), []

    def play(name, optimiser, images, targets, checkpoint):
        method.learned["generator"].last.bias.data += 1
        states.append({key: value.clone() for key, value in method.state().items()})
        yield 1.0

    monkeypatch.setattr(method, "_play", play)
    images, targets, _ = examples(count=2 * fresh_victim.FEWEST_ASIDE)
    method.fit(images, targets)
    return method, states


def test_the_game_ends_when_a_fresh_victim_learns_no_less_and_the_best_noise_is_kept(monkeypatch):
    victim = ScriptedVictim(0.9, 0.7, 0.6, 0.65, 0.6)
    method, states = fitted_before(victim, monkeypatch)
    assert victim.looks == 5
    best = states[3 * len(method._architectures()) - 1]
    assert all(torch.equal(value, best[key]) for key, value in method.state().items())


def test_the_game_goes_on_while_a_fresh_victim_learns_less(monkeypatch):
    victim = ScriptedVictim(0.9, 0.8, 0.85, 0.7, 0.75, 0.6, 0.65, 0.5, 0.4)
    fitted_before(victim, monkeypatch)
    assert victim.looks == 9


def test_no_part_of_the_game_sees_the_images_that_a_fresh_victim_is_scored_on():
    parts = fresh_victim.Parts.drawn(300, setting())
    assert len(parts.aside) == 60
    assert sorted([*parts.learned.tolist(), *parts.aside.tolist()]) == list(range(300))


def test_a_set_too_small_to_part_is_played_on_whole():
    parts = fresh_victim.Parts.drawn(20, setting())
    assert len(parts.learned) == 20
    assert not len(parts.aside)


def test_a_fresh_victim_decides_wrongly_and_ranks_backwards_where_brightness_is_swapped():
    targets = torch.arange(120) % 2
    brightness = 0.5 * targets.view(-1, 1, 1, 1)
    images = 0.3 * torch.rand(120, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    two = setting(classes=("a", "b"), effort=0.25)
    parts = fresh_victim.Parts.drawn(120, two)
    victim = fresh_victim.FreshVictim.of(two, images + brightness, targets, parts)
    swapped = 0.5 - 2 * brightness[parts.learned]
    assert victim.learns(lambda images, _: 0 * images) == pytest.approx(1, abs=0.1)
    assert victim.learns(lambda images, _: swapped) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_foreign_targets_meet_every_class_and_finding_about_equally_often(task):
    made = TASK_TYPES[task](CLASSES)
    classes = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    targets = classes
    if task == "multilabel":  # none, the first finding, the second
        targets = torch.stack([classes == 1, classes == 2, classes == 9], 1).float()
    weights = error_minimizing.even_weights(made, targets)
    shares = [float(weights[classes == k].sum() / weights.sum()) for k in range(3)]
    assert shares == pytest.approx([1 / 3] * 3)
