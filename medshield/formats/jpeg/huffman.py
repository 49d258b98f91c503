"""Huffman coding of quantised coefficients (ITU-T T.81 F.1.2), with tables made for the image.

A scan is written as its header in the source says: which components, interleaved or not, and with
the source's restart interval. Libraries that write coefficients keep neither.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZIGZAG = np.array(
    sorted(range(64), key=lambda at: (at // 8 + at % 8, (at % 8, at // 8)[(at // 8 + at % 8) % 2]))
)
"""Where the coefficients of a block stand in rows, in the order in which they are coded (A.3.6)."""

_END_OF_BLOCK, _SIXTEEN_ZEROS = 0x00, 0xF0
_LONGEST_CODE = 16
_DC, _AC = 0, 1


@dataclass(frozen=True)
class HuffmanTable:
    """Codes for symbols.

    Attributes:
        lengths: bits of each symbol's code, 256 of them; 0 where it has none.
        codes: the codes, right-aligned.
        definition: the counts and symbols of DHT (B.2.4.2).
    """

    lengths: NDArray[np.int64]
    codes: NDArray[np.int64]
    definition: bytes


@dataclass(frozen=True)
class Events:
    """What a scan writes, in order: symbols, each with the bits that follow its code.

    Attributes:
        table: which table the symbol is coded with, see `tables_of`.
        symbol: 0 to 255.
        count: how many bits follow.
        bits: these bits.
        block: the number of the block in the scan.
    """

    table: NDArray[np.int64]
    symbol: NDArray[np.int64]
    count: NDArray[np.int64]
    bits: NDArray[np.int64]
    block: NDArray[np.int64]


def magnitude_category(values: NDArray[Any]) -> NDArray[np.int64]:
    """How many bits a value's magnitude needs (Tables F.1 and F.2)."""
    bits: NDArray[np.int64] = np.frexp(np.abs(values).astype(np.float32))[1].astype(np.int64)
    return bits


def events_of(
    blocks: NDArray[np.int16],
    component: NDArray[np.int64],
    tables: NDArray[np.int64],
    interval: int,
) -> Events:
    """What coding these blocks takes.

    Args:
        blocks: (blocks, 64) in the order of the scan, each in zigzag order.
        component: of every block, its number in the scan.
        tables: (components, 2): the tables of DC and of AC symbols.
        interval: after how many blocks the prediction of DC starts anew; 0 for never.
    """
    number = len(blocks)
    at, position = np.nonzero(blocks[:, 1:])
    position += 1
    values = blocks[at, position].astype(np.int64)
    first = np.ones(len(at), bool)
    first[1:] = at[1:] != at[:-1]
    run = position - 1 - np.where(first, 0, np.roll(position, 1))
    sixteens, run = run >> 4, run & 15
    # Every block: its DC, its AC values with the runs of sixteen zeros before them, its end.
    last = np.zeros(number, np.int64)
    last[at] = position  # the last one in order stays
    ends = last < 63
    before = np.cumsum(sixteens + 1)  # events of AC values up to and with each
    in_block = np.bincount(at, sixteens + 1, minlength=number).astype(np.int64)
    starts = np.cumsum(1 + in_block + ends) - (1 + in_block + ends)
    total = int(starts[-1] + 1 + in_block[-1] + ends[-1])
    earlier = np.cumsum(in_block) - in_block  # events of AC values in the blocks before
    where = starts[at] + before - earlier[at]

    symbol = np.full(total, _SIXTEEN_ZEROS)
    count, bits = np.zeros(total, np.int64), np.zeros(total, np.int64)
    difference = _differences(blocks[:, 0].astype(np.int64), component, interval)
    for places, value, high in ((starts, difference, 0), (where, values, run << 4)):
        category = magnitude_category(value)
        symbol[places] = high | category
        count[places] = category
        bits[places] = np.where(value < 0, value - 1, value) & ((1 << category) - 1)
    symbol[(starts + 1 + in_block)[ends]] = _END_OF_BLOCK
    block = np.repeat(np.arange(number), 1 + in_block + ends)
    table = tables[component[block], _AC]
    table[starts] = tables[component, _DC]
    return Events(table, symbol, count, bits, block)


def _differences(
    values: NDArray[np.int64], component: NDArray[np.int64], interval: int
) -> NDArray[np.int64]:
    """DC values less the one before in the same component and restart interval (F.1.1.5.1)."""
    difference = values.copy()
    group = np.arange(len(values)) // interval if interval else np.zeros(len(values), np.int64)
    for number in range(int(component.max()) + 1):
        own = np.flatnonzero(component == number)
        same = group[own[1:]] == group[own[:-1]]
        difference[own[1:]] -= np.where(same, values[own[:-1]], 0)
    return difference


