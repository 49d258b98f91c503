"""NIfTI of every real type: both versions and byte orders, extensions, slopes, gzip, pairs."""

import gzip
import math
import struct

import numpy as np
from hypothesis import strategies as st

from tests.generated.base import SEEDS, Generated, floats, integers

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
TYPES |= {1024: "i8", 1280: "u8"}
COLOURS = {128: 3, 2304: 4}
SLOPES = [
    (0.0, 0.0),
    (1.0, 0.0),
    (0.5, -10.0),
    (-2.0, 7.0),
    (math.nan, 0.0),
    (1e-3, 1e3),
    (0.0, 5.0),
]


def header(version, order, shape, code, bits, offset, slope, intercept, paired=False):
    """The 348 or 540 bytes of nifti1.h or nifti2.h."""
    raw = bytearray(348 if version == 1 else 540)
    dim = [len(shape), *shape, *[1] * (7 - len(shape))]
    if version == 1:
        fields = [(0, "i", [348]), (40, "8h", dim), (70, "2h", [code, bits]), (76, "8f", [1] * 8)]
        fields += [
            (108, "3f", [offset, slope, intercept]),
            (344, "4s", [b"ni1\0" if paired else b"n+1\0"]),
        ]
        fields += [(148, "20s", [b"a description"]), (252, "2h", [1, 0])]
    else:
        fields = [
            (0, "i", [540]),
            (4, "8s", [(b"ni2" if paired else b"n+2") + b"\0\r\n\x1a\n"]),
            (12, "2h", [code, bits]),
        ]
        fields += [(16, "8q", dim), (104, "8d", [1] * 8), (168, "q", [offset])]
        fields += [(176, "2d", [slope, intercept])]
    for place, form, values in fields:
        struct.pack_into(order + form, raw, place, *values)
    return bytes(raw)


@st.composite
def files(draw):
    """Any single file of real numbers, with the voxels that it holds."""
    version, order = draw(st.sampled_from([1, 2])), draw(st.sampled_from("<>"))
    code = draw(st.sampled_from([*sorted(TYPES), *COLOURS]))
    channels = COLOURS.get(code, 1)
    kind = np.dtype(TYPES.get(code, "u1"))
    paired = draw(st.integers(0, 3)) == 0
    rank = draw(st.integers(1, 5))
    shape = [draw(st.integers(1, 7)) for _ in range(rank)]
    slope, intercept = draw(st.sampled_from(SLOPES))
    extensions = b""
    for size in draw(st.lists(st.sampled_from([16, 32]), max_size=2)):
        body = draw(st.binary(min_size=size - 8, max_size=size - 8))
        extensions += struct.pack(order + "2i", size, draw(st.sampled_from([0, 4, 6]))) + body
    flag = b"\1\0\0\0" if extensions else b"\0\0\0\0"
    # Behind extensions, readers take a gap for one more extension.
    gap = 0 if extensions else draw(st.sampled_from([0, 0, 16]))
    start = (348 if version == 1 else 540) + 4 + len(extensions)
    offset = gap if paired else -(-start // 16) * 16 + gap
    width, height = (*shape, 1)[:2]
    frames = math.prod(shape[2:])
    seed, stored = draw(SEEDS), (frames, height, width, channels)
    if kind.kind == "f":
        values = floats(seed, stored, kind)
    else:
        limits = np.iinfo(kind)
        values = integers(seed, stored, max(limits.min, -(2**53)), min(limits.max, 2**53), kind)
    bits = kind.itemsize * channels * 8
    head = header(version, order, shape, code, bits, offset, slope, intercept, paired)
    head += flag + extensions
    voxels = values.astype(kind.newbyteorder(order)).tobytes() + draw(
        st.sampled_from([b"", b"more"])
    )
    content = bytes(offset) + voxels if paired else head.ljust(offset, b"\0") + voxels
    compressed = draw(st.booleans())
    if compressed:
        content = gzip.compress(content, mtime=draw(st.sampled_from([0, 1])))
    ending = ".gz" * compressed
    beside = {f"volume.hdr{ending}": gzip.compress(head) if compressed else head} if paired else {}
    return Generated(
        name=("volume.img" if paired else "volume.nii") + ending,
        content=content,
        what=f"NIfTI-{version} {order}{kind.str[1:]} x {channels} {shape}, slope {slope}, "
        f"intercept {intercept}{', a pair' if paired else ''}",
        values=values,
        companions=beside,
    )
