"""Second copies of the picture in a JPEG: made anew, removed or refused, and nothing else moved."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medshield.errors import RefusedFile
from medshield.formats.base import Handling
from medshield.formats.jpeg.codec import JpegCodec
from medshield.formats.jpeg.segments import parse
from tests.builders import outside_pixels
from tests.thumbnails import coded, near, scene, shrunk, with_jpeg

CODEC = JpegCodec()
SIZE, SMALL = (96, 144), (32, 48)
REMOVE, REFUSE = Handling(icons="remove"), Handling(icons="refuse")
MAIN = coded(scene(), quality=90)
THUMBNAIL = coded(shrunk(scene(), SMALL))
RAW = shrunk(scene(), SMALL).tobytes()
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40


def insert(marker, payload, content=MAIN):
    """The file with one more segment, right after SOI."""
    segment = b"\xff" + bytes([marker]) + (len(payload) + 2).to_bytes(2, "big") + payload
    return content[:2] + segment + content[2:]


def photoshop(number, thumbnail, kind=1):
    head = kind.to_bytes(4, "big") + bytes(24)
    data = head + thumbnail
    first = b"8BIM\x04\x04\0\0" + (4).to_bytes(4, "big") + b"iptc"
    block = b"8BIM" + number.to_bytes(2, "big") + b"\0\0" + len(data).to_bytes(4, "big") + data
    return b"Photoshop 3.0\0" + first + block + bytes(len(data) % 2) + first


def xmp_thumbnail():
    digits = base64.encodebytes(THUMBNAIL).replace(b"\n", b"&#xA;")
    return insert(0xE1, XMP + b"<xmpGImg:image>" + digits + b"</xmpGImg:image></x:xmpmeta>")


def palette_thumbnail():
    image = Image.fromarray(shrunk(scene(), SMALL)).quantize(256)
    palette = bytes(image.getpalette()).ljust(768, b"\0")
    return b"JFXX\0\x11" + bytes(SMALL[::-1]) + palette + image.tobytes()


def multi_picture(order="little", second=None):
    """A file whose index names itself and a second picture behind it."""
    second = THUMBNAIL if second is None else second

    def number(value, size=4):
        return value.to_bytes(size, order)

    def with_index(size, offset):
        head = (b"II" if order == "little" else b"MM") + number(42, 2) + number(8)
        count = number(0xB001, 2) + number(4, 2) + number(1) + number(2)
        entries = number(0xB002, 2) + number(7, 2) + number(32) + number(38)
        directory = number(2, 2) + count + entries
        first = number(0x30000) + number(size) + number(0) + number(0)
        other = number(0x10001) + number(len(second)) + number(offset) + number(0)
        return insert(0xE2, b"MPF\0" + head + directory + number(0) + first + other)

    size = len(with_index(0, 0))
    return with_index(size, size - 2 - 4 - 4) + second


COPIES = {
    "EXIF": lambda: insert(0xE1, b"Exif\0\0" + with_jpeg()[0]),
    "JFIF": lambda: insert(0xE0, b"JFIF\0\1\2\0\0\1\0\1" + bytes(SMALL[::-1]) + RAW),
    "JFXX JPEG": lambda: insert(0xE0, b"JFXX\0\x10" + THUMBNAIL),
    "JFXX RGB": lambda: insert(0xE0, b"JFXX\0\x13" + bytes(SMALL[::-1]) + RAW),
    "JFXX palette": lambda: insert(0xE0, palette_thumbnail()),
    "Photoshop": lambda: insert(0xED, photoshop(1036, THUMBNAIL)),
    "Photoshop 4": lambda: insert(
        0xED, photoshop(1033, coded(shrunk(scene(), SMALL)[..., ::-1].copy()))
    ),
    "XMP": xmp_thumbnail,
    "MPF": multi_picture,
    "MPF big endian": lambda: multi_picture("big"),
    "maker's segment": lambda: insert(0xE4, b"preview" + THUMBNAIL + b"more"),
    "comment": lambda: insert(0xFE, b"preview" + THUMBNAIL),
    "behind the end": lambda: MAIN + b"trailer" + THUMBNAIL + b"trailer",
}


@pytest.fixture
def protect(tmp_path):
    """A function that decodes, adds vertical stripes and writes; notes and the file's bytes."""

    def act(content, handling):
        source, target = tmp_path / "source.jpg", tmp_path / "out.jpg"
        source.write_bytes(content)
        image = CODEC.decode(source, handling)
        stripes = np.where(np.arange(SIZE[1]) // 24 % 2, 20, -20)[None, None, :, None]
        stored = np.clip(image.stored + stripes, 0, 255).astype(np.uint8)
        notes = CODEC.write(image, stored, target, 20)
        options = {"icons": handling.icons, "drop_signatures": handling.drop_signatures}
        assert outside_pixels(source, target, notes, **options) == []
        return notes, target.read_bytes()

    return act


def embedded(content):
    """Every JPEG inside a file, as pixels."""
    found, position = [], 2
    while (position := content.find(b"\xff\xd8\xff", position)) >= 0:
        with Image.open(io.BytesIO(content[position:])) as image:
            found.append(np.asarray(image))
        position += 3
    return found


def raw_copy(content):
    segment = next(s for s in parse(content).segments if s.name == "APP0")
    return np.frombuffer(segment.payload[-len(RAW) :], np.uint8).reshape(*SMALL, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_regenerated_in_place(copy, protect):
    notes, content = protect(copy(), Handling())
    assert any("made anew" in note for note in notes)
    before, after = parse(copy()), parse(content)
    old, new = ([s for s in f.segments if not s.carries_coding] for f in (before, after))
    assert [(s.name, len(s.raw)) for s in old] == [(s.name, len(s.raw)) for s in new]
    assert len(before.trailing) == len(after.trailing)
    changed = [s.name for s, t in zip(old, new, strict=True) if s.raw != t.raw]
    assert len(changed) + (before.trailing != after.trailing) in (1, 2)


@pytest.mark.parametrize(
    "name",
    ["EXIF", "JFXX JPEG", "Photoshop", "MPF", "maker's segment", "comment", "behind the end"],
)
def test_new_copy_shows_the_protected_picture(name, protect):
    _, content = protect(COPIES[name](), Handling())
    (copy,) = embedded(content)
    with Image.open(io.BytesIO(content)) as image:
        released = np.asarray(image)
    near(copy, shrunk(released, copy.shape[:2]))
    assert np.abs(copy.astype(int) - shrunk(scene(), copy.shape[:2])).mean() > 8


@pytest.mark.parametrize("name", ["JFIF", "JFXX RGB"])
def test_new_raw_copy_shows_the_protected_picture(name, protect):
    _, content = protect(COPIES[name](), Handling())
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(raw_copy(content), shrunk(np.asarray(image), SMALL))


def test_new_copy_in_xmp(protect):
    _, content = protect(COPIES["XMP"](), Handling())
    old, new = (
        next(s for s in parse(c).segments if s.name == "APP1") for c in (xmp_thumbnail(), content)
    )
    assert new.payload.count(b"&#xA;") == old.payload.count(b"&#xA;")
    digits = new.payload.split(b":image>")[1].split(b"<")[0].replace(b"&#xA;", b"")
    with Image.open(io.BytesIO(content)) as main:
        released = np.asarray(main)
    with Image.open(io.BytesIO(base64.b64decode(digits))) as image:
        near(np.asarray(image), shrunk(released, SMALL))


def test_reversed_copy_stays_reversed(protect):
    _, content = protect(COPIES["Photoshop 4"](), Handling())
    with Image.open(io.BytesIO(content)) as image:
        near(embedded(content)[0][..., ::-1], shrunk(np.asarray(image), SMALL))


def test_index_of_further_pictures_stays_true(protect):
    _, content = protect(multi_picture(), Handling())
    assert len(content) != len(multi_picture())
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "MPO"
        assert image.n_frames == 2
        released = np.asarray(image)
        image.seek(1)
        near(np.asarray(image), shrunk(released, SMALL))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_removed(copy, protect):
    notes, content = protect(copy(), REMOVE)
    assert any("removed" in note for note in notes)
    assert embedded(content) == []
    assert RAW[:60] not in content
    with Image.open(io.BytesIO(content)) as image:
        assert np.asarray(image).shape == (*SIZE, 3)


def test_removal_keeps_the_other_resources(protect):
    _, content = protect(COPIES["Photoshop"](), REMOVE)
    segment = next(s for s in parse(content).segments if s.name == "APP13")
    resource = b"8BIM\x04\x04\0\0\0\0\0\4iptc"
    assert segment.payload == b"Photoshop 3.0\0" + resource * 2


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_refused_where_told_so(copy, tmp_path):
    (tmp_path / "source.jpg").write_bytes(copy())
    with pytest.raises(RefusedFile, match="--icons"):
        CODEC.decode(tmp_path / "source.jpg", REFUSE)


@pytest.mark.parametrize("handling", [Handling(), REMOVE, REFUSE])
def test_a_file_without_copies_is_the_same_to_all(handling, protect):
    assert protect(insert(0xE1, XMP), handling)[0] == []


OTHER = coded(shrunk(scene(seed=7), SMALL))
HOPELESS = {
    "EXIF of another picture": (lambda: insert(0xE4, OTHER), "--icons remove"),
    "second view": (lambda: multi_picture(second=OTHER), "--icons remove"),
    "no room": (lambda: insert(0xE4, coded(np.full((*SMALL, 3), 128, np.uint8))), "--icons remove"),
    "JFIF cut off": (lambda: insert(0xE0, b"JFIF\0\1\2\0\0\1\0\1\1\1a"), "cut off"),
    "raw Photoshop": (lambda: insert(0xED, photoshop(1036, RAW, kind=0)), "no JPEG"),
    "Photoshop goes on": (lambda: insert(0xED, photoshop(1036, RAW)[:-900]), "strip"),
    "PNG in XMP": (lambda: insert(0xE1, XMP + b"<xmpGImg:image>iVBORw0KGgo="), "strip"),
    "extended XMP": (lambda: insert(0xE1, EXTENDED_XMP + b"GImage:Data='/9j/'"), "strip"),
    "PNG in a segment": (lambda: insert(0xE4, b"\x89PNG\r\n\x1a\n"), "strip"),
    "signed": (lambda: insert(0xEB, b"JP\0\1\0\0\0\1jumbc2pa"), "--drop-signatures"),
    "JPEG XT": (lambda: insert(0xEB, b"JP\0\1\0\0\0\1jumb"), "strip"),
    "an older end": (lambda: MAIN + b"\1\2\3\xff\xd9", "--icons remove"),
    "film": (lambda: MAIN + b"\0\0\0\x18ftypmp42", "--icons remove"),
    "broken EXIF": (lambda: insert(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"), "repair"),
    "MPF cut off": (lambda: insert(0xE2, b"MPF\0MM\0*"), "--icons remove"),
    "half a JPEG": (lambda: insert(0xE2, b"FPXR\0\0\0\0" + THUMBNAIL[:90]), "strip"),
}


@pytest.mark.parametrize(("copy", "advice"), HOPELESS.values(), ids=HOPELESS)
def test_what_cannot_be_made_anew_is_refused_at_once(copy, advice, tmp_path):
    (tmp_path / "source.jpg").write_bytes(copy())
    with pytest.raises(RefusedFile, match=advice):
        CODEC.decode(tmp_path / "source.jpg")


@pytest.mark.parametrize("name", ["EXIF of another picture", "second view", "an older end", "film"])
def test_removal_helps(name, protect):
    assert protect(HOPELESS[name][0](), REMOVE)[0]


def test_signature_is_dropped_where_told_so(protect):
    signed = HOPELESS["signed"][0]()
    notes, content = protect(signed, Handling(drop_signatures=True))
    assert notes == ["APP11: C2PA signature removed"]
    assert b"c2pa" not in content
