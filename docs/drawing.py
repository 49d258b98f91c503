"""Draws docs/architecture.svg, which docs/architecture.md shows: `python docs/drawing.py`.

The drawing is text made from the tables below, so that a change is a line of a diff. It has a
ground of its own, so it is legible on light and dark pages and on paper, and tells public from
secret by the kind of line, too, so it needs no colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

TARGET = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 680, 765
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
GROUND, INK, LINE = "#ffffff", "#1b1f24", "#374151"
KINDS = {
    "command": ("#e8f0fe", "#1d4ed8", ""),
    "secret": ("#fdf0e3", "#9a3412", "7 4"),
    "public": ("#e6f4ea", "#166534", ""),
}
"""Fill, outline and dashes of each kind of box."""


@dataclass(frozen=True)
class Box:
    """A box: its kind, its upper left corner and size in px, its title, and lines below it."""

    kind: str
    left: int
    top: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...]


BOXES = (
    Box("secret", 20, 20, 215, 110, "SOURCE", ("clean images,", "labels or masks")),
    Box(
        "command",
        275,
        20,
        385,
        110,
        "scan",
        ("dataset, formats: what is there, the", "intensity range, a plan for each file"),
    ),
    Box(
        "command",
        275,
        170,
        385,
        110,
        "fit",
        ("methods, training: surrogates learn", "on small copies of the images"),
    ),
    Box(
        "command",
        275,
        320,
        385,
        135,
        "protect",
        (
            "release_writer, formats: decode,",
            "perturb, write, decode again, measure;",
            "64 images at a time, in any process",
        ),
    ),
    Box(
        "secret",
        20,
        170,
        215,
        285,
        "RELEASE.private",
        (
            "key",
            "generator",
            "plan, checkpoints",
            "source checksums",
            "label map, new UIDs",
            "journal",
            "verify/: evidence",
        ),
    ),
    Box(
        "public",
        20,
        495,
        640,
        105,
        "RELEASE",
        ("same tree, same names, same formats;", "medshield.json, manifest, SHA256SUMS"),
    ),
    Box(
        "command",
        20,
        640,
        310,
        105,
        "check",
        ("audit: reads every format by", "other code; sound, or faults"),
    ),
    Box(
        "command",
        350,
        640,
        310,
        105,
        "verify",
        ("arms, training, intervals:", "trains victims; a verdict"),
    ),
)
ARROWS = (
    ((235, 75), (275, 75)),  # source to scan
    ((460, 130), (460, 170)),  # plan to fit
    ((460, 280), (460, 320)),  # generator to protect
    ((275, 225), (235, 225)),  # fit keeps the generator
    ((235, 387), (275, 387)),  # protect asks it
    ((460, 455), (460, 495)),  # protect writes the release
    ((175, 600), (175, 640)),  # check reads it
    ((505, 600), (505, 640)),  # verify reads it
)
"""From, to: the commands that only read have their other input, SOURCE, in the caption."""


def drawn() -> str:
    """The drawing as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title" '
        f'font-family="{FONT}">',
        '<title id="title">Source, scan, fit, protect, release, check and verify</title>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" '
        f'markerHeight="9" orient="auto"><path d="M0 0 10 5 0 10z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{GROUND}"/>',
        *(_box(box) for box in BOXES),
        *(
            f'<path d="M{start[0]} {start[1]} {end[0]} {end[1]}" stroke="{LINE}" '
            'stroke-width="2" marker-end="url(#tip)"/>'
            for start, end in ARROWS
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(box: Box) -> str:
    fill, outline, dashes = KINDS[box.kind]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    left = box.left + 16
    texts = [
        f'<text x="{left}" y="{box.top + 31}" font-size="20" font-weight="700" fill="{outline}">'
        f"{escape(box.title)}</text>"
    ]
    texts += [
        f'<text x="{left}" y="{box.top + 60 + 26 * number}" font-size="18" fill="{INK}">'
        f"{escape(line)}</text>"
        for number, line in enumerate(box.lines)
    ]
    return (
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}" rx="8" '
        f'fill="{fill}" stroke="{outline}" stroke-width="2"{dashed}/>' + "".join(texts)
    )


if __name__ == "__main__":
    TARGET.write_text(drawn(), encoding="utf-8")
