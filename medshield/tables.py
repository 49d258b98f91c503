"""Results as text for a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medshield.check import CheckResult
from medshield.dataset.scan import Scan

if TYPE_CHECKING:
    from medshield.protect import Outcome
    from medshield.verify import Evidence

MOST_NAMED = 10


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


def counted(counts: dict[str, int], most: int = 6) -> str:
    """`a 3, b 2`, and how many more there are."""
    parts = [f"{name} {number}" for name, number in list(counts.items())[:most]]
    if len(counts) > most:
        parts.append(f"{len(counts) - most} more")
    return ", ".join(parts)


def scan_text(found: Scan) -> str:
    """What `scan` and `--dry-run` print."""
    facts = found.to_json()
    lines = [f"{found.source}: {len(found.files)} files; {counted(facts['actions'])}"]
    lines.append(f"formats    {counted(facts['formats'])}")
    lines.append(f"sizes      {counted(facts['sizes'])}")
    lines += [f"{name:<10} {counted(values)}" for name, values in facts["details"].items()]
    if found.annotations:
        lines.append(f"task       {found.annotations.task}")
        lines.append(f"classes    {counted(facts['class_counts'], 20)}")
        lines.append(f"patients   {facts['patients'] or 'not known'}")
        lines.append(f"splits     {counted(facts['splits'])}")
        lines += [f"inferred   {note}" for note in found.annotations.notes]
    for kind, intensity in found.ranges.items():
        lines.append(
            f"intensity  {kind}: {intensity.low:g} to {intensity.high:g}, {intensity.reason}"
        )
    radii = {
        f"{file.kind}: {file.epsilon_stored:g} stored units": None
        for file in found.files
        if file.epsilon_stored
    }
    lines += [f"radius     {text}" for text in list(radii)[:MOST_NAMED]]
    lines += _left_out(
        [(file.path, file.action, file.reason) for file in found.files if file.action != "protect"]
    )
    return "\n".join(lines)


def _left_out(files: list[tuple[str, str, str]]) -> list[str]:
    """Files that are not protected, the same reason once, the worst news first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path, action, reason in files:
        groups.setdefault((action, reason), []).append(path)
    order = {"refuse": 0, "refused": 0, "omit": 1, "omitted": 1}
    lines = []
    for (action, reason), paths in sorted(groups.items(), key=lambda item: order.get(item[0][0], 2)):
        named = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        lines.append(f"{action:<10} {named}: {reason}")
    return lines


def outcome_text(outcome: Outcome) -> str:
    """What `protect` prints."""
    summary = outcome.summary
    protected = [record for record in outcome.records if record.status == "protected"]
    fidelity = []
    for name, unit in (("psnr", " dB"), ("ssim", "")):
        values = sorted(v for r in protected if (v := getattr(r, name)) is not None and v == v)
        if values:
            fidelity.append(f"median {name.upper()} {values[len(values) // 2]:.3g}{unit}")
    bounds = Counter(
        f"{record.max_abs_delta:g} of {record.epsilon_stored:g} stored units ({record.format})"
        for record in protected
    )
    lines = [
        f"{outcome.release}: {counted(summary['counts'])}",
        f"method     {summary['method']} at {summary['epsilon']}, {summary['task']}",
        f"fidelity   {', '.join(fidelity) or 'nothing moved'}",
        *(f"moved by   {text}: {number} files" for text, number in bounds.most_common(5)),
        *_left_out(
            [(r.path, r.status, r.reason or "") for r in outcome.records if r.status != "protected"]
        ),
        f"next       medshield verify {outcome.release}",
        f"secret     {outcome.release}.private holds the key: never publish it",
    ]
    return "\n".join(lines)


def check_text(result: CheckResult) -> str:
    """What `check` prints."""
    depth = "and compared with the source" if result.compared else "without a source to compare"
    if not result.faults:
        return f"{result.release}: sound; {counted(result.checked)}, checked {depth}"
    lines = [f"{result.release}: {len(result.faults)} faults; {counted(result.checked)}"]
    lines += [f"fault      {path}: {fault}" for path, fault in result.faults[:MOST_NAMED]]
    if len(result.faults) > MOST_NAMED:
        lines.append(f"and {len(result.faults) - MOST_NAMED} more; --json names all")
    return "\n".join(lines)


def evidence_text(evidence: Evidence, report: Path) -> str:
    """What `verify` prints: the verdict first, then a table of all cells."""
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
    )
    for name, values in facts["fidelity"].items():
        lines.append(f"{name.upper()}: median {values['median']:.3g}, worst {values['worst']:.3g}")
    parts = facts["examples"]
    lines.append(
        f"{parts['train']} training, {parts['val']} validation, {parts['test']} clean test images; "
        f"{facts['seeds']} seeds; {facts['epochs']['standard']} epochs; {facts['seconds']:.0f} s"
    )
    lines += [f"note: {note}" for note in facts["notes"]]
    lines.append(f"report: {report}")
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
