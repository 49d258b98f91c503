"""The laws of the TIFF codec: identity, bound, nothing but pixels; and what it refuses."""

import subprocess
import zlib
from fractions import Fraction

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats import recognise
from medshield.formats.base import Handling, IntensityRange
from medshield.formats.tiff.codec import TiffCodec
from tests.formats.tiff_files import (
    arrays_of,
    by_hand,
    outside_pixels,
    save,
    strips_of,
    tags_of,
    texture,
)

CODEC = TiffCodec()
JPEG = b"\xff\xd8\xff\xe0 a preview that goes on for a while"
fast = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
COMPRESSIONS = [None, "lzw", "zlib", "packbits", "zstd", "lzma"]
DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]


def moved(image, epsilon=Fraction(8, 255), seed=0):
    """The image with every value moved by epsilon up or down, and the radius."""
    colour = image.stored[..., : image.colour_channels]
    finite = colour[np.isfinite(colour)].astype(float)
    low, high = image.declared[0] if image.declared else (finite.min(), finite.max())
    intensity = IntensityRange(low, high, "all of it")
    shape = colour.transpose(0, 3, 1, 2).shape
    if image.is_grey:  # then it stays so
        shape = (shape[0], 1, *shape[2:])
    delta = np.random.default_rng(seed).choice([-1, 1], size=shape) * float(epsilon)
    delta = np.broadcast_to(delta, colour.transpose(0, 3, 1, 2).shape)
    return image.moved(delta, intensity, epsilon), float(image.epsilon_stored(intensity, epsilon))


def protect(path, handling=None, epsilon=Fraction(8, 255)):
    """Move every value; returns the image, what was wanted, the target and the notes."""
    image = CODEC.decode(path, handling or Handling())
    wanted, radius = moved(image, epsilon)
    target = path.with_name("target.tif")
    notes = CODEC.write(image, wanted, target, radius)
    return image, wanted, target, notes


def furthest(one, other):
    return float(np.nanmax(np.abs(one.astype(float) - other.astype(float))))


