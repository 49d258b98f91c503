"""The outcome of a measurement as tables in Markdown."""

import importlib.metadata
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.tools.trial import CATEGORIES, Outcome

OURS = ("DICOM", "NIfTI", "PNG", "TIFF", "JPEG")
PACKAGES = ("medshield", "pydicom", "nibabel", "pillow", "imagecodecs", "tifffile", "python-gdcm")
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class DataSet:
    """A folder and what became of each of its files."""

    name: str
    outcomes: tuple[Outcome, ...]

    def of(self, category: str) -> list[Outcome]:
        """The files of one category."""
        return [outcome for outcome in self.outcomes if outcome.category == category]

    @property
    def images(self) -> list[Outcome]:
        """What counts: losslessly coded, of medshield's formats, decoded by the reader.

        Not among them: what is no image but has pixels (RTDOSE, SEG), which is copied.
        """
        return [
            outcome
            for outcome in self.outcomes
            if outcome.lossless and outcome.format in OURS and outcome.category != "copied"
        ]

    @property
    def misses(self) -> list[Outcome]:
        """Of the images that count, those that are not protected."""
        return [outcome for outcome in self.images if outcome.category != "exact"]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, or a word where it has no rows; numbers to the right."""
    rows = list(rows)
    if not rows:
        return "None."
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    numeric = [
        any(row[k] for row in cells) and all(re.fullmatch(r"[\d.% -]*", row[k]) for row in cells)
        for k in range(len(header))
    ]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(header), rule, *cells])


def share(part: int, whole: int) -> str:
    """87/88 as 98.9 %."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def files_table(sets: Sequence[DataSet]) -> str:
    """A row for each data set."""
    rows = []
    for found in sets:
        counts = [len(found.of(category)) for category in CATEGORIES]
        rows.append((found.name, len(found.outcomes), *counts))
    totals = [sum(row[k] for row in rows) for k in range(1, len(CATEGORIES) + 2)]
    return table(("data set", "files", *CATEGORIES), [*rows, ("all", *totals)])


def share_table(sets: Sequence[DataSet]) -> str:
    """How many of the losslessly coded images are protected."""
    together = DataSet("all", tuple(o for found in sets for o in found.outcomes))
    rows = []
    for found in (*sets, together):
        images, stuck = found.images, sum(o.stuck for o in found.images)
        alone = sum(o.alone for o in found.images)
        exact = len(images) - len(found.misses)
        if images:
            rows.append(
                (
                    found.name,
                    len(images),
                    exact,
                    share(exact, len(images)),
                    stuck,
                    share(exact, len(images) - stuck),
                    alone,
                    share(exact + alone, len(images) - stuck),
                )
            )
    header = (
        "data set",
        "images",
        "protected",
        "share",
        "can't move",
        "share without those",
        "protected alone",
        "share with those",
    )
    return table(header, rows)


def lossy_table(sets: Sequence[DataSet]) -> str:
    """The same of lossy codings."""
    rows = []
    for found in sets:
        images = [
            o
            for o in found.outcomes
            if o.format in OURS and not o.lossless and o.category != "copied"
        ]
        exact = sum(o.category == "exact" for o in images)
        if images:
            rows.append((found.name, len(images), exact, share(exact, len(images))))
    return table(("data set", "images", "protected", "share"), rows)


def misses_table(sets: Sequence[DataSet]) -> str:
    """Every losslessly coded image that could move and is not protected all the same."""
    rows = [
        (found.name, o.path, f"{o.format}, {o.kind}", "yes" if o.alone else "", o.reason)
        for found in sets
        for o in found.misses
        if not o.stuck
    ]
    return table(("data set", "file", "kind", "protected alone", "reason"), rows)


def stuck_table(sets: Sequence[DataSet]) -> str:
    """What can't move by arithmetic, counted by kind."""
    counts = Counter(
        (found.name, f"{o.format}, {o.kind.removesuffix(', interlaced')}", alike(o.reason))
        for found in sets
        for o in found.misses
        if o.stuck
    )
    rows = [(name, kind, n, reason) for (name, kind, reason), n in sorted(counts.items())]
    return table(("data set", "kind", "files", "reason"), rows)


def alike(reason: str) -> str:
    """A reason without its numbers, so that like ones are counted together.

    Numbers that are part of a name stay: of a tag, a section, a photometric interpretation.
    """
    return re.sub(r"(?<![\w(.,])\d+(\.\d+)?(?![\w).]|,\d)", "n", reason)


def reasons_table(sets: Sequence[DataSet], category: str) -> str:
    """Each reason, how often it was given and for which files."""
    files: dict[str, list[str]] = {}
    for found in sets:
        for outcome in found.of(category):
            reason = alike(outcome.reason)
            files.setdefault(reason, []).append(Path(outcome.path).name)
    rows = []
    for reason, names in sorted(files.items(), key=lambda item: (-len(item[1]), item[0])):
        distinct = sorted(set(names))
        more = ", ..." if len(distinct) > MOST_EXAMPLES else ""
        rows.append((len(names), reason, ", ".join(distinct[:MOST_EXAMPLES]) + more))
    return table(("files", "reason", "such as"), rows)


