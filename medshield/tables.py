"""Results as text for a person."""

from __future__ import annotations

import shlex
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from medshield.manifest import CARD_FILES, CHECKSUMS, DATA_CARD
from medshield.places import Places
from medshield.release_card.facts import TO_FILL_IN
from medshield.text import counted, listed, printable

if TYPE_CHECKING:
    from medshield.bagging import Bag
    from medshield.checking import CheckResult
    from medshield.dataset.annotations import Labelling
    from medshield.dataset.scanned import Scan
    from medshield.fitting import FitOutcome
    from medshield.manifest import Record
    from medshield.preview import Preview
    from medshield.release_card import Card
    from medshield.release_run import Outcome
    from medshield.shares import ShareOutcome
    from medshield.verifying import Evidence

MOST_NAMED = 10
MOST_OF_A_REASON = 3
MOST_CLASSES = 20
MOST_RADII = 4
MEASURES = {"haarpsi": "HaarPSI"}
"""Names that are not written in capitals."""
MISREAD = "models trained on clean images misread these, and so may readers: not for diagnosis"
GREY_MASKS = "grey images with masks were not protected where this was tried: measure it"
WEAKER = "protection is far weaker than with labels, and may be none: measure it"


def columns(rows: list[list[str]]) -> str:
    """Rows as aligned columns, the first one flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or not _is_number(cell) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:2].lstrip("-")[:1].isdigit()


def _facts(rows: list[tuple[str, str]]) -> str:
    """Names and what there is to say of them, aligned; rows that say nothing are left out."""
    said = [(name, printable(text)) for name, text in rows if text]
    width = max((len(name) for name, _ in said), default=0)
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in said)


def scan_text(found: Scan) -> str:
    """What `scan` and `--dry-run` print."""
    facts = found.to_json()
    plans = {"protect": "to protect", "copy": "to copy", "omit": "to omit", "refuse": "refused"}
    actions = {plans[name]: facts["actions"][name] for name in plans if name in facts["actions"]}
    rows = [("formats", listed(facts["formats"])), ("sizes", listed(facts["sizes"]))]
    rows += [(name, listed(values)) for name, values in facts["details"].items()]
    if found.annotations:
        known = facts["patients"] or "not known: every file counts as its own"
        rows += [
            ("task", found.annotations.task),
            ("classes", listed(facts["class_counts"], MOST_CLASSES)),
            ("labels", _clusters(found.annotations)),
            ("patients", str(known)),
            ("splits", "" if set(facts["splits"]) == {"none"} else listed(facts["splits"])),
            *(("found", note) for note in found.annotations.notes),
        ]
    rows += [
        ("intensity", f"{kind}: {r.low:.6g} to {r.high:.6g} ({r.reason})")
        for kind, r in found.ranges.items()
    ]
    rows += _radii(found)
    rows += _left_out((f.path, plans[f.action], f.reason) for f in found.files if f.reason)
    files = f"{len(found.files)} file{'s' if len(found.files) != 1 else ''}"
    return f"{printable(str(found.source))}: {files}; {counted(actions)}\n{_facts(rows)}"


def _clusters(found: Labelling) -> str:
    """What stands in for labels, and what that costs; nothing where labels are used."""
    if found.labelled:
        return ""
    return (
        f"none used: images are put into {len(found.classes)} clusters by what they look like; "
        f"{WEAKER}"
    )


def _radii(found: Scan) -> list[tuple[str, str]]:
    """How far a stored value of each kind may move; slopes make several radii of one range."""
    radii: dict[str, Counter[float]] = {}
    for file in found.files:
        if file.epsilon_stored:
            radii.setdefault(file.kind, Counter())[file.epsilon_stored] += 1
    return [
        ("radius", f"{kind}: {_each_radius(radii[kind])}") for kind in found.ranges if kind in radii
    ]


def _each_radius(counts: Counter[float]) -> str:
    """`12 stored units`, or `12 stored units in 40 files, 6 in 2`, or only the ends of many."""
    if len(counts) > MOST_RADII:
        files = counts.total()
        return (
            f"{min(counts):.6g} to {max(counts):.6g} stored units, by the slopes of {files} files"
        )
    (radius, number), *others = counts.most_common()
    if not others:
        return f"{radius:.6g} stored units"
    rest = "".join(f", {radius:.6g} in {number}" for radius, number in others)
    return f"{radius:.6g} stored units in {number} files{rest}"


def _left_out(files: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Files that are not protected, the same reason once, the worst news first."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], list[str]] = {}
    for path, what, reason in files:
        counts[what, reason] += 1
        if counts[what, reason] <= MOST_OF_A_REASON:
            first.setdefault((what, reason), []).append(path)
    order = {"refused": 0, "omitted": 1, "to omit": 1}
    rows = []
    for (what, reason), paths in sorted(first.items(), key=lambda item: order.get(item[0][0], 2)):
        more = counts[what, reason] - len(paths)
        named = ", ".join(paths) + (f" and {more} more" if more else "")
        rows.append((what, f"{named}: {reason}"))
    return rows


def outcome_text(outcome: Outcome) -> str:
    """What `protect` prints."""
    from medshield.methods import METHODS  # PyTorch, which `protect` has loaded by now

    summary = outcome.summary
    masks_of_grey = summary["task"] == "segmentation" and summary["channels"] == 1
    misread = summary["task"] in METHODS[summary["method"]].misleads
    labels = "" if summary["labels_used"] else " --labels CSV, where there are labels after all"
    measured = _Measured.of(outcome.records)
    fidelity = [
        f"median {name} {median(values):.3g}{unit}"
        for name, unit, values in (("PSNR", " dB", measured.psnr), ("SSIM", "", measured.ssim))
        if values
    ]
    rows = [
        ("method", f"{summary['method']} at {summary['epsilon']}, {summary['task']}"),
        ("asked", _asked(outcome.backbone)),
        ("labels", "" if summary["labels_used"] else f"none used, but clusters; {WEAKER}"),
        *_bounds(measured.moved),
        ("use", MISREAD if misread else ""),
        ("masks", GREY_MASKS if masks_of_grey else ""),
        ("fidelity", ", ".join(fidelity)),
        *_left_out((r.path, r.status, r.reason or "") for r in outcome.records if r.reason),
        ("card", _card_row(outcome.card, outcome.release)),
        ("secret", f"{Places(outcome.release).private} holds the key: never publish it"),
        ("next", f"medshield verify {shlex.quote(str(outcome.release))}{labels}"),
    ]
    return f"{printable(str(outcome.release))}: {_statuses(summary['counts'])}\n{_facts(rows)}"


def _card_row(names: tuple[str, ...], release: Path) -> str:
    command = f"medshield card {shlex.quote(str(release))} --license ADDRESS"
    return f"{' and '.join(names)}; licence and contact are missing: {command}" if names else ""


def card_text(written: Card) -> str:
    """What `card` prints."""
    left = (
        f"{written.to_fill_in} lines of {DATA_CARD} say {TO_FILL_IN}" if written.to_fill_in else ""
    )
    rows = [
        ("left", left),
        ("next", f"medshield check {shlex.quote(str(written.release))}"),
    ]
    head = f"{printable(str(written.release))}: {' and '.join(CARD_FILES)}, {CHECKSUMS} renewed"
    return f"{head}\n{_facts(rows)}"


def bag_text(bag: Bag) -> str:
    """What `bag` prints."""
    how = "linked, so they take no room twice" if bag.linked else "copied"
    rows = [("files", f"{bag.files} with {bag.bytes} bytes, {how}")]
    return f"{printable(str(bag.path))}: a bag of {printable(str(bag.release))}\n{_facts(rows)}"


def share_text(outcome: ShareOutcome) -> str:
    """What `protect --shard` prints."""
    share, release = outcome.share, str(outcome.release)
    earlier = outcome.files - outcome.written
    by_earlier = {"by an earlier run": earlier} if earlier else {}
    counts = counted({"written": outcome.written, **by_earlier})
    refused = f", {outcome.refused} refused" if outcome.refused else ""
    rows = [("next", f"medshield merge {shlex.quote(release)}, when all shares are written")]
    head = f"{printable(release)}: share {share.number} of {share.count}"
    return f"{head}: {counts}{refused}\n{_facts(rows)}"


def _asked(backbone: str | None) -> str:
    return f"{backbone} from ImageNet, beside the method's own surrogates" if backbone else ""


def _statuses(counts: dict[str, int]) -> str:
    order = ("protected", "copied", "omitted", "refused")
    return counted({name: counts[name] for name in order if name in counts})


def fit_text(outcome: FitOutcome) -> str:
    """What `fit` prints."""
    output = outcome.folder
    facts = outcome.generator.facts()
    rows = [
        ("method", f"{facts['method']} at {facts['epsilon']}, {facts['task']}"),
        ("asked", _asked(facts.get("pretrained"))),
        ("classes", ", ".join(facts["classes"][:MOST_CLASSES])),
        ("labels", "" if facts["labels_used"] else f"none used, but clusters; {WEAKER}"),
        *_left_out([(path, "refused", reason) for path, reason in outcome.refused.items()]),
        ("secret", "whoever has it can undo the protection: never publish it"),
        ("next", f"medshield protect SOURCE --generator {shlex.quote(str(output))}"),
    ]
    return f"{printable(str(output))}: a generator\n{_facts(rows)}"


@dataclass
class _Measured:
    """The numbers of protected files, which may be many.

    Attributes:
        psnr, ssim: as far as they are known.
        moved: how far stored values moved, by format and radius.
    """

    psnr: array[float] = field(default_factory=lambda: array("d"))
    ssim: array[float] = field(default_factory=lambda: array("d"))
    moved: dict[tuple[str, float], array[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> _Measured:
        """Those of the records whose files are protected."""
        found = cls()
        for record in records:
            if record.status != "protected":
                continue
            for value, values in ((record.psnr, found.psnr), (record.ssim, found.ssim)):
                if value is not None and not isnan(value):
                    values.append(value)
            group = record.format, record.epsilon_stored or 0.0
            found.moved.setdefault(group, array("d")).append(record.max_abs_delta or 0.0)
        return found


def _bounds(groups: Mapping[tuple[str, float], Sequence[float]]) -> list[tuple[str, str]]:
    """How far stored values moved, in each format and radius."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        ("moved", f"{name}: at most {max(moved):.6g} of {radius:.6g} stored units ({len(moved)})")
        for (name, radius), moved in ordered[:MOST_NAMED]
    ]


