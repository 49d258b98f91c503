"""The range that epsilon is a fraction of: what the files declare, else what all of them hold."""

import random

import numpy as np
import pytest

from medshield.dataset.intensity import choose, parse_intensity, range_of
from medshield.dataset.samples import FILES_A_STRATUM, SAMPLES_A_FILE, Samples, glance, sample
from medshield.errors import InputError, RefusedFile
from medshield.formats import DecodedImage, IntensityRange

LUNG, SOFT_TISSUE, BONE = (-1350, 150), (-160, 240), (-450, 1050)


def image(values, dtype="int16", declared=(), **facts):
    stored = np.array(values, dtype=dtype).reshape(1, 1, -1, 1)
    return DecodedImage(stored, "kind", declared=declared, **facts)


def windows(*declared):
    """CT slices from air to bone, each with its windows."""
    return [image(range(-1000, 1500), declared=each) for each in declared]


def seen(images):
    """What a scan keeps of images: glances by path, and samples."""
    files, samples = {}, Samples()
    for number, each in enumerate(images):
        values = sample(each)
        files[str(number)] = glance(each, values)
        samples.add(str(number), files[str(number)], values)
    return files, samples


def chosen(images, wanted="auto"):
    return choose(*seen(images), wanted)["kind"]


def ends(intensity):
    return intensity.low, intensity.high


# --intensity


@pytest.mark.parametrize("text", ["auto", "window", "stored"])
def test_words(text):
    assert parse_intensity(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("-160,240", (-160, 240)), ("0, 1", (0, 1)), ("-1e3,.5", (-1000, 0.5))],
)
def test_a_pair(text, expected):
    assert parse_intensity(text) == expected


@pytest.mark.parametrize(
    "text", ["", "full", "240", "240,-160", "0,0", "0,1,2", "a,b", "nan,1", "0,inf", "-inf,inf"]
)
def test_what_is_no_range(text):
    with pytest.raises(InputError, match="LOW,HIGH"):
        parse_intensity(text)


@pytest.mark.parametrize("text", ["240,-160", "0,0"])
def test_a_range_that_is_upside_down_is_told_so(text):
    with pytest.raises(InputError, match="LOW below HIGH"):
        parse_intensity(text)


def test_given_ranges_win():
    found = chosen(windows([LUNG]), "-160,240")
    assert found == IntensityRange(-160, 240, "given with --intensity")


def test_stored_is_all_that_the_files_can_hold():
    twelve_bits = image([0, 5], "uint16", lowest=0, highest=4095, slope=2.0, intercept=-1024.0)
    assert ends(chosen([twelve_bits], "stored")) == (-1024, 7166)
    assert ends(chosen([image([0, 5])], "stored")) == (-32768, 32767)
    falling = image([0, 5], "uint8", slope=-1.0)
    assert ends(chosen([falling], "stored")) == (-255, 0)


# Declared ranges


@pytest.mark.parametrize("wanted", ["auto", "window"])
def test_a_window_that_all_files_declare(wanted):
    found = chosen(windows([SOFT_TISSUE], [SOFT_TISSUE]), wanted)
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "the display window of all 2 files"


def test_ct_with_several_windows_takes_the_narrowest_of_them():
    found = chosen(windows([LUNG, SOFT_TISSUE, BONE]))
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "the narrowest of 3 display windows in the one file"


def test_of_several_windows_over_the_files_the_narrowest():
    found = chosen(windows([LUNG], [SOFT_TISSUE], [BONE]))
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "the narrowest of 3 display windows in all 3 files"


def test_eight_bits_are_0_to_255_however_dark():
    dark = [image(range(9), "uint8", declared=((0, 255),)) for _ in range(2)]
    assert chosen(dark) == IntensityRange(0, 255, "8-bit values, in all 2 files")


def test_colours_of_sixteen_bits_are_all_that_these_can_be():
    stored = np.arange(300, dtype=np.uint16).reshape(1, 10, 10, 3)
    found = chosen([DecodedImage(stored, "kind", declared=((0, 65535),))])
    assert ends(found) == (0, 65535)
    assert "colours" in found.reason


