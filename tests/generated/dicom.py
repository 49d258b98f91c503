"""DICOM laid out by hand: encodings, sequences, group lengths, and what the pixels may be."""

import struct
import zlib

import numpy as np
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

from tests.generated.base import Generated
from tests.generated.dicom_form import (
    BIG,
    DEFLATED,
    DOUBLE_PIXELS,
    FLOAT_PIXELS,
    IMPLICIT,
    PIXEL_DATA,
    Form,
    with_group_length,
)
from tests.generated.dicom_pixels import is_swapped, native_bytes, pixels


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


@st.composite
def image_group(draw, image, form):
    """Group 0028: what the pixels are and mean. Returns its bytes and what was chosen, in words."""
    frames, rows, columns, samples = image.words.shape
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
    grey = samples == 1 and image.palette is None and not image.floating
    grey = grey and image.values is not None
    if grey and image.stored <= 16 and draw(st.booleans()):
        value = int(image.values.flat[0])
        vr = "SS" if image.signed else "US"
        parts.append(form.short(0x00280120, value, vr=vr))
        told.append(f"padding {value}")
        if draw(st.booleans()):
            limit = int(image.values.flat[-1])
            parts.append(form.short(0x00280121, limit, vr=vr))
            told.append(f"to {limit}")
    if image.palette is not None:
        parts += palette_elements(image.palette, form)
        return b"".join(parts), [*told, f"{len(image.palette)} colours"]
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


def palette_elements(table, form):
    """The descriptors and the data of three tables (PS3.3 C.7.6.3.1.5)."""
    parts = [form.short(0x00281101 + channel, len(table), 0, 16) for channel in range(3)]
    for channel in range(3):
        data = table[:, channel].astype(form.order + "u2").tobytes()
        parts.append(form.element(0x00281201 + channel, "OW", data))
    return parts


def icon(form, undefined):
    """An Icon Image Sequence with a small grey picture."""
    words = [(0x00280002, 1), (0x00280010, 8), (0x00280011, 8), (0x00280100, 8)]
    words += [(0x00280101, 8), (0x00280102, 7), (0x00280103, 0)]
    parts = [form.short(*pair) for pair in words]
    parts.insert(1, form.element(0x00280004, "CS", b"MONOCHROME2"))
    parts.append(form.element(PIXEL_DATA, "OW", bytes(range(64))))
    return form.sequence(0x00880200, [form.item(b"".join(parts), undefined)], undefined)


def pixel_element(draw, image, form):
    """The element with the image; before it, an Extended Offset Table now and then."""
    if image.floating:
        tag, vr = (FLOAT_PIXELS, "OF") if image.allocated == 32 else (DOUBLE_PIXELS, "OD")
        return form.element(tag, vr, native_bytes(image, form.order))
    if not image.coded:
        value = native_bytes(image, form.order)
        vr = "OW" if image.allocated > 8 or form.implicit or draw(st.booleans()) else "OB"
        value += b"\0" * (len(value) % 2)
        if is_swapped(image, vr):
            value = np.frombuffer(value, "u2").byteswap().tobytes()
        return form.element(PIXEL_DATA, vr, value)
    extended = draw(st.integers(0, 4)) == 0
    fragments = draw(st.sampled_from([1, 1, 2])) if len(image.coded) == 1 and not extended else 1
    value = encapsulate(
        image.coded,
        fragments_per_frame=fragments,
        has_bot=draw(st.booleans()) and not extended,
    )
    value += b"\xfe\xff\xdd\xe0\0\0\0\0"
    table = b""
    if extended:
        lengths = [len(frame) + len(frame) % 2 for frame in image.coded]
        starts = [sum(lengths[:number]) + 8 * number for number in range(len(lengths))]
        for tag, numbers in ((0x7FE00001, starts), (0x7FE00002, lengths)):
            table += form.element(tag, "OV", struct.pack(f"<{len(numbers)}Q", *numbers))
    return table + form.element(PIXEL_DATA, "OB", value, undefined=True)


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
    parts = [draw(private_elements(form)), group_10, group]
    if draw(st.integers(0, 9)) == 0:
        told.append("out of order")
        parts = [group_10, group, parts[0]]
    body += b"".join(parts)
    has_icon = draw(st.integers(0, 9)) == 0
    if has_icon:
        told.append("icon")
        body += icon(form, draw(st.booleans()))
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
        what=f"DICOM {image.syntax} {image.words.shape} {image.stored}/{image.allocated} bits"
        f"{' signed' if image.signed else ''} {image.photometric}"
        f"{' planar' if image.planar else ''} {', '.join(told)}",
        values=image.values,
        exact=image.exact,
        refusable="icon" if has_icon else "",  # of another picture
    )
