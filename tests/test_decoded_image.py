"""What every format leans on: stored values to pixels, and a change of pixels back to stored."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshield.formats import base
from medshield.formats.base import DecodedImage, IntensityRange, stored_radius

EIGHT = Fraction(8, 255)
GREY_LEVELS = IntensityRange(0, 255, "8-bit")
SOFT_TISSUE = IntensityRange(-160, 240, "window")
SHAPE = (1, 2, 3, 1)


def image(values, dtype="uint8", shape=SHAPE, **facts):
    return DecodedImage(np.array(values, dtype=dtype).reshape(shape), "test", **facts)


def ramp(dtype="uint8", channels=1, **facts):
    """Every byte once."""
    values = np.tile(np.arange(256)[:, None], channels)
    return image(values, dtype, (1, 16, 16, channels), **facts)


def constant(value, like):
    frames, height, width, _ = like.stored.shape
    return np.full((frames, like.colour_channels, height, width), value, dtype=np.float32)


def change(before, after):
    with np.errstate(invalid="ignore"):  # infinity less itself
        return after.astype(np.float64) - before.stored.astype(np.float64)


# Pixels


def test_pixels_are_fractions_of_the_range_and_what_lies_outside_is_black_or_white():
    ct = image([-1000, -160, 0, 40, 240, 3000], "int16")
    expected = [0, 0, 0.4, 0.5, 1, 1]
    np.testing.assert_allclose(ct.pixels(SOFT_TISSUE).ravel(), expected, atol=1e-7)


def test_pixels_are_frames_channels_rows_columns_of_float32():
    video = DecodedImage(np.zeros((5, 4, 3, 4), np.uint8), "test")
    pixels = video.pixels(GREY_LEVELS)
    assert pixels.shape == (5, 3, 4, 3)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous


def test_alpha_is_no_channel_of_the_pixels():
    stored = np.stack([np.full((1, 2, 2), 51), np.full((1, 2, 2), 255)], -1).astype(np.uint8)
    assert (DecodedImage(stored, "test").pixels(GREY_LEVELS) == np.float32(0.2)).all()


def test_slope_and_intercept_come_before_the_range():
    ct = image([864, 864, 1064, 1064, 1264, 1264], "uint16", intercept=-1024)
    np.testing.assert_allclose(ct.pixels(SOFT_TISSUE).ravel(), [0, 0, 0.5, 0.5, 1, 1])
    halved = image([-320, -320, 80, 80, 480, 480], "int16", slope=0.5)
    np.testing.assert_allclose(halved.pixels(SOFT_TISSUE).ravel(), [0, 0, 0.5, 0.5, 1, 1])


def test_low_is_dark_in_an_inverted_image_too():
    plain, inverted = ramp(), ramp(inverted=True)
    np.testing.assert_allclose(
        inverted.pixels(GREY_LEVELS), 1 - plain.pixels(GREY_LEVELS), atol=1e-6
    )


def test_undefined_values_are_black_and_infinite_ones_the_ends():
    odd = image([np.nan, np.inf, -np.inf, 0, 0.5, 1], "float32")
    pixels = odd.pixels(IntensityRange(0, 1, ""))
    assert pixels.ravel().tolist() == [0, 1, 0, 0, 0.5, 1]


# The radius


@pytest.mark.parametrize(
    ("intensity", "slope", "is_integer", "expected"),
    [
        (GREY_LEVELS, 1.0, True, 8),
        (SOFT_TISSUE, 1.0, True, 12),  # 12.55 HU, and a stored unit is one HU
        (IntensityRange(-1024, 3071, "12 bits"), 1.0, True, 128),
        (IntensityRange(0, 65535, "16 bits"), 1.0, True, 2056),
        (SOFT_TISSUE, 0.5, True, 25),
        (SOFT_TISSUE, -2.0, True, 6),
        (SOFT_TISSUE, 1.0, False, float(Fraction(3200, 255))),
        (IntensityRange(0, 31, "too narrow"), 1.0, True, 0),
    ],
)
def test_the_radius_in_stored_units(intensity, slope, is_integer, expected):
    assert stored_radius(intensity, EIGHT, slope, is_integer) == expected


def test_the_radius_of_a_ct_window_of_width_400_is_12_stored_units():
    ct = image(range(6), "int16", intercept=-1024.0, declared=((-160, 240),))
    assert ct.epsilon_stored(SOFT_TISSUE, EIGHT) == 12


def test_the_radius_of_each_frame_where_they_are_scaled_differently():
    """As in enhanced PET, where each frame has a Rescale Slope of its own."""
    pet = per_frame([0.5, 1, 2, 400], "int16")
    radii = pet.epsilon_stored(SOFT_TISSUE, EIGHT)
    assert radii.shape == (4, 1, 1, 1)
    assert radii.ravel().tolist() == [25, 12, 6, 0]


# Moving


def per_frame(slopes, dtype="float32", intercepts=None):
    """Frames of one picture, each stored on a scale of its own."""
    slope = np.array(slopes, float).reshape(-1, 1, 1, 1)
    intercept = np.array(intercepts or [0.0] * len(slopes)).reshape(slope.shape)
    picture = np.linspace(-150, 230, 6).reshape(SHAPE)
    stored = ((picture - intercept) / slope).astype(dtype)
    return DecodedImage(stored, "test", slope=slope, intercept=intercept)


def test_frames_of_different_scales_show_one_picture():
    pet = per_frame([0.5, 1, -2], intercepts=[0.0, -10.0, 7.0])
    first, second, third = pet.pixels(SOFT_TISSUE)
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first, third, atol=1e-6)


def test_each_frame_moves_by_its_own_radius():
    pet = per_frame([0.5, 1, 2], "int16")
    moved = pet.moved(constant(0.02, pet), SOFT_TISSUE, EIGHT)  # 8 units of the world
    assert np.abs(change(pet, moved)).max((1, 2, 3)).tolist() == [16, 8, 4]
    moved = pet.moved(constant(1, pet), SOFT_TISSUE, EIGHT)
    assert np.abs(change(pet, moved)).max((1, 2, 3)).tolist() == [25, 12, 6]


def test_a_long_series_moves_as_its_frames_do_one_by_one(monkeypatch):
    """However many frames are moved at a time."""
    generator = np.random.default_rng(0)
    stored = generator.integers(0, 200, (7, 4, 5, 1)).astype("int16")
    slope = generator.choice([0.5, 1.0, -2.0], (7, 1, 1, 1))
    delta = generator.uniform(-0.05, 0.05, (7, 1, 4, 5))
    frozen = generator.random((7, 4, 5, 1)) < 0.2
    expected = [
        DecodedImage(one, "test", slope=scale.item(), frozen=still).moved(part, GREY_LEVELS, EIGHT)
        for one, scale, still, part in zip(
            stored[:, None], slope, frozen[:, None], delta[:, None], strict=True
        )
    ]
    series = DecodedImage(stored, "test", slope=slope, frozen=frozen)
    for values in (1, 45, 10_000):
        monkeypatch.setattr(base, "VALUES_AT_A_TIME", values)
        np.testing.assert_array_equal(
            series.moved(delta, GREY_LEVELS, EIGHT), np.concatenate(expected)
        )


def test_each_frame_stays_within_the_range_by_its_own_scale():
    pet = per_frame([0.5, 1, -2], intercepts=[0.0, -10.0, 7.0])
    narrow = IntensityRange(-100, 100, "")
    moved = pet.moved(constant(1, pet), narrow, Fraction(1, 2))
    values = moved * pet.slope + pet.intercept
    held = pet.outside(narrow)
    assert held.any((1, 2, 3)).all()
    np.testing.assert_array_equal(moved[held], pet.stored[held])
    assert values[~held].max() <= 100 + 1e-4


def test_a_grey_level_of_delta_is_a_grey_level_of_the_file():
    for levels in range(-8, 9):
        moved = ramp().moved(constant(levels / 255, ramp()), GREY_LEVELS, EIGHT)
        inner = slice(8, 248)
        assert set(change(ramp(), moved).ravel()[inner]) == {levels}


@pytest.mark.parametrize(("levels", "expected"), [(2.999, 2), (0.999, 0), (-0.999, 0), (-2.5, -2)])
def test_integers_are_truncated_towards_zero(levels, expected):
    grey = ramp(lowest=0, highest=255)
    moved = grey.moved(constant(levels / 255, grey), GREY_LEVELS, EIGHT)
    assert set(change(grey, moved).ravel()[8:248]) == {expected}


def test_a_delta_that_is_a_rounding_error_short_of_a_level_is_that_level():
    short = np.nextafter(np.float32(8 / 255), np.float32(0))
    moved = ramp().moved(constant(short, ramp()), GREY_LEVELS, EIGHT)
    assert set(change(ramp(), moved).ravel()[:240]) == {8}


def test_nothing_leaves_the_limits():
    grey = ramp(lowest=0, highest=255)
    brighter = grey.moved(constant(1, grey), GREY_LEVELS, EIGHT).astype(int)
    darker = grey.moved(constant(-1, grey), GREY_LEVELS, EIGHT).astype(int)
    assert brighter.ravel().tolist() == np.minimum(np.arange(256) + 8, 255).tolist()
    assert darker.ravel().tolist() == np.maximum(np.arange(256) - 8, 0).tolist()


def test_what_lies_outside_the_range_stays_and_what_lies_inside_does_not_leave_it():
    ct = image([-1000, -161, -160, 235, 240, 241], "int16")
    moved = ct.moved(constant(1, ct), SOFT_TISSUE, EIGHT)
    assert moved.ravel().tolist() == [-1000, -161, -148, 240, 240, 241]
    moved = ct.moved(constant(-1, ct), SOFT_TISSUE, EIGHT)
    assert moved.ravel().tolist() == [-1000, -161, -160, 223, 228, 241]


def test_a_range_that_no_stored_value_reaches_moves_nothing():
    grey = ramp(lowest=0, highest=255)
    for window in (IntensityRange(300, 400, ""), IntensityRange(-400, -300, "")):
        assert np.array_equal(grey.moved(constant(1, grey), window, EIGHT), grey.stored)


def test_brighter_is_brighter_whatever_the_slope():
    for slope, inverted in [(2.0, False), (-2.0, False), (2.0, True), (-2.0, True)]:
        grey = ramp("int16", slope=slope, inverted=inverted)
        ends = sorted([0, 255 * slope])
        full = IntensityRange(*ends, reason="")
        moved = grey.moved(constant(0.02, grey), full, EIGHT)
        brighter = DecodedImage(moved, "test", slope=slope, inverted=inverted)
        gain = brighter.pixels(full) - grey.pixels(full)
        assert gain.min() >= 0
        assert np.median(gain) == pytest.approx(5 / 255)  # 5.1 levels, truncated


def test_frozen_values_stay():
    frozen = np.array([True, False, False, True, False, False]).reshape(SHAPE)
    grey = image([100] * 6, frozen=frozen)
    moved = grey.moved(constant(1, grey), GREY_LEVELS, EIGHT)
    assert moved.ravel().tolist() == [100, 108, 108, 100, 108, 108]


def test_a_frozen_mask_broadcasts():
    colour = ramp(channels=3, frozen=np.zeros((1, 16, 16, 1), bool))
    colour.frozen[0, 3] = True
    moved = colour.moved(constant(0.02, colour), GREY_LEVELS, EIGHT)
    still = (moved == colour.stored).all((0, 2, 3))
    assert np.flatnonzero(still).tolist() == [3]


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_never_moves(channels):
    grey = ramp(channels=channels, lowest=0, highest=255)
    moved = grey.moved(constant(1, grey), GREY_LEVELS, EIGHT)
    assert np.array_equal(moved[..., -1], grey.stored[..., -1])
    assert (moved[..., :-1] != grey.stored[..., :-1]).any()


def test_undefined_and_infinite_values_stay_without_a_warning():
    values = [np.nan, np.inf, -np.inf, 0, 0.5, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd = image(values, "float32")
        moved = odd.moved(constant(0.01, odd), IntensityRange(0, 1, ""), EIGHT)
    np.testing.assert_array_equal(moved.ravel()[:3], values[:3])
    np.testing.assert_allclose(moved.ravel()[3:], [0.01, 0.51, 1])


def test_values_that_float64_does_not_hold_are_outside_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd = image([1e300, -1e300, 0, 0.5, 1, 1.7e308], "float64", slope=1e10, intercept=1.0)
        assert odd.pixels(GREY_LEVELS).ravel()[:2].tolist() == [1, 0]
        moved = odd.moved(constant(0.01, odd), GREY_LEVELS, EIGHT)
    assert (moved == odd.stored).ravel().tolist() == [True, True, False, True, True, True]


def test_a_slope_next_to_nothing_has_a_radius():
    assert stored_radius(GREY_LEVELS, EIGHT, 1e-320, is_integer=True) > 1e300


def test_a_value_on_the_edge_of_its_window_stays_although_the_edge_is_rounded():
    """5 * 0.91 - 1024 is the window's edge, and the edge divided back is 5.0000000000001."""
    ct = ramp("int16", slope=0.91, intercept=-1024.0, lowest=-1000, highest=1000)
    window = IntensityRange(5 * 0.91 - 1024, 80 * 0.91 - 1024, "")
    assert np.array_equal(ct.moved(constant(0, ct), window, EIGHT), ct.stored)
    lowered = change(ct, ct.moved(constant(-1, ct), window, EIGHT))
    assert lowered.max() <= 0


