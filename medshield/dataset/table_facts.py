"""What the label tables in and beside a folder say of its images."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from medshield.dataset.label_columns import (
    FINDING_VALUES,
    KNOWN_NAMES,
    SPLITS,
    column_index,
    is_blank,
    is_named,
)
from medshield.dataset.label_tables import (
    MatchedTables,
    Table,
    match_tables,
    read_table,
    split_of_table,
)
from medshield.errors import InputError
from medshield.text import examples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medshield.dataset.annotation_options import AnnotationOptions
    from medshield.dataset.image_paths import ImagePaths

Value = TypeVar("Value")


@dataclass(frozen=True)
class Labels:
    """Classes of images, from one kind of place.

    Attributes:
        origin: table, tag or folders.
        by_image: one class each, or any number of findings.
        task: what they speak of, where the user does not say.
        notes: where they are from.
        vocabulary: findings that exist even where no image has them.
    """

    origin: str
    by_image: dict[str, frozenset[str]]
    task: str
    notes: tuple[str, ...]
    vocabulary: frozenset[str] = frozenset()


class TableFacts:
    """What the label tables say of each image.

    Attributes:
        labels: the classes of each image that has a label.
        patients, splits: of each image that has one.
        table_splits: the split that the name of an image's table speaks of.
        groups: the tables that say something, by header.
        ignored: tables that were not used, and why.
        unmatched: paths, in tables inside the source, that name no image.
    """

    def __init__(self, paths: ImagePaths, options: AnnotationOptions) -> None:
        self._paths = paths
        self._options = options
        self._headers: list[tuple[str, ...]] = []
        self._fits_images = False  # any table
        self.labels: dict[str, frozenset[str]] = {}
        self.patients: dict[str, str] = {}
        self.splits: dict[str, str] = {}
        self.table_splits: dict[str, str] = {}
        self.groups: list[MatchedTables] = []
        self.ignored: list[str] = []
        self.unmatched: list[str] = []

    def collect(self, source: Path, files: Sequence[str]) -> None:
        """Read the named table; or those in the source and, where they hold no label, beside it.

        Raises:
            InputError: a table that can't be read, that contradicts another or itself, that fits
                no image though it was named, or that lacks a named column.
        """
        root = Path(os.path.normpath(source.absolute()))
        if self._options.labels is not None:
            table = _named_table(root, self._options.labels)
            inside = table.is_relative_to(root)
            name = table.relative_to(root).as_posix() if inside else table.name
            self._add({table: name}, inside)
        else:
            self._add({root / f: f for f in files if _is_table(f)}, inside=True)
            if not self.labels:
                self._add(_tables_beside(root), inside=False)
        self._check_columns()
        if self._options.labels is not None and not self.groups:
            reason = self.ignored[0]
            if not self._fits_images:
                reason += (
                    "; name the column of file names with --path-col, or that of patients' folders "
                    f"with --patient-col ({_listed(self._headers[0])})"
                )
            raise InputError(f"--labels: {reason}")

    def _add(self, candidates: Mapping[Path, str], inside: bool) -> None:
        """Read tables, match those of one header together, and keep what they say."""
        by_header: dict[tuple[str, ...], list[Table]] = defaultdict(list)
        for path, name in candidates.items():
            table = read_table(path, name, self._paths, self._options, inside)
            if table is None:
                self.ignored.append(f"{name} names no image")
            else:
                by_header[table.header].append(table)
        for header, tables in sorted(by_header.items()):
            self._headers.append(header)
            matched = match_tables(tables, self._paths, self._options)
            used = [table.name for table in matched.tables] if matched else []
            self.ignored += [f"{t.name} names no image" for t in tables if t.name not in used]
            if matched is not None:
                self._fits_images = True
                self._keep(matched)

    def _keep(self, matched: MatchedTables) -> None:
        """Merge what matched tables say, unless it is nothing."""
        columns, name = matched.columns, matched.name
        if not columns.labels:
            self.ignored.append(
                f"{name} has no column that is plainly the label: name it with --label-col "
                f"({_listed(matched.header)})"
            )
            if columns.patient is None and columns.split is None:
                return
        patients: dict[str, str] = {}
        splits: dict[str, str] = {}
        _merge(self.labels, matched.label_sets(), "labels", name)
        _merge(patients, matched.column(columns.patient), "patients", name)
        parts = ((i, SPLITS[cell.casefold()]) for i, cell in matched.column(columns.split))
        _merge(splits, parts, "splits", name)
        self.patients = patients | self.patients
        self.splits = splits | self.splits
        for image, table, _ in matched.rows:
            split = split_of_table(PurePosixPath(table.name).name)
            if split is not None:
                self.table_splits.setdefault(image, split)
        self.groups.append(matched)
        self.unmatched += matched.unmatched

    def _check_columns(self) -> None:
        """Every column that the user named must be in some table."""
        options = self._options
        for option, wanted in (
            ("--path-col", options.path_column),
            ("--label-col", options.label_column),
            ("--patient-col", options.patient_column),
            ("--split-col", options.split_column),
        ):
            if wanted is None:
                continue
            names = wanted.split(",") if option == "--label-col" else [wanted]
            if not any(
                column_index(header, wanted) is not None
                or all(column_index(header, name.strip()) is not None for name in names)
                for header in self._headers
            ):
                told = sorted(self._headers, key=_has_names, reverse=True)  # the likeliest first
                seen = _listed(told[0]) if told else "no label table was found"
                raise InputError(f"{option}: no label table has a column {wanted!r} ({seen})")

    def of_labels(self) -> Labels | None:
        """The labels, where there are any.

        Raises:
            InputError: tables of several forms, such as classes here and findings there.
        """
        groups = [group for group in self.groups if group.columns.labels]
        if not self.labels:
            return None
        tasks = {group.task for group in groups}
        findings = {frozenset(g.label_names) for g in groups if len(g.columns.labels) > 1}
        if (len(tasks) > 1 and self._options.task == "auto") or len(findings) > 1:
            names = examples(table.name for group in groups for table in group.tables)
            raise InputError(f"{names} label in different ways; name one table with --labels")
        notes = tuple(note for group in groups for note in _label_notes(group))
        vocabulary = next(iter(findings)) if findings else frozenset[str]()
        return Labels("table", self.labels, min(tasks), notes, vocabulary)

    def notes(self) -> Iterable[str]:
        """What a person should know beyond the labels."""
        for group in self.groups:
            yield from (f"{group.name}: {note}" for note in group.columns.notes)
        if self.unmatched:
            yield (
                f"{len(self.unmatched)} table rows name no image, such as "
                f"{examples(self.unmatched)}"
            )
        if self.ignored:
            yield f"tables: {'; '.join(self.ignored)}"


def _label_notes(group: MatchedTables) -> Iterable[str]:
    """Which columns of which table the labels are from, and how they were read."""
    sets = dict(group.label_sets())
    classes = len(frozenset().union(*sets.values()))
    names = group.label_names
    if len(names) > 1:
        kind = (
            f"{len(names)} one-hot" if group.task == "classification" else f"{len(names)} finding"
        )
        column = f"{kind} columns"
    else:
        kind = "findings" if group.task == "multilabel" else "classes"
        column = f"column {names[0]!r} ({classes} {kind})"
    yield f"labels: {group.name}, {column}, {_matched(group)}"
    if len(names) > 1:
        cells = [row[i].casefold() for _, _, row in group.rows for i in group.columns.labels]
        uncertain = sum(FINDING_VALUES.get(cell) == -1 for cell in cells)
        blank = sum(map(is_blank, cells))
        if uncertain or blank:
            yield f"{group.name}: {uncertain} uncertain (-1) and {blank} blank findings count as 0"


def _matched(group: MatchedTables) -> str:
    """How many rows name images."""
    if group.folders is None:
        return f"{len(group.rows)} of {group.total} rows matched"
    return f"{len(group.rows)} images in the folders of {group.folders} of {group.total} rows"


def _merge(
    known: dict[str, Value], found: Iterable[tuple[str, Value]], what: str, name: str
) -> None:
    """Add what rows say of images; the same said twice is fine, two different things are not."""
    clashes = {image for image, value in found if known.setdefault(image, value) != value}
    if clashes:
        raise InputError(
            f"{name}: {len(clashes)} images have rows with different {what}, such as "
            f"{examples(clashes)}; keep one row an image, or name one table with --labels"
        )


def _is_table(name: str) -> bool:
    return name.casefold().endswith((".csv", ".tsv"))


def _has_names(header: Sequence[str]) -> bool:
    """Whether a first row is plainly one of column names."""
    return any(is_named(name, KNOWN_NAMES) for name in header)


def _listed(header: Sequence[str]) -> str:
    """The first columns of a table, for a message; none of a row that may be one of patients."""
    if not _has_names(header):
        return f"{len(header)} columns; the first row has to hold their names"
    more = f" and {len(header) - 20} more" if len(header) > 20 else ""
    return f"columns: {', '.join(name or '(blank)' for name in header[:20])}{more}"


def _named_table(root: Path, table: Path) -> Path:
    """The table of `--labels`: relative to the working folder, or else to the source."""
    for path in (table, root / table):
        if path.is_file():
            return Path(os.path.normpath(path.absolute()))
    raise InputError(f"--labels: {table} is not a file; give a CSV or TSV table")


def _tables_beside(root: Path) -> dict[Path, str]:
    """The tables in the source's parent, by the names to print."""
    try:
        found = sorted(p for p in root.parent.iterdir() if _is_table(p.name) and p.is_file())
    except OSError:  # a folder that may be entered but not listed
        return {}
    return {path: f"../{path.name}" for path in found}
