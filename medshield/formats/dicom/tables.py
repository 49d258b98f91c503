"""Stored values that are shown through a table: PALETTE COLOR and the Modality LUT.

Such a value is an index, and the next index may be shown as anything. So the unit is what the
table gives: each pixel takes that index whose entry comes nearest to the wanted one among those
within the bound of its own. The table itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from medshield.errors import RefusedFile
from medshield.formats.series import distinct, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medshield.formats.dicom.pixels import PixelLayout
    from medshield.formats.series import Frames

_MOST_BITS = 16
_HIGHEST_BYTE = 255
_FIRST_NEIGHBOURS = 8


@dataclass(frozen=True)
class TableView:
    """What every value that the stored bits can hold is shown as.

    Attributes:
        entries: (values, channels), 1 channel for a Modality LUT and 3 for a palette; the first
            is that of the lowest stored value.
        lowest: the lowest stored value.
        usable: (values,), False for a value that no pixel may newly take: padding and, in a grey
            picture, colours.
    """

    entries: NDArray[Any]
    lowest: int
    usable: NDArray[np.bool_]

    @classmethod
    def of(
        cls, entries: NDArray[Any], lowest: int, usable: NDArray[np.bool_], values: Frames
    ) -> TableView:
        """The view of an image with these values; where all are shown grey, they stay grey."""
        grey = np.all(entries == entries[:, :1], axis=1)
        used = distinct(values).astype(np.int64) - lowest
        return cls(entries, lowest, usable & grey if grey[used].all() else usable)

    def shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """(frames, rows, columns, channels) of entries for (frames, rows, columns, 1) of values."""
        shown: NDArray[Any] = self.entries[self._places(values)]
        return shown

    def nearest(self, wanted: NDArray[Any], values: NDArray[Any], radius: float) -> NDArray[Any]:
        """The values whose entries come nearest to `wanted`, none further than `radius` away.

        Args:
            wanted: (frames, rows, columns, channels), entries or what lies between them.
            values: (frames, rows, columns, 1), the source's.
            radius: what no channel of an entry may move by.
        """
        places = self._places(values)
        tree, of_colour = self._candidates
        found = places.copy()
        for frame, own in enumerate(places):
            moving = np.any(wanted[frame] != self.entries[own], axis=-1)
            # Few indices and few steps make few pairs, however many pixels there are.
            pairs, place = _distinct(np.column_stack([own[moving], wanted[frame][moving]]))
            before = self.entries[pairs[:, 0]].astype(np.float64)
            nearest = _nearest_within(tree, pairs[:, 1:], before, radius)
            new = np.where(nearest < 0, pairs[:, 0], of_colour[nearest])
            stays = np.all(self.entries[new] == before, axis=-1)
            found[frame][moving] = np.where(stays, pairs[:, 0], new)[place]
        return (found + self.lowest).astype(values.dtype)[..., None]

    def step(self, values: Frames) -> float:
        """The least radius at which a pixel of these values can move; infinite: none ever can."""
        reach = self._reach(distinct(values).astype(np.int64) - self.lowest)
        return float(reach.min(initial=np.inf))

    def notes(self, values: Frames, radius: float) -> list[str]:
        """How many pixels have no other entry within the radius."""
        counts = np.zeros(len(self.entries), np.int64)
        for run in runs(values.shape):
            counts += np.bincount(self._places(values[run]).ravel(), minlength=len(counts))
        used = np.flatnonzero(counts)
        held = counts[used][self._reach(used) > radius].sum()
        if not held:
            return []
        return [
            f"table: {100 * held / counts.sum():.1f} % of the pixels stay, as no other of its "
            "entries lies within epsilon"
        ]

    def _reach(self, used: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the entries at these places, how far the nearest other one is."""
        tree, _ = self._candidates
        if not tree.n:
            return np.full(len(used), np.inf)
        apart, _ = tree.query(self.entries[used], [1, 2], p=np.inf)  # infinite where there is none
        reach: NDArray[np.float64] = np.where(apart > 0, apart, np.inf).min(axis=1)
        return reach

    @cached_property
    def _candidates(self) -> tuple[Any, NDArray[np.int64]]:
        """The distinct entries that a pixel may take, and a place of each."""
        from scipy.spatial import cKDTree  # loads much, and for palettes alone

        places = np.flatnonzero(self.usable)
        colours, first = np.unique(self.entries[places], axis=0, return_index=True)
        return cKDTree(colours.astype(np.float64)), places[first]

    def _places(self, values: NDArray[Any]) -> NDArray[np.int64]:
        return values[..., 0].astype(np.int64) - self.lowest


