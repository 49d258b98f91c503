"""Pictures, thumbnails of them, and EXIF blocks that hold these."""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIZE = (96, 144)


def scene(size=SIZE, channels=3, seed=0):
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(*size, channels)), (8, 8, 0))
    return np.clip(128 + 100 * smooth / np.abs(smooth).max(), 0, 255).astype(np.uint8)


def shrunk(picture, size):
    image = Image.fromarray(picture.squeeze())
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)).reshape(*size, -1)


def coded(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", **({"quality": 80} | options))
    return file.getvalue()


def exif(order, second, data, *, note=b"", behind=b"behind"):
    """A block of a first directory with a maker note, a second one of these tags, and its data.

    The tags' value `None` is replaced by where the data start.
    """

    def number(value, size):
        return value.to_bytes(size, "little" if order == b"II" else "big")

    def entry(tag, kind, count, value):
        size = {3: 2, 4: 4, 7: 4}[kind]
        padded = number(value, size) + bytes(4 - size)
        return number(tag, 2) + number(kind, 2) + number(count, 4) + padded

    head = order + number(42, 2) + number(8, 4)
    first_end = 8 + 2 + 2 * 12 + 4
    note_start, link = first_end, first_end + len(note)
    data_start = link + 2 + 12 * len(second) + 4
    first = [entry(0x0112, 3, 1, 1), entry(0x927C, 7, len(note), note_start)]
    tags = [
        entry(tag, kind, 1, data_start if value is None else value) for tag, kind, value in second
    ]
    block = head + number(2, 2) + b"".join(first) + number(link, 4) + note
    return block + number(len(tags), 2) + b"".join(tags) + number(0, 4) + data + behind


def with_jpeg(order=b"MM", thumbnail=None, **options):
    thumbnail = coded(shrunk(scene(), (40, 60))) if thumbnail is None else thumbnail
    tags = [(259, 3, 6), (513, 4, None), (514, 4, len(thumbnail))]
    return exif(order, tags, thumbnail, **options), thumbnail


def near(pixels, expected):
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 4