@st.composite
def tiff_files(draw):
    """Pages and options that tifffile writes: about everything that is lossless."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    colour = draw(st.sampled_from(["minisblack", "miniswhite", "rgb", "rgba", "grey alpha"]))
    samples = {"rgb": (3,), "rgba": (4,), "grey alpha": (2,)}.get(colour, ())
    options = {
        "photometric": {"rgba": "rgb", "grey alpha": "minisblack"}.get(colour, colour),
        "compression": draw(st.sampled_from(COMPRESSIONS)),
        "bigtiff": draw(st.booleans()),
        "byteorder": draw(st.sampled_from("<>")),
    }
    if options["compression"] not in (None, "packbits"):
        options["predictor"] = draw(st.booleans())
    if colour in ("rgba", "grey alpha"):
        options["extrasamples"] = ["unassalpha"]
    layout = draw(st.sampled_from(["whole", "strips", "tiles"]))
    if layout == "strips":
        options["rowsperstrip"] = draw(st.integers(1, shape[0]))
    elif layout == "tiles":
        options["tile"] = (16, draw(st.sampled_from([16, 32])))
    is_planar = bool(samples) and draw(st.booleans())
    if samples:
        options["planarconfig"] = "separate" if is_planar else "contig"
    pages = [texture(shape + samples, dtype, seed) for seed in range(draw(st.integers(1, 3)))]
    if is_planar:
        pages = [np.moveaxis(page, -1, 0) for page in pages]
    return pages, options


@fast
@given(tiff_files())
def test_laws_hold_for_whatever_tifffile_writes(tmp_path, file):
    pages, options = file
    if options["photometric"] == "miniswhite" and pages[0].dtype.kind != "u":
        options["photometric"] = "minisblack"
    source = save(tmp_path / "source.tif", *pages, **options)
    target = tmp_path / "zero.tif"
    image = CODEC.decode(source)
    CODEC.write(image, image.stored, target, 0)
    assert target.read_bytes() == source.read_bytes()
    if np.ptp(image.stored[..., : image.colour_channels]) == 0:
        return

    image, wanted, target, _ = protect(source)
    again = CODEC.decode(target).stored
    assert again.tobytes() == wanted.tobytes()
    assert again.dtype == pages[0].dtype.newbyteorder("=")
    seen = arrays_of(target)
    for frame, before, after in zip(wanted, arrays_of(source), seen, strict=True):
        assert before.shape == after.shape
        order = np.moveaxis(after, 0, -1) if options.get("planarconfig") == "separate" else after
        assert np.array_equal(order.reshape(frame.shape), frame)
    assert tags_of(target) == tags_of(source)
    outside = outside_pixels(source)
    assert outside_pixels(target)[: len(outside)] in (outside, outside[: len(target.read_bytes())])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "lzma"])
def test_nothing_of_the_old_strips_stays(tmp_path, compression, byteorder):
    page = texture((64, 40), "u1") // 16 * 16
    source = save(
        tmp_path / "a.tif", page, compression=compression, rowsperstrip=8, byteorder=byteorder
    )
    _, _, target, notes = protect(source)
    written = target.read_bytes()
    for strip in strips_of(source):
        assert strip[4:-8] not in written
    assert [note.split(":")[0] for note in notes] == [
        "tag 273 StripOffsets",
        "tag 279 StripByteCounts",
    ]
    coded = sum(len(strip) for strip in strips_of(target))
    assert len(written) - len(source.read_bytes()) < coded / 4


def test_uncompressed_pixels_stay_in_their_place(tmp_path):
    source = save(tmp_path / "a.tif", texture((20, 30, 3), "u1"), photometric="rgb")
    _, _, target, notes = protect(source)
    assert notes == []
    assert len(target.read_bytes()) == len(source.read_bytes())
    assert outside_pixels(target) == outside_pixels(source)


def test_describes_itself(tmp_path):
    source = save(tmp_path / "a.tif", texture((9, 8), "u1"), compression="lzw", byteorder=">")
    image = CODEC.decode(source)
    assert recognise(source) is not None
    assert (image.kind, image.declared, image.highest) == ("TIFF 8-bit", ((0, 255),), 255)
    assert image.details == {
        "bit depth": "8",
        "colour type": "grey",
        "compression": "LZW",
        "byte order": "big endian",
    }
    for dtype, kind in (("i2", "TIFF 16-bit signed"), ("f4", "TIFF 32-bit float")):
        image = CODEC.decode(save(source, texture((9, 8), dtype)))
        assert (image.kind, image.declared) == (kind, ())


def test_white_is_zero_is_displayed_the_other_way_round(tmp_path):
    page = np.array([[0, 250]], np.uint8)
    image = CODEC.decode(save(tmp_path / "a.tif", page, photometric="miniswhite"))
    assert image.inverted
    seen = image.pixels(IntensityRange(0, 255, ""))[0, 0, 0]
    assert seen[0] == 1
    assert seen[1] < 0.1


def test_unnamed_samples_of_grey_pages_are_frames(tmp_path):
    channels = [texture((12, 13), "u2", seed) for seed in range(5)]
    for planar, page in (("separate", np.stack(channels)), ("contig", np.stack(channels, -1))):
        source = save(tmp_path / "a.tif", page, planarconfig=planar)
        image, wanted, target, _ = protect(source)
        assert image.stored.shape == (5, 12, 13, 1)
        assert np.array_equal(image.stored[..., 0], channels)
        assert np.array_equal(CODEC.decode(target).stored, wanted)


def test_a_single_directory_may_speak_of_many_planes(tmp_path):
    planes = [texture((4, 8), "u1", seed).tobytes() for seed in range(3)]
    imagej = {270: (2, b"ImageJ=1.54\nimages=3\nslices=3\n\0"), 257: (3, [4]), 278: (3, [4])}
    only = {273: (4, lambda starts: starts[:1]), 279: (4, [32])}
    source = by_hand(tmp_path / "a.tif", (planes, imagej | only))
    image, wanted, target, notes = protect(source)
    assert image.stored.shape == (3, 4, 8, 1)
    assert notes == []
    assert np.array_equal(tifffile.imread(target), wanted[..., 0])

    tifffile.imwrite(
        source, np.stack([texture((4, 8), "u2")] * 3), truncate=True, photometric="minisblack"
    )
    image, wanted, target, _ = protect(source)
    assert np.array_equal(tifffile.imread(target), wanted[..., 0])
    assert len(wanted) == 3


def test_an_imagej_stack_and_its_metadata(tmp_path):
    stack = np.stack([texture((12, 13), "u2", seed) for seed in range(4)])
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, stack, imagej=True, metadata={"Labels": list("abcd"), "Info": "x"})
    _, wanted, target, _ = protect(source)
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
        assert after.imagej_metadata == before.imagej_metadata
        assert np.array_equal(after.asarray(), wanted[..., 0])


@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
def test_alpha_and_what_it_hides_stay(tmp_path, alpha):
    page = texture((8, 9, 4), "u1")
    page[:3, :, 3], page[3:, :, 3] = 0, 200
    page[..., :3] = np.minimum(page[..., :3], page[..., 3:])
    source = save(tmp_path / "a.tif", page, photometric="rgb", extrasamples=[alpha])
    _, wanted, target, _ = protect(source)
    released = CODEC.decode(target).stored[0]
    assert np.array_equal(released[..., 3], page[..., 3])
    assert np.array_equal(released[:3], page[:3])
    assert (released[3:] != page[3:]).any()
    if alpha == "assocalpha":
        assert (released[..., :3] <= released[..., 3:]).all()
    else:
        assert np.array_equal(released, wanted[0])


def test_palette_stays_and_its_nearest_colours_are_used(tmp_path):
    colours = np.repeat(np.linspace(0, 65535, 256, dtype=np.uint16)[None], 3, 0)
    page = texture((20, 21), "u1")
    source = save(tmp_path / "a.tif", page, photometric="palette", colormap=colours)
    image, wanted, target, _ = protect(source)
    assert (image.kind, image.stored.shape) == ("TIFF 8-bit", (1, 20, 21, 3))
    assert np.array_equal(image.stored[0, ..., 0], (colours[0] >> 8)[page])
    assert furthest(CODEC.decode(target).stored, wanted) <= 1
    assert tags_of(target) == tags_of(source)
    with Image.open(source) as before, Image.open(target) as after:
        change = furthest(np.asarray(after.convert("RGB")), np.asarray(before.convert("RGB")))
    assert 0 < change <= 8


def test_two_and_four_bits(tmp_path):
    rows = np.array([[0b00011011] * 5, [0b11100100] * 5], np.uint8).tobytes()
    form = {256: (3, [19]), 257: (3, [2]), 258: (3, [2]), 278: (3, [2])}
    source = by_hand(tmp_path / "a.tif", ([rows], form))
    image, wanted, target, _ = protect(source, epsilon=Fraction(1, 3))
    assert image.stored[0, :, :5, 0].tolist() == [[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]]
    assert (image.kind, image.declared) == ("TIFF 2-bit", ((0, 3),))
    assert np.array_equal(CODEC.decode(target).stored, wanted)
    assert np.array_equal(tifffile.imread(source), image.stored[0, ..., 0])
    assert np.array_equal(tifffile.imread(target), wanted[0, ..., 0])


def test_nan_and_no_data_stay_and_are_not_made(tmp_path):
    page = texture((20, 21), "f4")
    page[3:5], page[7, 7] = np.nan, np.inf
    source = save(tmp_path / "a.tif", page, compression="zlib", predictor=True)
    _, _, target, _ = protect(source)
    seen = tifffile.imread(target)
    assert np.array_equal(np.isnan(seen), np.isnan(page))
    assert np.array_equal(np.isinf(seen), np.isinf(page))

    page = np.arange(90, 130, dtype=np.int16).reshape(5, 8)
    source = save(tmp_path / "a.tif", page, extratags=[(42113, "s", 0, "100", True)])
    _, _, target, _ = protect(source)
    assert np.array_equal(tifffile.imread(target) == 100, page == 100)


def test_values_stay_within_what_the_tags_say_of_them(tmp_path):
    page = texture((20, 21), "u2") // 2
    low, high = int(page.min()), int(page.max())
    told = [(280, "H", 1, low, True), (281, "H", 1, high, True)]
    source = save(tmp_path / "a.tif", page, extratags=told)
    image = CODEC.decode(source)
    assert (image.lowest, image.highest) == (low, high)


def test_short_arrays_grow_where_they_must(tmp_path):
    """Offsets and counts of 16 bits, two in the entry itself: new ones do not fit there."""
    strips = [imagecodecs.lzw_encode(bytes(80000)), imagecodecs.lzw_encode(b"\5" * 80000)]
    coded = {
        256: (3, [400]),
        257: (3, [400]),
        259: (3, [5]),
        273: (3, lambda starts: starts),
        278: (3, [200]),
        279: (3, [len(strip) for strip in strips]),
    }
    source = by_hand(tmp_path / "a.tif", (strips, coded))
    image = CODEC.decode(source)
    wanted = image.stored + np.random.default_rng(0).integers(0, 9, image.stored.shape, np.uint8)
    target = tmp_path / "target.tif"
    CODEC.write(image, wanted, target, 8)
    assert np.array_equal(tifffile.imread(target), wanted[0, ..., 0])
    assert len(target.read_bytes()) > 2**16
    assert np.array_equal(CODEC.decode(target).stored, wanted)
    assert tags_of(target) == tags_of(source)


def test_padding_of_tiles_does_not_keep_the_clean_edge(tmp_path):
    page = np.full((16, 16), 77, np.uint8)
    page[:10, :10] = texture((10, 10), "u1")
    page[10:], page[:, 10:] = page[9:10], page[:, 9:10]
    source = save(tmp_path / "a.tif", page, tile=(16, 16))
    data = source.read_bytes()
    for tag in (256, 257):  # a tile whose last six rows and columns are beyond the image
        with tifffile.TiffFile(source) as file:
            place = file.pages[0].tags[tag].valueoffset
        data = data[:place] + b"\x0a\0" + data[place + 2 :]
    source.write_bytes(data)
    _, wanted, target, _ = protect(source)
    (tile,) = strips_of(target)
    whole = np.frombuffer(tile, np.uint8).reshape(16, 16)
    assert np.array_equal(whole[:10, :10], wanted[0, ..., 0])
    assert np.array_equal(whole[10:, :10], np.repeat(wanted[0, 9:10, :, 0], 6, 0))


def pyramid(path):
    """Two pages with two smaller copies each, as OME-TIFF has them, and a note after them."""
    with tifffile.TiffWriter(path) as writer:
        for seed in range(2):
            page = texture((64, 48), "u2", seed)
            options = {"metadata": None, "tile": (16, 16), "compression": "zlib"}
            writer.write(page, subifds=2, **options)
            writer.write(page[::2, ::2], subfiletype=1, **options)
            writer.write(page[::4, ::4], subfiletype=1, **options)
    return path


def thumbnail(path):
    page = texture((32, 24), "u1")
    small = (page[::4, ::4], {"subfiletype": 1})
    return save(path, page, small, page[::-1], compression="lzw")


@pytest.mark.parametrize("make", [pyramid, thumbnail])
def test_smaller_copies_are_made_anew(tmp_path, make):
    source = make(tmp_path / "a.tif")
    image, wanted, target, notes = protect(source)
    assert len(image.stored) == 2
    assert sum("made anew from the protected picture" in note for note in notes) == (
        4 if make is pyramid else 1
    )
    assert tags_of(target) == tags_of(source)
    assert np.array_equal(CODEC.decode(target).stored, wanted)
    with tifffile.TiffFile(target) as file:
        page = file.pages[0]
        small = page.pages[1] if make is pyramid else file.pages[1]
        averages = (
            wanted[0, ..., 0]
            .reshape(small.shape[0], 4, small.shape[1], 4)
            .astype(float)
            .mean((1, 3))
        )
        assert np.array_equal(small.asarray(), np.rint(averages))


@pytest.mark.parametrize("make", [pyramid, thumbnail])
def test_smaller_copies_are_removed_or_refused(tmp_path, make):
    source = make(tmp_path / "a.tif")
    _, wanted, target, notes = protect(source, Handling("remove"))
    assert sum("removed" in note for note in notes) == (4 if make is pyramid else 1)
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == 2
        assert [page.pages for page in file.pages] == [None, None]
        assert np.array_equal(file.pages[1].asarray(), wanted[1, ..., 0])
    small = [strip for strip in strips_of(source) if len(strip) > 40]
    assert not any(strip in target.read_bytes() for strip in small)
    assert np.array_equal(CODEC.decode(target).stored, wanted)
    with pytest.raises(RefusedFile, match="smaller copy of the picture"):
        CODEC.decode(source, Handling("refuse"))


def test_previews_in_tags_and_signatures_go_where_the_user_says_so(tmp_path):
    extra = [(65001, "B", len(JPEG), JPEG, True), (52545, "B", 20, bytes(20), True)]
    extra.append((305, "s", 0, "the program that wrote it", True))
    source = save(
        tmp_path / "a.tif", texture((9, 8), "u1"), texture((9, 8), "u1", 1), extratags=extra
    )
    for handling, reason in (
        (Handling("regenerate", drop_signatures=True), "tag 65001 of page 1 holds a preview"),
        (Handling("remove"), "tag 52545 of page 1 signs the picture"),
    ):
        with pytest.raises(RefusedFile, match=reason):
            CODEC.decode(source, handling)
    _, wanted, target, notes = protect(source, Handling("remove", drop_signatures=True))
    assert len(notes) == 4
    assert JPEG not in target.read_bytes()
    left = [{k: v for k, v in page.items() if k < 50000} for page in tags_of(source)]
    assert tags_of(target) == left
    assert [page.tolist() for page in arrays_of(target)] == wanted[..., 0].tolist()


PIXELS = texture((4, 8), "u1").tobytes()
STRANGE = {
    "stray": ({"tail": b"a clean picture"}, {}, "15 bytes after offset .* that belong to no page"),
    "stray before": ({"gap": b"a clean picture!"}, {}, "16 bytes after offset 8 that belong"),
    "rest of a strip": ({}, {257: (3, [2]), 278: (3, [2])}, "belong to no page"),
    "no size": ({}, {256: None}, "has no size"),
    "cut off": ({}, {257: (3, [5]), 278: (3, [5])}, "end too early"),
    "beyond": ({}, {279: (4, [3200])}, "are cut off"),
    "counts": ({}, {279: None}, "1 places of pixels .* and 0 sizes"),
    "strips": ({}, {278: (3, [2])}, "1 strips or tiles, expected 2"),
    "sparse": ({}, {279: (4, [0])}, "sparse"),
    "no colours": ({}, {262: None}, "unknown one"),
    "CMYK": ({}, {262: (3, [5]), 277: (3, [4])}, "colour space CMYK"),
    "filters": ({}, {262: (3, [32803])}, "colour filter array"),
    "JPEG": ({}, {259: (3, [7])}, "compressed by JPEG, expected a lossless"),
    "fax": ({}, {259: (3, [4])}, "CCITT fax"),
    "compression": ({}, {259: (3, [12345])}, "unknown kind .12345."),
    "bits": ({}, {258: (3, [12])}, "12-bit unsigned"),
    "complex": ({}, {258: (3, [64]), 339: (3, [6])}, "64-bit complex"),
    "mixed": ({}, {258: (3, [8, 4]), 277: (3, [2])}, "samples of different kinds"),
    "samples": ({}, {277: (3, [2])}, "ExtraSamples .* explains 0, expected 1"),
    "unnamed": ({}, {262: (3, [2]), 277: (3, [4]), 338: (3, [0])}, "not alpha"),
    "reversed": ({}, {266: (3, [2])}, "reversed bits"),
    "volume": ({}, {32997: (4, [2])}, "a volume"),
    "predictor": ({}, {317: (3, [2])}, "predictor 2"),
    "planes": ({}, {284: (3, [3])}, "no known order"),
    "text": ({}, {256: (2, b"8\0")}, "tag 256 of page 1 holds no integers"),
    "no LZW": ({}, {259: (3, [5])}, "can't be decoded|end too early"),
    "no palette": ({}, {262: (3, [3])}, "ColorMap has 0 numbers"),
    "8-bit palette": ({}, {262: (3, [3]), 320: (3, [9] * 768)}, "palette of 8-bit colours"),
    "layers": ({}, {37724: (7, b"Adobe Photoshop layers")}, "tag 37724 of page 1 holds a preview"),
    "thumbnail": ({}, {34377: (7, b"8BIM\x04\x0c thumbnail")}, "tag 34377 of page 1 holds"),
    "XMP": ({}, {700: (1, b"<xmpGImg:image>")}, "tag 700 of page 1 holds"),
    "planes told": (
        {},
        {270: (2, b"ImageJ=1\nimages=9\n\0")},
        "ends before the last of its 9 planes",
    ),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("case", STRANGE)
def test_refuses_by_name(tmp_path, case, order):
    around, entries, reason = STRANGE[case]
    source = by_hand(tmp_path / "a.tif", ([PIXELS], entries), order=order, **around)
    with pytest.raises(RefusedFile, match=reason) as caught:
        CODEC.decode(source)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_refuses_pages_that_differ_or_share_their_pixels(tmp_path):
    two = by_hand(tmp_path / "a.tif", ([PIXELS], {}), ([PIXELS[:16]], {}))
    with pytest.raises(RefusedFile, match="page 2 differs from page 1 in size"):
        CODEC.decode(two)
    shared = by_hand(tmp_path / "a.tif", ([PIXELS], {}), ([PIXELS], {273: (4, [8])}))
    with pytest.raises(RefusedFile, match="share the bytes"):
        CODEC.decode(shared)


def test_refuses_what_would_not_fit_into_memory(tmp_path):
    size = {256: (4, [100_000]), 257: (4, [100_000]), 278: (4, [100_000]), 259: (3, [8])}
    source = by_hand(tmp_path / "a.tif", ([PIXELS], size))
    with pytest.raises(RefusedFile, match="its header declares"):
        CODEC.decode(source)


@pytest.mark.parametrize("compression", [8, 32946])
def test_refuses_strips_that_inflate_to_more_than_their_size(tmp_path, compression):
    form = {257: (3, [4]), 259: (3, [compression]), 278: (3, [4])}
    source = by_hand(tmp_path / "a.tif", ([zlib.compress(PIXELS)], form))
    CODEC.decode(source)
    by_hand(source, ([zlib.compress(PIXELS + b"\0")], form))
    with pytest.raises(RefusedFile, match="inflate to more than their size"):
        CODEC.decode(source)


def test_loops_are_damage(tmp_path):
    source = by_hand(tmp_path / "a.tif", ([PIXELS], {}))
    data = bytearray(source.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    link = start + 2 + 12 * data[start]
    data[link : link + 4] = data[4:8]
    source.write_bytes(data)
    with pytest.raises(RefusedFile, match="same directory"):
        CODEC.decode(source)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "lzw"}, {"compression": "zlib", "bigtiff": True, "byteorder": ">"}],
)
def test_damage_is_refused_or_harmless(tmp_path, options):
    """Every truncation, and every byte changed: refused by name, or read and written in bounds."""
    source = save(tmp_path / "a.tif", texture((6, 5), "u1"), **options)
    data = source.read_bytes()
    damaged = [data[:place] for place in range(len(data))]
    damaged += [
        data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        for place in range(len(data))
        for flip in (0x01, 0xFF)
    ]
    outcomes = {True: 0, False: 0}
    for content in damaged:
        source.write_bytes(content)
        try:
            image = CODEC.decode(source)
        except RefusedFile:
            outcomes[False] += 1
            continue
        wanted = image.stored.copy()
        wanted[0, 0, 0, 0] = wanted[0, 0, 0, 0] // 2 + 1
        CODEC.write(image, wanted, tmp_path / "target.tif", 255)
        outcomes[True] += 1
    assert min(outcomes.values()) > 50


def libtiff_view(program, path):
    """What libtiff says of the tags, without where the directory and the strips are."""
    done = subprocess.run([program("tiffinfo"), path], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "offset" not in line.lower()]


@pytest.mark.external
@pytest.mark.parametrize(
    "options",
    [
        ["-c", "none"],
        ["-c", "lzw:2", "-r", "7"],
        ["-c", "zip:2", "-t", "-w", "32", "-l", "16"],
        ["-c", "packbits", "-B"],
        ["-c", "lzma", "-8"],
        ["-c", "zstd", "-p", "separate"],
    ],
)
def test_libtiff_sees_the_same_tags_and_the_wanted_pixels(program, tmp_path, options):
    plain = save(tmp_path / "plain.tif", texture((50, 60, 3), "u1"), photometric="rgb")
    source = tmp_path / "a.tif"
    subprocess.run([program("tiffcp"), *options, plain, source], check=True)
    _, wanted, target, _ = protect(source)
    assert libtiff_view(program, target) == libtiff_view(program, source)
    seen = imagecodecs.tiff_decode(target.read_bytes())
    planes = np.moveaxis(seen, 0, -1) if "separate" in options else seen
    assert np.array_equal(planes, wanted[0])
    if "-t" in options:  # of which tiffcmp says that it can't compare them
        return
    # tiffcmp finds pixels that differ, and no tag.
    done = subprocess.run(
        [program("tiffcmp"), source, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Scanline" in done.stdout + done.stderr
    assert "no such tag" not in (done.stdout + done.stderr).lower()
