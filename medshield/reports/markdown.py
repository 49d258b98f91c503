"""The evidence as a short Markdown page, for a pull request or a data card."""

from __future__ import annotations

from medshield.reports import words
from medshield.reports.document import Document, arms_of, named, score_text
from medshield.text import markdown as _plain
from medshield.trials import LAST


def page(document: Document) -> str:
    """The page; no name of a file of the release is on it.

    Args:
        document: made `readable`.
    """
    said = words.summary(document)
    use = document["use"]
    lines = [
        f"# {_plain(document['release'])}: {said.verdict}",
        "",
        f"{_plain(said.question)} **{_plain(said.answer)}**",
        "",
        _plain(f"{said.holds} {said.breaks}".rstrip()),
        "",
    ]
    lines += [f"{_plain(said.limit[0].upper() + said.limit[1:])}.", ""] if said.limit else []
    lines += _cells(document, use["score"])
    lines += _not_run(document)
    lines += ["## Use kept", "", _plain(words.use_text(document)), ""]
    lines += [
        f"- {_plain(name)}: median {median}, worst {worst}"
        for name, median, worst in words.fidelity_rows(document)
    ]
    lines += ["", "## How it was made", ""]
    lines += [f"- {name}: {_plain(text)}" for name, text in words.made_rows(document)]
    lines += [f"- note: {_plain(note)}" for note in document.get("notes", [])]
    return "\n".join(lines) + "\n"


def _cells(document: Document, score: str) -> list[str]:
    arms = arms_of(document)
    header = ["cell", "level", "verdict", "leakage that decides", *arms]
    rows = [
        [
            cell["cell"],
            cell["level"],
            cell["verdict"],
            words.cell_leakage(cell),
            *(score_text(cell["scores"].get(arm, {}).get(LAST, {}).get(score, {})) for arm in arms),
        ]
        for cell in document["cells"]
    ]
    lines = [
        f"Arms: {named(score)} on clean test images at the last epoch, mean over trainings "
        f"({words.trainings_text(document)}).",
        "",
        _row(header),
        _row(["---"] * len(header), plain=False),
        *(_row(row) for row in rows),
        "",
    ]
    return ["## Cells", "", *lines]


def _not_run(document: Document) -> list[str]:
    if not document["not_run"]:
        return []
    return [
        "## Not run",
        "",
        *(f"- {level}: {_plain(', '.join(names))}" for level, names in document["not_run"].items()),
        "",
    ]


def _row(cells: list[str], *, plain: bool = True) -> str:
    return "| " + " | ".join(_plain(cell) if plain else cell for cell in cells) + " |"
