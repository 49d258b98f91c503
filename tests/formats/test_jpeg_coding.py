"""What the JPEG codec computes itself: Huffman coding, and pixels as the library decodes them."""

import io
import itertools

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from medshield.formats.jpeg.coefficients import Coefficients
from medshield.formats.jpeg.huffman import ZIGZAG, best_table
from medshield.formats.jpeg.pixels import decode_pixels
from medshield.formats.jpeg.segments import parse
from medshield.formats.jpeg.trial import Trial

SIZES = [(40, 56), (33, 31), (1, 1), (7, 50), (64, 8), (5, 3), (3, 6), (17, 2)]


def noise(height, width, channels, low=0, high=256):
    return np.random.default_rng(3).integers(low, high, (height, width, channels), np.uint8)


def saved(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", **options
    )
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("level", [15, 75, 100])
def test_pixels_are_those_of_the_library(size, sampling, level, tmp_path):
    content = imagecodecs.jpeg8_encode(noise(*size, 3), level=level, subsampling=sampling)
    layout = parse(content)
    coefficients = Coefficients(layout, tmp_path)
    assert not Trial(coefficients, decode_pixels(layout)).change.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
def test_pixels_stay_true_when_coefficients_change(size, sampling, tmp_path):
    layout = parse(imagecodecs.jpeg8_encode(noise(*size, 3), level=60, subsampling=sampling))
    source, coefficients = decode_pixels(layout), Coefficients(layout, tmp_path)
    trial, random = Trial(coefficients, source), np.random.default_rng(1)
    values = [own.copy() for own in coefficients.original]
    for _ in range(3):
        where = np.flatnonzero(random.random(len(trial.change)) < 0.4)
        for own in values:
            own[where] += random.integers(-2, 3, own[where].shape, np.int16)
        trial.update(values, where)
    released = decode_pixels(parse(coefficients.write(values)))
    inside = coefficients.cut(np.ones((*size, 1), bool), beyond=False)
    change = coefficients.cut(released.astype(np.int16) - source)
    assert np.array_equal(trial.change, change * inside)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"subsampling": 0},
        {"subsampling": 1, "quality": 20},
        {"quality": 100},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 3, "subsampling": 0},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_coefficients_written_anew_give_the_same_pixels(size, channels, options, tmp_path):
    content = saved(noise(*size, channels), **options)
    coefficients = Coefficients(parse(content), tmp_path)
    new = coefficients.write(coefficients.original)
    assert np.array_equal(decode_pixels(parse(new)), decode_pixels(parse(content)))
    assert len(new) <= len(content) * 1.02 + 8


def test_zigzag_goes_along_diagonals():
    assert ZIGZAG[:10].tolist() == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert ZIGZAG[-3:].tolist() == [55, 62, 63]
    assert sorted(ZIGZAG) == list(range(64))


@pytest.mark.parametrize(
    "counts",
    [[1], [5, 5], [1] * 256, [2**n for n in range(40)], [1, 1, 2, 3, 5, 8, 13, 21] * 20],
    ids=["one", "two", "all", "steep", "mixed"],
)
def test_best_table_is_a_prefix_code(counts):
    padded = np.zeros(256, np.int64)
    padded[: len(counts)] = counts
    table = best_table(padded)
    used = np.flatnonzero(padded)
    words = [format(table.codes[s], f"0{table.lengths[s]}b") for s in used]
    assert max(map(len, words)) <= 16
    assert min(map(len, words)) >= 1
    assert not any(word == "1" * len(word) for word in words)
    assert not any(a != b and b.startswith(a) for a, b in itertools.permutations(words, 2))
    assert len(table.definition) == 16 + len(used)
    order = sorted(used, key=lambda s: -padded[s])
    assert all(table.lengths[a] <= table.lengths[b] for a, b in itertools.pairwise(order))
