"""Files made to do harm, and what `scan` and `check` do with each: `python -m tests.tools.hostile`.

Beside bombs (`tests.tools.bombs`): structures that are deep, endless, circular or overlapping, and
counts that no file could hold. Each is scanned by itself, in a process with little memory and time,
beside two sound images, which have to be planned all the same.
"""

import argparse
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests import builders
from tests.generated import dicom_form as dicom
from tests.generated import nifti, png
from tests.tools.bombs import bombs
from tests.tools.tables import table

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MEBIBYTE = 1 << 20
HEADER = ("file", "what it is", "bytes", "ended", "seconds", "MiB", "plan")


class Hostile(NamedTuple):
    """One file: its name, what is wrong with it, and what makes its bytes."""

    name: str
    what: str
    make: Callable[[], bytes]


def files() -> Iterator[Hostile]:
    """Every hostile file, by format."""
    for name, what, content in bombs():
        yield Hostile(name, what, lambda content=content: content)
    yield from _pngs()
    yield from _jpegs()
    yield from _tiffs()
    yield from _niftis()
    yield from _dicoms()


def _png(width: int, height: int, stream: bytes, between: bytes = b"", *, colour: int = 0) -> bytes:
    header = png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    body = png.chunk(b"IDAT", stream) + png.chunk(b"IEND", b"")
    return SIGNATURE + header + between + body


def small_png(between: bytes) -> bytes:
    """A grey picture of 8 x 8 with further chunks before its pixels."""
    rows = b"".join(b"\0" + bytes(range(row, row + 8)) for row in range(8))
    return _png(8, 8, zlib.compress(rows), between)


def _black(width: int, height: int) -> bytes:
    deflater, row = zlib.compressobj(9), bytes(width + 1)
    parts = [deflater.compress(row) for _ in range(height)]
    return b"".join([*parts, deflater.flush()])


def overlapping_exif(length: int, entries: int) -> bytes:
    """One directory whose entries all claim to hold every byte of the block."""
    entry = struct.pack("<HHII", 273, 1, length, 0)
    head = b"II*\0" + struct.pack("<IH", 8, entries) + entry * entries
    return head.ljust(length, b"\0")


def texts(count: int, size: int) -> bytes:
    """Compressed texts that inflate to so many bytes each."""
    return png.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9)) * count


def _pngs() -> Iterator[Hostile]:
    side = 30_000
    yield Hostile(
        "black.png", f"PNG of {side} x {side} zeros", lambda: _png(side, side, _black(side, side))
    )
    tall = 900_000_000
    yield Hostile(
        "tall.png", "PNG of 1 x 900,000,000", lambda: _png(1, tall, zlib.compress(bytes(2 * tall)))
    )
    yield Hostile(
        "texts.png", "PNG of 2,000 texts of 16 MB", lambda: small_png(texts(2000, 16 << 20))
    )
    yield Hostile(
        "chunks.png",
        "PNG of 1,000,000 empty chunks",
        lambda: small_png(png.chunk(b"prVt", b"") * 1_000_000),
    )
    profile = b"icc\0\0" + zlib.compress(bytes(1 << 28), 9)
    yield Hostile(
        "profile.png",
        "PNG whose iCCP inflates to 256 MiB",
        lambda: small_png(png.chunk(b"iCCP", profile)),
    )
    yield Hostile(
        "exif.png",
        "PNG with EXIF of 60,000 overlapping entries of 1 MB",
        lambda: small_png(png.chunk(b"eXIf", overlapping_exif(1_000_000, 60_000))),
    )
    yield Hostile("frames.png", "PNG of 100,000 frames", _many_frames)


