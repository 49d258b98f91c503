"""TIFF files for tests: by tifffile, and by hand where it can't or won't write them."""

import struct

import numpy as np
import tifffile

SIZES = {1: "B", 2: "c", 3: "H", 4: "I", 7: "c", 16: "Q"}
PLACES = (273, 279, 324, 325)


def texture(shape, dtype, seed=0):
    """Smooth values with a little noise, (height, width, ...) of any kind of number."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 6, shape[0])[:, None]
    columns = np.linspace(0, 9, shape[1])[None]
    values = 0.5 + 0.4 * np.sin(rows) * np.cos(columns)
    values = values.reshape(values.shape + (1,) * (len(shape) - 2)) + 0.08 * rng.random(shape)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (values * 100 - 20).astype(dtype)
    info = np.iinfo(dtype)
    low, high = max(info.min, -30000), min(info.max, 60000)
    return (low + np.clip(values, 0, 1) * (high - low)).astype(dtype)


def save(path, *pages, bigtiff=False, byteorder="<", **options):
    """Write pages of any shapes, each with options of its own where it is (array, options)."""
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for page in pages:
            values, own = page if isinstance(page, tuple) else (page, {})
            settings = {"photometric": "minisblack", "metadata": None, "contiguous": False}
            writer.write(values, **(settings | options | own))
    return path


def by_hand(path, *pages, order="<", tail=b"", gap=b""):
    """Write a classic TIFF of grey 8-bit pages, entry by entry.

    Args:
        path: of the file.
        pages: (strips, entries): bytes of each strip, and {tag: (type, values)} that are added to
            the usual entries, or replace them, or remove them where None.
        order: "<" or ">".
        tail: bytes after everything else.
        gap: bytes between the header and the first strip.
    """
    data = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0) + gap)
    link = 4
    for strips, changes in pages:
        starts = []
        for strip in strips:
            starts.append(len(data))
            data += strip
        data += bytes(len(data) % 2)
        entries = {
            256: (3, [8]),
            257: (3, [sum(map(len, strips)) // 8]),
            258: (3, [8]),
            259: (3, [1]),
            262: (3, [1]),
            273: (4, starts),
            277: (3, [1]),
            278: (3, [len(strips[0]) // 8]),
            279: (4, [len(strip) for strip in strips]),
        }
        entries = {t: e for t, e in sorted((entries | changes).items()) if e is not None}
        start = len(data)
        struct.pack_into(order + "I", data, link, start)
        data += bytes(2 + 12 * len(entries) + 4)
        struct.pack_into(order + "H", data, start, len(entries))
        for number, (tag, (kind, values)) in enumerate(entries.items()):
            position = start + 2 + 12 * number
            values = values(starts) if callable(values) else values
            packed = (
                values
                if isinstance(values, bytes)
                else struct.pack(f"{order}{len(values)}{SIZES[kind]}", *values)
            )
            struct.pack_into(order + "HHI", data, position, tag, kind, len(values))
            if len(packed) <= 4:
                data[position + 8 : position + 12] = packed.ljust(4, b"\0")
            else:
                struct.pack_into(order + "I", data, position + 8, len(data))
                data += packed + bytes(len(packed) % 2)
        link = start + 2 + 12 * len(entries)
    path.write_bytes(bytes(data) + tail)
    return path


def pages_of(file):
    """Every page of an open file with its sub-pages, as tifffile walks them."""
    for page in file.pages:
        yield page
        yield from page.pages or ()


def tags_of(path):
    """Each page's tags as tifffile reads them, but for the places of strips and tiles."""
    with tifffile.TiffFile(path) as file:
        return [
            {
                t.code: (int(t.dtype), t.count, str(t.value))
                for t in page.tags
                if t.code not in PLACES
            }
            for page in pages_of(file)
        ]


def outside_pixels(path):
    """The bytes of a file with zeros in the place of strips and tiles and of what places them."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for page in pages_of(file):
            for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                data[start : start + size] = bytes(size)
            for tag in page.tags:
                if tag.code in PLACES:
                    data[tag.offset + 2 : tag.offset + (20 if file.is_bigtiff else 12)] = bytes(
                        18 if file.is_bigtiff else 10
                    )
                    if tag.valueoffset > tag.offset + 20:
                        size = tag.valuebytecount
                        data[tag.valueoffset : tag.valueoffset + size] = bytes(size)
    return bytes(data)


def strips_of(path):
    """The coded bytes of every strip and tile."""
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        return [
            data[start : start + size]
            for page in pages_of(file)
            for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]


def arrays_of(path):
    """Each page's samples as tifffile reads them."""
    with tifffile.TiffFile(path) as file:
        return [page.asarray() for page in pages_of(file)]
