"""Laws that every codec keeps, on generated files of every kind.

HYPOTHESIS_PROFILE=dev, ci (the default) or deep says how many files of each format are made.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medshield import audit
from medshield.audit import bound
from medshield.dataset.intensity import spread_of
from medshield.errors import NotAnImage, RefusedFile
from medshield.formats import CODECS, codec_named, recognise
from tests.builders import outside_pixels
from tests.generated import STRATEGIES, laws
from tests.generated.readers import read

EXAMPLES = {"dev": 20, "ci": 100, "deep": 5000}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
FORMATS = sorted({codec.name for codec in CODECS} & set(STRATEGIES))

examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(0, 2**32 - 1)
every_format = pytest.mark.parametrize("name", FORMATS)


def decoded(name, file, folder):
    """The image and its codec, or None where the file may be refused and is."""
    path = file.put(folder)
    codec = recognise(path)
    assert codec is codec_named(name), "recognised as another format"
    try:
        return codec, path, codec.decode(path)
    except RefusedFile:
        if file.refusable:
            return None
        raise


def law(check):
    """A test of every format: `check(file, codec, path, image, random)` holds for any file."""

    @every_format
    def test(name):
        kept = 0

        @examples
        @given(file=STRATEGIES[name](), seed=seeds)
        def holds(file, seed):
            nonlocal kept
            with tempfile.TemporaryDirectory() as folder:
                found = decoded(name, file, Path(folder))
                if found:
                    kept += 1
                    check(file, *found, np.random.default_rng(seed))

        holds()
        assert kept > EXAMPLES / 4, "most files were refused, so this says little"

    test.__doc__ = check.__doc__
    test.__name__ = check.__name__
    return test


def beside(file, path):
    """Where to write: a folder of its own that has the file's companions, too."""
    target = file.put(path.parent / "written")
    target.unlink()
    return target


def written(file, codec, path, image, random):
    """What a random change comes to: the change, the path, the decoded file and the notes.

    A quantiser may let no change through, which is refused; then there is nothing to look at.
    """
    change = laws.change_of(image, random, whole_range=not file.exact)
    target = beside(file, path)
    try:
        notes = codec.write(image, change.stored, target, change.largest)
    except RefusedFile:
        assert not file.exact, "an exact coding refused a change"
        return None
    return change, target, codec.read_back(image, target), notes


def in_common(seen, stored):
    """Two readings, of colours less alpha where only one of them has it."""
    assert seen.shape[:3] == stored.shape[:3]
    if seen.shape != stored.shape:
        assert {seen.shape[3], stored.shape[3]} == {3, 4}
        seen, stored = seen[..., :3], stored[..., :3]
    return seen.astype(np.float64), stored.astype(np.float64)


@law
def test_a_file_is_decoded_to_the_values_that_were_put_in(file, codec, path, image, random):
    if file.values is not None:
        assert laws.same(image.stored, file.values)


@law
def test_an_established_reader_sees_the_same_values(file, codec, path, image, random):
    seen = read(path)
    np.testing.assert_array_equal(*in_common(seen, image.stored))


@law
def test_the_audit_reads_what_the_codec_reads(file, codec, path, image, random):
    """With other code, so that each is a check of the other."""
    seen = audit.auditor_named(codec.name).read(path)
    assert (seen.kind, seen.values.dtype) == (image.kind, image.stored.dtype)
    np.testing.assert_array_equal(seen.values, image.stored)
    for mine, theirs in ((seen.slope, image.slope), (seen.intercept, image.intercept)):
        frames = [np.broadcast_to(np.ravel(each), len(seen.values)) for each in (mine, theirs)]
        np.testing.assert_array_equal(*frames)
    spread = spread_of(image)
    assert bound.spread(seen) == pytest.approx(spread, rel=1e-9, nan_ok=True)


@law
def test_the_audit_finds_no_fault_in_what_the_codec_writes(file, codec, path, image, random):
    found = written(file, codec, path, image, random)
    if found and not np.array_equal(found[0].stored, image.stored):
        change, target, _, _ = found
        auditor = audit.auditor_named(codec.name)
        clean, released = auditor.read(path), auditor.read(target)
        moved = bound.movement(clean, released, change.intensity, change.epsilon)
        assert moved.faults == {}
        np.testing.assert_array_equal(sorted(moved.radii), np.unique(change.radius))


@law
def test_decoding_twice_gives_the_same(file, codec, path, image, random):
    again = codec.decode(path)
    assert laws.same(again.stored, image.stored)
    assert (again.kind, again.declared, again.details) == (
        image.kind,
        image.declared,
        image.details,
    )


@law
def test_no_change_gives_the_same_file(file, codec, path, image, random):
    target = beside(file, path)
    notes = codec.write(image, image.stored.copy(), target, 8.0)
    assert laws.same(codec.read_back(image, target).stored, image.stored)
    if file.same_bytes:
        assert target.read_bytes() == path.read_bytes()
        assert notes == [] or not file.exact
    else:
        assert outside_pixels(path, target, notes) == []


@law
def test_no_value_leaves_the_bound_and_fixed_ones_stay(file, codec, path, image, random):
    found = written(file, codec, path, image, random)
    if found:
        change, _, again, _ = found
        laws.assert_keeps_the_bound(image, change, again)
        if file.exact:
            laws.assert_is_what_was_wanted(image, change, again)


@law
def test_an_established_reader_sees_no_value_leave_the_bound(file, codec, path, image, random):
    found = written(file, codec, path, image, random)
    if found:
        change, target, again, _ = found
        before, after = read(path).astype(np.float64), read(target).astype(np.float64)
        with np.errstate(invalid="ignore"):
            assert not (np.abs(after - before) > change.radius).any()
        np.testing.assert_array_equal(*in_common(after, again.stored))


@law
def test_nothing_outside_the_pixels_changes(file, codec, path, image, random):
    found = written(file, codec, path, image, random)
    if found:
        assert outside_pixels(path, found[1], found[3]) == []
        assert found[2].kind == image.kind


@law
def test_a_file_that_was_written_can_be_written_again(file, codec, path, image, random):
    found = written(file, codec, path, image, random)
    if found:
        _, target, again, _ = found
        copy = path.with_name(f"copy-{path.name}")  # of a pair, it has no header beside it
        codec.write(again, again.stored.copy(), copy, 8.0)
        assert copy.read_bytes() == target.read_bytes()


def assert_one_line(error):
    assert 0 < len(str(error)) < 600
    assert "\n" not in str(error)


@every_format
def test_a_file_that_was_cut_off_is_refused_or_exact(name):
    @examples
    @given(file=STRATEGIES[name](), share=st.floats(0, 1), seed=seeds)
    def holds(file, share, seed):
        with tempfile.TemporaryDirectory() as folder:
            path = file.put(Path(folder))
            path.write_bytes(file.content[: int(share * len(file.content))])
            codec = codec_named(name)
            try:
                image = codec.decode(path)
                found = written(file, codec, path, image, np.random.default_rng(seed))
            except (RefusedFile, NotAnImage) as error:
                found = None
                assert_one_line(error)
            if found:
                laws.assert_keeps_the_bound(image, found[0], found[2])

    holds()