def _many_frames() -> bytes:
    stream = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    parts = [png.chunk(b"acTL", struct.pack(">II", 100_001, 0))]
    control = struct.pack(">IIIIHHBB", 8, 8, 0, 0, 1, 1, 0, 0)
    parts.append(png.chunk(b"fcTL", struct.pack(">I", 0) + control))
    parts.append(png.chunk(b"IDAT", stream))
    for number in range(100_000):
        parts.append(png.chunk(b"fcTL", struct.pack(">I", 2 * number + 1) + control))
        parts.append(png.chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + stream))
    header = png.chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return SIGNATURE + header + b"".join(parts) + png.chunk(b"IEND", b"")


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose scans say nothing: a few bytes for all blocks of each."""
    table_ = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", side, side) + b"\1\1\x11\0"
    # DC: category 0; AC: end-of-band runs of 2**14 blocks and more.
    codes = (
        b"\xff\xc4\0\x14\0\1" + bytes(15) + b"\0" + b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"
    )
    blocks = (-(-side // 8)) ** 2
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(blocks // 8 + 1)
    runs = -(-blocks // 16384)
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(runs * 15 // 8 + 1)
    return b"\xff\xd8" + table_ + frame + codes + first + scan * scans + b"\xff\xd9"


def jpeg(between: bytes) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(builders.texture(3, (40, 36)).astype("u1")).save(out, format="JPEG")
    content = out.getvalue()
    return content[:2] + between + content[2:]


def segment(marker: int, payload: bytes) -> bytes:
    """A marker segment of a JPEG."""
    return b"\xff" + bytes([marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _jpegs() -> Iterator[Hostile]:
    yield Hostile(
        "scans.jpg",
        "progressive JPEG of 8,000 x 8,000 and 5,000 scans",
        lambda: progressive_jpeg(8000, 5000),
    )
    yield Hostile(
        "segments.jpg", "JPEG of 1,000,000 segments", lambda: jpeg(segment(0xEA, b"") * 1_000_000)
    )
    yield Hostile("fill.jpg", "JPEG of 64 MiB of fill bytes", lambda: jpeg(b"\xff" * (64 << 20)))
    names = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"GImg:image" * 6_000)
    spaces = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0GImg:image" + b" " * 65_000)
    yield Hostile("names.jpg", "JPEG with XMP of many names", lambda: jpeg(names * 100))
    yield Hostile("spaces.jpg", "JPEG with XMP of many spaces", lambda: jpeg(spaces * 100))
    block = overlapping_exif(65_000, 5_000)
    yield Hostile(
        "exif.jpg",
        "JPEG with EXIF of 5,000 overlapping entries of 65 kB",
        lambda: jpeg(segment(0xE1, b"Exif\0\0" + block)),
    )


def tiff_page(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
    """One directory of (tag, type, count, value)."""
    table_ = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + table_ + struct.pack("<I", following)


def grey_page(data_at: int, following: int, *more: tuple[int, int, int, int]) -> bytes:
    """A page of 8 x 8 grey pixels, uncompressed."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, data_at), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), *more]
    return tiff_page(entries, following)


def cyclic_tiff() -> bytes:
    """Two pages, of which the second leads back to the first."""
    size = len(grey_page(0, 0))
    first = 8
    second = first + size
    data = second + size
    return (
        b"II*\0"
        + struct.pack("<I", first)
        + grey_page(data, second)
        + grey_page(data + 64, first)
        + bytes(range(128))
    )


def nested_tiff(levels: int) -> bytes:
    """A page whose SubIFDs have SubIFDs, and so on."""
    size = len(grey_page(0, 0, (330, 4, 1, 0)))
    data = 8 + levels * size
    pages = [grey_page(data + 64 * n, 0, (330, 4, 1, 8 + (n + 1) * size)) for n in range(levels)]
    pages[-1] = grey_page(data + 64 * (levels - 1), 0, (65000, 4, 1, 0))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + bytes(range(64)) * levels


def many_pages(count: int) -> bytes:
    """Pages that are all of one size and share nothing."""
    size = len(grey_page(0, 0))
    data = 8 + count * size
    pages = [
        grey_page(data + 64 * n, 8 + (n + 1) * size if n + 1 < count else 0) for n in range(count)
    ]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + bytes(range(64)) * count


def empty_pages(count: int) -> bytes:
    """Directories without a tag."""
    pages = [struct.pack("<HI", 0, 8 + 6 * (n + 1) if n + 1 < count else 0) for n in range(count)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def overlapping_tiff(pages: int, numbers: int) -> bytes:
    """Pages whose lists of strips are all the same, very long list."""
    entries = [(256, 4, 1, 8), (257, 4, 1, numbers), (258, 3, 1, 8), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 1)]
    size = len(tiff_page(entries, 0)) + 24
    data = 8 + pages * size
    strips = [(273, 4, numbers, data), (279, 4, numbers, data)]
    found = [
        tiff_page([*entries, *strips], 8 + (n + 1) * size if n + 1 < pages else 0)
        for n in range(pages)
    ]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(found) + bytes(4 * numbers)


def _deep_description() -> bytes:
    text = b'{"shape":' + b"[" * 60_000
    size = len(grey_page(0, 0, (270, 2, 1, 0)))
    page = grey_page(8 + size, 0, (270, 2, len(text), 8 + size + 64))
    return b"II*\0" + struct.pack("<I", 8) + page + bytes(range(64)) + text


