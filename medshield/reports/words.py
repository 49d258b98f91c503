"""What a verification says, in plain sentences: the same ones on every report."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from medshield.evidence import CONFIDENCE, Verdict
from medshield.reports.document import (
    NOTHING,
    Document,
    decisive,
    highest,
    leakage_text,
    named,
    number,
    score_text,
)

TRAINERS = {
    "basic": "trains usual models from scratch on what was released",
    "determined": (
        "also starts from pretrained models, trains adversarially, filters and compresses the "
        "images, and has a few clean ones to choose an epoch by"
    ),
    "expert": "also mixes in clean images and goes after the perturbation itself",
}
"""What each threat level takes someone to do."""
MOST_NAMED = 3
UNDECIDED = "That can't be told from what was run."


@dataclass(frozen=True)
class Summary:
    """What stands at the top of a report.

    Attributes:
        verdict: of the level asked for.
        question, answer: what was asked, and what came out.
        holds: which levels hold.
        breaks: what breaks the first level that does not hold, or leaves it open; empty if all do.
        limit: whether leakage keeps to the limit that was set; empty where none was.
    """

    verdict: str
    question: str
    answer: str
    holds: str
    breaks: str
    limit: str


def summary(document: Document) -> Summary:
    """The summary of a document."""
    threat = document["threat"]
    return Summary(
        verdict=document["verdict"],
        question=(
            f"Does {document['release']} keep models from learning from it, against someone who "
            f"{TRAINERS[threat]} (threat level {threat})?"
        ),
        answer=_answer(document),
        holds=_holds(document),
        breaks=_breaks(document),
        limit=limit_text(document),
    )


def cells_at(document: Document, level: str) -> list[Document]:
    """The cells that a level is judged by: its own and those of the levels below."""
    levels = list(document["levels"])
    below = levels[: levels.index(level) + 1]
    return [cell for cell in document["cells"] if cell["level"] in below]


def judged(cell: Document, level: str) -> tuple[str, str]:
    """What a cell says of a level, and why."""
    found = _at(cell, level)
    return found["verdict"], found["why"]


def _at(cell: Document, level: str) -> Document:
    """What a cell says of a level, all of it."""
    found: Document = cell.get("judged", {}).get(level, cell)
    return found


def _worst(cells: list[Document], level: str) -> Document | None:
    def badness(cell: Document) -> tuple[int, bool, float]:
        severity = Verdict(judged(cell, level)[0]).severity
        return severity, _at(cell, level).get("surely_leaks", False), highest(cell) or 0.0

    return max(cells, key=badness, default=None)


def _answer(document: Document) -> str:
    worst = _worst(cells_at(document, document["threat"]), document["threat"])
    found = decisive(worst) if worst else None
    if document["verdict"] == Verdict.INCONCLUSIVE or found is None:
        return UNDECIDED
    upper = 1.0 if found["high"] is None else max(0.0, found["high"])
    if not upper and document["verdict"] == Verdict.PROTECTED:
        return (
            "Yes: nothing of what the clean images teach is shown to be left in the release; "
            "models that trained on it do no better than a constant guess (upper end of the "
            f"{100 * CONFIDENCE:.0f} % interval in the worst cell: {number(found['high'])})."
        )
    share = "all" if upper >= 1 else f"{max(1, round(100 * upper))} %"
    start = {
        Verdict.PROTECTED: "Yes: at most",
        Verdict.PARTLY: "In part: up to",
        Verdict.NOT_PROTECTED: "No: up to",
    }[Verdict(document["verdict"])]
    return (
        f"{start} {share} of what the clean images teach is left in the release (upper end of the "
        f"{100 * CONFIDENCE:.0f} % interval in the worst cell)."
    )


def _holds(document: Document) -> str:
    levels = document["levels"]
    holding = [name for name, verdict in levels.items() if verdict == Verdict.PROTECTED]
    if holding:
        return f"The release holds at threat level {' and '.join(holding)}."
    if len(levels) == 1:
        return f"Only level {next(iter(levels))} was run."
    return f"None of the levels that were run ({', '.join(levels)}) is shown to hold."


def _breaks(document: Document) -> str:
    """What stands in the way at the first level that does not hold."""
    levels = document["levels"]
    level = next((name for name in levels if levels[name] != Verdict.PROTECTED), None)
    if level is None:
        return ""
    worst = _worst(cells_at(document, level), level)
    verdict, why = judged(worst, level) if worst else (Verdict.PROTECTED, "")
    if worst and verdict not in (Verdict.PROTECTED, Verdict.INCONCLUSIVE):
        if _at(worst, level).get("surely_leaks", False):
            return f"Level {level} is broken by {worst['cell']}: {why}."
        trained_again = worst.get("seeds", 0) > document["seeds"]
        option = "--most-seeds" if trained_again else "--seeds"
        return (
            f"Level {level} is not shown to hold against {worst['cell']}: {why}. More trainings "
            f"({option}) would narrow the interval."
        )
    open_for = [f"{worst['cell']}: {why}"] if worst and verdict == Verdict.INCONCLUSIVE else []
    if missing := missing_at(document, level):
        few = ", ".join(name.partition(": ")[0] for name in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        open_for.append(f"not run: {few}{more}")
    return f"Level {level} stays open ({'; '.join(open_for)})."


def missing_at(document: Document, level: str) -> list[str]:
    """What a level and those below declare and was not run."""
    levels = list(document["levels"])
    below = levels[: levels.index(level) + 1]
    return [name for one in below for name in document["not_run"].get(one, [])]


def limit_text(document: Document) -> str:
    """Whether the limit of `--fail-above` is met; nothing where none was set."""
    limit = document.get("limit")
    if not limit:
        return ""
    result = {True: "met", False: "not met", None: "can't be told"}[limit["met"]]
    reached = "" if limit["highest"] is None else f" (it reaches {number(limit['highest'])})"
    return f"limit: leakage at most {limit['leakage']:g}: {result}{reached}"


def drop_text(use: Document) -> str:
    """How much less it scores on protected images; nothing where that is not known."""
    drop = use.get("drop")
    if not drop or not all(value is not None and isfinite(value) for value in drop.values()):
        return ""
    return f", a drop of {number(drop['mean'])} [{number(drop['low'])}, {number(drop['high'])}]"


def use_text(document: Document) -> str:
    """What a model that was trained on clean images makes of the protected ones."""
    use = document.get("use")
    if not use:
        return ""
    return (
        f"A model trained on clean images ({use['victim']}) scores "
        f"{score_text(use['on_clean'])} on clean and {score_text(use['on_protected'])} on "
        f"protected test images ({named(use['score'])}){drop_text(use)}."
    )


def trainings_text(document: Document) -> str:
    """How often each arm was trained, random noise left out."""
    counts = sorted({cell["seeds"] for cell in document["cells"] if "seeds" in cell})
    if len(counts) < 2:
        return str(counts[0] if counts else document.get("seeds", ""))
    return f"{counts[0]}, and up to {counts[-1]} where intervals were wide"


def fidelity_rows(document: Document) -> list[tuple[str, str, str]]:
    """Measure, median and worst, of each measure of how alike the images look."""
    rows = []
    for name, values in document.get("fidelity", {}).items():
        digits, unit = (1, " dB") if name == "psnr" else (3, "")
        sample = f" ({values['files']} files)" if "files" in values else ""
        shown = [
            NOTHING if values.get(key) is None else f"{number(values[key], digits)}{unit}"
            for key in ("median", "worst")
        ]
        rows.append((named(name) + sample, shown[0], shown[1]))
    return rows


def made_rows(document: Document) -> list[tuple[str, str]]:
    """How the release and the evidence were made; what the document does not tell is left out."""

    def told(key: str, text: str = "{}") -> str:
        value = document.get(key)
        return "" if value is None else text.format(value)

    epochs = document.get("epochs", {})
    adversary = document.get("adversary", {})
    rows = [
        ("method", told("method")),
        ("epsilon", told("epsilon", "{} of the intensity range")),
        ("task", told("task")),
        ("threat level", told("threat")),
        ("trainings per arm", trainings_text(document)),
        ("epochs", _pairs(epochs) if len(set(epochs.values())) > 1 else _first(epochs)),
        ("victims' input", told("image_size", "{} px")),
        (
            "adversary",
            f"radius {adversary['epsilon']}, {adversary['steps']} steps" if adversary else "",
        ),
        ("images", _pairs(document.get("examples", {}))),
        ("patients", _pairs(document.get("patients", {}))),
        ("constant guess", _floor(document)),
        ("run time", told("seconds", "{:.0f} s")),
        ("versions", _pairs(document.get("versions", {}))),
    ]
    return [(name, text) for name, text in rows if text]


def _pairs(values: Document) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _first(values: Document) -> str:
    return next((str(value) for value in values.values()), "")


def _floor(document: Document) -> str:
    return ", ".join(
        f"{named(name)} {number(value, 3)}" for name, value in document.get("floor", {}).items()
    )


def cost_rows(document: Document) -> list[tuple[str, str, str]]:
    """Cell, seconds and image-passes of training one victim."""
    return [
        (cell, number(cost.get("seconds"), 1), f"{cost['passes']:,.0f}".replace(",", " "))
        for cell, cost in document.get("cost", {}).items()
        if cost
    ]


def weights_rows(document: Document) -> list[tuple[str, str, str]]:
    """Victim, file and SHA-256 of its ImageNet weights."""
    return [
        (victim, str(facts.get("file", NOTHING)), str(facts.get("sha256", NOTHING)))
        for victim, facts in document.get("weights", {}).items()
    ]


def cell_leakage(cell: Document) -> str:
    """The leakage that decides on a cell, and by what it was measured."""
    found = decisive(cell)
    if found is None:
        return NOTHING
    return f"{leakage_text(found)} by {named(found['score'])}, {found['selection']}"


def worst_files(document: Document) -> list[dict[str, Any]]:
    """The files that changed most, where the document names them."""
    return [dict(row) for row in document.get("worst_files") or [] if "path" in row]
