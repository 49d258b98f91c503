"""How DICOM elements are written (PS3.5 section 7), and the transfer syntaxes used here."""

import struct
from dataclasses import dataclass

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
HTJ2K, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.70"
BASELINE, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91"
JPEG_LS_LOSSY = "1.2.840.10008.1.2.4.81"
NATIVE = [IMPLICIT, EXPLICIT, DEFLATED, BIG]
LOSSLESS = [RLE, JPEG_LS, JPEG_2000, HTJ2K, JPEG_LOSSLESS]
LOSSY = [BASELINE, JPEG_2000_LOSSY, JPEG_LS_LOSSY]
LONG = {"OB", "OW", "OF", "OD", "OV", "SQ", "UN", "UT"}
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


def with_group_length(form, group, elements):
    """Elements of a group behind their Group Length."""
    length = form.element(group << 16, "UL", struct.pack(form.order + "I", len(elements)))
    return length + elements
