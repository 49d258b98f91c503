"""The laws of the JPEG codec: identity, bound, nothing but pixels; and what it refuses."""

import io
import re
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from scipy.ndimage import gaussian_filter

from medshield.errors import RefusedFile
from medshield.formats.jpeg.codec import JpegCodec
from medshield.formats.jpeg.segments import parse
from tests.builders import outside_pixels

CODEC = JpegCodec()
ICC = b"ICC_PROFILE\0\1\1" + bytes(range(256)) * 2
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
COLOUR = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "RGB": {"keep_rgb": True},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "quality 30": {"quality": 30},
    "quality 100": {"quality": 100, "subsampling": 0},
}


def scene(height, width, channels, seed=0):
    """A smooth picture with some texture, (height, width, channels)."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(height, width, channels)), (6, 6, 0))
    smooth = 128 + 90 * smooth / max(np.abs(smooth).max(), 1e-9)
    return np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(height=40, width=56, channels=3, seed=0, **options):
    """The bytes of a JPEG of that scene."""
    pixels = scene(height, width, channels, seed)
    file = io.BytesIO()
    options = {"quality": 85} | options
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(file, "JPEG", **options)
    return file.getvalue()


def insert(content, marker, payload):
    """The file with one more segment, right after SOI."""
    segment = b"\xff" + bytes([marker]) + (len(payload) + 2).to_bytes(2, "big") + payload
    return content[:2] + segment + content[2:]


def wave(image, radius):
    """`image.stored` with a smooth pattern of plus and minus `radius` added."""
    _, height, width, _ = image.stored.shape
    y, x = np.mgrid[:height, :width]
    sign = np.where(np.sin(y / 5) + np.cos(x / 6) > 0, radius, -radius)
    return np.clip(image.stored + sign[None, ..., None], 0, 255).astype(np.uint8)


def protect(path, target, radius=8):
    """Decode, add the wave, write; the source image, the released image, the notes."""
    image = CODEC.decode(path)
    notes = CODEC.write(image, wave(image, radius), target, radius)
    return image, CODEC.decode(target), notes


def moved(image, released):
    return np.abs(released.stored.astype(int) - image.stored)


@pytest.fixture
def put(tmp_path):
    """A function that writes bytes to a file and returns its path."""

    def write(content, name="source.jpg"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("options", COLOUR.values(), ids=COLOUR)
@pytest.mark.parametrize("size", [(40, 56), (33, 31)])
def test_keeps_bound_headers_and_direction(options, size, put, tmp_path):
    source = put(jpeg(*size, **options))
    image, released, notes = protect(source, tmp_path / "out.jpg")
    assert moved(image, released).max() <= 8
    assert outside_pixels(source, tmp_path / "out.jpg", notes) == []
    assert released.details == image.details
    wanted = wave(image, 8).astype(float) - image.stored
    achieved = released.stored.astype(float) - image.stored
    assert np.corrcoef(wanted.ravel(), achieved.ravel())[0, 1] > 0.5


@pytest.mark.parametrize(("subsampling", "least"), [(0, 0.86), (2, 0.76)], ids=["4:4:4", "4:2:0"])
def test_most_of_a_change_in_opposed_colours_is_kept(subsampling, least, put):
    """Red and blue against green fill the bound in every channel, where rounding costs most."""
    image = CODEC.decode(put(jpeg(96, 112, quality=90, subsampling=subsampling)))
    y, x = np.mgrid[:96, :112]
    pattern = 8 * np.tanh(3 * np.sin(y / 5) * np.cos(x / 6))
    wanted = np.clip(image.stored + pattern[None, ..., None] * (1, -1, 1), 0, 255).astype(np.uint8)
    target = put(b"", "released.jpg")
    CODEC.write(image, wanted, target, 8)
    achieved = CODEC.decode(target).stored.astype(float) - image.stored
    asked = wanted.astype(float) - image.stored
    assert np.abs(achieved).max() <= 8
    share = (achieved * asked).sum() / (asked**2).sum()
    assert share > least


@pytest.mark.parametrize("size", [(33, 31), (7, 50), (64, 8)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_grey(size, options, put, tmp_path):
    image, released, notes = protect(put(jpeg(*size, 1, **options)), tmp_path / "out.jpg")
    assert image.stored.shape == (1, *size, 1)
    assert 4 < moved(image, released).max() <= 8
    assert notes == []


def test_grey_whose_header_names_sampling_factors(put, tmp_path):
    content = bytearray(jpeg(40, 56, 1))
    frame = content.index(b"\xff\xc0")
    content[frame + 11] = 0x22  # a single component is not interleaved: they mean nothing
    image, released, _ = protect(put(bytes(content)), tmp_path / "out.jpg")
    assert 4 < moved(image, released).max() <= 8


def test_one_pixel(put, tmp_path):
    image, released, _ = protect(put(jpeg(1, 1)), tmp_path / "out.jpg")
    assert 0 < moved(image, released).max() <= 8


def test_grey_picture_in_rgb_stays_grey(put, tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.repeat(scene(40, 56, 1), 3, axis=2)).save(file, "JPEG", quality=90)
    image, released, _ = protect(put(file.getvalue()), tmp_path / "out.jpg")
    assert image.is_grey
    assert released.is_grey


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    quality=st.integers(20, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    radius=st.integers(1, 24),
    seed=st.integers(0, 2**32 - 1),
)
def test_bound_law(
    height, width, channels, quality, subsampling, progressive, radius, seed, put, tmp_path
):
    options = {"quality": quality, "progressive": progressive}
    options |= {"subsampling": subsampling} if channels == 3 else {}
    source = put(jpeg(height, width, channels, seed % 1000, **options))
    image = CODEC.decode(source)
    noise = np.random.default_rng(seed).integers(-radius, radius + 1, image.stored.shape)
    stored = np.clip(image.stored + noise, 0, 255).astype(np.uint8)
    target = tmp_path / "out.jpg"
    target.unlink(missing_ok=True)
    try:
        CODEC.write(image, stored, target, radius)
    except RefusedFile:
        assert not target.exists()  # nothing survives a coarse quantiser
        return
    assert moved(image, CODEC.decode(target)).max() <= radius
    assert outside_pixels(source, target) == []


def test_no_change_gives_the_source_byte_for_byte(put, tmp_path):
    source = put(jpeg(restart_marker_rows=1) + b"rest")
    image = CODEC.decode(source)
    assert CODEC.write(image, image.stored.copy(), tmp_path / "out.jpg", 8) == []
    assert (tmp_path / "out.jpg").read_bytes() == source.read_bytes()


def test_too_coarse_for_any_change_is_refused_not_released_clean(put, tmp_path):
    image = CODEC.decode(put(jpeg(quality=5)))
    with pytest.raises(RefusedFile, match="larger epsilon"):
        CODEC.write(image, wave(image, 1), tmp_path / "out.jpg", 1)
    assert not (tmp_path / "out.jpg").exists()


def test_every_segment_and_trailing_bytes_stay(put, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = jpeg(exif=exif.tobytes(), comment=b"first", dpi=(72, 72))
    for marker, payload in ((0xFE, b"second"), (0xE1, XMP), (0xE2, ICC), (0xEC, b"\xff" * 9)):
        content = insert(content, marker, payload)
    source, target = put(content + b"\0trailer\xff"), tmp_path / "out.jpg"
    image, _, _ = protect(source, target)
    assert image.stored.shape == (1, 40, 56, 3)  # the orientation is not applied
    before, after = parse(source.read_bytes()), parse(target.read_bytes())
    kept = [[s.raw for s in file.segments if not s.carries_coding] for file in (before, after)]
    assert kept[0] == kept[1]
    assert {"APP1", "APP2", "APP12", "COM", "DQT"} <= {s.name for s in after.segments}
    assert after.trailing == b"\0trailer\xff"


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"quality": 100}])
@pytest.mark.parametrize("blocks", [1, 3, 100])
def test_restart_interval_stays(blocks, options, put, tmp_path):
    source, target = put(jpeg(restart_marker_blocks=blocks, **options)), tmp_path / "out.jpg"
    _, _, notes = protect(source, target)
    assert notes == []
    before, after = (parse(path.read_bytes()).segments for path in (source, target))
    assert [s.raw for s in before if s.name == "DRI"] == [s.raw for s in after if s.name == "DRI"]
    markers = [re.findall(rb"\xff[\xd0-\xd7]", file[-1].scan) for file in (before, after)]
    assert markers[0] == markers[1]


def test_restart_interval_of_a_progressive_file_is_reset_and_noted(put, tmp_path):
    content = jpeg(restart_marker_blocks=3, progressive=True)
    _, _, notes = protect(put(content), tmp_path / "out.jpg")
    assert notes == ["DRI: restart interval set to 0, the scan is written without restart markers"]
    restart = next(
        s for s in parse((tmp_path / "out.jpg").read_bytes()).segments if s.name == "DRI"
    )
    assert restart.payload == b"\0\0"


def test_progressive_stays_progressive(put, tmp_path):
    protect(put(jpeg(progressive=True)), tmp_path / "out.jpg")
    names = [s.name for s in parse((tmp_path / "out.jpg").read_bytes()).segments]
    assert "SOF2" in names
    assert names.count("SOS") > 1


def test_component_identifiers_of_the_source_are_used(put, tmp_path):
    content = bytearray(insert(jpeg(), 0xFE, b"odd names"))
    for header, length in ((b"\xff\xc0", 3), (b"\xff\xda", 2)):
        first = content.index(header) + (10 if length == 3 else 5)
        for index in range(3):
            content[first + length * index] = 70 + index
    image, released, _ = protect(put(bytes(content)), tmp_path / "out.jpg")
    assert 4 < moved(image, released).max() <= 8


def test_what_it_says_about_a_file(put):
    image = CODEC.decode(put(jpeg(progressive=True, subsampling=1)))
    assert image.kind == "JPEG 8-bit"
    assert image.declared == ((0, 255),)
    assert image.details == {"coding": "progressive", "sampling": "4:2:2"}
    assert CODEC.recognises(jpeg()[:512], None)
    assert not CODEC.recognises(b"\x89PNG\r\n\x1a\n", None)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 20, 300, -200, -30, -3, -2, -1])
def test_truncated_is_refused(size, put):
    with pytest.raises(RefusedFile):
        CODEC.decode(put(jpeg()[:size]))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_truncated_with_an_end_put_back_is_refused(options, put):
    content = jpeg(**options)
    for cut in range(3, len(content) - 600, 7):
        with pytest.raises(RefusedFile):
            CODEC.decode(put(content[:-cut].rstrip(b"\xff") + b"\xff\xd9"))


def test_progressive_with_a_scan_left_out_is_refused(put):
    layout = parse(jpeg(progressive=True))
    with pytest.raises(RefusedFile, match="truncated"):
        CODEC.decode(put(bytes(replace(layout, segments=layout.segments[:-2]))))


def test_damage_anywhere_is_refused_or_read(put):
    content, random = jpeg(comment=b"x"), np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[random.integers(2, 640)] ^= int(random.integers(1, 256))
        try:
            CODEC.decode(put(bytes(damaged)))
        except RefusedFile as refusal:
            assert "\n" not in str(refusal)  # noqa: PT017


def with_frame(code=None, precision=None, height=None):
    content = bytearray(jpeg())
    frame = content.index(b"\xff\xc0")
    if code is not None:
        content[frame + 1] = code
    if precision is not None:
        content[frame + 4] = precision
    if height is not None:
        content[frame + 5 : frame + 7] = height.to_bytes(2, "big")
    return bytes(content)


def cmyk():
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 4), np.uint8), "CMYK").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (cmyk(), "CMYK"),
        (with_frame(code=0xC9), "arithmetic"),
        (with_frame(code=0xC3), "lossless JPEG in YCbCr"),
        (with_frame(code=0xC5), "hierarchical"),
        (with_frame(precision=12), "12-bit"),
        (with_frame(height=0), "DNL"),
        (jpeg(progressive=True)[:-2] + b"\xff\xfe\0\3x\xff\xd9", "scans"),
        (jpeg()[:-2] + b"\xff\xdb\0\x43\0" + b"\5" * 64 + b"\xff\xd9", "scans"),
        (jpeg().partition(b"\xff\xda")[0] + b"\xff\xd9", "without a scan"),
        (jpeg()[:2] + b"\0" + jpeg()[2:], "damaged"),
    ],
)
def test_unsupported_is_refused_by_name(content, reason, put):
    with pytest.raises(RefusedFile, match=reason):
        CODEC.decode(put(content))


def test_every_byte_belongs_to_a_segment():
    for content in (jpeg(), jpeg(progressive=True), jpeg(restart_marker_blocks=1) + b"rest"):
        assert bytes(parse(content)) == content


def test_threads_do_not_disturb_each_other(put, tmp_path):
    sources = [put(jpeg(seed=i, progressive=i % 2 == 1), f"{i}.jpg") for i in range(4)]
    for number, source in enumerate(sources):
        protect(source, tmp_path / f"alone-{number}.jpg")
    workers = [
        threading.Thread(target=protect, args=(source, tmp_path / f"together-{number}.jpg"))
        for number, source in enumerate(sources)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number in range(len(sources)):
        alone = (tmp_path / f"alone-{number}.jpg").read_bytes()
        assert (tmp_path / f"together-{number}.jpg").read_bytes() == alone


@pytest.mark.external
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_exiftool_sees_the_same_metadata(options, program, put, tmp_path):
    content = insert(insert(jpeg(comment=b"kept", **options), 0xE1, XMP), 0xE2, ICC)
    source, target = put(content), tmp_path / "out.jpg"
    protect(source, target)
    command = [program("exiftool"), "-a", "-G1", "-s", "-validate", "-warning", "-all"]
    command += ["--System:all", "--ExifTool:ExifToolVersion"]
    seen = [
        subprocess.run([*command, str(path)], capture_output=True, check=True).stdout
        for path in (source, target)
    ]
    assert b"kept" in seen[0]
    assert seen[0] == seen[1]


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["ham10000-224/images", "kvasir-seg-352/train/images"])
def test_real_images(folder, real_data, tmp_path):
    for source in sorted((real_data / folder).glob("*.jpg"))[:3]:
        target = tmp_path / source.name
        image, released, notes = protect(source, target)
        assert moved(image, released).max() <= 8
        assert moved(image, released).mean() > 5
        assert notes == outside_pixels(source, target) == []
        assert target.stat().st_size < 1.1 * source.stat().st_size
