"""The laws of the PNG codec: identity, bound, nothing but pixels; and what it refuses."""

import io
import struct
import subprocess
import zlib
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats.base import Handling, IntensityRange
from medshield.formats.png.codec import PngCodec
from tests import thumbnails
from tests.builders import outside_pixels

CODEC = PngCodec()
COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
PASSES = (*PASSES, (0, 1, 1, 2))  # x, y, step of x, step of y
JPEG = b"\xff\xd8\xff\xe0 a thumbnail"
fast = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def row_bytes(row, depth):
    """The samples of a row, most significant bits first."""
    bits = "".join(f"{value:0{depth}b}" for value in row.reshape(-1))
    return int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def deflated(samples, depth=8, interlaced=False, filters=(0,)):
    """Scanlines whose filters take turns; the bytes are not filtered, as any bytes will do."""
    scanlines = []
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        for row in samples[y::dy, x::dx]:
            if row.size:
                number = bytes([filters[len(scanlines) % len(filters)]])
                scanlines.append(number + row_bytes(row, depth))
    return zlib.compress(b"".join(scanlines))


def png(
    samples,
    interlaced=False,
    before=(),
    after=(),
    rest=b"",
    pieces=1,
    depth=None,
    colour=None,
    filters=(0,),
):
    """A file with scanlines in as many IDAT chunks as asked for."""
    height, width, channels = samples.shape
    depth = depth or samples.dtype.itemsize * 8
    stream = deflated(samples, depth, interlaced, filters)
    size = -(-len(stream) // pieces)
    colour = COLOUR_TYPES[channels] if colour is None else colour
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", ihdr),
            *(chunk(*part) for part in before),
            *(chunk(b"IDAT", stream[i : i + size]) for i in range(0, len(stream), size)),
            *(chunk(*part) for part in after),
            chunk(b"IEND"),
            rest,
        ]
    )


