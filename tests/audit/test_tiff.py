"""The audit's own reading of TIFF: it agrees with the codec, and finds what was tampered with."""

import contextlib
from fractions import Fraction

import numpy as np
import pytest
import tifffile

from medshield import audit
from medshield.audit import bound
from medshield.audit.tiff import TiffAuditor
from medshield.errors import RefusedFile
from medshield.formats.base import Handling, IntensityRange
from medshield.formats.tiff.codec import TiffCodec
from tests.formats.tiff_files import by_hand, save, texture

CODEC, AUDITOR = TiffCodec(), TiffAuditor()
EPSILON = Fraction(8, 255)
PREVIEW = b"\xff\xd8\xff\xe0 a preview that goes on for a while"


def strips(path):
    return save(path, texture((20, 21, 3), "u1"), photometric="rgb", rowsperstrip=6)


def tiles(path):
    pages = [texture((40, 37), "u2", seed) for seed in range(3)]
    return save(path, *pages, compression="lzw", predictor=True, tile=(16, 16), byteorder=">")


def big_floats(path):
    page = texture((20, 21), "f4")
    page[3:5] = np.nan
    return save(path, page, compression="zlib", predictor=3, bigtiff=True)


def planes(path):
    page = np.stack([texture((12, 13), "i2", seed) for seed in range(4)])
    return save(path, page, planarconfig="separate", compression="packbits")


def palette(path):
    colours = np.repeat(np.linspace(0, 65535, 256, dtype=np.uint16)[None], 3, 0)
    return save(path, texture((20, 21), "u1"), photometric="palette", colormap=colours)


def alpha(path):
    page = texture((8, 9, 4), "u1")
    page[:3, :, 3], page[3:, :, 3] = 0, 200
    return save(path, page, photometric="rgb", extrasamples=["unassalpha"], compression="zstd")


def white_is_zero(path):
    return save(path, texture((8, 9), "u1"), photometric="miniswhite")


def no_data(path):
    page = np.arange(90, 130, dtype=np.int16).reshape(5, 8)
    return save(path, page, extratags=[(42113, "s", 0, "100", True)])


def imagej(path):
    stack = [texture((4, 8), "u1", seed).tobytes() for seed in range(3)]
    told = {270: (2, b"ImageJ=1.54\nimages=3\n\0"), 257: (3, [4]), 278: (3, [4]), 279: (4, [32])}
    return by_hand(path, (stack, told | {273: (4, lambda starts: starts[:1])}))


def four_bits(path):
    rows = np.arange(60, dtype=np.uint8).tobytes()
    form = {256: (3, [12]), 257: (3, [10]), 258: (3, [4]), 278: (3, [10])}
    return by_hand(path, ([rows], form), order=">")


def pyramid(path):
    with tifffile.TiffWriter(path) as writer:
        for seed in range(2):
            page = texture((64, 49), "u2", seed)
            options = {"metadata": None, "tile": (16, 16), "compression": "zlib"}
            writer.write(page, subifds=2, **options)
            writer.write(page[::2, ::2], subfiletype=1, **options)
            writer.write(page[::5, ::5], subfiletype=1, **options)
    return path


def thumbnail(path):
    page = texture((32, 24), "u1")
    extra = [(65001, "B", len(PREVIEW), PREVIEW, True), (52545, "B", 20, bytes(20), True)]
    small = (page[::4, ::4], {"subfiletype": 1})
    return save(path, (page, {"extratags": extra}), small, page[::-1], compression="lzw")


def protect(path, handling):
    image = CODEC.decode(path, handling)
    colour = image.stored[..., : image.colour_channels].transpose(0, 3, 1, 2)
    finite = colour[np.isfinite(colour)]
    ends = image.declared[0] if image.declared else (float(finite.min()), float(finite.max()))
    intensity = IntensityRange(*ends, "all of it")
    shape = (len(colour), 1, *colour.shape[2:]) if image.is_grey else colour.shape
    epsilon = EPSILON if image.highest > 15 else Fraction(1, 15)
    delta = np.random.default_rng(0).choice([-1, 1], size=shape) * float(epsilon)
    wanted = image.moved(np.broadcast_to(delta, colour.shape), intensity, epsilon)
    target = path.with_name("target.tif")
    notes = CODEC.write(image, wanted, target, image.epsilon_stored(intensity, epsilon))
    return target, notes, (intensity, epsilon)


