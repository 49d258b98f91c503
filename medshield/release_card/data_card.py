"""A release as a page in plain words, for a person who finds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from medshield.manifest import CHECKSUMS, CROISSANT, MANIFEST, Record
from medshield.release_card.facts import TO_FILL_IN, CardFacts
from medshield.release_card.words import (
    NOT_A_LICENCE,
    NOT_FOR_DIAGNOSIS,
    NOT_FOR_TRAINING,
    STATUS_WORDS,
    manipulation,
)
from medshield.text import markdown, printable

NO_VERDICT = "How much of what the originals teach is left in this release is not stated here."


def data_card(
    name: str,
    records: Sequence[Record],
    summary: Mapping[str, Any],
    facts: CardFacts,
    verdict: Sequence[str] = (),
) -> str:
    """The page, in Markdown; it names no file of the source and no class.

    Args:
        name: of the data set.
        records: of the manifest.
        summary: what `medshield.json` says.
        facts: what the owner says; where nothing is said, `TO_FILL_IN` stands.
        verdict: sentences of what `verify` found; none where that is not to be told.
    """
    protected = [record for record in records if record.status == "protected"]
    counts = Counter(record.status for record in records)
    lines = [f"# {markdown(name)}", "", "## What was done to the images", ""]
    lines += [markdown(manipulation(summary)), ""]
    lines += ["| kind of files | intensity range | epsilon of it |", "| --- | --- | --- |"]
    lines += [
        f"| {markdown(printable(kind))} | {low:g} to {high:g} | {summary['epsilon']} of "
        f"{high - low:g} |"
        for kind, low, high in (
            (kind, float(found["low"]), float(found["high"]))
            for kind, found in summary["intensity"].items()
        )
    ]
    lines += ["", *_measured(protected, summary)]
    lines += ["", "## Files", "", "| status | files | what |", "| --- | --- | --- |"]
    lines += [
        f"| {status} | {counts[status]} | {meaning} |"
        for status, meaning in STATUS_WORDS.items()
        if counts[status]
    ]
    formats = Counter(printable(record.format) for record in protected)
    told = ", ".join(f"{markdown(kind)} ({formats[kind]})" for kind in sorted(formats))
    lines += ["", f"Formats of the protected images: {told}. {MANIFEST} has a line for each file."]
    lines += ["", "## Before you use them", ""]
    lines += [f"- {text}" for text in (NOT_FOR_DIAGNOSIS, NOT_FOR_TRAINING, NOT_A_LICENCE)]
    lines += [
        "- For permission, or for the originals, which are not part of this release: "
        + _told(facts.contact, "whom to ask, and how"),
        "",
        "## How it was checked",
        "",
        f"`sha256sum -c {CHECKSUMS}` says whether the files are those that were released, and "
        "`medshield check .` reads each of them again.",
        "",
        *(markdown(sentence) for sentence in verdict or (NO_VERDICT,)),
        "",
        "## Licence and origin",
        "",
        f"- Licence: {_told(facts.license, 'the licence, best as its address')}",
        f"- Creator: {_told(facts.creator, 'who made the data set')}",
        f"- Page: {_told(facts.url, 'the address of the data set')}",
        f"- Published: {_told(facts.published, 'the day')}",
        f"- Version: {_told(facts.version, 'such as 1.0.0')}",
        f"- How to cite: {_told(facts.cite_as, 'a citation')}",
        "",
        f"{CROISSANT} says the same for programs.",
    ]
    return "\n".join(lines) + "\n"


def _told(text: str | None, what: str) -> str:
    return markdown(printable(text)) if text else f"**{TO_FILL_IN}: {what}**"


def _measured(protected: Sequence[Record], summary: Mapping[str, Any]) -> list[str]:
    """The written files beside their originals, as the manifest has it."""
    used = [
        r.max_abs_delta / r.epsilon_stored
        for r in protected
        if r.max_abs_delta is not None and r.epsilon_stored
    ]
    parts = (
        [f"the furthest move of a value was {100 * max(used):.0f} % of its bound"] if used else []
    )
    measures: tuple[tuple[str, Callable[[Record], float | None], str], ...] = (
        ("PSNR", lambda record: record.psnr, "{:.1f} dB"),
        ("SSIM", lambda record: record.ssim, "{:.3f}"),
    )
    for name, measure, form in measures:
        values = [value for value in map(measure, protected) if value is not None]
        if values:
            middle, worst = form.format(median(values)), form.format(min(values))
            parts.append(f"{name} is {middle} in the median and {worst} in the worst file")
    if summary.get("min_ssim") is not None:
        parts.append(f"every frame keeps an SSIM of at least {summary['min_ssim']:g}")
    return [f"Measured on the files of this release: {'; '.join(parts)}."] if parts else []
