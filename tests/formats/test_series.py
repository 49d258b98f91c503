"""Frames and bytes that are made when they are asked for are those that are held."""

import itertools

import numpy as np
import pytest

from medshield.errors import RefusedFile
from medshield.formats import series
from medshield.formats.gzip_stream import deflate, inflate
from medshield.formats.nifti.codec import background_value
from medshield.formats.series import (
    FileContent,
    MadeFrames,
    concatenated,
    content_of,
    distinct,
    held,
    part_of,
    pieces_of,
    runs,
    same,
    same_bytes,
    stream_of,
)
from tests.formats.test_gzip_stream import member

FRAMES = np.arange(11 * 4 * 5).reshape(11, 4, 5, 1)
TEXT = bytes(range(256)) * 3


@pytest.fixture
def small(monkeypatch):
    """Nothing is held but two frames of 20 values, one of which is worked on, and 50 bytes."""
    monkeypatch.setattr(series, "VALUES_HELD", 40)
    monkeypatch.setattr(series, "VALUES_A_RUN", 20)
    monkeypatch.setattr(series, "BYTES_HELD", 50)
    monkeypatch.setattr(series, "_WINDOW", 16)
    monkeypatch.setattr(series, "_PIECE", 7)


@pytest.fixture
def asked():
    """The slices that frames were made of."""
    return []


@pytest.fixture
def made(small, asked):
    def make(frames):
        asked.append((frames.start, frames.stop))
        return FRAMES[frames]

    return MadeFrames(FRAMES.shape, FRAMES.dtype, make)


def test_every_slice_is_that_of_the_array(made):
    for start, stop in itertools.product(range(12), repeat=2):
        np.testing.assert_array_equal(made[start:stop], FRAMES[start:stop])
    np.testing.assert_array_equal(made[:], FRAMES)
    np.testing.assert_array_equal(made[-3:], FRAMES[-3:])
    assert len(made) == len(FRAMES)


def test_in_turn_every_frame_is_made_once_and_few_at_a_time(made, asked):
    for run in runs(made.shape):
        for _ in range(3):
            made[run]
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]


def test_few_frames_are_held(made, asked):
    assert held(made) is made
    few = held(MadeFrames((2, 4, 5, 1), FRAMES.dtype, lambda frames: made[frames]))
    assert isinstance(few, np.ndarray)


def test_runs_cover_all_frames(small):
    assert list(runs((3, 4, 5, 1))) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(runs((3, 2, 5, 1))) == [slice(0, 2), slice(2, 3)]
    assert list(runs((2, 40, 50, 3))) == [slice(0, 1), slice(1, 2)]


def test_same_and_distinct_look_at_every_frame(made):
    other = FRAMES.copy()
    assert same(made, other)
    other[-1, -1, -1] += 1
    assert not same(made, other)
    np.testing.assert_array_equal(distinct(made), np.arange(220))
    assert 30 < len(distinct(made, 30)) < 220


@pytest.fixture
def file(small, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    return content_of(path)


def test_bytes_of_a_file_are_read_when_they_are_asked_for(file):
    assert isinstance(file, FileContent)
    for start, stop in itertools.product((0, 1, 15, 16, 17, 400, 766, 768, 900), repeat=2):
        assert file[start:stop] == TEXT[start:stop]
    part = part_of(file, 100, 300)
    assert isinstance(part, FileContent)
    assert part[3:60] == TEXT[103:160]
    assert b"".join(pieces_of(part)) == TEXT[100:300]
    assert part_of(file, 100, 120) == TEXT[100:120]
    stream = stream_of(file)
    stream.seek(700)
    assert stream.read(10) == TEXT[700:710]
    assert stream.tell() == 710


def test_contents_lie_one_after_the_other(file):
    whole = concatenated([b"head", file, b"", part_of(file, 5, 300), b"tail"])
    wanted = b"head" + TEXT + TEXT[5:300] + b"tail"
    assert not isinstance(whole, bytes)
    assert len(whole) == len(wanted)
    for start, stop in itertools.product((0, 3, 4, 5, 771, 772, 773, 1066, 1067, 1071), repeat=2):
        assert whole[start:stop] == wanted[start:stop]
    assert same_bytes(whole, wanted)
    assert not same_bytes(whole, wanted[:-1])
    assert not same_bytes(whole, wanted[:-1] + b"L")


def test_a_file_that_became_shorter_is_refused(file):
    file.path.write_bytes(TEXT[:500])
    with pytest.raises(RefusedFile, match="shorter"):
        file[490:510]
    file.path.unlink()
    with pytest.raises(RefusedFile, match="can't be read"):
        file[0:50]


def test_what_inflates_to_much_is_inflated_again(small):
    data = member(TEXT[:300]) + member(TEXT[300:], 8, b"second\0")
    content, envelope = inflate(data, len(TEXT))
    assert not isinstance(content, bytes)
    assert len(content) == len(TEXT)
    for start, stop in itertools.product((0, 7, 299, 300, 301, 500, 767, 768), repeat=2):
        assert content[start:stop] == TEXT[start:stop]
    assert b"".join(deflate(pieces_of(content), envelope)) == b"".join(deflate([TEXT], envelope))


@pytest.mark.parametrize(
    "values",
    [
        np.repeat([[0, 5, 6, 7]], 25, 0).ravel(),
        np.array([3] * 10 + list(range(4, 94))),
        np.array([3] * 9 + list(range(4, 95))),
        np.array([1] * 30 + [2] * 30 + list(range(3, 43))),
        np.array([2] * 30 + [1] * 31 + list(range(3, 42))),
        np.array([-1.5, *[0.0] * 20, *np.linspace(1, 2, 70), np.nan, np.inf]),
    ],
)
def test_a_background_is_one_of_all_frames_together(monkeypatch, values):
    volume = values.reshape(-1, 1, 1, 1)
    whole = background_value(volume)
    for run in (1, 7, 50):
        monkeypatch.setattr(series, "VALUES_A_RUN", run)
        assert background_value(volume) == whole