def best_table(counts: NDArray[np.int64]) -> HuffmanTable:
    """The shortest codes for symbols that occur so often, none longer than 16 bits (K.2)."""
    lengths = _lengths(counts)
    order = sorted(np.flatnonzero(lengths).tolist(), key=lambda s: (lengths[s], s))
    codes = np.zeros(256, np.int64)
    code, length = 0, 0
    for symbol in order:
        code <<= int(lengths[symbol]) - length
        length = int(lengths[symbol])
        codes[symbol] = code
        code += 1
    used = np.bincount(lengths[order], minlength=_LONGEST_CODE + 1)[1:]
    return HuffmanTable(lengths, codes, bytes(used.tolist()) + bytes(order))


def defined_tables(payload: bytes) -> dict[tuple[int, int], HuffmanTable]:
    """The tables of a DHT segment by class and destination (B.2.4.2, C.2).

    Raises:
        ValueError: it ends within a table.
    """
    tables = {}
    while payload:
        counts = payload[1 : 1 + _LONGEST_CODE]
        definition, rest = payload[1 : 17 + sum(counts)], payload[17 + sum(counts) :]
        if len(definition) < _LONGEST_CODE + sum(counts):
            raise ValueError("a Huffman table is cut short")
        lengths, codes, code, at = np.zeros(256, np.int64), np.zeros(256, np.int64), 0, 16
        for length, count in enumerate(counts, 1):
            for symbol in definition[at : at + count]:
                lengths[symbol], codes[symbol] = length, code
                code += 1
            code, at = code << 1, at + count
        tables[payload[0] >> 4, payload[0] & 15] = HuffmanTable(lengths, codes, definition)
        payload = rest
    return tables


def _lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Code lengths of symbols; the code of ones alone stays unused (K.2)."""
    symbols = np.flatnonzero(counts).tolist()
    # The reserved code takes part as the rarest symbol, so that it becomes the last and longest.
    heap: list[tuple[int, int, list[int]]] = [(0, 256, [256])]
    heap += [(int(counts[symbol]), symbol, [symbol]) for symbol in symbols]
    heapq.heapify(heap)
    depth = np.zeros(257, np.int64)
    while len(heap) > 1:
        (one, _, left), (other, tie, right) = heapq.heappop(heap), heapq.heappop(heap)
        depth[left + right] += 1
        heapq.heappush(heap, (one + other, tie, left + right))
    by_length = np.bincount(depth[depth > 0], minlength=_LONGEST_CODE + 2)
    for length in range(len(by_length) - 1, _LONGEST_CODE, -1):
        while by_length[length] > 0:  # Figure K.3: two long codes for a shorter one's two halves
            shorter = length - 2
            while by_length[shorter] == 0:
                shorter -= 1
            by_length[length] -= 2
            by_length[length - 1] += 1
            by_length[shorter + 1] += 2
            by_length[shorter] -= 1
    if symbols:
        by_length[np.flatnonzero(by_length)[-1]] -= 1
    lengths = np.zeros(256, np.int64)
    ordered = sorted(symbols, key=lambda s: (-int(counts[s]), s))
    lengths[ordered] = np.repeat(np.arange(len(by_length)), by_length)
    return lengths


def packed(events: Events, tables: list[HuffmanTable], interval: int) -> bytes:
    """The entropy-coded data: FF bytes stuffed, restart markers between intervals (F.1.2.3).

    Args:
        events: of the whole scan.
        tables: by number, see `Events.table`.
        interval: blocks between restart markers, 0 for none.
    """
    lengths, codes = (np.stack([getattr(t, k) for t in tables]) for k in ("lengths", "codes"))
    size = lengths[events.table, events.symbol] + events.count
    value = (codes[events.table, events.symbol] << events.count) | events.bits
    group = events.block // interval if interval else np.zeros_like(events.block)
    in_group = np.bincount(group, size).astype(np.int64)
    group_bytes = (in_group + 7) // 8
    ends = np.cumsum(group_bytes)
    # Bits of one interval follow each other; the next one starts in a byte of its own.
    skipped = 8 * (ends - group_bytes) - (np.cumsum(in_group) - in_group)
    start = np.cumsum(size) - size + skipped[group]
    byte, inside = start >> 3, start & 7
    window = value.astype(np.uint64) << (64 - size - inside).astype(np.uint64)
    data = np.zeros(int(ends[-1]) + 8)
    for lane in range(5):  # 16 bits of code, 11 more and 7 before them touch five bytes
        part = (window >> np.uint64(56 - 8 * lane)) & np.uint64(0xFF)
        data += np.bincount(byte + lane, part, minlength=len(data))[: len(data)]
    whole = data.astype(np.uint8)
    padding = 8 * group_bytes - in_group
    whole[ends - 1] |= ((1 << padding) - 1).astype(np.uint8)  # ones fill the last byte (F.1.2.3)
    content = whole.tobytes()
    pieces = [
        content[first:end].replace(b"\xff", b"\xff\0")
        for first, end in zip(ends - group_bytes, ends, strict=True)
    ]
    marked = [piece + bytes([0xFF, 0xD0 + n % 8]) for n, piece in enumerate(pieces[:-1])]
    return b"".join([*marked, pieces[-1]])
