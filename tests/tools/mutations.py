"""Ways to damage a file: anywhere, in its numbers, and with its checksums made right again."""

import gzip
import random
import re
import struct
import zlib

EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
HEADER = 700
"""Where headers lie in small files; half of all changes are made there."""


def mutated(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four changes of `content`, which may take pieces of `other`.

    What is compressed as a whole is changed inside as often as outside, and the checksums of PNG
    are mostly made right again: otherwise nothing but the checksums would be tested.
    """
    if content.startswith(b"\x1f\x8b") and chance.random() < 0.7:
        inner = other if not other.startswith(b"\x1f\x8b") else _inflated(other)
        return gzip.compress(_changed(_inflated(content), inner, chance), 1, mtime=0)
    body = _deflated_part(content)
    if body and chance.random() < 0.7:
        inside = zlib.decompress(content[body:], wbits=-15)
        inside = _changed(inside, other, chance)
        deflater = zlib.compressobj(1, wbits=-15)
        return content[:body] + deflater.compress(inside) + deflater.flush()
    changed = _changed(content, other, chance)
    if changed.startswith(b"\x89PNG") and chance.random() < 0.8:
        return _with_right_checksums(changed)
    return changed


def _changed(content: bytes, other: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(WAYS)(data, other, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random, size: int = 1) -> int:
    """Where to change something; in the first bytes half of the time."""
    last = max(0, len(data) - size)
    return chance.randint(0, min(last, HEADER) if chance.random() < 0.5 else last)


def _flip_bits(data: bytearray, _: bytes, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_bytes(data: bytearray, _: bytes, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 4))):
        if data:
            data[_place(data, chance)] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )


def _set_number(data: bytearray, _: bytes, chance: random.Random) -> None:
    """A 16-, 32- or 64-bit number of either byte order: an extreme, or one near to what it was."""
    form = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q", "<f", ">f"))
    size = struct.calcsize(form)
    if len(data) < size:
        return
    place = _place(data, chance, size)
    if form[1] == "f":
        value = chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-40, 2.0**31))
        struct.pack_into(form, data, place, value)
        return
    (old,) = struct.unpack_from(form, data, place)
    value = chance.choice((*EXTREMES, len(data), old + 1, old - 1, old * 2, old ^ 0x8000))
    struct.pack_into(form, data, place, value % (1 << 8 * size))


def _set_text_number(data: bytearray, _: bytes, chance: random.Random) -> None:
    """A number in decimal digits, as DICOM has them, exchanged for another of its length."""
    found = [match.span() for match in re.finditer(rb"[0-9.+-]+", bytes(data[:4000]))]
    if not found:
        return
    start, end = chance.choice(found)
    text = chance.choice(("0", "-1", "1e308", "nan", "inf", "9" * 16, "1e-320", "", "\\", "0.0"))
    data[start:end] = text.encode().ljust(end - start)[: end - start]


def _truncate(data: bytearray, _: bytes, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _append(data: bytearray, other: bytes, chance: random.Random) -> None:
    data += chance.choice((b"\0", b"\0" * 700, chance.randbytes(20), other))


def _slice(length: int, chance: random.Random) -> tuple[int, int]:
    start = chance.randint(0, length)
    return start, min(length, start + chance.choice((1, 2, 4, 8, 12, 16, 50, 400)))


def _delete(data: bytearray, _: bytes, chance: random.Random) -> None:
    start, end = _slice(len(data), chance)
    del data[start:end]


def _duplicate(data: bytearray, _: bytes, chance: random.Random) -> None:
    start, end = _slice(len(data), chance)
    data[start:start] = data[start:end] * chance.choice((1, 1, 2, 100))


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    start, end = _slice(len(other), chance)
    place = _place(data, chance)
    data[place : place + chance.choice((0, end - start))] = other[start:end]


def _cross(data: bytearray, other: bytes, chance: random.Random) -> None:
    """The beginning of one file with the end of another."""
    data[_place(data, chance) :] = other[chance.randint(0, len(other)) :]


def _swap(data: bytearray, _: bytes, chance: random.Random) -> None:
    first, second = _slice(len(data), chance), _slice(len(data), chance)
    one, two = bytes(data[slice(*first)]), bytes(data[slice(*second)])
    data[slice(*max(first, second))] = one if first < second else two
    data[slice(*min(first, second))] = two if first < second else one


WAYS = (_flip_bits, _set_bytes, _set_number, _set_number, _set_text_number, _truncate, _append)
WAYS += (_delete, _duplicate, _splice, _cross, _swap)


def _inflated(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return data


def _deflated_part(content: bytes) -> int:
    """Where a deflated DICOM data set starts (PS3.5 A.5); 0 where there is none."""
    if b"1.2.840.10008.1.2.1.99" not in content[:400] or content[128:132] != b"DICM":
        return 0
    (length,) = struct.unpack_from("<I", content, 140)
    try:
        zlib.decompress(content[144 + length :], wbits=-15)
    except zlib.error:
        return 0
    return 144 + length


def _with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the CRC of what is in them now."""
    fixed, position = bytearray(data), 8
    while position + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, position)
        end = position + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)
