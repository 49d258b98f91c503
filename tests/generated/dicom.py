"""DICOM laid out by hand: encodings, sequences, group lengths, and what the pixels may be."""

import struct
import zlib
from dataclasses import dataclass

import imagecodecs
import numpy as np
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

from tests.generated.base import SEEDS, SIDES, Generated, floats, integers

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
NATIVE = [IMPLICIT, EXPLICIT, DEFLATED, BIG]
SYNTAXES = [*NATIVE, *NATIVE, RLE, JPEG_LS, JPEG_2000]
LONG = {"OB", "OW", "OF", "OD", "SQ", "UN", "UT"}
PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Form:
    """How elements are written."""

    implicit: bool = False
    order: str = "<"

    def element(self, tag, vr, value, undefined=False):
        """A whole element; the value is bytes in the right byte order, padded here."""
        value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
        length = UNDEFINED if undefined else len(value)
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if self.implicit:
            return head + struct.pack(self.order + "I", length) + value
        if vr in LONG:
            return head + vr.encode() + b"\0\0" + struct.pack(self.order + "I", length) + value
        return head + vr.encode() + struct.pack(self.order + "H", length) + value

    def short(self, tag, *numbers, vr="US"):
        letter = "h" if vr == "SS" else "H"
        return self.element(tag, vr, struct.pack(f"{self.order}{len(numbers)}{letter}", *numbers))

    def item(self, content, undefined):
        """An item of a sequence (PS3.5 7.5), with a length or a delimiter."""
        head = struct.pack(self.order + "HH", 0xFFFE, 0xE000)
        if not undefined:
            return head + struct.pack(self.order + "I", len(content)) + content
        end = struct.pack(self.order + "HHI", 0xFFFE, 0xE00D, 0)
        return head + struct.pack(self.order + "I", UNDEFINED) + content + end

    def sequence(self, tag, items, undefined):
        value = b"".join(items)
        if undefined:
            value += struct.pack(self.order + "HHI", 0xFFFE, 0xE0DD, 0)
        return self.element(tag, "SQ", value, undefined)


@st.composite
def private_elements(draw, form):
    """Elements of group 0009 under a private creator: text, binary, numbers, nested sequences."""
    inner = form.element(0x00080100, "SH", b"CODE") + form.element(0x00080104, "LO", b"meaning")
    nested = form.sequence(0x00081140, [form.item(inner, draw(st.booleans()))], draw(st.booleans()))
    items = [form.item(draw(st.sampled_from([inner, nested, b""])), draw(st.booleans()))]
    items *= draw(st.integers(0, 2))
    choices = [
        form.element(0x00091001, "LO", draw(st.binary(max_size=9)).replace(b"\\", b"")),
        form.element(0x00091002, "OB", draw(st.binary(max_size=9))),
        form.short(0x00091003, draw(st.integers(0, 65535))),
        form.sequence(0x00091004, items, draw(st.booleans())),
        form.element(0x00091005, "UN", draw(st.binary(max_size=9))),
    ]
    chosen = sorted(draw(st.sets(st.integers(0, 4), max_size=4)))
    creator = form.element(0x00090010, "LO", b"A MAKER")
    return creator + b"".join(choices[number] for number in chosen) if chosen else b""


@dataclass(frozen=True)
class Pixels:
    """What the Image Pixel module says, and the words that are written."""

    syntax: str
    allocated: int
    stored: int
    signed: bool
    photometric: str
    planar: bool
    values: np.ndarray
    words: np.ndarray
    floating: bool = False


@st.composite
def native_floats(draw, syntax):
    bits = draw(st.sampled_from([32, 64]))
    shape = (1, draw(SIDES), draw(SIDES), 1)
    values = floats(draw(SEEDS), shape, f"f{bits // 8}")
    return Pixels(syntax, bits, bits, True, "MONOCHROME2", False, values, values, floating=True)


