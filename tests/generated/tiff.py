"""TIFF of one and more pages, written by tifffile."""

import io

import numpy as np
import tifffile
from hypothesis import strategies as st

from tests.generated.base import SEEDS, SIDES, Generated, integers

CODINGS = ["none", "none", "zlib", "lzw", "packbits"]


@st.composite
def files(draw):
    """Strips or tiles, both byte orders, classic and BigTIFF, grey or RGB, 8 or 16 bits."""
    kind = draw(st.sampled_from([np.uint8, np.uint16]))
    pages, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 3]))
    height, width = draw(SIDES), draw(SIDES)
    values = integers(draw(SEEDS), (pages, height, width, channels), 0, np.iinfo(kind).max, kind)
    coding = draw(st.sampled_from(CODINGS))
    planar = channels == 3 and draw(st.booleans())
    settings = {
        "photometric": "rgb"
        if channels == 3
        else draw(st.sampled_from(["minisblack", "miniswhite"])),
        "compression": None if coding == "none" else coding,
        "predictor": coding in ("zlib", "lzw") and draw(st.booleans()),
        "planarconfig": "separate" if planar else ("contig" if channels == 3 else None),
        "metadata": None,
        "description": draw(st.sampled_from([None, "some words"])),
        "software": draw(st.sampled_from([False, "a program"])),
        "resolution": draw(st.sampled_from([None, (72, 72)])),
        "extratags": [(65000, 2, 0, "private", True)] if draw(st.booleans()) else (),
    }
    if draw(st.booleans()):
        settings["tile"] = (16, 16)
    else:
        settings["rowsperstrip"] = draw(st.integers(1, height))
    buffer = io.BytesIO()
    order, big = draw(st.sampled_from("<>")), draw(st.booleans())
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=big) as writer:
        for page in values:
            data = page[..., 0] if channels == 1 else (page.transpose(2, 0, 1) if planar else page)
            writer.write(data, contiguous=False, **settings)
    return Generated(
        name="image.tif",
        content=buffer.getvalue(),
        what=f"TIFF {order}{big:d} {values.dtype} {values.shape} {coding} {settings}",
        values=values,
    )