def reference_samples(data):
    """(height, width, channels), read as the standard says it, one byte at a time."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    stream, position = b"", 8
    while position < data.index(b"IEND"):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IDAT":
            stream += data[position + 8 : position + 8 + length]
        position += length + 12
    scanlines = zlib.decompress(stream)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = np.zeros((height, width, channels), np.uint16 if depth == 16 else np.uint8)
    step = max(1, channels * depth // 8)
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        part = samples[y::dy, x::dx]
        above = bytes((part.shape[1] * channels * depth + 7) // 8)
        for row in part if part.size else ():
            above = unfiltered(scanlines[: len(above) + 1], above, step)
            scanlines = scanlines[len(above) + 1 :]
            bits = "".join(f"{byte:08b}" for byte in above)
            values = [int(bits[i * depth : (i + 1) * depth], 2) for i in range(row.size)]
            row[:] = np.array(values).reshape(row.shape)
    assert not scanlines
    return samples


def unfiltered(scanline, above, step):
    result = bytearray()
    for i, value in enumerate(scanline[1:]):
        a = result[i - step] if i >= step else 0
        b, c = above[i], above[i - step] if i >= step else 0
        nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        result.append((value + (0, a, b, (a + b) // 2, nearest)[scanline[0]]) % 256)
    return bytes(result)


def moved(image, steps):
    """The image with all its colours moved by `steps` grey levels, and the radius."""
    top = int(image.highest)
    shape = image.stored[..., : image.colour_channels].transpose(0, 3, 1, 2).shape
    delta = np.broadcast_to(steps, shape) / top
    radius = int(np.abs(steps).max())
    epsilon = Fraction(max(radius, 1), top)
    return image.moved(delta, IntensityRange(0, top, "all of it"), epsilon), radius


def signs(image, seed=0, radius=3):
    shape = image.stored[..., : image.colour_channels].transpose(0, 3, 1, 2).shape
    return np.random.default_rng(seed).choice([-radius, radius], size=shape)


def save(tmp_path, data, name="source.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@st.composite
def sample_arrays(draw):
    height, width = draw(st.integers(1, 11)), draw(st.integers(1, 11))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    depth = draw(st.sampled_from([1, 2, 4, 8, 16] if channels == 1 else [8, 16]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = min(2**depth, draw(st.sampled_from([2, 9, 2**16])))
    samples = generator.integers(0, levels, (height, width, channels))
    return samples.astype(np.uint16 if depth == 16 else np.uint8), depth


@fast
@given(
    sample_arrays(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 5),
    st.permutations(range(5)),
)
def test_laws_hold_for_any_image(tmp_path, drawn, interlaced, pieces, radius, filters):
    samples, depth = drawn
    before = [(b"gAMA", bytes(4)), (b"tEXt", b"Comment\0patient's left")]
    after = [(b"tIME", bytes(7)), (b"prVt", b"of someone's own")]
    data = png(samples, interlaced, before, after, b"a tail", pieces, depth, filters=filters)
    source, target = save(tmp_path, data), tmp_path / "target.png"
    image = CODEC.decode(source)
    assert np.array_equal(image.stored[0], reference_samples(data))
    assert image.stored.dtype == samples.dtype
    assert (image.kind, image.highest) == (f"PNG {depth}-bit", 2**depth - 1)

    CODEC.write(image, image.stored, target, 0)
    assert target.read_bytes() == data

    wanted, _ = moved(image, radius and signs(image, samples.size, radius))
    assert CODEC.write(image, wanted, target, radius) == []
    released = CODEC.decode(target).stored
    assert np.array_equal(released, wanted)
    assert np.abs(released.astype(int) - image.stored).max() <= radius
    assert np.array_equal(reference_samples(target.read_bytes()), wanted[0])
    assert outside_pixels(source, target) == []
    written = target.read_bytes()
    assert written[: data.index(b"IDAT") - 4] == data[: data.index(b"IDAT") - 4]
    assert written.endswith(data[data.index(b"tIME") - 4 :])


def test_alpha_and_invisible_pixels_stay(tmp_path):
    samples = np.full((4, 4, 4), 100, np.uint8)
    samples[:2, :, 3] = 0
    image = CODEC.decode(save(tmp_path, png(samples)))
    wanted, _ = moved(image, 3)
    assert np.array_equal(wanted[0, :2], samples[:2])
    assert (wanted[0, 2:] == (103, 103, 103, 100)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_pixel_becomes_or_stops_being_the_transparent_colour(tmp_path, channels, dtype):
    samples = np.repeat(np.arange(90, 111, dtype=dtype).reshape(3, 7, 1), channels, axis=2)
    # In 8-bit images only the low byte of tRNS counts.
    colour = (b"\xab\x64" if dtype == np.uint8 else b"\x00\x64") * channels
    source = save(tmp_path, png(samples, before=[(b"tRNS", colour)]))
    image = CODEC.decode(source)
    for steps in (-3, -1, 1, 3):
        wanted, radius = moved(image, steps)
        CODEC.write(image, wanted, tmp_path / "target.png", radius)
        released = CODEC.decode(tmp_path / "target.png").stored[0].astype(int)
        assert np.array_equal((released == 100).all(-1), (samples == 100).all(-1))
        assert np.abs(released - samples).max() <= radius
        assert (released != wanted[0]).sum() == channels  # the one pixel that would have vanished


def test_describes_itself(tmp_path):
    image = CODEC.decode(save(tmp_path, png(np.zeros((2, 3, 2), np.uint8), interlaced=True)))
    assert (image.kind, image.declared) == ("PNG 8-bit", ((0, 255),))
    assert image.details == {
        "bit depth": "8",
        "colour type": "grey and alpha",
        "interlaced": "yes",
    }
    image = CODEC.decode(save(tmp_path, png(np.zeros((2, 3, 3), np.uint16))))
    assert (image.kind, image.declared, image.highest) == ("PNG 16-bit", (), 65535)
    assert image.frozen is None


def colours_and_indices(seed, entries, bits, alpha=False):
    """A palette with neighbours, and an image that uses all of it but the last entry."""
    generator = np.random.default_rng(seed)
    colours = (generator.integers(0, 9, (entries, 3)) * 5 + 100).astype(np.uint8)
    used = generator.integers(0, max(1, entries - 1), (13, 11, 1)).astype(np.uint8)
    chunks = [(b"PLTE", colours.tobytes())]
    if alpha:
        opacity = generator.choice([0, 128, 255], entries - 1).astype(np.uint8)
        chunks.append((b"tRNS", opacity.tobytes()))
        colours = np.column_stack([colours, np.append(opacity, 255)])
    return colours, used, chunks


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_stays_and_its_nearest_colours_are_used(tmp_path, bits, interlaced, alpha):
    colours, used, chunks = colours_and_indices(bits, min(2**bits, 60), bits, alpha)
    data = png(used, interlaced, chunks, depth=bits, colour=3)
    image = CODEC.decode(save(tmp_path, data))
    assert (image.kind, image.declared) == ("PNG 8-bit", ((0, 255),))
    assert np.array_equal(image.stored[0], colours[used[..., 0]])

    target = tmp_path / "target.png"
    CODEC.write(image, image.stored, target, 9)
    assert target.read_bytes() == data
    for radius in (5, 12, 60):
        wanted, _ = moved(image, signs(image, radius=radius))
        if radius < image.step:
            with pytest.raises(RefusedFile, match="not one pixel could move"):
                CODEC.write(image, wanted, target, radius)
            continue
        CODEC.write(image, wanted, target, radius)
        written = reference_samples(target.read_bytes())[..., 0]
        for index, other, goal in zip(
            used.flat, written.flat, wanted.reshape(-1, colours.shape[1]), strict=True
        ):
            source = colours[index].astype(int)
            far = np.abs(colours.astype(int) - source)
            near = (far[:, :3].max(1) <= radius) & (far[:, 3:] == 0).all(1)
            errors = ((colours.astype(int) - goal)[:, :3] ** 2).sum(1)
            assert near[other]
            assert errors[other] == errors[near].min()
        assert outside_pixels(tmp_path / "source.png", target) == []


def test_a_grey_palette_stays_grey_and_unused_colours_unused(tmp_path):
    colours = np.array([[100, 100, 100], [104, 104, 104], [101, 104, 104], [103, 103, 103]], "u1")
    indices = np.array([[[0], [1], [0]]], np.uint8)
    unused = (b"hIST", struct.pack(">4H", 1, 1, 1, 0))
    chunks = [(b"PLTE", colours.tobytes()), unused]
    image = CODEC.decode(save(tmp_path, png(indices, before=chunks, depth=2, colour=3)))
    assert image.step == 4
    wanted = image.stored + np.uint8(3)
    CODEC.write(image, wanted, tmp_path / "target.png", 4)
    assert CODEC.decode(tmp_path / "target.png").stored[0, 0, :, 0].tolist() == [104, 104, 104]


def test_says_how_much_of_a_palette_could_not_move(tmp_path):
    colours = np.array([[10, 10, 10], [12, 12, 12], [90, 10, 10]], np.uint8)
    indices = np.array([[[0], [1], [2], [2]]], np.uint8)
    source = png(indices, before=[(b"PLTE", colours.tobytes())], depth=2, colour=3)
    image = CODEC.decode(save(tmp_path, source))
    wanted = image.stored + np.uint8(2)
    (note,) = CODEC.write(image, wanted, tmp_path / "target.png", 2)
    assert "50.0 % of the pixels stay" in note


def test_every_frame_of_an_animation_is_protected(tmp_path):
    frames = [GREY + np.uint8(50 * i) for i in range(3)]
    source = save(tmp_path, animation(*frames))
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, frames)
    wanted, radius = moved(image, signs(image))
    CODEC.write(image, wanted, tmp_path / "target.png", radius)
    assert np.array_equal(CODEC.decode(tmp_path / "target.png").stored, wanted)
    assert outside_pixels(source, tmp_path / "target.png") == []
    with Image.open(tmp_path / "target.png") as seen:
        assert seen.n_frames == 3
        for number in range(3):
            seen.seek(number)
            assert np.array_equal(np.asarray(seen)[..., None], wanted[number])


def test_scaled_16_bit_values_have_a_declared_range(tmp_path):
    twelve = np.arange(0, 4096, 273, dtype=np.uint16).reshape(4, 4, 1)
    scaled, raw = twelve << 4 | twelve >> 8, twelve
    significant = [(b"sBIT", b"\x0c")]
    declared = {
        name: CODEC.decode(save(tmp_path, png(samples, before=chunks))).declared
        for name, samples, chunks in (
            ("scaled", scaled, significant),
            ("raw", raw, significant),
            ("silent", scaled, []),
        )
    }
    assert declared == {"scaled": ((0, 65535),), "raw": (), "silent": ()}


def test_recognises_only_its_signature(tmp_path):
    assert CODEC.recognises(png(np.zeros((1, 1, 1), np.uint8)), tmp_path / "image.dat")
    assert not CODEC.recognises(b"\x89PNG\n", tmp_path / "image.png")


def ihdr_only(depth, colour, size=(1, 1), interlace=0):
    body = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", b"x") + chunk(b"IEND")


def exif(second_directory):
    return b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 3, 1, 1 << 16, second_directory)


def frame_control(number, size, offset=(0, 0)):
    return b"fcTL", struct.pack(">IIIIIHHBB", number, *size, *offset, 1, 25, 0, 0)


def animation(first, *others, size=None, pieces=2):
    """An animated PNG whose later frames come in several chunks each."""
    height, width, _ = first.shape
    size = size or (width, height)
    before = [(b"acTL", struct.pack(">II", 1 + len(others), 0)), frame_control(0, (width, height))]
    after, number = [], 1
    for samples in others:
        after.append(frame_control(number, size))
        stream = deflated(samples)
        cut = len(stream) // pieces
        for i in range(pieces):
            part = stream[i * cut :] if i == pieces - 1 else stream[i * cut : (i + 1) * cut]
            after.append((b"fdAT", struct.pack(">I", number + 1 + i) + part))
        number += 1 + pieces
    return png(first, before=before, after=after)


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
HEX_PROFILE = b"\nexif\n   20\n" + JPEG.hex().encode() + b"\n"
REFUSED = {
    "no palette": (ihdr_only(8, 3), "PLTE"),
    "long palette": (png(GREY % 4, colour=3, depth=2, before=[(b"PLTE", bytes(15))]), "PLTE"),
    "index": (png(GREY, colour=3, before=[(b"PLTE", bytes(33))]), "not in the palette"),
    "alpha": (png(GREY, colour=3, before=[(b"PLTE", bytes(36)), (b"tRNS", bytes(13))]), "tRNS"),
    "palettes": (png(GREY, colour=3, before=[(b"PLTE", bytes(36))] * 2), "more than one PLTE"),
    "depth": (ihdr_only(3, 0), "bit depth of 3"),
    "size": (ihdr_only(8, 0, (0, 1)), "0x1"),
    "interlace": (ihdr_only(8, 0, interlace=2), "interlace 2"),
    "too large": (ihdr_only(16, 6, (2**31 - 1, 2**31 - 1)), "its header declares"),
    "bomb": (ihdr_only(16, 6, (9000, 9000)), "too little data"),
    "short fcTL": (png(GREY, before=[(b"acTL", bytes(8)), (b"fcTL", b"")]), "fcTL"),
    "short fdAT": (png(GREY, after=[(b"acTL", bytes(8)), (b"fdAT", b"")]), "fdAT"),
    "no acTL": (png(GREY, after=[(b"fdAT", bytes(9))]), "no acTL"),
    "Apple": (png(GREY, before=[(b"CgBI", b"")]), "Apple's own coding"),
    "critical": (png(GREY, before=[(b"NEWs", b"")]), "unknown critical chunk NEWs"),
    "second IHDR": (png(GREY, before=[(b"IHDR", bytes(13))]), "more than one IHDR"),
    "gap": (png(GREY, after=[(b"tIME", bytes(7)), (b"IDAT", b"")]), "between its IDAT"),
    "long data": (png(GREY, after=[(b"IDAT", b"more")]), "shorter or longer"),
    "tRNS": (png(GREY, before=[(b"tRNS", bytes(6))]), "tRNS"),
    "eXIf": (png(GREY, before=[(b"eXIf", b"nonsense")]), "eXIf can't be read"),
    "maker note": (png(GREY, before=[(b"eXIf", exif(0) + JPEG)]), "eXIf maker note holds"),
    "private": (png(GREY, after=[(b"prVt", JPEG)]), "prVt holds"),
    "Fireworks": (png(GREY, after=[(b"mkBT", b"deflated")]), "mkBT holds"),
    "signature": (png(GREY, after=[(b"dSIG", b"")]), "digital signature"),
    "rest": (png(GREY, rest=b"old IDAT"), "after the PNG's end"),
    "XMP": (png(GREY, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<xmpGImg:image>")]), "iTXt"),
    "partial frame": (animation(GREY, GREY[:2], size=(4, 2)), "only a part of the picture"),
    "deflated XMP": (
        png(GREY, before=[(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"<xmpGImg:image>"))]),
        "iTXt",
    ),
    "profile": (
        png(GREY, after=[(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX_PROFILE))]),
        "zTXt holds",
    ),
    "text bomb": (
        png(GREY, after=[(b"zTXt", b"key\0\0" + zlib.compress(bytes(65 << 20)))]),
        "inflate to more than",
    ),
    "broken text": (png(GREY, after=[(b"zTXt", b"key\0\0nonsense")]), "can't be inflated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_by_name(tmp_path, case):
    data, reason = REFUSED[case]
    with pytest.raises(RefusedFile, match=reason) as caught:
        CODEC.decode(save(tmp_path, data))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_what_would_give_the_picture_away_goes_where_the_user_says_so(tmp_path):
    before = [(b"mkBT", b"deflated"), (b"tEXt", b"a\0b"), (b"dSIG", b"")]
    source = png(GREY, before=before, after=[(b"prVt", JPEG)], rest=b"old IDAT")
    image = CODEC.decode(save(tmp_path, source), Handling("remove", drop_signatures=True))
    target = tmp_path / "target.png"
    CODEC.write(image, image.stored, target, 3)
    assert target.read_bytes() == source

    wanted, radius = moved(image, 3)
    notes = CODEC.write(image, wanted, target, radius)
    assert [note.split(":")[0] for note in notes] == [
        "PNG chunk 2 mkBT",
        "PNG chunk 4 dSIG",
        "PNG chunk 6 prVt",
        "bytes after IEND",
    ]
    left = save(tmp_path, png(GREY, before=[(b"tEXt", b"a\0b")]), "left.png")
    assert outside_pixels(left, target) == []
    for covered in (
        Handling(),
        Handling("refuse"),
        Handling("remove"),
        Handling(drop_signatures=True),
    ):
        with pytest.raises(RefusedFile):
            CODEC.decode(tmp_path / "source.png", covered)


@pytest.mark.parametrize("order", [b"II", b"MM"])
@pytest.mark.parametrize("icons", ["regenerate", "remove"])
def test_exif_thumbnails_are_made_anew_or_removed(tmp_path, icons, order):
    block, thumbnail = thumbnails.with_jpeg(order)
    source = save(tmp_path, png(thumbnails.scene(), before=[(b"eXIf", block)]))
    image = CODEC.decode(source, Handling(icons))
    change = np.zeros(image.stored.shape[:3], int)
    change[:, :48] = 40
    wanted = np.clip(image.stored.astype(int) + change[..., None], 0, 255).astype(np.uint8)
    target = tmp_path / "target.png"
    (note,) = CODEC.write(image, wanted, target, 40)
    assert note.startswith("PNG chunk 2 eXIf: copy of the picture")
    assert thumbnail not in target.read_bytes()
    assert outside_pixels(source, target, [note], icons=icons) == []
    assert outside_pixels(source, target, icons=icons) != []
    assert np.array_equal(CODEC.decode(target).stored, wanted)
    if icons == "regenerate":
        data = target.read_bytes()
        with Image.open(io.BytesIO(data[data.index(b"\xff\xd8\xff") :])) as small:
            thumbnails.near(np.asarray(small), thumbnails.shrunk(wanted[0], (40, 60)))
    with pytest.raises(RefusedFile, match="eXIf holds a thumbnail"):
        CODEC.decode(source, Handling("refuse"))


def test_harmless_neighbours_are_kept(tmp_path):
    text = b"Comment\0\0" + zlib.compress(b"nothing to see")
    before = [(b"eXIf", exif(0)), (b"iCCP", b"name\0\0" + JPEG), (b"zTXt", text)]
    CODEC.decode(save(tmp_path, png(GREY, before=before, rest=b"tail")))


def test_refuses_every_truncation_and_every_flipped_byte(tmp_path):
    data = png(GREY, before=[(b"tEXt", b"a\0b")])
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x21
        for damaged in (data[:place], bytes(flipped)):
            with pytest.raises(RefusedFile):
                CODEC.decode(save(tmp_path, damaged))


@pytest.mark.parametrize("interlaced", [False, True])
def test_refuses_damaged_scanlines_behind_right_checksums(tmp_path, interlaced):
    data = png(GREY, interlaced)
    start = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, start - 4)
    stream = data[start + 4 : start + 4 + length]
    scanlines = zlib.decompress(stream)
    for wrong in (
        zlib.compress(b"\7" + scanlines[1:]),  # a filter that does not exist
        zlib.compress(scanlines[:-1]),
        zlib.compress(scanlines + b"\0"),
        stream[:-1],
        stream + b"\0",
        b"",
    ):
        damaged = data[: start - 4] + chunk(b"IDAT", wrong) + data[start + 8 + length :]
        with pytest.raises(RefusedFile):
            CODEC.decode(save(tmp_path, damaged))


def protect(path, target):
    """Move every movable value by 3; returns the source, what was wanted and what was written."""
    image = CODEC.decode(path)
    wanted, radius = moved(image, signs(image))
    CODEC.write(image, wanted, target, radius)
    return image, wanted, CODEC.decode(target)


@pytest.mark.real_data
def test_png_suite(real_data, tmp_path):
    folder = real_data / "pngsuite" / "png"
    outcomes = Counter()
    for path in sorted(folder.glob("*.png")):
        if path.stem[0] == "x":  # damaged on purpose
            assert CODEC.recognises(path.read_bytes(), path) <= raises_refused(path), path.name
            continue
        image = CODEC.decode(path)
        radius = max(min(3, image.highest), image.step)
        if radius > image.highest:
            outcomes["one colour"] += 1
            continue
        wanted, _ = moved(image, signs(image, radius=radius))
        notes = CODEC.write(image, wanted, tmp_path / path.name, radius)
        released = CODEC.decode(tmp_path / path.name).stored
        written = (tmp_path / path.name).read_bytes()
        exact = np.array_equal(released, wanted)
        assert exact or b"tRNS" in written or b"PLTE" in written, path.name
        assert 0 < np.abs(released.astype(int) - image.stored).max() <= radius, path.name
        if image.details["colour type"] != "palette":
            source = reference_samples(path.read_bytes())
            assert np.array_equal(source, image.stored[0]), path.name
            assert np.array_equal(reference_samples(written), released[0]), path.name
        assert outside_pixels(path, tmp_path / path.name, notes) == [], path.name
        outcomes["written"] += 1
    assert outcomes == {"written": 156, "one colour": 5}


def raises_refused(path):
    try:
        CODEC.decode(path)
    except RefusedFile:
        return True
    return False


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["nih-cxr64", "bccd-cells"])
def test_pillow_sees_the_wanted_pixels(real_data, tmp_path, name):
    files = sorted((real_data / name).rglob("*.png"))[::5]
    assert len(files) > 100
    for path in files:
        image, wanted, _ = protect(path, tmp_path / "target.png")
        with Image.open(path) as before, Image.open(tmp_path / "target.png") as after:
            assert np.array_equal(np.asarray(before).reshape(wanted.shape), image.stored)
            assert np.array_equal(np.asarray(after).reshape(wanted.shape), wanted)
            assert (before.mode, before.info) == (after.mode, after.info)
        assert (wanted != image.stored).any()
        assert outside_pixels(path, tmp_path / "target.png") == []


@pytest.mark.external
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [4, 8, 16])
def test_pngcheck_finds_nothing_wrong(program, tmp_path, interlaced, channels, depth):
    samples = np.random.default_rng(0).integers(0, 200, (9, 13, channels))
    samples = samples.astype(np.uint16 if depth == 16 else np.uint8) % np.uint16(2**depth - 1)
    colour = 3 if depth == 4 else None
    before = [(b"PLTE", bytes(range(48)))] if depth == 4 else []
    samples = samples[..., :1] if depth == 4 else samples
    source = png(samples, interlaced, before, depth=depth, colour=colour)
    protect(save(tmp_path, source), tmp_path / "target.png")
    subprocess.run([program("pngcheck"), "-q", tmp_path / "target.png"], check=True)


@pytest.mark.external
def test_pngcheck_finds_nothing_wrong_with_an_animation(program, tmp_path):
    protect(save(tmp_path, animation(GREY, GREY, GREY)), tmp_path / "target.png")
    subprocess.run([program("pngcheck"), "-q", tmp_path / "target.png"], check=True)
