"""RLE of DICOM (PS3.5 annex G), of literal runs alone."""

import struct

import numpy as np


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
