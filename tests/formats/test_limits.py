"""Each limit of a format: a file at it is read, one beyond it is refused in one line."""

import gzip
import lzma
import re
import struct
import zlib
from pathlib import Path

import pytest

from medshield import audit, bounded
from medshield.audit import limits as audit_limits
from medshield.errors import RefusedFile
from medshield.formats import codec_named, limits
from medshield.formats.jpeg.segments import parse
from tests.generated import dicom_form as dicom
from tests.generated import png
from tests.tools import hostile

FORM = dicom.Form()
PRIVATE = png.chunk(b"prVt", b"")


def segments(count):
    plain = hostile.jpeg(b"")
    own = len(parse(plain).segments)
    return hostile.jpeg(hostile.segment(0xEA, b"") * (count - own))


def elements(count):
    """A file of so many elements: eight before the pixels, and these."""
    more = (
        struct.pack("<HH2sHI", 0x0029, 0x1000 + number, b"UL", 4, number)
        for number in range(count - 9)
    )
    return hostile.dicom_file(b"".join(more))


def items(count):
    """A file of nine elements, and so many more items and elements in them."""
    each = FORM.item(FORM.element(0x00080100, "SH", b"ab"), undefined=False)
    assert count % 2 == 0
    return hostile.dicom_file(FORM.sequence(0x0040A730, [each] * ((count - 10) // 2), False))


def gzip_members(count):
    """A volume whose header is one member, and its voxels all others."""
    voxels = bytes(range(128))
    rest = [voxels[at : at + 1] for at in range(count - 2)] + [voxels[count - 2 :]]
    parts = [hostile.nifti_header([4, 4, 4]), *rest]
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


def texts(size):
    """A PNG of two texts that inflate to so many bytes together."""
    return hostile.small_png(hostile.texts(1, size // 2) + hostile.texts(1, size - size // 2))


def exif(numbers):
    """A PNG whose EXIF holds so many numbers."""
    entry = struct.pack("<HHII", 273, 1, numbers, 0)
    block = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return hostile.small_png(png.chunk(b"eXIf", block.ljust(200, b"\0")))


def strips(count):
    """A TIFF of one page of so many rows, each a strip of its own."""
    entries = [(256, 4, 1, 8), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 1)]
    size = 2 + 12 * (len(entries) + 2) + 4
    offsets, sizes = 8 + size, 8 + size + 4 * count
    data = sizes + 4 * count
    page = hostile.tiff_page(
        [*entries, (273, 4, count, offsets), (279, 4, count, sizes)], following=0
    )
    places = struct.pack(f"<{count}I", *range(data, data + 8 * count, 8))
    lengths = struct.pack(f"<{count}I", *[8] * count)
    return b"II*\0" + struct.pack("<I", 8) + page + places + lengths + bytes(range(8)) * count


def overlapping(more):
    """A TIFF of two private tags that share all bytes but one; they have so many more than it."""
    size = len(hostile.grey_page(0, 0, *[(0, 1, 0, 0)] * 2))
    pixels, count = 8 + size, 8 + size + 64 + 1 + more
    tags = [(65000 + number, 1, count, pixels + 64 + number) for number in range(2)]
    page = hostile.grey_page(pixels, 0, *tags)
    data = b"II*\0" + struct.pack("<I", 8) + page + bytes(range(64)) + bytes(count + 1)
    assert 2 * count == len(data) + more
    return data


def lzma_tiff(memory):
    """A TIFF of 8 x 8 pixels, whose LZMA stream asks for so much memory: a power of 2 MiB.

    The stream is made for a small dictionary, and only says another size of it.
    """
    stream = bytearray(lzma.compress(bytes(range(64)), check=lzma.CHECK_NONE))
    header = slice(12, 12 + 4 * stream[12] + 4)
    assert stream[header][1:4] == b"\0\x21\1"  # one filter, LZMA2, with one byte of properties
    stream[16] = 2 * (memory.bit_length() - 13)
    stream[header.stop - 4 : header.stop] = struct.pack(
        "<I", zlib.crc32(stream[12 : header.stop - 4])
    )
    at = 8 + len(hostile.grey_page(0, 0))
    page = hostile.grey_page(at, 0).replace(
        struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 34925)
    )
    page = page.replace(
        struct.pack("<HHI", 279, 4, 1) + struct.pack("<I", 64),
        struct.pack("<HHII", 279, 4, 1, len(stream)),
    )
    return b"II*\0" + struct.pack("<I", 8) + page + bytes(stream)


CASES = [
    ("png", "MOST_PNG_CHUNKS", 20, lambda n: hostile.small_png(PRIVATE * (n - 3)), "chunks"),
    ("png", "MOST_PNG_TEXT_BYTES", 2000, texts, "inflate to more than 2000 bytes"),
    ("png", "MOST_EXIF_NUMBERS", 20, exif, "can't be read"),
    ("jpeg", "MOST_JPEG_SEGMENTS", 20, segments, "segments"),
    ("jpeg", "MOST_JPEG_FILL", 20, lambda n: hostile.jpeg(b"\xff" * (n - 1)), "bytes of fill"),
    ("jpeg", "MOST_JPEG_SCANS", 20, lambda n: hostile.progressive_jpeg(16, n - 1), "scans"),
    ("tiff", "MOST_TIFF_DIRECTORIES", 20, hostile.many_pages, "directories"),
    ("tiff", "MOST_TIFF_LEVELS", 3, hostile.nested_tiff, "levels of directories"),
    ("tiff", "MOST_TIFF_NUMBERS", 89, lambda n: strips((n - 7) // 2), "numbers"),
    ("nifti", "MOST_GZIP_MEMBERS", 20, gzip_members, "gzip members"),
    ("dicom", "MOST_DICOM_ELEMENTS", 30, elements, "elements"),
    ("dicom", "MOST_DICOM_ELEMENTS", 30, items, "elements"),
    ("dicom", "MOST_DICOM_LEVELS", 5, hostile.nested_sequences, "deep"),
    ("dicom", "MOST_DICOM_FRAGMENTS", 20, lambda n: hostile.fragmented(n - 1, n - 1), "fragments"),
]
NAMES = {"nifti": "in.nii.gz"}


@pytest.mark.parametrize(("name", "limit", "most", "make", "words"), CASES)
def test_up_to_a_limit_and_no_further(tmp_path, monkeypatch, name, limit, most, make, words):
    path = tmp_path / NAMES.get(name, "in")
    path.write_bytes(make(most))
    monkeypatch.setattr(limits, limit, most)
    assert codec_named(name).decode(path).stored.size >= 64
    path.write_bytes(make(most + 2))
    with pytest.raises(RefusedFile, match=words) as refusal:
        codec_named(name).decode(path)
    assert "\n" not in str(refusal.value)


def test_lzma_may_ask_for_memory_up_to_a_limit_and_no_further(tmp_path):
    path = tmp_path / "in"
    for memory in (1 << 23, limits.MOST_LZMA_BYTES >> 1):
        path.write_bytes(lzma_tiff(memory))
        assert codec_named("tiff").decode(path).stored.size == 64
    for memory in (limits.MOST_LZMA_BYTES, 1 << 31):  # and what the decoder needs beside
        path.write_bytes(lzma_tiff(memory))
        with pytest.raises(RefusedFile, match="pixels of page 1 can't be decoded"):
            codec_named("tiff").decode(path)


def test_values_that_overlap_are_not_even_compared_beyond_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "in.tif"
    monkeypatch.setattr(limits, "MOST_TIFF_SHARED_BYTES", 1000)
    for more, words in ((1000, "two parts share the bytes"), (1002, "values of its tags overlap")):
        path.write_bytes(overlapping(more))
        with pytest.raises(RefusedFile, match=words):
            codec_named("tiff").decode(path)


def test_the_audit_reads_values_that_overlap_up_to_a_limit_and_no_further(tmp_path, monkeypatch):
    path = tmp_path / "in.tif"
    of_the_page = 5 * 4 + 4 * 2  # values of tags that are numbers alone
    monkeypatch.setattr(audit_limits, "MOST_SHARED_BYTES", 1000 + of_the_page)
    path.write_bytes(overlapping(1000))
    assert audit.recognise(path).read(path).values.size == 64
    path.write_bytes(overlapping(1002))
    with pytest.raises(RefusedFile, match="overlap"):
        audit.recognise(path).read(path)


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff", "dicom"])
def test_a_file_of_a_terabyte_is_not_read(tmp_path, name):
    path = tmp_path / "in"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(RefusedFile, match=f"at most {limits.MOST_FILE_BYTES} are read"):
        codec_named(name).decode(path)


AUDITED = [
    ("exif.png", hostile.small_png(png.chunk(b"eXIf", hostile.overlapping_exif(65_000, 5_000)))),
    ("scans.jpg", hostile.progressive_jpeg(800, 300)),
    ("nested.tif", hostile.nested_tiff(3000)),
    ("cycle.tif", hostile.cyclic_tiff()),
    ("strips.tif", hostile.overlapping_tiff(3000, 100_000)),
]


@pytest.mark.parametrize(("name", "content"), AUDITED, ids=[name for name, _ in AUDITED])
def test_the_audit_does_not_follow_without_an_end_either(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    auditor = audit.recognise(path)
    if name == "exif.png":  # whose pixels are few, and sound
        assert auditor.read(path).values.size == 64
        return
    with pytest.raises(RefusedFile):
        auditor.read(path)


def written(name, value):
    """A limit as people write it."""
    if "BYTES" in name or name == "MOST_AROUND":
        power = next(p for p in (30, 20, 10) if value >= 1 << p)
        return f"{value >> power} {({30: 'GiB', 20: 'MiB', 10: 'KiB'})[power]}"
    return f"{value:,}"


@pytest.mark.parametrize("module", [limits, audit_limits, bounded], ids=lambda m: m.__name__)
def test_the_documentation_names_every_limit_as_it_is(module):
    text = (Path(__file__).resolve().parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    path = module.__name__.replace(".", "/") + ".py"
    section = next(part for part in text.split("\n## ") if f"`{path}`" in part)
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    known = {name: value for name, value in vars(module).items() if name.isupper()}
    assert told == {name: written(name, value) for name, value in known.items()}