def _distinct(rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each distinct row of up to four 16-bit numbers once, and where every row is among them."""
    packed = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        packed = packed << np.uint64(16) | column.astype(np.uint64)
    _, first, place = np.unique(packed, return_index=True, return_inverse=True)
    return rows[first].astype(np.int64), place


def _nearest_within(
    tree: Any, wanted: NDArray[Any], before: NDArray[np.float64], radius: float
) -> NDArray[np.int64]:
    """For each point, the nearest of the tree that lies in the box around `before`; -1: none."""
    result = np.full(len(wanted), -1)
    pending = np.arange(len(wanted))
    neighbours = _FIRST_NEIGHBOURS
    while len(pending) and tree.n:
        _, near = tree.query(wanted[pending], np.arange(1, min(neighbours, tree.n) + 1))
        inside = np.all(np.abs(tree.data[near] - before[pending, None]) <= radius, axis=-1)
        first = np.argmax(inside, axis=-1)
        any_inside = inside[np.arange(len(pending)), first]
        result[pending] = np.where(any_inside, near[np.arange(len(pending)), first], -1)
        if neighbours >= tree.n:
            break
        pending, neighbours = pending[~any_inside], neighbours * 8
    return result


def palette(header: Any, layout: PixelLayout, big_endian: bool) -> NDArray[Any]:
    """What every stored value is shown as by its palette (PS3.3 C.7.6.3.1.5 and C.7.9).

    Returns:
        (values, 3), from 0 on; of 8 bits where the table has no higher entry, else of 16.

    Raises:
        RefusedFile: signed indices, or a table that is missing or damaged.
    """
    _refuse_long(layout)
    if layout.signed:
        raise RefusedFile("its palette has signed indices, which none may; correct the header")
    descriptor = header.get("RedPaletteColorLookupTableDescriptor")
    if descriptor is None or len(descriptor) != 3:
        raise RefusedFile(
            "its Palette Color Lookup Table Descriptor is missing or damaged; get the file whole"
        )
    count, first = descriptor[0] or 1 << 16, descriptor[1]
    # Values below and above the table are shown as its ends.
    indices = np.clip(np.arange(layout.mask + 1), first, min(first + count - 1, layout.mask))
    entries = apply_color_lut(indices, _palette_alone(header, big_endian))
    entries = np.ascontiguousarray(entries[:, :3])  # without the alpha that there may be
    # Some writers put 8-bit entries into the low bytes of 16-bit ones.
    return entries.astype(np.uint8) if entries.max() <= _HIGHEST_BYTE else entries


def modality(header: Any, layout: PixelLayout, big_endian: bool) -> NDArray[np.uint16]:
    """What every stored value is in real-world units by its Modality LUT (PS3.3 C.11.1).

    Returns:
        (values, 1), from the lowest stored value on.

    Raises:
        RefusedFile: a table that is missing or damaged.
    """
    _refuse_long(layout)
    item = header.ModalityLUTSequence[0]
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or len(descriptor) != 3 or data is None:
        raise RefusedFile("its Modality LUT Sequence has no whole table; get the file whole")
    count, first = descriptor[0] or 1 << 16, descriptor[1]
    if isinstance(data, bytes):
        word = "u1" if len(data) < 2 * count else ">u2" if big_endian else "<u2"
        data = np.frombuffer(data, word)
    table = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    if len(table) < count:
        raise RefusedFile(
            f"its Modality LUT has {len(table)} entries, {count} are declared; get the file whole"
        )
    lowest, highest = (int(limit) for limit in layout.limits)
    places = np.clip(np.arange(lowest, highest + 1) - first, 0, count - 1)
    entries: NDArray[np.uint16] = table[places].astype(np.uint16)[:, None]
    return entries


def _refuse_long(layout: PixelLayout) -> None:
    if layout.bits_stored > _MOST_BITS:
        raise RefusedFile(
            f"{layout.bits_stored} bits are stored for an index of its table, at most {_MOST_BITS} "
            "are expected; correct the header"
        )


def _palette_alone(header: Any, big_endian: bool) -> Dataset:
    """The palette's elements, 16-bit tables in the order of bytes that pydicom takes them in."""
    alone = Dataset()
    for element in header.group_dataset(0x0028):
        if "PaletteColorLookupTable" in element.keyword:
            alone.add(element)
    segmented = "SegmentedRedPaletteColorLookupTableData" in alone
    alone.set_original_encoding(False, not big_endian)
    if not big_endian or segmented or alone.RedPaletteColorLookupTableDescriptor[2] == 8:
        return alone
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        swapped = np.frombuffer(alone[keyword].value, "u2").byteswap().tobytes()
        setattr(alone, keyword, swapped)
    return alone
