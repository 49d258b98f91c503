"""The range that epsilon is a fraction of: what the files declare, else what all of them hold."""

import numpy as np
import pytest

from medshield.dataset.intensity import KindSurvey, choose, parse_intensity, range_of
from medshield.errors import InputError, RefusedFile
from medshield.formats import DecodedImage, IntensityRange

LUNG, SOFT_TISSUE, BONE = (-1350, 150), (-160, 240), (-450, 1050)


def image(values, dtype="int16", declared=(), **facts):
    stored = np.array(values, dtype=dtype).reshape(1, 1, -1, 1)
    return DecodedImage(stored, "kind", declared=declared, **facts)


def windows(*declared):
    return [image([-1000, 0, 3000], declared=each) for each in declared]


def chosen(images, wanted="auto"):
    survey = KindSurvey()
    for each in images:
        survey.add(each)
    return choose([("kind", survey)], wanted)["kind"]


def ends(intensity):
    return intensity.low, intensity.high


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


@pytest.mark.parametrize("wanted", ["auto", "window"])
def test_a_window_that_all_files_declare(wanted):
    found = chosen(windows([SOFT_TISSUE], [SOFT_TISSUE]), wanted)
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "declared by all 2 files"


def test_of_several_windows_in_a_file_the_narrowest():
    assert ends(chosen(windows([LUNG, SOFT_TISSUE, BONE]))) == SOFT_TISSUE


def test_of_several_windows_over_the_files_the_narrowest():
    found = chosen(windows([LUNG], [SOFT_TISSUE], [BONE]))
    assert ends(found) == SOFT_TISSUE
    assert found.reason == "the narrowest of 3 ranges that the files declare"


def test_the_order_of_the_files_does_not_matter():
    sets = [windows([LUNG, BONE], [SOFT_TISSUE]), windows([SOFT_TISSUE], [BONE, LUNG])]
    assert len({chosen(images) for images in sets}) == 1


def test_files_without_a_window_take_percentiles_of_the_whole_set_not_of_each_file():
    dark, bright = image(range(1000)), image(range(3000, 4000))
    found = chosen([dark, bright])
    both = np.concatenate([np.arange(1000), np.arange(3000, 4000)])
    assert ends(found) == pytest.approx(tuple(np.percentile(both, [0.5, 99.5])))
    assert "percentiles" in found.reason
    assert "2 files" in found.reason


def test_one_file_without_a_window_is_enough_for_percentiles():
    found = chosen([*windows([SOFT_TISSUE]), image(range(1000))])
    assert "percentiles" in found.reason
    assert "missing" in found.reason


def test_windows_that_differ_wildly_say_nothing_about_the_numbers():
    """As in MR, where each series has its own scale."""
    mr = [image(range(2000), declared=[window]) for window in [(0, 90), (0, 1000)]]
    assert ends(chosen(mr)) == pytest.approx((9.995, 1989.005))
    assert ends(chosen(mr, "window")) == (0, 90)


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


def test_stored_is_all_that_the_files_can_hold():
    twelve_bits = image([0, 5], "uint16", lowest=0, highest=4095, slope=2.0, intercept=-1024.0)
    assert ends(chosen([twelve_bits], "stored")) == (-1024, 7166)
    assert ends(chosen([image([0, 5])], "stored")) == (-32768, 32767)
    falling = image([0, 5], "uint8", slope=-1.0)
    assert ends(chosen([falling], "stored")) == (-255, 0)


def test_given_ranges_win():
    found = chosen(windows([LUNG]), "-160,240")
    assert found == IntensityRange(-160, 240, "given with --intensity")


def test_each_kind_has_its_own_range():
    surveys = {"ct": KindSurvey(), "mr": KindSurvey()}
    surveys["ct"].add(*windows([SOFT_TISSUE]))
    surveys["mr"].add(image(range(1000)))
    found = choose(surveys.items(), "auto")
    assert ends(found["ct"]) == SOFT_TISSUE
    assert "percentiles" in found["mr"].reason


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


def test_a_large_image_is_sampled_not_kept():
    survey = KindSurvey()
    survey.add(image(np.arange(100_000) % 1000))
    assert sum(sample.size for sample in survey.samples) <= 2 * 4096


def volume(scale, seed):
    """A volume whose values run from 0 to `scale`, as an MR scanner might number them."""
    values = np.random.default_rng(seed).uniform(0, scale, (2, 16, 16, 1)).astype(np.float32)
    return DecodedImage(values, kind="NIfTI")


def survey_of(images):
    survey = KindSurvey()
    for image in images:
        survey.add(image)
    return survey


def test_volumes_on_different_scales_have_a_range_each():
    images = [volume(scale, seed) for scale in (100, 1_000, 400_000) for seed in range(4)]
    ranges = choose([("NIfTI", survey_of(images))], "auto")
    assert list(ranges) == [f"NIfTI, scale {i} of 3" for i in (1, 2, 3)]
    for image, scale in zip(images, np.repeat([100, 1_000, 400_000], 4), strict=True):
        assert range_of(image, ranges).width == pytest.approx(scale, rel=0.05)


def test_an_outlier_is_no_scale_of_its_own():
    images = [volume(100, seed) for seed in range(6)] + [volume(5_000, 9)]
    assert list(choose([("NIfTI", survey_of(images))], "auto")) == ["NIfTI"]


def test_files_that_differ_step_by_step_share_one_scale():
    images = [volume(100 * 2**step, seed) for step in range(6) for seed in range(2)]
    assert list(choose([("NIfTI", survey_of(images))], "auto")) == ["NIfTI"]


def test_a_kind_without_a_range_is_refused():
    with pytest.raises(RefusedFile, match="no intensity range"):
        range_of(volume(100, 0), {"PNG 8-bit": IntensityRange(0, 255, "")})
