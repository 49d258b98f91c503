"""The laws of the PNG codec: identity, bound, nothing but pixels; and what it refuses."""

import struct
import subprocess
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats.base import IntensityRange
from medshield.formats.png import PngCodec

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


def png(samples, interlaced=False, before=(), after=(), rest=b"", pieces=1):
    """A file with unfiltered scanlines, in as many IDAT chunks as asked for."""
    height, width, channels = samples.shape
    depth = samples.dtype.itemsize * 8
    scanlines = b""
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        for row in samples[y::dy, x::dx]:
            if row.size:
                scanlines += b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes()
    stream = zlib.compress(scanlines)
    size = -(-len(stream) // pieces)
    ihdr = struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, interlaced)
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
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    samples = np.zeros((height, width, channels), f">u{depth // 8}")
    step = channels * depth // 8
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        part = samples[y::dy, x::dx]
        above = bytes(part.shape[1] * step)
        for row in part if part.size else ():
            above = unfiltered(scanlines[: len(above) + 1], above, step)
            scanlines = scanlines[len(above) + 1 :]
            row[:] = np.frombuffer(above, samples.dtype).reshape(row.shape)
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
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 9, np.iinfo(dtype).max + 1]))
    return generator.integers(0, levels, (height, width, channels)).astype(dtype)


@fast
@given(sample_arrays(), st.booleans(), st.integers(1, 3), st.integers(0, 5))
def test_laws_hold_for_any_image(tmp_path, samples, interlaced, pieces, radius):
    before = [(b"gAMA", bytes(4)), (b"tEXt", b"Comment\0patient's left")]
    after = [(b"tIME", bytes(7)), (b"prVt", b"of someone's own")]
    data = png(samples, interlaced, before, after, b"a tail", pieces)
    source, target = save(tmp_path, data), tmp_path / "target.png"
    image = CODEC.decode(source)
    assert np.array_equal(image.stored[0], samples)
    assert image.stored.dtype == samples.dtype

    CODEC.write(image, image.stored, target, 0)
    assert target.read_bytes() == data

    wanted, _ = moved(image, radius and signs(image, samples.size, radius))
    assert CODEC.write(image, wanted, target, radius) == []
    released = CODEC.decode(target).stored
    assert np.array_equal(released, wanted)
    assert np.abs(released.astype(int) - image.stored).max() <= radius
    assert np.array_equal(reference_samples(target.read_bytes()), wanted[0])
    assert CODEC.differences(source, target) == []
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


def test_recognises_only_its_signature(tmp_path):
    assert CODEC.recognises(png(np.zeros((1, 1, 1), np.uint8)), tmp_path / "image.dat")
    assert not CODEC.recognises(b"\x89PNG\n", tmp_path / "image.png")


def ihdr_only(depth, colour, size=(1, 1), interlace=0):
    body = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", b"x") + chunk(b"IEND")


