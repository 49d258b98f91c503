"""New coefficients in the sequential scans of a JPEG file, everything else where it was.

The header of every scan stays, and so its components, their order and the restart interval. Only
the entropy-coded data and the Huffman tables before them are new.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medshield.formats.jpeg.huffman import ZIGZAG, Events, best_table, events_of, packed
from medshield.formats.jpeg.segments import (
    HUFFMAN_TABLES,
    RESTART_INTERVAL,
    START_OF_SCAN,
    Component,
    Layout,
    Segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from medshield.formats.jpeg.huffman import HuffmanTable


@dataclass(frozen=True)
class Scan:
    """What a scan codes, with which tables, and how it is interrupted.

    Attributes:
        events: all that is coded.
        tables: (class, destination) of each table, in the order of `Events.table` (B.2.4.2).
        interval: blocks between restart markers, 0 for none.
    """

    events: Events
    tables: list[tuple[int, int]]
    interval: int

    def best_tables(self) -> list[HuffmanTable]:
        """The shortest codes for its symbols."""
        return [
            best_table(np.bincount(self.events.symbol[self.events.table == n], minlength=256))
            for n in range(len(self.tables))
        ]


def with_coefficients(layout: Layout, planes: list[NDArray[np.int16]]) -> Layout:
    """The file with these coefficients in its scans.

    Args:
        layout: a sequential file.
        planes: of every component of the frame, (rows, columns, 8, 8) blocks: those that hold
            pixels, without what fills up the last MCUs.
    """

    def coded(header: Segment, interval: int) -> Scan:
        return _scan_of(header, layout, planes, interval)

    return with_scans(layout, coded)


def with_scans(layout: Layout, coded: Callable[[Segment, int], Scan]) -> Layout:
    """The file with new entropy-coded data, and Huffman tables right before them.

    Args:
        layout: the file.
        coded: gives what a scan is to hold, from its header and the restart interval in MCUs.
    """
    segments: list[Segment] = []
    interval = 0
    for segment in layout.segments:
        if segment.marker == RESTART_INTERVAL:
            interval = int.from_bytes(segment.payload, "big")
        if segment.marker == START_OF_SCAN:
            scan = coded(segment, interval)
            tables = scan.best_tables()
            segments.append(_definition(scan.tables, tables))
            segments.append(replace(segment, scan=packed(scan.events, tables, scan.interval)))
        elif segment.marker != HUFFMAN_TABLES:
            segments.append(segment)
    return replace(layout, segments=tuple(segments))


def _scan_of(
    header: Segment, layout: Layout, planes: list[NDArray[np.int16]], interval: int
) -> Scan:
    """What a scan takes (B.2.3): its components in its own order, each with its two tables."""
    components = layout.frame.components
    numbers = {component.identifier: n for n, component in enumerate(components)}
    pairs = list(zip(header.payload[1:-3:2], header.payload[2:-3:2], strict=True))
    own = [numbers[identifier] for identifier, _ in pairs]
    wanted = [((0, both >> 4), (1, both & 15)) for _, both in pairs]
    tables = sorted({table for two in wanted for table in two})
    destinations = np.array([[tables.index(table) for table in two] for two in wanted])
    if len(own) == 1:
        plane = planes[own[0]]
        blocks, component = plane.reshape(-1, 64), np.zeros(len(plane) * plane.shape[1], np.int64)
        size = 1
    else:
        blocks, component, size = _interleaved(
            [components[n] for n in own], [planes[n] for n in own]
        )
    events = events_of(blocks[:, ZIGZAG], component, destinations, interval * size)
    return Scan(events, tables, interval * size)


def _interleaved(
    components: list[Component], planes: list[NDArray[np.int16]]
) -> tuple[NDArray[np.int16], NDArray[np.int64], int]:
    """Blocks in the order of MCUs (A.2.3), the component of each, and how many make an MCU."""
    parts, owners = [], list[int]()
    first = components[0]
    units = -(-planes[0].shape[0] // first.vertical), -(-planes[0].shape[1] // first.horizontal)
    for number, (component, plane) in enumerate(zip(components, planes, strict=True)):
        high, wide = component.vertical, component.horizontal
        parts.append(_filled(plane, units[0] * high, units[1] * wide))
        parts[-1] = parts[-1].reshape(units[0], high, units[1], wide, 64).swapaxes(1, 2)
        parts[-1] = parts[-1].reshape(-1, high * wide, 64)
        owners += [number] * (high * wide)
    joined = np.concatenate(parts, axis=1)
    component_of = np.tile(np.array(owners), len(joined))
    return joined.reshape(-1, 64), component_of, len(owners)


def _filled(plane: NDArray[np.int16], rows: int, columns: int) -> NDArray[np.int16]:
    """The plane with blocks beside and below it as cheap as can be: the neighbour's mean alone."""
    beyond = ((0, rows - plane.shape[0]), (0, columns - plane.shape[1]), (0, 0), (0, 0))
    filled = np.pad(plane, beyond, mode="edge")
    for outside in (filled[plane.shape[0] :], filled[:, plane.shape[1] :]):
        flat = outside.reshape(*outside.shape[:2], 64)
        flat[..., 1:] = 0
        outside[...] = flat.reshape(outside.shape)
    return filled


def _definition(places: list[tuple[int, int]], tables: list[HuffmanTable]) -> Segment:
    """A DHT segment with all tables of a scan (B.2.4.2)."""
    payload = b"".join(
        bytes([kind << 4 | destination]) + table.definition
        for (kind, destination), table in zip(places, tables, strict=True)
    )
    raw = bytes([0xFF, HUFFMAN_TABLES]) + (len(payload) + 2).to_bytes(2, "big") + payload
    return Segment(HUFFMAN_TABLES, raw, payload)