def test_one_file_without_a_window_among_two_is_enough_for_percentiles():
    found = chosen([*windows([SOFT_TISSUE]), image(range(1000))])
    assert "percentiles" in found.reason
    assert "1 file of 2 declares no display window" in found.reason


def test_one_file_without_a_window_among_many_takes_theirs():
    found = chosen(windows(*[[SOFT_TISSUE]] * 9, []))
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "the display window of 9 of 10 files"


def test_files_that_are_not_of_eight_bits_do_not_take_the_range_of_those_that_are():
    bytes_ = [image(range(200), "uint8", declared=((0, 255),)) for _ in range(19)]
    found = chosen([*bytes_, image(np.linspace(0, 90, 200), "float32")])
    assert "1 file of 20 declares no range, as 8-bit files do" in found.reason


def test_windows_that_differ_wildly_say_nothing_about_the_numbers():
    """As in MR, where each series has its own scale."""
    mr = [image(range(2000), declared=[window]) for window in [(0, 90), (0, 1000)]]
    found = chosen(mr)
    assert ends(found) == pytest.approx((9.995, 1989.005))
    assert "11 times as wide" in found.reason
    assert ends(chosen(mr, "window")) == (0, 90)


@pytest.mark.parametrize(
    "silly",
    [
        pytest.param((99, 100), id="a threshold"),
        pytest.param((-32768, 32767), id="all that sixteen bits can be"),
        pytest.param((5000, 5400), id="beside the values"),
    ],
)
def test_windows_that_do_not_fit_the_values_do_not_count(silly):
    assert ends(chosen(windows([silly, SOFT_TISSUE]))) == SOFT_TISSUE
    found = chosen(windows([silly], [silly]))
    assert ends(found) == pytest.approx((-987.5, 1486.5), abs=1)
    assert "the display windows of 2 files lie beside the values" in found.reason
    assert ends(chosen(windows([silly]), "window")) == silly


def test_the_window_of_a_stroke_fits():
    assert ends(chosen(windows([(20, 60), SOFT_TISSUE]))) == (20, 60)


def test_a_slice_of_nothing_but_air_does_not_void_its_window():
    series = [*windows(*[[SOFT_TISSUE]] * 2), image([-1000, -990], declared=[SOFT_TISSUE])]
    assert ends(chosen(series)) == SOFT_TISSUE


def test_a_window_that_shows_nothing_of_many_files_is_passed_over():
    """MR series of one scanner; the dark one's window lies below the values of the bright ones."""
    dark = [image(range(150), declared=[(-30, 320)])] * 2
    bright = [image(range(450, 750), declared=[(20, 760)])] * 8
    found = chosen([*dark, *bright])
    assert ends(found) == (20, 760)
    assert found.reason == (
        "the narrowest of 2 display windows in all 10 files, but for such as show nothing of many "
        "of them"
    )


def test_a_window_may_show_nothing_of_a_few_files():
    bones = image(range(400, 1500), declared=[SOFT_TISSUE])
    assert ends(chosen([*windows(*[[SOFT_TISSUE]] * 9), bones])) == SOFT_TISSUE
    found = chosen([*windows(*[[SOFT_TISSUE]] * 8), bones, bones])
    assert "every display window lies beside the values of many files" in found.reason


# Percentiles


def test_mr_without_a_window_takes_percentiles_of_the_whole_set_not_of_each_file():
    dark, bright = image(range(1000)), image(range(3000, 4000))
    found = chosen([dark, bright])
    both = np.concatenate([np.arange(1000), np.arange(3000, 4000)])
    assert ends(found) == pytest.approx(tuple(np.percentile(both, [0.5, 99.5])))
    expected = "percentiles 0.5 and 99.5 over all 2 files; no file declares a range"
    assert found.reason == expected


def test_twelve_bits_in_sixteen_take_what_they_fill():
    pictures = [image(range(4096), "uint16", lowest=0, highest=65535) for _ in range(3)]
    assert ends(chosen(pictures)) == pytest.approx((20.475, 4074.525), abs=1)