def kinds_table(sets: Sequence[DataSet], formats: Sequence[str]) -> str:
    """Each transfer syntax or type of image that a reader decodes."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for outcome in (o for found in sets for o in found.outcomes if o.format in formats):
        counter = counts.setdefault((outcome.format, outcome.kind), Counter())
        counter[outcome.category] += 1
        counter["stuck"] += outcome.stuck
    rows = [
        (fmt, kind, sum(c[name] for name in CATEGORIES), *(c[name] for name in CATEGORIES))
        for (fmt, kind), c in sorted(counts.items())
    ]
    return table(("format", "kind", "files", *CATEGORIES), rows)


def generated_table(made: DataSet) -> str:
    """How many generated files of each format are exact; they count nowhere else."""
    rows = []
    for name in OURS:
        files = [o for o in made.outcomes if o.format == name]
        if not files:
            continue
        forms = "; ".join(Path(o.path).stem for o in files)
        others = [f"{o.path}: {o.reason}" for o in files if o.category != "exact"]
        rows.append((name, len(files), len(files) - len(others), forms, "; ".join(others)))
    return table(("format", "files", "exact", "forms", "not exact"), rows)


def size_table(sets: Sequence[DataSet]) -> str:
    """Size of the written file over that of its source, and how much of it is as asked for."""
    files: dict[str, list[Outcome]] = {}
    for found in sets:
        for outcome in found.of("exact"):
            files.setdefault(_size_group(found, outcome), []).append(outcome)
    rows = []
    for name, outcomes in sorted(files.items()):
        ratios = [outcome.ratio or 0.0 for outcome in outcomes]
        middle, high = np.percentile(ratios, (50, 90))
        asked = statistics.median(outcome.as_asked or 0.0 for outcome in outcomes)
        rows.append((name, len(outcomes), f"{middle:.2f}", f"{high:.2f}", f"{100 * asked:.0f} %"))
    return table(("format", "files", "median", "90th percentile", "values as asked, median"), rows)


def _size_group(found: DataSet, outcome: Outcome) -> str:
    """What files of a like size are called."""
    if outcome.format == "DICOM":
        return f"DICOM, {outcome.kind}"
    if outcome.format == "NIfTI":
        return "NIfTI, gzip" if outcome.path.endswith(".gz") else "NIfTI, plain"
    return f"JPEG, {found.name}" if outcome.format == "JPEG" else outcome.format


def versions() -> str:
    """The packages that the figures come from."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return f"Python {sys.version.split()[0]}, " + ", ".join(found)


def tables(sets: Sequence[DataSet], made: DataSet | None, epsilon: Fraction) -> str:
    """All tables."""
    others = sorted({o.format for found in sets for o in found.outcomes if o.format} - set(OURS))
    parts = [
        f"Epsilon {epsilon}; {versions()}.",
        "### Every file",
        files_table(sets),
        "### Losslessly coded images that pydicom, Pillow, tifffile or nibabel decodes",
        share_table(sets),
        "Those that are not protected, each with its reason:",
        misses_table(sets),
        "Those that can't move, as their coding has no other value within epsilon:",
        stuck_table(sets),
        "### Images of a lossy coding",
        lossy_table(sets),
        "### Refused, and why",
        reasons_table(sets, "refused"),
        "### Copied or omitted, and why",
        reasons_table(sets, "copied"),
        reasons_table(sets, "omitted"),
        "### By transfer syntax and type",
        kinds_table(sets, OURS),
    ]
    if others:
        parts += ["Images of other formats, which nibabel decodes:", kinds_table(sets, others)]
    parts += ["### Size of the written file over that of its source", size_table(sets)]
    if made:
        parts += ["### Generated files, one of each kind", generated_table(made)]
    if any(found.of("wrong") for found in sets):
        parts += ["### Wrong", reasons_table(sets, "wrong")]
    return "\n\n".join(parts)


def document(
    sets: Sequence[DataSet], made: DataSet | None, epsilon: Fraction, path: Path | None
) -> None:
    """Print the tables, or renew their block in a document."""
    text = tables(sets, made, epsilon)
    if path is None:
        sys.stdout.write(text + "\n")
    else:
        renew(path, "tables", text)


def renew(path: Path, name: str, text: str) -> None:
    """Put a text between a document's two lines that name the block.

    Raises:
        ValueError: the document has no such block.
    """
    first, last = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if not path.exists():
        raise ValueError(f"{path}: no such document; it must have a line {first} and {last}")
    before, found, rest = path.read_text(encoding="utf-8").partition(first)
    _, closed, after = rest.partition(last)
    if not (found and closed):
        raise ValueError(f"{path} has no block {name!r}")
    path.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}", encoding="utf-8")