def exif(second_directory):
    return b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 3, 1, 1 << 16, second_directory)


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
HEX_PROFILE = b"\nexif\n   20\n" + JPEG.hex().encode() + b"\n"
REFUSED = {
    "palette": (ihdr_only(8, 3), "palette"),
    "1 bit": (ihdr_only(1, 0), "1 bit"),
    "depth": (ihdr_only(3, 0), "bit depth of 3"),
    "size": (ihdr_only(8, 0, (0, 1)), "0x1"),
    "interlace": (ihdr_only(8, 0, interlace=2), "interlace 2"),
    "bomb": (ihdr_only(16, 6, (2**31 - 1, 2**31 - 1)), "too little data"),
    "animated": (png(GREY, before=[(b"acTL", bytes(8))]), "animated"),
    "critical": (png(GREY, before=[(b"CgBI", b"")]), "unknown critical chunk CgBI"),
    "second IHDR": (png(GREY, before=[(b"IHDR", bytes(13))]), "more than one IHDR"),
    "gap": (png(GREY, after=[(b"tIME", bytes(7)), (b"IDAT", b"")]), "between its IDAT"),
    "long data": (png(GREY, after=[(b"IDAT", b"more")]), "shorter or longer"),
    "tRNS": (png(GREY, before=[(b"tRNS", bytes(6))]), "tRNS"),
    "eXIf": (png(GREY, before=[(b"eXIf", exif(26))]), "eXIf holds a thumbnail"),
    "maker note": (png(GREY, before=[(b"eXIf", exif(0) + JPEG)]), "eXIf holds a thumbnail"),
    "private": (png(GREY, after=[(b"prVt", JPEG)]), "prVt holds"),
    "Fireworks": (png(GREY, after=[(b"mkBT", b"deflated")]), "mkBT holds"),
    "signature": (png(GREY, after=[(b"dSIG", b"")]), "digital signature"),
    "rest": (png(GREY, rest=b"old IDAT"), "after the PNG's end"),
    "XMP": (png(GREY, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<xmpGImg:image>")]), "iTXt"),
    "deflated XMP": (
        png(GREY, before=[(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"<xmpGImg:image>"))]),
        "iTXt",
    ),
    "profile": (
        png(GREY, after=[(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX_PROFILE))]),
        "zTXt holds",
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


def test_differences_name_the_place(tmp_path):
    def compare(**changed):
        parts = {"before": [(b"gAMA", bytes(4)), (b"tEXt", b"a\0b")], "after": [], "rest": b""}
        other = save(tmp_path, png(GREY + np.uint8(1), pieces=3, **(parts | changed)), "other.png")
        return CODEC.differences(save(tmp_path, png(GREY, **parts)), other)

    assert compare() == []
    text = (b"tEXt", b"a\0c")
    assert compare(before=[(b"gAMA", bytes(4)), text]) == ["chunk 3 tEXt: differs"]
    assert compare(rest=b"x") == ["bytes after IEND: differs"]
    assert compare(after=[(b"tIME", bytes(7))]) != []
    assert compare(before=[]) != []
    assert compare(interlaced=True) == ["chunk 1 IHDR: differs"]
    with pytest.raises(RefusedFile, match="ends before"):
        CODEC.differences(save(tmp_path, png(GREY)[:-3]), save(tmp_path, png(GREY), "other.png"))


def protect(path, target):
    """Move every movable value by 3; returns the source, what was wanted and what was written."""
    image = CODEC.decode(path)
    wanted, radius = moved(image, signs(image))
    CODEC.write(image, wanted, target, radius)
    return image, wanted, CODEC.decode(target)


def readable(folder):
    """The files of PngSuite that this version protects: 8 and 16 bits without a palette."""
    kinds = ("0g08", "0g16", "2c08", "2c16", "4a08", "4a16", "6a08", "6a16")
    files = (path for kind in kinds for path in folder.glob(f"*{kind}.png"))
    return sorted(p for p in files if p.stem[0] != "x" and p.stem != "exif2c08")


@pytest.mark.real_data
def test_png_suite(real_data, tmp_path):
    folder = real_data / "pngsuite" / "png"
    protectable = readable(folder)
    assert len(protectable) == 78
    for path in protectable:
        image, wanted, released = protect(path, tmp_path / path.name)
        assert np.array_equal(reference_samples(path.read_bytes()), image.stored[0]), path.name
        assert np.array_equal(released.stored, wanted) or b"tRNS" in path.read_bytes(), path.name
        assert np.abs(released.stored.astype(int) - image.stored).max() <= 3, path.name
        written = (tmp_path / path.name).read_bytes()
        assert np.array_equal(reference_samples(written), released.stored[0]), path.name
        assert CODEC.differences(path, tmp_path / path.name) == [], path.name
    for path in set(folder.glob("*.png")) - set(protectable):
        with pytest.raises(RefusedFile):
            CODEC.decode(path)


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
        assert CODEC.differences(path, tmp_path / "target.png") == []


@pytest.mark.external
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pngcheck_finds_nothing_wrong(program, tmp_path, interlaced, channels, dtype):
    samples = np.random.default_rng(0).integers(0, 200, (9, 13, channels)).astype(dtype)
    protect(save(tmp_path, png(samples, interlaced)), tmp_path / "target.png")
    subprocess.run([program("pngcheck"), "-q", tmp_path / "target.png"], check=True)