def test_the_sign_of_a_zero_stays():
    volume = image([-0.0, 0.0, 1.0, -1.0, -0.0, 0.5], "float32")
    moved = volume.moved(constant(0, volume), IntensityRange(-1, 1, ""), EIGHT)
    assert moved.tobytes() == volume.stored.tobytes()


# Laws


SLOPES = (1.0, -1.0, 0.5, 2.0, 0.91, -0.38, 1 / 3, 1e-3, 37.5)


def drawn_range(draw, stored, slope, intercept):
    """Any range about where the values are, or exactly from one stored value to another."""
    if draw(st.booleans()):
        ends = sorted(float(value) for value in draw(st.tuples(*[st.sampled_from(stored)] * 2)))
    else:
        ends = sorted(draw(st.tuples(*[st.integers(-1200, 66_000)] * 2)))
    low, high = sorted(end * slope + intercept for end in ends)
    return IntensityRange(low, high if high > low else low + abs(slope), "drawn")


@st.composite
def cases(draw):
    """An image of six values, a delta up to twice epsilon, and the range."""
    dtype = np.dtype(draw(st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"])))
    if dtype.kind == "f":
        lowest, highest = -np.inf, np.inf
        values = st.floats(-1000, 5000, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])
    else:
        limits = np.iinfo(dtype)
        lowest, highest = sorted(draw(st.tuples(*[st.integers(limits.min, limits.max)] * 2)))
        values = st.integers(lowest, highest)
    stored = draw(st.lists(values, min_size=6, max_size=6))
    slope = draw(st.sampled_from(SLOPES))
    intercept = draw(st.sampled_from([0.0, -1024.0, 0.1, 1e4]))
    frozen = draw(st.none() | st.lists(st.booleans(), min_size=6, max_size=6))
    frozen = None if frozen is None else np.array(frozen)
    shape, scale = SHAPE, slope
    if draw(st.booleans()):
        shape = (2, 1, 3, 1)
        scale = np.array([slope, draw(st.sampled_from(SLOPES))]).reshape(2, 1, 1, 1)
    drawn = image(
        stored,
        dtype,
        shape,
        slope=scale,
        intercept=intercept,
        lowest=lowest,
        highest=highest,
        frozen=None if frozen is None else frozen.reshape(shape),
        inverted=draw(st.booleans()),
    )
    finite = [value for value in stored if np.isfinite(value)] or [0]
    intensity = drawn_range(draw, finite, slope, intercept)
    epsilon = draw(st.sampled_from([Fraction(1, 255), EIGHT, Fraction(314, 10_000)]))
    shares = draw(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
    frames, height, width, _ = shape
    delta = np.array(shares, np.float32).reshape(frames, 1, height, width) * float(epsilon)
    return drawn, delta, intensity, epsilon


laws = settings(max_examples=300, deadline=None)


@laws
@given(cases())
def test_never_above_the_radius(case):
    drawn, delta, intensity, epsilon = case
    moved = drawn.moved(delta, intensity, epsilon)
    steps = np.abs(np.nan_to_num(change(drawn, moved)))
    assert (steps <= drawn.epsilon_stored(intensity, epsilon)).all()


@laws
@given(cases())
def test_shape_type_limits_and_what_must_stay(case):
    drawn, delta, intensity, epsilon = case
    moved = drawn.moved(delta, intensity, epsilon)
    assert moved.shape == drawn.stored.shape
    assert moved.dtype == drawn.stored.dtype
    held = drawn.outside(intensity)
    if drawn.frozen is not None:
        held |= drawn.frozen
    np.testing.assert_array_equal(moved[held], drawn.stored[held])
    free = moved[~held].astype(np.float64)
    assert (free >= drawn.lowest).all()
    assert (free <= drawn.highest).all()
    values = (moved.astype(np.float64) * drawn.slope + drawn.intercept)[~held]
    rounding = 1e-6 * (np.abs(values).max(initial=0) + abs(drawn.intercept) + intensity.width)
    assert (values >= intensity.low - rounding).all()
    assert (values <= intensity.high + rounding).all()


@laws
@given(cases())
def test_zero_delta_is_lossless(case):
    drawn, delta, intensity, epsilon = case
    moved = drawn.moved(np.zeros_like(delta), intensity, epsilon)
    assert moved.tobytes() == drawn.stored.tobytes()


@laws
@given(cases())
def test_the_change_has_the_sign_of_the_delta_and_is_no_larger(case):
    drawn, delta, intensity, epsilon = case
    moved = drawn.moved(delta, intensity, epsilon)
    wanted = delta.astype(np.float64).transpose(0, 2, 3, 1) * intensity.width / drawn.slope
    wanted = -wanted if drawn.inverted else wanted
    found = np.nan_to_num(change(drawn, moved))
    assert (found * wanted >= 0).all()
    rounding = 1e-3 if drawn.stored.dtype == np.float32 else 1e-5
    assert (np.abs(found) <= np.abs(wanted) + rounding).all()


@laws
@given(cases())
def test_the_source_is_left_alone(case):
    drawn, delta, intensity, epsilon = case
    before = drawn.stored.tobytes(), delta.tobytes()
    drawn.moved(delta, intensity, epsilon)
    drawn.pixels(intensity)
    assert (drawn.stored.tobytes(), delta.tobytes()) == before


@laws
@given(cases())
def test_pixels_are_finite_and_within_0_and_1(case):
    drawn, _, intensity, _ = case
    pixels = drawn.pixels(intensity)
    assert pixels.min() >= 0  # false for NaN as well
    assert pixels.max() <= 1


# What is known of an image


@pytest.mark.parametrize(("channels", "colours"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_alpha_is_no_colour(channels, colours):
    assert ramp(channels=channels).colour_channels == colours


def test_an_rgb_file_whose_channels_are_equal_is_grey():
    grey = ramp(channels=4)
    grey.stored[..., 3] = 17
    assert grey.is_grey
    for channel in range(3):
        tinted = ramp(channels=3)
        tinted.stored[0, 5, 5, channel] += 1
        assert not tinted.is_grey
    assert ramp(channels=2).is_grey


def test_a_patient_is_not_shown():
    shown = repr(image(range(6), patient="DOE^JANE", container=b"DOE^JANE"))
    assert "DOE" not in shown


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_slope_that_is_next_to_nothing_gives_a_bound_that_is_next_to_endless(kind):
    stored = np.full((1, 2, 2, 1), 3, kind)
    image = DecodedImage(stored, "test", slope=5e-324, lowest=-32768, highest=32767)
    intensity = IntensityRange(0, 100, "for the test")
    assert image.epsilon_stored(intensity, Fraction(8, 255)) > 1e300
    moved = image.moved(np.full((1, 1, 2, 2), 8 / 255), intensity, Fraction(8, 255))
    assert np.isfinite(moved).all()
