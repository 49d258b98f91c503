"""Whatever is changed in a released file outside its pixels is found, wherever it is."""

import struct

import numpy as np
import pydicom
import pytest
from PIL import Image

from medshield import audit
from tests.audit.forms import SOURCES, VOLUME, pair


@pytest.fixture(params=SOURCES)
def released(request, tmp_path):
    return request.param, pair(request.param, tmp_path)


def test_a_sound_file_has_no_faults(released):
    _, files = released
    assert files.faults() == []
    assert files.source.read_bytes() != files.released.read_bytes()


def outside(form, files):
    """The positions of all bytes that are no pixels, nor their coding."""
    data = files.released.read_bytes()
    if form.startswith("PNG"):
        start = data.index(b"IDAT")
        (length,) = struct.unpack_from(">I", data, start - 4)
        inside = range(start - 4, start + 4 + length + 4)
    elif form == "JPEG":
        start = data.index(b"\xff\xc4")
        inside = range(start, data.index(b"\xff\xd9", start))
    elif form == "NIfTI":
        start = 348 + 4 + 16
        inside = range(start, start + VOLUME.nbytes)
    elif form == "NIfTI gzip":
        inside = range(10, len(data))
    elif form == "DICOM deflated":
        start = 132 + 12 + struct.unpack_from("<I", data, 140)[0]
        inside = range(start, len(data))
    else:
        dataset = pydicom.dcmread(files.released)
        start = data.index(dataset.PixelData[:64])
        inside = range(start, start + len(dataset.PixelData))
    return [place for place in range(len(data)) if place not in inside]


def test_every_byte_outside_the_pixels_counts(released):
    form, files = released
    data = files.released.read_bytes()
    unseen = []
    for place in outside(form, files):
        sabotaged = bytearray(data)
        sabotaged[place] ^= 4
        files.released.write_bytes(sabotaged)
        if files.is_sound():
            unseen.append(place)
    assert unseen == []


def test_every_byte_that_is_cut_out_counts(released):
    form, files = released
    data = files.released.read_bytes()
    unseen = []
    for place in outside(form, files)[::7]:
        files.released.write_bytes(data[:place] + data[place + 1 :])
        if files.is_sound():
            unseen.append(place)
    assert unseen == []


def test_the_clean_file_in_the_place_of_the_released_one_has_not_moved(released):
    form, files = released
    files.released.write_bytes(files.source.read_bytes())
    auditor = audit.recognise(files.source)
    assert np.array_equal(
        auditor.read(files.source).values, auditor.read(files.released).values, equal_nan=True
    )
    said = files.faults()
    assert said == [] or form == "DICOM JPEG"  # where the notes say what was not done


@pytest.mark.parametrize("form", ["PNG", "NIfTI"])
def test_a_pixel_that_moved_too_far(form, tmp_path):
    files = pair(form, tmp_path)
    if form == "PNG":
        with Image.open(files.released) as image:
            values = np.array(image)
        values[2, 3, 1] = 255 if values[2, 3, 1] < 128 else 0
        # Pillow drops chunks, so the new IDAT goes between the old ones.
        again = files.released.with_name("b.png")
        Image.fromarray(values).save(again)
        files.released.write_bytes(with_pixels_of(files.released, again))
    else:
        data = bytearray(files.released.read_bytes())
        data[348 + 4 + 16 + 2 * 7 + 1] ^= 4  # the high byte of one voxel
        files.released.write_bytes(data)
    found = files.faults()
    assert len(found) == 1
    assert found[0].startswith("a pixel moved by ")
    assert found[0].endswith("the bound is 3")


def with_pixels_of(path, other):
    """The file with the IDAT chunk of another one."""

    def cut(data):
        start = data.index(b"IDAT") - 4
        (length,) = struct.unpack_from(">I", data, start)
        return start, start + 12 + length

    one, two = path.read_bytes(), other.read_bytes()
    (start, end), (first, last) = cut(one), cut(two)
    return one[:start] + two[first:last] + one[end:]