@st.composite
def pixels(draw):
    """Samples of every kind, with overlays in unused bits now and then."""
    syntax = draw(st.sampled_from(SYNTAXES))
    native = syntax in NATIVE
    if native and draw(st.integers(0, 7)) == 0:
        return draw(native_floats(syntax))
    photometric = draw(st.sampled_from(["MONOCHROME2", "MONOCHROME2", "MONOCHROME1", "RGB"]))
    grey = photometric != "RGB"
    allocated = draw(st.sampled_from([8, 16, 16, 32] if native else [8, 16])) if grey else 8
    lowest = 2 if native else max(2, allocated - 4)
    stored = draw(st.integers(lowest, allocated)) if grey else 8
    signed = grey and native and draw(st.booleans())
    frames = draw(st.integers(1, 3))
    # What an encoder takes: pyjpegls has too small a buffer for under 64 samples.
    sides = {JPEG_2000: st.sampled_from([32, 33, 40]), JPEG_LS: st.integers(9, 24)}.get(
        syntax, SIDES
    )
    shape = (frames, draw(sides), draw(sides), 1 if grey else 3)
    low = -(1 << (stored - 1)) if signed else 0
    high = low + (1 << stored) - 1
    kind = f"{'i' if signed else 'u'}{allocated // 8}"
    values = integers(draw(SEEDS), shape, low, high, kind)
    words = values.view(f"u{allocated // 8}")
    if native and stored < allocated:
        mask = words.dtype.type((1 << stored) - 1)
        unused = draw(st.sampled_from(["sign", "zero", "overlay"]))
        if unused == "zero":
            words = words & mask
        elif unused == "overlay":
            random = np.random.default_rng(draw(SEEDS)).integers(0, 2, shape).astype(words.dtype)
            words = (words & mask) | (random << words.dtype.type(allocated - 1))
    planar = not grey and native and draw(st.booleans())
    return Pixels(syntax, allocated, stored, signed, photometric, planar, values, words)


def packbits(plane):
    """One segment of RLE (PS3.5 G.3.1): literal runs only, which every decoder must take."""
    data = plane.tobytes()
    runs = [data[at : at + 128] for at in range(0, len(data), 128)]
    out = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return out + b"\0" * (len(out) % 2)


def rle_frame(words):
    """Segments by sample, then from the high byte to the low one (PS3.5 G.2)."""
    planes = [
        np.ascontiguousarray(words[..., channel]).astype(f">u{words.itemsize}").view(np.uint8)
        for channel in range(words.shape[-1])
    ]
    parts = [
        packbits(np.ascontiguousarray(plane.reshape(-1, words.itemsize)[:, byte]))
        for plane in planes
        for byte in range(words.itemsize)
    ]
    starts = [64 + sum(map(len, parts[:number])) for number in range(len(parts))]
    table = [len(parts), *starts, *[0] * (15 - len(parts))]
    return struct.pack("<16I", *table) + b"".join(parts)


def coded_frame(syntax, words, bits):
    frame = np.ascontiguousarray(words[..., 0] if words.shape[-1] == 1 else words)
    if syntax == RLE:
        return rle_frame(words)
    if syntax == JPEG_LS:
        return imagecodecs.jpegls_encode(frame)
    return imagecodecs.jpeg2k_encode(
        frame, level=0, codecformat="j2k", bitspersample=bits, reversible=True, mct=False
    )


def native_value(image, form):
    """The bytes of a native value field."""
    words = image.words.transpose(0, 3, 1, 2) if image.planar else image.words
    return np.ascontiguousarray(words).astype(words.dtype.newbyteorder(form.order)).tobytes()


def pixel_element(draw, image, form):
    if image.floating:
        tag, vr = (FLOAT_PIXELS, "OF") if image.allocated == 32 else (DOUBLE_PIXELS, "OD")
        return form.element(tag, vr, native_value(image, form))
    if image.syntax in NATIVE:
        value = native_value(image, form)
        # Of 8 bits, OW in big endian swaps pairs (PS3.5 8.1.1); OB does not.
        vr = "OW" if image.allocated > 8 or form.implicit or draw(st.booleans()) else "OB"
        value += b"\0" * (len(value) % 2)
        if vr == "OW" and image.allocated == 8 and form.order == ">":
            value = np.frombuffer(value, "u2").byteswap().tobytes()
        return form.element(PIXEL_DATA, vr, value)
    frames = [coded_frame(image.syntax, words, image.stored) for words in image.words]
    value = encapsulate(
        frames,
        fragments_per_frame=draw(st.sampled_from([1, 1, 2])) if len(frames) == 1 else 1,
        has_bot=draw(st.booleans()),
    )
    value += b"\xfe\xff\xdd\xe0\0\0\0\0"
    return form.element(PIXEL_DATA, "OB", value, undefined=True)


