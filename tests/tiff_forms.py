"""TIFFs of each coding and layout, written by tifffile."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from tests.dicom_forms import anatomy


def _grey(dtype: str = "u1", seed: int = 0) -> np.ndarray:
    kind = np.dtype(dtype)
    high = 1000.0 if kind.kind == "f" else float(np.iinfo(kind).max) / 2
    return anatomy((64, 48), high, seed).astype(kind)


def _colour(dtype: str = "u1") -> np.ndarray:
    return np.stack([_grey(dtype, seed) for seed in range(3)], -1)


def _form(pages: Callable[[], list[np.ndarray]], big: bool = False, order: str = "<", **options):
    def make(path: Path) -> Path:
        with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
            for page in pages():
                writer.write(
                    page, description="Test", software="tests", metadata=None, **options
                )  # metadata None: no shape in the description
        return path

    return make


FORMS: dict[str, Callable[[Path], Path]] = {
    "grey 8 bit": _form(lambda: [_grey()]),
    "grey 16 bit, big endian": _form(lambda: [_grey("u2")], order=">"),
    "grey signed 16 bit": _form(lambda: [_grey("i2")]),
    "grey 32 bit": _form(lambda: [_grey("u4")]),
    "float": _form(lambda: [_grey("f4")]),
    "double, deflate": _form(lambda: [_grey("f8")], compression="zlib"),
    "LZW with predictor": _form(lambda: [_grey("u2")], compression="lzw", predictor=True),
    "PackBits": _form(lambda: [_grey()], compression="packbits"),
    "deflate, strips": _form(lambda: [_grey("u2")], compression="zlib", rowsperstrip=8),
    "Zstandard": _form(lambda: [_grey("u2")], compression="zstd"),
    "tiles": _form(lambda: [_grey("u2")], tile=(16, 32), compression="zlib"),
    "colour": _form(lambda: [_colour()], photometric="rgb"),
    "colour 16 bit by plane": _form(
        lambda: [np.moveaxis(_colour("u2"), -1, 0)], photometric="rgb", planarconfig="separate"
    ),
    "pages": _form(lambda: [_grey("u2", seed) for seed in range(4)], compression="lzw"),
    "BigTIFF, pages": _form(lambda: [_grey("u2", seed) for seed in range(3)], big=True),
    "palette": _form(
        lambda: [_grey()],
        photometric="palette",
        colormap=np.stack([np.arange(256, dtype="u2") * step for step in (257, 128, 64)]),
    ),
}
