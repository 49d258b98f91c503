"""Thumbnails in EXIF: made anew without moving a byte around them, or taken out."""

import io

import numpy as np
import pytest
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats.exif_thumbnails import Exif
from medshield.formats.jpeg.thumbnails import Pictures
from tests.thumbnails import coded, exif, near, scene, shrunk, with_jpeg


def protected(picture):
    """A picture that nobody takes for the source: brighter stripes."""
    stripes = np.where(np.arange(picture.shape[1]) // 12 % 2, 30, 0)[None, :, None]
    return np.clip(picture.astype(int) + stripes, 0, 255).astype(np.uint8)


def with_strip(samples=3, photometric=2, compression=1, cut=0):
    picture = shrunk(scene(channels=samples), (40, 60))
    tags = [(256, 3, 60), (257, 3, 40), (258, 3, 8), (259, 3, compression), (262, 3, photometric)]
    tags += [(273, 4, None), (277, 3, samples), (279, 4, picture.size)]
    return exif(b"II", tags, picture.tobytes()[: picture.size - cut])


def pictures(channels=3):
    source = scene(channels=channels)
    return Pictures(source, protected(source))


@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_jpeg_is_made_anew_in_its_place(order):
    block, old = with_jpeg(order)
    new = Exif(block, "EXIF").regenerated(pictures())
    start = block.index(old)
    assert len(new) == len(block)
    assert new[:start] == block[:start]
    assert new[start + len(old) :] == b"behind"
    with Image.open(io.BytesIO(new[start : start + len(old)])) as image:
        near(np.asarray(image), shrunk(pictures().released, (40, 60)))
        assert image.layer[0][1:3] == (2, 2)  # 4:2:0 as it was


@pytest.mark.parametrize(("samples", "photometric"), [(3, 2), (1, 1)])
def test_uncompressed_strip_is_made_anew_in_its_place(samples, photometric):
    block = with_strip(samples, photometric)
    new = Exif(block, "EXIF").regenerated(pictures(samples))
    start = len(block) - len(b"behind") - 40 * 60 * samples
    assert new[:start] == block[:start]
    assert new.endswith(b"behind")
    pixels = np.frombuffer(new[start : -len(b"behind")], np.uint8).reshape(40, 60, samples)
    assert np.array_equal(pixels, shrunk(pictures(samples).released, (40, 60)))


def test_grey_thumbnail_of_a_colour_picture():
    grey = np.asarray(Image.fromarray(shrunk(scene(), (40, 60))).convert("L"))
    block, old = with_jpeg(thumbnail=coded(grey))
    new = Exif(block, "EXIF").regenerated(pictures())
    with Image.open(io.BytesIO(new[block.index(old) :])) as image:
        assert image.mode == "L"


def test_bars_around_a_thumbnail_stay():
    barred = np.zeros((60, 80, 3), np.uint8)
    barred[3:56] = shrunk(scene(), (53, 80))
    block, old = with_jpeg(thumbnail=coded(barred, quality=95))
    new = Exif(block, "EXIF").regenerated(pictures())
    with Image.open(io.BytesIO(new[block.index(old) :])) as image:
        pixels = np.asarray(image)
    assert pixels[:2].max() < 20
    near(pixels[5:54], shrunk(pictures().released, (53, 80))[2:51])


def test_preview_in_a_maker_note_is_made_anew_in_its_place():
    preview = coded(shrunk(scene(), (48, 72)))
    block, _ = with_jpeg(note=b"MAKER\0" + preview + b"more")
    new = Exif(block, "EXIF").regenerated(pictures())
    assert len(new) == len(block)
    assert preview not in new
    with Image.open(io.BytesIO(new[new.index(b"MAKER\0") + 6 :])) as image:
        near(np.asarray(image), shrunk(pictures().released, (48, 72)))


def test_removal_cuts_the_link_and_the_data():
    block, old = with_jpeg(behind=b"", note=b"MAKER\0" + coded(shrunk(scene(), (48, 72))))
    new = Exif(block, "EXIF").removed()
    assert not Exif(new, "EXIF").holds_picture
    assert len(new) < len(block) - len(old)
    seen = Image.Exif()
    seen.load(b"Exif\0\0" + new)
    assert seen[0x0112] == 1
    assert seen.get_ifd(1) == {}


def test_removal_keeps_what_stands_behind():
    block, old = with_jpeg()
    new = Exif(block, "EXIF").removed()
    assert len(new) == len(block)
    assert new.endswith(bytes(len(old)) + b"behind")


def test_no_picture_and_tags_of_a_removed_one():
    block = exif(b"II", [(513, 4, 60000), (514, 4, 500)], b"")
    assert not Exif(block, "EXIF").holds_picture
    assert Exif(block, "EXIF").regenerated(pictures()) == block


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (with_jpeg(thumbnail=coded(shrunk(scene(seed=5), (40, 60))))[0], "another picture"),
        (with_jpeg(thumbnail=b"no JPEG at all")[0], "can't be read"),
        (with_jpeg(thumbnail=coded(shrunk(scene(), (40, 60)))[:-400], behind=b"")[0], "be read"),
        (exif(b"II", [(513, 4, None), (514, 4, 900)], b"\xff\xd8\xff\xe0"), "cut off"),
        (with_strip(photometric=6), "8-bit grey or RGB"),
        (with_strip(compression=5), "8-bit grey or RGB"),
        (with_strip(cut=30), "cut off"),
        (with_jpeg(note=b"\x89PNG\r\n\x1a\n")[0], "PNG"),
        (with_jpeg(note=coded(shrunk(scene(), (48, 72)))[:300])[0], "can't be read"),
    ],
)
def test_what_cannot_be_made_anew_is_refused(block, reason):
    with pytest.raises(RefusedFile, match=reason):
        Exif(block, "EXIF").regenerated(pictures())


@pytest.mark.parametrize("block", [b"", b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"XX\0*\0\0\0\x08"])
def test_unreadable_is_refused(block):
    with pytest.raises(RefusedFile, match="ruled out"):
        Exif(block, "EXIF")


def test_damage_anywhere_is_refused_or_read():
    block, random = with_jpeg()[0], np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(block)
        damaged[random.integers(0, 90)] ^= int(random.integers(1, 256))
        for act in (lambda e: e.regenerated(pictures()), lambda e: e.removed()):
            try:
                act(Exif(bytes(damaged), "EXIF"))
            except RefusedFile as refusal:
                assert "\n" not in str(refusal)  # noqa: PT017
