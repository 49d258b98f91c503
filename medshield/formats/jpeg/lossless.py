"""Lossless JPEG (ITU-T T.81 Annex H): samples coded by their difference from a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medshield.errors import RefusedFile
from medshield.formats.jpeg.huffman import (
    Events,
    HuffmanTable,
    defined_tables,
    magnitude_category,
    packed,
)
from medshield.formats.jpeg.scans import Scan, with_scans
from medshield.formats.jpeg.segments import (
    HUFFMAN_TABLES,
    RESTART_INTERVAL,
    START_OF_SCAN,
    Layout,
    Segment,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONVERT = "convert it to PNG"
_DIFFERENCES = 1 << 16  # differences are taken modulo this (H.1.2.1)


def refuse_unsupported(layout: Layout) -> None:
    """Refuse what samples can't be written into exactly.

    Raises:
        RefusedFile: names it.
    """
    components = layout.frame.components
    if len(components) == 3 and not layout.stores_rgb:
        raise RefusedFile(
            f"lossless JPEG in YCbCr, which its decoder turns to RGB with loss: {_CONVERT}"
        )
    if {(part.horizontal, part.vertical) for part in components} != {(1, 1)}:
        raise RefusedFile(f"lossless JPEG with subsampling, expected none: {_CONVERT}")
    for segment in layout.segments:
        if segment.marker == START_OF_SCAN and (
            segment.payload[-1] or segment.payload[-3] not in range(1, 8)
        ):
            raise RefusedFile(
                f"lossless JPEG with a point transform or without a predictor: {_CONVERT}"
            )


def with_samples(layout: Layout, samples: NDArray[np.uint8]) -> Layout:
    """The file with these samples, (height, width, components); predictors and restarts stay."""

    def coded(header: Segment, interval: int) -> Scan:
        return _scan_of(header, layout, samples, interval)

    return with_scans(layout, coded)


def holds(layout: Layout, samples: NDArray[Any]) -> bool:
    """Whether the file codes exactly these samples, which tells a damaged one.

    Decoders go on behind a damaged code with samples of their own making. Coded with the file's
    own tables, those are other bytes; only the bits that fill a byte up may differ (F.1.2.3).

    Args:
        layout: of a file that `refuse_unsupported` lets pass.
        samples: (height, width, components), as a decoder gave them.
    """
    tables: dict[tuple[int, int], HuffmanTable] = {}
    interval = 0
    for segment in layout.segments:
        if segment.marker == HUFFMAN_TABLES:
            tables |= defined_tables(segment.payload)
        elif segment.marker == RESTART_INTERVAL:
            interval = int.from_bytes(segment.payload, "big")
        elif segment.marker == START_OF_SCAN:
            scan = _scan_of(segment, layout, samples, interval)
            own = [tables.get(key) for key in scan.tables]
            if not _codes(segment.scan, scan, own):
                return False
    return True


def _codes(data: bytes, scan: Scan, tables: list[HuffmanTable | None]) -> bool:
    known = [table for table in tables if table]
    lengths = np.array([table.lengths for table in known])
    if len(known) < len(tables) or not lengths[scan.events.table, scan.events.symbol].all():
        return False
    pair = (packed(scan.events, known, scan.interval), data)
    one, other = (np.frombuffer(part.replace(b"\xff\0", b"\xff"), np.uint8) for part in pair)
    intervals = 1 + (int(scan.events.block[-1]) // scan.interval if scan.interval else 0)
    return len(one) == len(other) and int((one != other).sum()) <= intervals


def _scan_of(header: Segment, layout: Layout, samples: NDArray[Any], interval: int) -> Scan:
    """What a scan takes: the differences of its components, sample by sample in turn (A.2.3)."""
    identifiers = [component.identifier for component in layout.frame.components]
    own = [identifiers.index(name) for name in header.payload[1:-3:2]]
    destinations = [both >> 4 for both in header.payload[2:-3:2]]
    used = sorted(set(destinations))
    height, width = samples.shape[:2]
    lines = interval // width or height  # restarts come at the ends of lines (H.1.1)
    centre = 1 << (layout.frame.precision - 1)
    planes = [
        _differences(samples[..., number].astype(np.int64), header.payload[-3], lines, centre)
        for number in own
    ]
    values = np.stack(planes, axis=-1).ravel()
    category = magnitude_category(values)
    count = np.where(category == 16, 0, category)  # the largest one stands for itself (H.1.2.2)
    bits = np.where(values < 0, values - 1, values) & ((1 << count) - 1)
    tables = np.array([used.index(table) for table in destinations])
    events = Events(
        table=np.tile(tables, height * width),
        symbol=category,
        count=count,
        bits=bits,
        block=np.arange(len(values)),
    )
    return Scan(events, [(0, table) for table in used], interval * len(own))


def _differences(
    samples: NDArray[np.int64], predictor: int, lines: int, centre: int
) -> NDArray[np.int64]:
    """Samples less their prediction (Table H.1), -32767 to 32768.

    Args:
        samples: (height, width).
        predictor: 1 to 7.
        lines: after how many lines prediction starts anew.
        centre: what the first sample is predicted as.
    """
    left, above, corner = (np.zeros_like(samples) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = samples[:, :-1], samples[:-1], samples[:-1, :-1]
    predicted = (
        left,
        above,
        corner,
        left + above - corner,
        left + ((above - corner) >> 1),
        above + ((left - corner) >> 1),
        (left + above) >> 1,
    )[predictor - 1].copy()
    predicted[:, 0] = above[:, 0]
    predicted[::lines] = left[::lines]
    predicted[::lines, 0] = centre
    difference = (samples - predicted) % _DIFFERENCES
    return np.where(difference > _DIFFERENCES // 2, difference - _DIFFERENCES, difference)
