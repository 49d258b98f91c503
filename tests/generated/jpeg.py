"""JPEG grey and in colour: samplings, progressive, restart markers, and segments of many makers."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.generated.base import SEEDS, Generated

SIDES = st.one_of(st.integers(1, 40), st.sampled_from([48, 64]))


def picture(seed, height, width, channels):
    """Smooth areas, an edge and some noise, which is what JPEG is made for."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    layers = [
        128
        + 90 * np.sin(y * a + x * b + c)
        + random.normal(0, random.uniform(0, 20), (height, width))
        for a, b, c in random.uniform(0, 3, (channels, 3))
    ]
    values = np.clip(np.stack(layers, -1), 0, 255)
    if seed % 3 == 0:
        values[: height // 2] = random.choice([0, 255])
    return values.astype(np.uint8)


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


@st.composite
def files(draw):
    """Any JPEG that Pillow writes, with segments of other programs put in."""
    mode = draw(st.sampled_from(["L", "YCbCr", "YCbCr", "RGB", "CMYK"]))
    height, width = draw(SIDES), draw(SIDES)
    channels = {"L": 1, "CMYK": 4}.get(mode, 3)
    values = picture(draw(SEEDS), height, width, channels)
    image = Image.fromarray(
        values[..., 0] if mode == "L" else values, "CMYK" if mode == "CMYK" else None
    )
    settings = {
        "quality": draw(st.integers(1, 100)),
        "progressive": draw(st.booleans()),
        "optimize": draw(st.booleans()),
        "restart_marker_blocks": draw(st.sampled_from([0, 0, 1, 3])),
    }
    if mode == "YCbCr":
        settings["subsampling"] = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
    settings["keep_rgb"] = mode == "RGB"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings)
    content = buffer.getvalue()
    extra = [
        segment(0xFE, draw(st.binary(max_size=12)).replace(b"\xff", b"")),
        segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x3c\0\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + b"no real profile"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0"),
        segment(0xEB, draw(st.binary(max_size=8)).replace(b"\xff", b"")),
        b"\xff" + segment(0xFE, b"after a fill byte"),
    ]
    chosen = draw(st.lists(st.sampled_from(extra), max_size=3))
    first = 2 + (2 + int.from_bytes(content[4:6], "big") if content[2:4] == b"\xff\xe0" else 0)
    trailing = draw(st.sampled_from([b"", b"", b"\0", b"tail"]))
    content = content[:first] + b"".join(chosen) + content[first:] + trailing
    told = ", ".join(f"{name}={value}" for name, value in settings.items() if value)
    return Generated(
        name="image.jpg",
        content=content,
        what=f"JPEG {mode}, {width}x{height}, {told}",
        exact=False,
        refusable="CMYK" if mode == "CMYK" else "",
    )