def _vast_tile() -> bytes:
    side = 60_000
    tile = zlib.compress(bytes(1 << 20), 9)
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    entries += [(277, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side)]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(324, 4, 1, start), (325, 4, 1, len(tile))]
    return b"II*\0" + struct.pack("<I", 8) + tiff_page(entries, 0) + tile


def _strays() -> bytes:
    """Runs between pages' values, each of which a tag's value holds too, at its end."""
    runs = [b"%09d!" % number for number in range(200_000)]
    room = b"".join(run + b"\0" * 4 for run in runs)
    head = 8 + len(grey_page(0, 0, (270, 2, 1, 0)))
    told = b"".join(reversed(runs))
    page = grey_page(head, 0, (270, 2, len(told), head + 64 + len(room)))
    return b"II*\0" + struct.pack("<I", 8) + page + bytes(range(64)) + room + told


def _tiffs() -> Iterator[Hostile]:
    yield Hostile("cycle.tif", "TIFF whose pages lead in a circle", cyclic_tiff)
    yield Hostile("nested.tif", "TIFF of 5,000 nested SubIFDs", lambda: nested_tiff(5000))
    yield Hostile("pages.tif", "TIFF of 200,000 pages", lambda: many_pages(200_000))
    yield Hostile("empty.tif", "TIFF of 1,000,000 empty pages", lambda: empty_pages(1_000_000))
    yield Hostile(
        "strips.tif",
        "TIFF of 2,000 pages that share 4,000,000 strips",
        lambda: overlapping_tiff(2000, 4_000_000),
    )
    yield Hostile("json.tif", "TIFF whose description is 60,000 brackets", _deep_description)
    yield Hostile("tile.tif", "TIFF of 8 x 8 in one tile of 60,000 x 60,000", _vast_tile)
    yield Hostile("strays.tif", "TIFF of 200,000 runs of bytes that belong to nothing", _strays)
    yield Hostile(
        "strip.tif", "TIFF of one page of 8,000,000 strips", lambda: overlapping_tiff(1, 8_000_000)
    )


def nifti_header(sizes: list[int], offset: float = 352.0, after: bytes = bytes(4)) -> bytes:
    return nifti.header(1, "<", sizes, 4, 16, offset, 1.0, 0.0) + after


def _niftis() -> Iterator[Hostile]:
    yield Hostile(
        "negative.nii", "NIfTI of negative size", lambda: nifti_header([-5, 4, 4]) + bytes(999)
    )
    yield Hostile(
        "offset.nii",
        "NIfTI whose voxels start at 10**18",
        lambda: nifti_header([4, 4, 4], 1e18) + bytes(128),
    )
    yield Hostile(
        "nan.nii",
        "NIfTI whose voxels start at NaN",
        lambda: nifti_header([4, 4, 4], float("nan")) + bytes(128),
    )
    far = 352 + 8_000_000
    extensions = b"\1\0\0\0" + struct.pack("<ii", 8, 6) * 1_000_000
    yield Hostile(
        "extensions.nii",
        "NIfTI of 1,000,000 extensions",
        lambda: nifti_header([4, 4, 4], float(far), extensions) + bytes(128),
    )
    absurd = b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6)
    yield Hostile(
        "extension.nii",
        "NIfTI with an extension of 2 GiB",
        lambda: nifti_header([4, 4, 4], 368.0, absurd) + bytes(136),
    )
    yield Hostile("members.nii.gz", "gzip of 60,000 members", _many_members)


def _many_members() -> bytes:
    import gzip

    voxels = gzip.compress(bytes(3), mtime=0) * 60_000
    return gzip.compress(nifti_header([60, 60, 25]), mtime=0) + voxels


def dicom_file(middle: bytes, syntax: str = dicom.EXPLICIT, pixels: bytes | None = None) -> bytes:
    """A grey slice of 8 x 8 with further elements between its header and its pixels."""
    form = dicom.Form(implicit=syntax == dicom.IMPLICIT)
    meta = dicom.Form().element(0x00020010, "UI", syntax.encode())
    words = [(0x00280002, 1), (0x00280010, 8), (0x00280011, 8), (0x00280100, 8)]
    words += [(0x00280101, 8), (0x00280102, 7), (0x00280103, 0)]
    elements = [form.short(*pair) for pair in words]
    elements.insert(1, form.element(0x00280004, "CS", b"MONOCHROME2"))
    if pixels is None:
        pixels = form.element(dicom.PIXEL_DATA, "OB", bytes(range(10, 74)))
    start = bytes(128) + b"DICM" + dicom.with_group_length(dicom.Form(), 0x0002, meta)
    return start + b"".join(elements) + middle + pixels