def with_group_length(form, group, elements):
    length = form.element(group << 16, "UL", struct.pack(form.order + "I", len(elements)))
    return length + elements


@st.composite
def image_group(draw, image, form):
    """Group 0028: what the pixels are and mean. Returns its bytes and what was chosen, in words."""
    frames, rows, columns, samples = image.values.shape
    told = []
    parts = [form.short(0x00280002, samples)]
    parts.append(form.element(0x00280004, "CS", image.photometric.encode()))
    if samples == 3:
        parts.append(form.short(0x00280006, int(image.planar)))
    if frames > 1 or draw(st.booleans()):
        parts.append(form.element(0x00280008, "IS", str(frames).encode()))
    parts += [form.short(0x00280010, rows), form.short(0x00280011, columns)]
    parts.append(form.short(0x00280100, image.allocated))
    if not image.floating:
        parts.append(form.short(0x00280101, image.stored))
        parts.append(form.short(0x00280102, image.stored - 1))
        parts.append(form.short(0x00280103, int(image.signed)))
    grey = samples == 1 and not image.floating
    if grey and image.stored <= 16 and draw(st.booleans()):
        value = int(image.values.flat[0])
        vr = "SS" if image.signed else "US"
        parts.append(form.short(0x00280120, value, vr=vr))
        told.append(f"padding {value}")
        if draw(st.booleans()):
            limit = int(image.values.flat[-1])
            parts.append(form.short(0x00280121, limit, vr=vr))
            told.append(f"to {limit}")
    if samples == 1 and draw(st.booleans()):
        parts.append(form.element(0x00281050, "DS", draw(st.sampled_from([b"40", b"40\\-600"]))))
        parts.append(form.element(0x00281051, "DS", b"400\\1500" if b"\\" in parts[-1] else b"400"))
        told.append("windows")
    if samples == 1 and draw(st.booleans()):
        intercept = draw(st.sampled_from([b"-1024", b"0", b"3.5"]))
        slope = draw(st.sampled_from([b"1", b"2", b"0.25", b"-1.5"]))
        parts.append(form.element(0x00281052, "DS", intercept))
        parts.append(form.element(0x00281053, "DS", slope))
        told.append(f"rescale {slope.decode()} {intercept.decode()}")
    return b"".join(parts), told


@st.composite
def files(draw):
    """A DICOM file of PS3.10 with an image, and the values that it holds."""
    image = draw(pixels())
    form = Form(image.syntax == IMPLICIT, ">" if image.syntax == BIG else "<")
    group, told = draw(image_group(image, form))
    modality = draw(st.sampled_from([b"CT", b"MR", b"OT", b"CR"]))
    group_8 = form.element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7")
    group_8 += form.element(0x00080018, "UI", b"1.2.3.4") + form.element(0x00080060, "CS", modality)
    group_10 = form.element(0x00100010, "PN", b"Somebody^Unknown") + form.element(
        0x00100020, "LO", b"7"
    )
    body = group_8
    lengths = draw(st.booleans())
    if lengths:
        told.append("group lengths")
        body = with_group_length(form, 0x0008, group_8)
        group = with_group_length(form, 0x0028, group)
    body += draw(private_elements(form)) + group_10 + group
    last = pixel_element(draw, image, form)
    body += with_group_length(form, 0x7FE0, last) if lengths and draw(st.booleans()) else last
    if draw(st.booleans()):
        told.append("trailing padding")
        body += form.element(0xFFFCFFFC, "OB", bytes(draw(st.integers(0, 9))))
    meta_form = Form()
    meta = meta_form.element(0x00020001, "OB", b"\0\1")
    meta += meta_form.element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.7")
    meta += meta_form.element(0x00020003, "UI", b"1.2.3.4")
    meta += meta_form.element(0x00020010, "UI", image.syntax.encode())
    if image.syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-15)
        body = deflater.compress(body) + deflater.flush()
        body += b"\0" * (len(body) % 2)
    preamble = draw(st.sampled_from([bytes(128), b"\x01" * 128]))
    return Generated(
        name="image.dcm",
        content=preamble + b"DICM" + with_group_length(meta_form, 0x0002, meta) + body,
        what=f"DICOM {image.syntax} {image.values.shape} {image.stored}/{image.allocated} bits"
        f"{' signed' if image.signed else ''} {image.photometric}"
        f"{' planar' if image.planar else ''} {', '.join(told)}",
        values=image.values,
    )