def check_text(result: CheckResult) -> str:
    """What `check` prints."""
    name = printable(str(result.release))
    if not result.faults:
        depth = (
            "checksums, the bound, and nothing but pixels changed"
            if result.compared
            else "checksums and readability; --source also checks the bound and the headers"
        )
        rows = [("checked", depth), *_size_rows(result)]
        return f"{name}: sound ({_statuses(result.checked)})\n{_facts(rows)}"
    number = f"{len(result.faults)} fault{'s' if len(result.faults) != 1 else ''}"
    rows = [("fault", f"{path}: {fault}") for path, fault in result.faults[:MOST_NAMED]]
    if len(result.faults) > MOST_NAMED:
        rows.append(("", f"and {len(result.faults) - MOST_NAMED} more; --json names all"))
    return f"{name}: {number} ({_statuses(result.checked)})\n{_facts(rows)}"


def _size_rows(result: CheckResult) -> list[tuple[str, str]]:
    return [
        ("size", f"{format_}: {median(ratios):.2f} times the source's in the median")
        for format_, ratios in result.sizes.items()
    ]


def preview_text(drawn: Preview | None) -> str:
    """Where the contact sheet is, and which file each of its numbers stands for."""
    if drawn is None:
        return _facts([("preview", "not written, as there is no image to show")])
    rows = [("preview", f"{drawn.path} shows clean images: keep it as private as the source")]
    rows += [(str(number), path) for number, path in enumerate(drawn.images, 1)]
    return _facts(rows)


