"""Pictures on one dark sheet, with a few words under each: drawing, and nothing about files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PANEL = 256
"""Side of the square that a picture is fitted into, px."""
GAP = 16
TEXT_SIZE = 15
LINE = 20
BACKGROUND, FRAME, TEXT, FAINT, ALARM = "#16181c", "#2a2e35", "#f0f2f5", "#aab1bb", "#ff8a73"
Panel = NDArray[np.uint8] | None
"""(height, width, 3) with sides up to `PANEL`, or None where there is nothing to show."""


@dataclass(frozen=True)
class Tile:
    """Pictures side by side that belong together.

    Attributes:
        panels: one or more, as many in every tile of a sheet.
        lines: what is written below, the first one bright.
        alarm: the lines say that something is wrong.
    """

    panels: tuple[Panel, ...]
    lines: tuple[str, ...]
    alarm: bool = False


def draw(
    title: Sequence[str], tiles: Sequence[Tile], *, across: int, headings: Sequence[str] = ()
) -> bytes:
    """A sheet as the bytes of a PNG file, which holds nothing but the picture.

    Args:
        title: lines at the top.
        tiles: at least one.
        across: tiles in a row.
        headings: of the panels of a tile, above the first row.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    across = min(across, len(tiles))
    tile_width = len(tiles[0].panels) * (PANEL + GAP)
    tile_height = PANEL + LINE * max(len(tile.lines) for tile in tiles) + GAP
    top = GAP + LINE * len(title) + (LINE if headings else 0) + GAP // 2
    widest = max(int(font.getlength(line)) for line in title) + 2 * GAP
    rows = -(-len(tiles) // across)
    size = (max(across * tile_width + GAP, widest), top + rows * tile_height + GAP // 2)
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        pen.text((GAP, GAP // 2 + LINE * number), line, TEXT if number == 0 else FAINT, font)
    for column in range(across if headings else 0):
        for number, heading in enumerate(headings):
            x = GAP + column * tile_width + number * (PANEL + GAP)
            pen.text((x, top - LINE), heading, TEXT, font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, across)
        _draw_tile(sheet, pen, font, tile, GAP + column * tile_width, top + row * tile_height)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    tile: Tile,
    x: int,
    y: int,
) -> None:
    for number, panel in enumerate(tile.panels):
        left = x + number * (PANEL + GAP)
        pen.rectangle((left - 1, y - 1, left + PANEL, y + PANEL), BACKGROUND, FRAME)
        if panel is None:
            pen.line((left, y, left + PANEL - 1, y + PANEL - 1), FRAME)
            continue
        height, width = panel.shape[:2]
        corner = (left + (PANEL - width) // 2, y + (PANEL - height) // 2)
        sheet.paste(Image.fromarray(panel), corner)
    for number, line in enumerate(tile.lines):
        colour = ALARM if tile.alarm else TEXT if number == 0 else FAINT
        pen.text((x, y + PANEL + 3 + LINE * number), line, colour, font)
