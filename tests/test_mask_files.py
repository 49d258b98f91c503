"""Masks are read from more formats than images are written to."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from medshield.dataset.mask_files import read_foreground
from medshield.errors import RefusedFile

FOREGROUND = np.eye(12, dtype=bool)


def one_bit_png(path):
    Image.fromarray(FOREGROUND).save(path, "PNG", bits=1)


def drawn_png(path):
    Image.fromarray(np.where(FOREGROUND, 250, 5).astype(np.uint8)).save(path, "PNG")


def palette_png(path):
    """Classes by number, whose colours say nothing: class 0 is the brighter one."""
    image = Image.fromarray(FOREGROUND.astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 9, 9, 9])
    image.save(path, "PNG")


def palette_tiff(path):
    image = Image.fromarray(FOREGROUND.astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 9, 9, 9])
    image.save(path, "TIFF")


def fax_tiff(path):
    Image.fromarray(FOREGROUND).save(path, "TIFF", compression="group4")


def one_bit_tiff(path):
    Image.fromarray(FOREGROUND).save(path, "TIFF")


def white_is_zero_tiff(path):
    tifffile.imwrite(path, np.where(FOREGROUND, 0, 255).astype(np.uint8), photometric="miniswhite")


def label_map_tiff(path):
    tifffile.imwrite(path, FOREGROUND.astype(np.uint16) * 7, compression="lzw")


@pytest.mark.parametrize(
    "write",
    [
        one_bit_png,
        drawn_png,
        palette_png,
        palette_tiff,
        fax_tiff,
        one_bit_tiff,
        white_is_zero_tiff,
        label_map_tiff,
    ],
)
def test_the_foreground_is_the_same_in_every_format(tmp_path, write):
    write(tmp_path / "mask")
    assert np.array_equal(read_foreground(tmp_path / "mask"), FOREGROUND[None])


def test_what_can_t_be_read_is_refused(tmp_path):
    (tmp_path / "mask").write_bytes(b"II*\0 no directory")
    with pytest.raises(RefusedFile, match="damaged TIFF"):
        read_foreground(tmp_path / "mask")
