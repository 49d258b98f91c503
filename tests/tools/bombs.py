"""Small files that claim to be, or inflate to, more than any machine holds."""

import gzip
import struct
import zlib
from collections.abc import Iterator

from tests.generated import dicom_form as dicom
from tests.generated import nifti, png

MANY = 60_000
GIBIBYTE = 1 << 30
PART = 1 << 26


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """(file name, what it is, bytes) for every container."""
    yield (
        "declared.png",
        "PNG that declares 60000 x 60000 RGBA",
        _png(MANY, MANY, zlib.compress(b"\0")),
    )
    yield "inflates.png", "PNG of 8 x 8 whose stream inflates to 3 GiB", _png(8, 8, _zeros(3))
    text = png.chunk(b"zTXt", b"Comment\0\0" + _zeros(3))
    yield (
        "text.png",
        "PNG whose zTXt inflates to 3 GiB",
        _png(8, 8, zlib.compress(bytes(8 * 33)), text),
    )
    huge = nifti.header(1, "<", [32767] * 5, 64, 64, 352, 1.0, 0.0) + bytes(4)
    yield "declared.nii", "NIfTI that declares 2 ** 75 voxels", huge + bytes(64)
    small = nifti.header(1, "<", [4, 4, 4], 4, 16, 352, 1.0, 0.0) + bytes(4)
    yield "inflates.nii.gz", "gzip NIfTI of 64 voxels that inflates to 3 GiB", gzip_of(small)
    large = nifti.header(1, "<", [30000, 30000, 2], 4, 16, 352, 1.0, 0.0) + bytes(4)
    yield (
        "large.nii.gz",
        "gzip NIfTI that declares, and inflates to, more than 2 GiB",
        gzip_of(large),
    )
    for name, syntax, value in _dicoms():
        yield f"{name}.dcm", f"DICOM of 65535 x 65535, {name}", _dicom(syntax, value)
    body = _zeros(3, dicom.Form().short(0x00280010, 4))[2:-4]
    yield "deflated.dcm", "deflated DICOM that inflates to 3 GiB", _meta(dicom.DEFLATED) + body
    yield "declared.jpg", "JPEG of 65535 x 65535", _jpeg(b"\xc0")
    yield "progressive.jpg", "progressive JPEG of 65535 x 65535", _jpeg(b"\xc2")
    yield "declared.tif", "TIFF of 2**32 - 1 pixels square", _tiff(2**32 - 1, 1)
    yield "deflated.tif", "TIFF of 8 x 8 whose strip inflates to 3 GiB", _tiff(8, 8, _zeros(3))


def gzip_of(start: bytes) -> bytes:
    """`start` and 3 GiB of zeros."""
    first = gzip.compress(start, mtime=0)
    member = gzip.compress(bytes(PART), mtime=0)
    return first + member * (3 * GIBIBYTE // PART)


def _zeros(gibibytes: int, start: bytes = b"") -> bytes:
    """A zlib stream of `start` and so many GiB of zeros; of one part, as often as needed."""
    size = gibibytes * GIBIBYTE
    deflater = zlib.compressobj(9, wbits=-15)
    first = deflater.compress(start) + deflater.flush(zlib.Z_FULL_FLUSH)
    part = deflater.compress(bytes(PART)) + deflater.flush(zlib.Z_FULL_FLUSH)
    low = zlib.adler32(start)
    # Zeros leave Adler-32's first sum as it is and add it to the second one each time.
    high = ((low >> 16) + size * (low & 0xFFFF)) % 65521
    whole = first + part * (size // PART) + deflater.flush()
    return b"\x78\xda" + whole + struct.pack(">HH", high, low & 0xFFFF)


def _png(width: int, height: int, stream: bytes, between: bytes = b"") -> bytes:
    header = png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + between
        + png.chunk(b"IDAT", stream)
        + png.chunk(b"IEND", b"")
    )


def _dicoms() -> Iterator[tuple[str, str, bytes]]:
    size = struct.pack(">II", 65535, 65535)
    siz = b"\xff\x4f\xff\x51" + struct.pack(">HH", 41, 0) + size + bytes(8) + size + bytes(8)
    j2k = siz + b"\0\1\7\1\1\xff\x52\0\x0c\0\0\0\1\0\5\4\4\0\1\xff\x5c\0\x13\x40" + bytes(16)
    yield "JPEG 2000", dicom.JPEG_2000, j2k + b"\xff\x90\0\x0a\0\0\0\0\0\0\0\1\xff\x93\xff\xd9"
    jls = b"\xff\xd8\xff\xf7\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0" + bytes(
        64
    )
    yield "JPEG-LS", dicom.JPEG_LS, jls + b"\xff\xd9"
    yield "RLE", dicom.RLE, struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 100
    yield "JPEG baseline", "1.2.840.10008.1.2.4.50", _jpeg(b"\xc0")
    yield "JPEG lossless", "1.2.840.10008.1.2.4.70", _jpeg(b"\xc3")
    yield "HTJ2K", "1.2.840.10008.1.2.4.201", j2k


def _meta(syntax: str) -> bytes:
    form = dicom.Form()
    meta = form.element(0x00020010, "UI", syntax.encode())
    return bytes(128) + b"DICM" + dicom.with_group_length(form, 0x0002, meta)


def _dicom(syntax: str, frame: bytes) -> bytes:
    form = dicom.Form()
    words = [(0x00280002, 1), (0x00280010, 65535), (0x00280011, 65535), (0x00280100, 8)]
    words += [(0x00280101, 8), (0x00280102, 7), (0x00280103, 0)]
    elements = [form.short(*pair) for pair in words]
    elements.insert(1, form.element(0x00280004, "CS", b"MONOCHROME2"))
    frame += b"\0" * (len(frame) % 2)
    value = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    value += struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    pixels = form.element(dicom.PIXEL_DATA, "OB", value, undefined=True)
    return _meta(syntax) + b"".join(elements) + pixels


def _jpeg(process: bytes) -> bytes:
    table = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff" + process + b"\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0"
    codes = b"\xff\xc4\0\x14\0\1" + bytes(15) + b"\0" + b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\0"
    last = {b"\xc0": b"\0\x3f\0", b"\xc2": b"\0\0\0", b"\xc3": b"\1\0\0"}[process]
    return (
        b"\xff\xd8"
        + table
        + frame
        + codes
        + b"\xff\xda\0\x08\1\1\0"
        + last
        + bytes(64)
        + b"\xff\xd9"
    )


def _tiff(width: int, height: int, strip: bytes = b"\0") -> bytes:
    coding = 1 if strip == b"\0" else 8
    entries = [(256, 4, width), (257, 4, max(height, width)), (258, 3, 8), (259, 3, coding)]
    entries += [
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, max(height, width)),
        (279, 4, len(strip)),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    directory = struct.pack("<H", len(entries)) + table + bytes(4)
    start = 8 + len(strip) + len(strip) % 2
    return b"II*\0" + struct.pack("<I", start) + strip.ljust(start - 8, b"\0") + directory