def many_elements(count: int) -> bytes:
    """So many private elements."""
    group = b"".join(
        struct.pack("<HH2sHI", 0x0029 + 2 * (n >> 15), 0x1000 + (n & 0x7FFF), b"UL", 4, n)
        for n in range(count)
    )
    return dicom_file(group)


def nested_sequences(levels: int) -> bytes:
    """A sequence in a sequence in a sequence, all of undefined length."""
    open_ = struct.pack("<HH2s2xI", 0x0040, 0xA730, b"SQ", 0xFFFFFFFF)
    open_ += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return dicom_file(open_ * levels + close * levels)


def many_items(count: int) -> bytes:
    """One sequence of empty items."""
    form = dicom.Form()
    return dicom_file(form.sequence(0x0040A730, [form.item(b"", undefined=True)] * count, True))


def fragmented(frames: int, fragments: int) -> bytes:
    """RLE frames in more fragments than there are frames."""
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\xc1\x05" + b"\0" * 2
    each = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    value = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + each * fragments
    value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    form = dicom.Form()
    pixels = form.element(dicom.PIXEL_DATA, "OB", value, undefined=True)
    number = form.element(0x00280008, "IS", str(frames).encode())
    return dicom_file(number, dicom.RLE, pixels)


def zeros_and_one(size: int) -> bytes:
    """Implicit elements of tag 0 and length 0, as far as one can see, and one byte that is not."""
    return dicom_file(bytes(size) + b"\1", dicom.IMPLICIT, b"")


def _dicoms() -> Iterator[Hostile]:
    form = dicom.Form()
    frames = form.element(0x00280008, "IS", b"2147483647")
    digits = form.element(0x00280008, "IS", b"9" * 60_000)
    yield Hostile("elements.dcm", "DICOM of 1,000,000 elements", lambda: many_elements(1_000_000))
    yield Hostile(
        "nested.dcm", "DICOM of 10,000 nested sequences", lambda: nested_sequences(10_000)
    )
    yield Hostile("items.dcm", "DICOM of 1,000,000 items", lambda: many_items(1_000_000))
    yield Hostile("frames.dcm", "DICOM of 2,147,483,647 frames", lambda: dicom_file(frames))
    yield Hostile("digits.dcm", "DICOM whose frames have 60,000 digits", lambda: dicom_file(digits))
    yield Hostile(
        "fragments.dcm",
        "DICOM of one frame in 1,000,000 fragments",
        lambda: fragmented(1, 1_000_000),
    )
    yield Hostile("tiny.dcm", "DICOM of 200,000 RLE frames", lambda: fragmented(200_000, 200_000))
    yield Hostile("zeros.dcm", "DICOM of 8 MiB zeros and a one", lambda: zeros_and_one(8 << 20))


def scanned(path: Path, source: Path, memory: int, seconds: float) -> list[str]:
    """Scan the folder of a file by itself; how it ended, how long it took, memory, and the plan."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    words = [sys.executable, "-m", "medshield", "scan", str(source), "--json", "-q"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*words, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limited,
    )
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    out, err = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    watch.cancel()
    code = os.waitstatus_to_exitcode(status)
    ended = "timeout" if code == -signal.SIGKILL else str(code)
    took = f"{time.monotonic() - started:.1f}"
    try:
        plans = {file["path"]: file for file in json.loads(out)["files"]}
        plan = plans[path.relative_to(source).as_posix()]
        others = sum(file["action"] == "protect" for file in plans.values() if file is not plan)
        said = f"{plan['action']}: {plan.get('reason') or ''} ({others} others)"
    except (ValueError, KeyError):
        said = (err or out).decode("utf-8", "replace").strip().split("\n")[-1][-160:]
    return [ended, took, str(used.ru_maxrss // 1024), said]


def main() -> None:
    """Scan each hostile file and print what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, default=6 << 10, help="address space, MiB")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", default="", help="part of a file's name")
    options = parser.parse_args()
    rows = []
    for hostile in files():
        if options.only not in hostile.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            content = hostile.make()
            builders.in_classes(Path(folder), each=2)
            path = Path(folder, builders.CLASSES[0], hostile.name)
            path.write_bytes(content)
            size = len(content)
            del content
            found = scanned(path, Path(folder), options.memory * MEBIBYTE, options.seconds)
        rows.append([hostile.name, hostile.what, f"{size:,}", *found])
        sys.stderr.write(" | ".join(rows[-1]) + "\n")
    sys.stdout.write(table(HEADER, rows) + "\n")


if __name__ == "__main__":
    main()
