"""PNG of every colour type and depth, with filters, interlacing and ancillary chunks."""

import struct
import zlib

import numpy as np
from hypothesis import strategies as st

from tests.generated.base import SEEDS, SIDES, Generated, integers

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TYPES = [(0, d) for d in (1, 2, 4, 8, 16)] + [(3, d) for d in (1, 2, 4, 8)]
TYPES += [(c, d) for c in (2, 4, 6) for d in (8, 16)]
ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(samples, depth):
    """Rows of samples (height, width * channels) as rows of bytes."""
    if depth == 16:
        return samples.astype(">u2").view(np.uint8)
    if depth == 8:
        return samples.astype(np.uint8)
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)


def filtered(rows, step, kinds):
    """Scanlines with a filter each (PNG section 9.2); `step` is the bytes of a pixel."""
    out, above = b"", np.zeros(rows.shape[1], int)
    for number, row in enumerate(rows.astype(int)):
        left = np.concatenate([np.zeros(step, int), row])[: len(row)]
        corner = np.concatenate([np.zeros(step, int), above])[: len(row)]
        kind = kinds[number % len(kinds)]
        guess = left + above - corner
        distances = [abs(guess - one) for one in (left, above, corner)]
        paeth = np.where(
            (distances[0] <= distances[1]) & (distances[0] <= distances[2]),
            left,
            np.where(distances[1] <= distances[2], above, corner),
        )
        predicted = (0, left, above, (left + above) // 2, paeth)[kind]
        out += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def scanlines(samples, depth, interlaced, kinds):
    """The bytes to deflate of samples (height, width, channels)."""
    channels = samples.shape[2]
    step = max(1, channels * depth // 8)
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes]
    return b"".join(
        filtered(packed(part.reshape(len(part), -1), depth), step, kinds)
        for part in parts
        if part.size
    )


@st.composite
def ancillary(draw, colour, depth):
    """Chunks before IDAT: what standards and programs put there, and a private one."""
    most = 2**depth - 1
    choices = {
        b"gAMA": struct.pack(">I", draw(st.integers(1, 2**31 - 1))),
        b"cHRM": struct.pack(">8I", *[31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]),
        b"sRGB": b"\0",
        b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
        b"tIME": struct.pack(">H5B", 2020, 2, 29, 12, 0, 60),
        b"tEXt": b"Comment\0" + draw(st.binary(max_size=20)).replace(b"\xff", b""),
        b"zTXt": b"Comment\0\0" + zlib.compress(b"some words"),
        b"iTXt": b"Title\0\0\0de\0Titel\0" + "Größe".encode(),
        b"prVt": draw(st.binary(max_size=12)).replace(b"\xff", b""),
        b"bKGD": {0: struct.pack(">H", most), 4: struct.pack(">H", most), 3: b"\0"}.get(
            colour, struct.pack(">3H", most, 0, most)
        ),
    }
    kinds = draw(st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=5))
    return [(kind, choices[kind]) for kind in kinds]


@st.composite
def files(draw):
    """Any valid PNG, with the samples that it holds."""
    colour, depth = draw(st.sampled_from(TYPES))
    height, width = draw(SIDES), draw(SIDES)
    interlaced = draw(st.booleans())
    entries = draw(st.integers(1, 2**depth)) if colour == 3 else 0
    channels, most = CHANNELS[colour], (entries or 2**depth) - 1
    kind = np.uint16 if depth == 16 else np.uint8
    samples = integers(draw(SEEDS), (1, height, width, channels), 0, most, kind)
    before = draw(ancillary(colour, depth))
    if colour == 3:
        palette = integers(draw(SEEDS), (1, entries, 3, 1), 0, 255, np.uint8)
        # Background and transparency refer to the palette, so they follow it.
        early = [pair for pair in before if pair[0] in (b"gAMA", b"cHRM", b"sRGB")]
        late = [pair for pair in before if pair not in early]
        before = [*early, (b"PLTE", palette.tobytes()), *late]
    transparency = ""
    if colour in (0, 2, 3) and draw(st.booleans()):
        transparency = ", tRNS"
        body = {
            0: struct.pack(">H", int(samples.flat[0])),
            2: struct.pack(">3H", *map(int, samples.reshape(-1, channels)[0][:3]))
            if channels == 3
            else b"",
            3: bytes(draw(st.lists(st.integers(0, 255), min_size=1, max_size=max(entries, 1)))),
        }[colour]
        before = [*before, (b"tRNS", body)]
    kinds = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    level = draw(st.integers(0, 9))
    stream = zlib.compress(scanlines(samples[0], depth, interlaced, kinds), level)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=3)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    after = draw(
        st.sampled_from([[], [(b"tEXt", b"End\0here")], [(b"tIME", b"\7\xd0" + b"\1" * 5)]])
    )
    after = [
        pair for pair in after if pair[0] not in [kind for kind, _ in before] or pair[0] == b"tEXt"
    ]
    chunks = [(b"IHDR", header), *before, *((b"IDAT", p) for p in pieces), *after, (b"IEND", b"")]
    trailing = draw(st.sampled_from([b"", b"", b"\0\0", b"end"]))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks) + trailing
    plain = colour != 3
    return Generated(
        name="image.png",
        content=content,
        what=f"PNG colour type {colour}, {depth} bits, {width}x{height}"
        f"{', interlaced' if interlaced else ''}{transparency}",
        values=samples if plain else None,
        exact=plain,
    )