def evidence_text(evidence: Evidence, folder: Path) -> str:
    """What `verify` prints: the verdict first, then a table of all cells.

    Args:
        evidence: what was found.
        folder: where the reports are.
    """
    from medshield.reports.words import (
        drop_text,
        limit_text,
        trainings_text,
    )  # PyTorch, which `verify` has loaded by now

    facts = evidence.facts
    lines = [
        f"{facts['release']}: {str(evidence.verdict).upper()} (threat level {facts['threat']}; "
        f"{facts['method']} at {facts['epsilon']})",
        "",
        *score_table(evidence),
        "",
    ]
    for result in evidence.cells:
        verdict, why = result.judged(evidence.threat)
        lines.append(f"{result.cell.name}: {verdict}: {why}")
    lines += ["", *(f"level {name}: {verdict}" for name, verdict in evidence.levels.items())]
    lines += [
        f"not run at {level}: {', '.join(names)}"
        for level, names in evidence.not_run.items()
        if names
    ]
    use = facts["use"]
    lines.append(
        f"use kept: a model trained on clean images scores {_value(use['on_clean'])} on clean and "
        f"{_value(use['on_protected'])} on protected images ({use['score'].replace('_', ' ')})"
        f"{drop_text(use)}"
    )
    for name, values in facts["fidelity"].items():
        shown = MEASURES.get(name, name.upper())
        lines.append(f"{shown}: median {values['median']:.3g}, worst {values['worst']:.3g}")
    parts = facts["examples"]
    lines.append(
        f"{parts['train']} training, {parts['val']} validation, {parts['test']} clean test images; "
        f"trainings per arm: {trainings_text(evidence.to_json())}; "
        f"{facts['epochs']['standard']} epochs; {facts['seconds']:.0f} s"
    )
    lines += [f"note: {note}" for note in facts["notes"]]
    if limit := limit_text(facts):
        lines.append(limit)
    lines.append(f"report: {folder / 'report.html'} (and report.md, report.json)")
    return "\n".join(lines)


def score_table(evidence: Evidence) -> list[str]:
    """Scores of every arm of every cell at the last epoch, mean and spread over seeds."""
    floor: dict[str, float] = evidence.facts["floor"]
    names = [name for name in floor if name != "predicted_foreground"]
    header = ["cell", "arm", *(name.replace("_", " ") for name in names)]
    rows = [header]
    for result in evidence.cells:
        for arm in evidence.facts["arms"]:
            scores = result.scores[arm]["last epoch"]
            rows.append([result.cell.name, arm, *(_value(scores[name]) for name in names)])
    rows.append(["any", "constant", *(f"{floor[name]:.3f}" for name in names)])
    return columns(rows).splitlines()


def _value(score: dict[str, Any]) -> str:
    spread = score["sd"]
    return f"{score['mean']:.3f}" + (f" ±{spread:.3f}" if spread is not None else "")