MAKERS = [strips, tiles, big_floats, planes, palette, alpha, white_is_zero, no_data, imagej]
MAKERS += [four_bits, pyramid]


@pytest.mark.parametrize("make", MAKERS)
def test_agrees_with_the_codec_and_finds_no_fault(tmp_path, make):
    source = make(tmp_path / "a.tif")
    target, notes, wanted = protect(source, Handling())
    clean, released = AUDITOR.read(source), AUDITOR.read(target)
    for seen, path in ((clean, source), (released, target)):
        decoded = CODEC.decode(path)
        assert seen.values.tobytes() == decoded.stored.tobytes()
        assert (seen.values.dtype, seen.values.shape) == (
            decoded.stored.dtype,
            decoded.stored.shape,
        )
        assert (seen.kind, seen.colours) == (decoded.kind, decoded.colour_channels)
    found = bound.movement(clean, released, *wanted)
    assert found.faults == {}
    assert found.furthest > 0
    assert list(AUDITOR.differences(source, target, audit.Allowed(notes=tuple(notes)))) == []


@pytest.mark.parametrize("make", [pyramid, thumbnail])
def test_lets_go_what_the_release_says_it_removed_and_nothing_else(tmp_path, make):
    source = make(tmp_path / "a.tif")
    target, notes, _ = protect(source, Handling("remove", drop_signatures=True))

    def found(notes, **handling):
        return list(AUDITOR.differences(source, target, audit.Allowed(tuple(notes), **handling)))

    assert found(notes, icons="remove", drop_signatures=True) == []
    assert found(notes) != []
    for number, note in enumerate(notes):
        without = notes[:number] + notes[number + 1 :]
        assert found(without, icons="remove", drop_signatures=True) != [], note


def test_finds_a_smaller_copy_that_shows_the_clean_picture(tmp_path):
    source = pyramid(tmp_path / "a.tif")
    target, notes, _ = protect(source, Handling())
    data = bytearray(target.read_bytes())
    with tifffile.TiffFile(target) as file:
        small = file.pages[0].pages[0]
        for start, size in zip(small.dataoffsets, small.databytecounts, strict=True):
            data[start : start + size] = bytes(size)
    target.write_bytes(data)
    found = list(AUDITOR.differences(source, target, audit.Allowed(tuple(notes))))
    assert any(line.startswith("sub-page 1 of page 1") for line in found)


@pytest.mark.parametrize("make", [strips, tiles, big_floats, alpha])
def test_names_every_byte_that_changed_outside_the_pixels(tmp_path, make):
    source = make(tmp_path / "a.tif")
    target, notes, _ = protect(source, Handling())
    data = target.read_bytes()
    with tifffile.TiffFile(target) as file:
        pixels = {
            place
            for page in file.pages
            for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)
            for place in range(start, start + size)
        }
        places = {
            place
            for page in file.pages
            for tag in page.tags
            if tag.code in (273, 279, 324, 325)
            for start, size in ((tag.valueoffset, tag.valuebytecount), (tag.offset, 20))
            for place in range(start, start + size)
        }
    kept = 0
    for place in set(range(len(data))) - pixels - places:
        target.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with contextlib.suppress(RefusedFile):
            assert list(AUDITOR.differences(source, target, audit.Allowed(tuple(notes)))), place
        kept += 1
    assert kept > 20


def test_finds_a_clean_picture_behind_the_end(tmp_path):
    source = strips(tmp_path / "a.tif")
    target, notes, _ = protect(source, Handling())
    target.write_bytes(target.read_bytes() + source.read_bytes()[-200:])
    (found,) = AUDITOR.differences(source, target, audit.Allowed(tuple(notes)))
    assert "belongs to no page or tag" in found


def test_a_copied_file_is_the_same_to_the_byte(tmp_path):
    source = strips(tmp_path / "a.tif")
    target, *_ = protect(source, Handling())
    copied = audit.Allowed(pixels=False)
    assert list(AUDITOR.differences(source, source, copied)) == []
    assert list(AUDITOR.differences(source, target, copied)) != []