def test_pet_floats_take_what_they_fill_in_their_own_units():
    """Standardised uptake values: near 0 almost everywhere, 20 in a tumour."""
    generator = np.random.default_rng(0)
    pet = [image(generator.gamma(1, 1.5, 4000), "float32") for _ in range(4)]
    low, high = ends(chosen(pet))
    assert 0 < low < 0.1
    assert 6 < high < 10


def test_percentiles_are_in_the_units_of_the_world():
    found = chosen([image(range(1000), slope=2.0, intercept=-500.0)])
    assert ends(found) == pytest.approx(
        tuple(np.percentile(np.arange(1000) * 2 - 500, [0.5, 99.5]))
    )


def test_every_frame_counts_by_its_own_slope():
    """As in enhanced PET: the same activity is stored as another number in each frame."""
    stored = np.stack([np.arange(1000), np.arange(1000) // 10])[:, None, :, None]
    slope = np.array([1.0, 10.0]).reshape(2, 1, 1, 1)
    pet = DecodedImage(stored.astype(np.int16), "kind", slope=slope, lowest=0, highest=1000)
    low, high = ends(chosen([pet]))
    assert (low, high) == pytest.approx((2.5, 992.5), abs=3)
    assert ends(chosen([pet], "stored")) == (0, 10_000)


def test_padding_and_undefined_values_do_not_count():
    values = np.r_[np.full(500, -2000), np.arange(501)].astype("float32")
    values[600] = np.nan
    values[601] = np.inf
    frozen = (values == -2000).reshape(1, 1, -1, 1)
    low, high = ends(chosen([image(values, "float32", frozen=frozen)]))
    assert 0 < low < 10
    assert 490 < high < 500


def test_alpha_does_not_count():
    stored = np.stack([np.arange(200), np.full(200, 255)], -1)[None, None].astype(np.uint8)
    assert chosen([DecodedImage(stored, "kind")]).high < 200


def test_a_few_bright_values_are_taken_in_where_nothing_else_differs():
    values = np.zeros(1000)
    values[500] = 7
    assert ends(chosen([image(values)])) == (0, 7)


def test_empty_pictures_do_not_count_among_others():
    found = chosen([image([0] * 1000), image([0] * 1000), image(range(1000))])
    assert ends(found) == pytest.approx((4.995, 994.005))
    assert "over 1 of 3 files" in found.reason


def test_each_kind_has_its_own_range():
    files, samples = seen([*windows([SOFT_TISSUE]), volume(100, 0)])
    found = choose(files, samples, "auto")
    assert ends(found["kind"]) == SOFT_TISSUE
    assert "percentiles" in found["NIfTI"].reason


@pytest.mark.parametrize(
    ("images", "wanted", "message"),
    [
        ([image(range(9))], "window", "declares one"),
        ([image(range(9), "float32")], "stored", "holds floats"),
        ([image([5, 5, 5])], "auto", "same value"),
        ([image([np.nan] * 3, "float32")], "auto", "same value"),
    ],
)
def test_errors_say_what_to_do(images, wanted, message):
    with pytest.raises(InputError, match=message) as caught:
        chosen(images, wanted)
    assert "auto" in str(caught.value) or "LOW,HIGH" in str(caught.value)


# Scales


def volume(scale, seed):
    """A volume whose values run from 0 to `scale`, as an MR scanner might number them."""
    values = np.random.default_rng(seed).uniform(0, scale, (2, 16, 16, 1)).astype(np.float32)
    return DecodedImage(values, kind="NIfTI")


def ranges_of(images):
    return choose(*seen(images), "auto")


def test_volumes_on_different_scales_have_a_range_each():
    images = [volume(scale, seed) for scale in (100, 1_000, 400_000) for seed in range(4)]
    ranges = ranges_of(images)
    assert list(ranges) == [f"NIfTI, scale {i} of 3" for i in (1, 2, 3)]
    assert "4 of 12 files whose values are alike in size" in ranges["NIfTI, scale 1 of 3"].reason
    for each, scale in zip(images, np.repeat([100, 1_000, 400_000], 4), strict=True):
        assert range_of(each, ranges).width == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("scale", [5_000, 1e9, 0.01])
def test_an_outlier_is_no_scale_of_its_own_and_does_not_count(scale):
    usual = [volume(100, seed) for seed in range(6)]
    ranges = ranges_of([*usual, volume(scale, 9)])
    assert list(ranges) == ["NIfTI"]
    assert ends(ranges["NIfTI"]) == ends(ranges_of(usual)["NIfTI"])
    assert "1 file is numbered on another scale and did not count" in ranges["NIfTI"].reason


def test_slices_of_noise_are_no_scale_of_their_own():
    """As at both ends of a series of MR slices: their range would leave nothing to move by."""
    noise = [image(np.random.default_rng(seed).integers(0, 12, 900)) for seed in range(5)]
    signal = [image(np.random.default_rng(seed).integers(0, 900, 900)) for seed in range(5)]
    files, samples = seen([*noise, *signal])
    found = choose(files, samples, "auto")
    assert list(found) == ["kind"]
    assert found["kind"].width == pytest.approx(890, abs=5)
    assert "over 5 of 10 files" in found["kind"].reason
    assert chosen(noise).high == 11


def test_two_files_on_two_scales_share_a_range():
    assert ranges_of([volume(100, 0), volume(5_000, 1)])["NIfTI"].width > 4_000


def test_files_that_differ_step_by_step_share_one_scale():
    images = [volume(100 * 2**step, seed) for step in range(6) for seed in range(2)]
    assert list(ranges_of(images)) == ["NIfTI"]


def test_a_kind_without_a_range_is_refused():
    with pytest.raises(RefusedFile, match="no intensity range"):
        range_of(volume(100, 0), {"PNG 8-bit": IntensityRange(0, 255, "")})


# Many files


def many(number):
    """Files of five sizes, the larger the rarer, as glances and values."""
    for index in range(number):
        each = volume(100 * (1 + index % 10 // 6 + index % 10 // 8), index)
        values = sample(each)
        yield f"case{index}.nii", glance(each, values), values


def test_the_order_of_the_files_does_not_matter():
    files = list(many(300))
    found = set()
    for seed in range(3):
        random.Random(seed).shuffle(files)
        samples = Samples()
        for path, look, values in files:
            samples.add(path, look, values)
        found.add(choose({path: look for path, look, _ in files}, samples, "auto")["NIfTI"])
    assert len(found) == 1


def test_a_thousand_files_take_no_more_memory_than_some_and_stand_for_all():
    files, samples, everything = {}, Samples(), []
    for path, look, values in many(1000):
        files[path] = look
        samples.add(path, look, values)
        everything.append(values)
    strata = {look.stratum for look in files.values()}
    assert len(samples) <= FILES_A_STRATUM * len(strata) < 500
    expected = np.percentile(np.concatenate(everything), [0.5, 99.5])
    assert ends(choose(files, samples, "auto")["NIfTI"]) == pytest.approx(tuple(expected), abs=3)


def test_masks_that_were_sampled_do_not_count():
    files, samples = {}, Samples()
    for path, look, values in many(20):
        files[path] = look
        samples.add(path, look, values)
    expected = choose(files, samples, "auto")
    for number in range(200):
        mask = DecodedImage(np.eye(16, dtype=np.float32)[None, ..., None] * 200, "NIfTI")
        values = sample(mask)
        samples.add(f"masks/{number}", glance(mask, values, suspect=True), values)
    assert choose(files, samples, "auto") == expected


def test_a_large_image_is_sampled_not_kept():
    assert len(sample(image(np.arange(100_000) % 1000))) <= 2 * SAMPLES_A_FILE


def test_values_that_no_instrument_measures_do_not_count():
    """As in a file of doubles that was read in the wrong byte order."""
    values = np.r_[np.linspace(0, 100, 1000), 1.7e308, -1.7e308, np.inf]
    assert ends(chosen([image(values, "float64")])) == pytest.approx((0.5, 99.5))
    with pytest.raises(InputError, match="same value"):
        chosen([image([1.7e308, -1.7e308], "float64")])
