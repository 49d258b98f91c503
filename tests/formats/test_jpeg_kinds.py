"""Unusual but legal JPEG files: scans apart, fill bytes, odd sampling, lossless coding."""

import io
import itertools

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats.jpeg.codec import JpegCodec
from medshield.formats.jpeg.coefficients import Coefficients
from medshield.formats.jpeg.lossless import with_samples
from medshield.formats.jpeg.pixels import decode_pixels
from medshield.formats.jpeg.segments import Layout, Segment, parse
from medshield.formats.limits import MOST_STORED_BYTES
from tests.thumbnails import coded, scene

CODEC = JpegCodec()


@pytest.fixture
def protect(tmp_path):
    """A function that decodes, adds stripes and writes: source pixels, released ones, layout."""

    def act(content, radius=8):
        source, target = tmp_path / "source.jpg", tmp_path / "out.jpg"
        source.write_bytes(content)
        image = CODEC.decode(source)
        stripes = np.where(np.arange(image.stored.shape[2]) // 9 % 2, radius, -radius)
        wanted = np.clip(image.stored + stripes[None, None, :, None], 0, 255).astype(np.uint8)
        assert CODEC.write(image, wanted, target, radius) == []
        with Image.open(target) as released:
            pixels = np.asarray(released).reshape(image.stored.shape)
        moved = np.abs(pixels.astype(int) - image.stored)
        assert radius / 2 < moved.max() <= radius
        return wanted, pixels, parse(target.read_bytes())

    return act


def unchanged(before, after):
    """Whether all but Huffman tables and entropy-coded data is the same, in the same order."""
    old, new = ([s.raw for s in f.segments if s.name != "DHT"] for f in (parse(before), after))
    return old == new


def scans_apart(content, folder, between=b""):
    """The file with a scan for each component, and other segments between them."""
    layout = parse(content)
    segments = []
    for segment in layout.segments:
        if segment.name != "SOS":
            segments.append(segment)
            continue
        for n in range(3):
            own = segment.payload[1 + 2 * n : 3 + 2 * n]
            payload = b"\1" + own + segment.payload[-3:]
            segments.append(Segment(0xDA, b"\xff\xda\0\x08" + payload, payload, b""))
            if between:
                segments += parse(b"\xff\xd8" + between + b"\xff\xd9").segments
    coefficients = Coefficients(layout, folder)
    coefficients._layout = Layout(tuple(segments), layout.end, b"")
    return coefficients.write(coefficients.original)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("between", [b"", b"\xff\xdd\0\4\0\3", b"\xff\xfe\0\3x"])
def test_a_scan_for_each_component(subsampling, between, protect, tmp_path):
    source = coded(scene((45, 61)), subsampling=subsampling)
    content = scans_apart(source, tmp_path, between)
    assert np.array_equal(decode_pixels(parse(content)), decode_pixels(parse(source)))
    _, _, released = protect(content)
    assert unchanged(content, released)


@pytest.mark.parametrize("sampling", ["440", "411"])
@pytest.mark.parametrize("size", [(45, 61), (16, 16), (9, 70)])
def test_rare_sampling(sampling, size, protect):
    content = imagecodecs.jpeg8_encode(scene(size), level=85, subsampling=sampling)
    assert unchanged(content, protect(content)[2])


def test_fill_before_markers(protect):
    content = coded(scene())
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"):
        content = content.replace(marker, b"\xff\xff" + marker, 1)
    content = content[:-2] + b"\xff\xff\xff\xd9"
    released = protect(content)[2]
    assert unchanged(content, released)
    assert released.end == b"\xff\xff\xff\xd9"


def test_steps_of_sixteen_bits(protect):
    content = coded(scene())
    for table in [s for s in parse(content).segments if s.name == "DQT"]:
        number, steps = table.payload[0], table.payload[1:65]
        wide = bytes([0x10 | number]) + b"".join(bytes([0, step]) for step in steps)
        content = content.replace(table.raw, table.with_payload(wide).raw)
    content = content.replace(b"\xff\xc0", b"\xff\xc1", 1)  # baseline allows 8 bits only
    assert unchanged(content, protect(content)[2])


def test_segment_after_the_scan(protect):
    content = coded(scene())[:-2] + b"\xff\xfe\0\3x\xff\xd9"
    assert unchanged(content, protect(content)[2])


def test_segments_of_full_length(protect):
    segment = b"\xff\xec\xff\xff" + b"m" * 65533
    content = coded(scene())
    content = content[:2] + segment * 3 + content[2:]
    assert unchanged(content, protect(content)[2])


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_its_header(tmp_path):
    content = bytearray(coded(scene()))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    (tmp_path / "bomb.jpg").write_bytes(content)
    with pytest.raises(RefusedFile, match=str(MOST_STORED_BYTES)):
        CODEC.decode(tmp_path / "bomb.jpg")


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_without_a_word(tmp_path):
    file = io.BytesIO()
    Image.new("L", (10_000, 9_500), 90).save(file, "JPEG")
    (tmp_path / "large.jpg").write_bytes(file.getvalue())
    assert CODEC.decode(tmp_path / "large.jpg").stored.shape == (1, 9_500, 10_000, 1)


def lossless(pixels, predictor=1):
    return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_is_exact(channels, predictor, protect):
    picture = scene((45, 61), channels)
    content = lossless(picture.squeeze(), predictor)
    wanted, pixels, released = protect(content)
    assert np.array_equal(wanted, pixels)
    assert unchanged(content, released)


@pytest.mark.parametrize(("predictor", "lines"), [*itertools.product((1, 4, 7), (1, 7))])
def test_lossless_restarts_stay(predictor, lines, protect):
    picture = scene((45, 61))
    layout = parse(lossless(picture, predictor))
    payload = (61 * lines).to_bytes(2, "big")
    restart = Segment(0xDD, b"\xff\xdd\0\4" + payload, payload)
    at = next(n for n, s in enumerate(layout.segments) if s.name == "SOS")
    segments = (*layout.segments[:at], restart, *layout.segments[at:])
    content = bytes(with_samples(Layout(segments, layout.end, b""), picture))
    assert np.array_equal(decode_pixels(parse(content)), picture)
    wanted, pixels, released = protect(content)
    assert np.array_equal(wanted, pixels)
    assert unchanged(content, released)


def test_lossless_noise_of_full_range(protect, tmp_path):
    picture = np.random.default_rng(0).choice([0, 255], (40, 50, 3)).astype(np.uint8)
    assert np.array_equal(*protect(lossless(picture, 4))[:2])


def test_lossless_with_a_point_transform_is_refused(tmp_path):
    path = tmp_path / "source.jpg"
    content = lossless(scene((45, 61), 1).squeeze())
    path.write_bytes(content.replace(b"\1\0\0", b"\1\0\1"))
    with pytest.raises(RefusedFile, match="point transform"):
        CODEC.decode(path)
