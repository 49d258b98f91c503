"""The evidence as one page that stands alone: no script, and nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from medshield.contact_sheet import Panel, Tile
from medshield.evidence import CONFIDENCE, PARTLY_LEAKAGE, PROTECTED_LEAKAGE
from medshield.reports import figures, words
from medshield.reports.curves import CURVE_SIDES, Curves, curves_of
from medshield.reports.document import (
    NO_SCORES,
    Document,
    arms_of,
    leakage_parts,
    named,
    number,
    spread_text,
)
from medshield.text import printable
from medshield.trials import LAST

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class ScoreLine:
    """A line of the table of all cells.

    Attributes:
        score, selection: what was measured, and which epoch's model.
        arms: mean and spread of each arm, as text.
        leakage: estimate and interval, as text; empty where it was not measured.
        counts: whether the verdict is made of it.
    """

    score: str
    selection: str
    arms: tuple[tuple[str, str], ...]
    leakage: tuple[str, str]
    counts: bool


def page(document: Document, pictures: Sequence[Tile] = ()) -> str:
    """The page.

    Args:
        document: made `readable`.
        pictures: clean, protected and difference of a few images; none for a page to pass on,
            which then names no file of the release either.
    """
    environment = Environment(
        loader=PackageLoader("medshield.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(TEMPLATE).render(
        document=document,
        said=words.summary(document),
        use=words.use_text(document),
        arms=figures.arm_kinds(document),
        limits=(PROTECTED_LEAKAGE, PARTLY_LEAKAGE),
        confidence=f"{100 * CONFIDENCE:.0f} %",
        levels=_levels(document),
        curves=_curves(document),
        curve_sides=CURVE_SIDES,
        classes=[
            chart for cell in document["cells"] if (chart := figures.classes_chart(document, cell))
        ],
        decision=named(document["use"]["score"]),
        cells=[(cell, _lines(document, cell)) for cell in document["cells"]],
        fidelity=words.fidelity_rows(document),
        worst_files=words.worst_files(document) if pictures else [],
        made=words.made_rows(document),
        costs=words.cost_rows(document),
        weights=words.weights_rows(document),
        pictures=[_picture(tile) for tile in pictures],
        number=number,
    )


def _breakable(text: str) -> Markup:
    """The name of a cell, which may go on in a new line after each part."""
    return Markup(":<wbr>").join(Markup("_<wbr>").join(p.split("_")) for p in text.split(":"))


def _levels(document: Document) -> list[dict[str, Any]]:
    """Each level that was run, with the figures of the cells that it adds."""
    levels = []
    for name, verdict in document["levels"].items():
        cells = figures.own_cells(document, name)
        levels.append(
            {
                "name": name,
                "verdict": verdict,
                "trainer": words.TRAINERS.get(name, ""),
                "leakage": figures.leakage_chart(cells) if cells else None,
                "scores": [
                    figures.scores_chart(document, cells, score)
                    for score in figures.score_names(document)
                    if cells
                ],
            }
        )
    return levels


def _curves(document: Document) -> list[Curves]:
    score = document["use"]["score"]
    drawn = (curves_of(document, cell, score) for cell in document["cells"])
    return [curves for curves in drawn if curves]


def _lines(document: Document, cell: Document) -> list[ScoreLine]:
    """Scores with a leakage at every epoch that was picked, the others at the last one."""
    lines = [_line(document, cell, one["score"], one["selection"], one) for one in cell["leakage"]]
    known = {one["score"] for one in cell["leakage"]} | set(NO_SCORES)
    scored = (selections.get(LAST, {}) for selections in cell["scores"].values())
    others = [score for score in next(scored, {}) if score not in known]
    return lines + [_line(document, cell, score, LAST, None) for score in others]


def _line(
    document: Document, cell: Document, score: str, selection: str, leakage: Document | None
) -> ScoreLine:
    found = [
        cell["scores"].get(arm, {}).get(selection, {}).get(score, {}) for arm in arms_of(document)
    ]
    return ScoreLine(
        score=named(score),
        selection=selection,
        arms=tuple((number(one.get("mean"), 3), spread_text(one)) for one in found),
        leakage=leakage_parts(leakage) if leakage else ("", ""),
        counts=bool(leakage and leakage.get("counts", True)),
    )


def _picture(tile: Tile) -> dict[str, Any]:
    """The panels of a tile as data URIs, and its words."""
    return {
        "panels": [_data_uri(panel) for panel in tile.panels],
        "lines": [printable(line) for line in tile.lines],
    }


def _data_uri(panel: Panel) -> str:
    """A PNG that holds nothing but the picture; empty where there is none."""
    if panel is None:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(panel).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
