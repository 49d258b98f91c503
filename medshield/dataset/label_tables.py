"""Label tables: files of rows, and which row is of which image."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from medshield.bounded import MOST_TABLE_BYTES, read_bounded
from medshield.dataset.image_paths import ImagePaths, best_reading
from medshield.dataset.label_columns import (
    FIRST_ROWS,
    PATH_NAMES,
    PATIENT_NAMES,
    SPLITS,
    Columns,
    folder_column,
    infer_columns,
    is_blank,
    is_named,
    path_column,
)
from medshield.dataset.masks import without_extension, words
from medshield.errors import InputError
from medshield.text import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from medshield.dataset.annotation_options import AnnotationOptions


@dataclass(frozen=True)
class Table:
    """One file of rows.

    Attributes:
        path: absolute.
        name: how it is named to a person.
        header: column names; `column 1` and on where the file has none.
        rows: stripped cells, as many as the header has; blank lines are left out.
        inside: whether it lies in the source; one outside may list other folders too.
    """

    path: Path
    name: str
    header: tuple[str, ...]
    rows: list[list[str]]
    inside: bool


def read_table(
    path: Path, name: str, images: ImagePaths, options: AnnotationOptions, inside: bool
) -> Table | None:
    """Read a CSV or TSV file of any usual delimiter and encoding.

    Returns:
        None where the file has nothing to do with the images, unless the user named it: no column
        is named like one of paths, and no cell of the first rows names an image, or a folder of a
        patient's images.

    Raises:
        InputError: it can't be read, or rows and header do not fit together.
    """
    try:
        text = _decoded(read_bounded(path, MOST_TABLE_BYTES))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        lines = ([cell.strip() for cell in row] for row in reader if any(map(str.strip, row)))
        preview = list(islice(lines, FIRST_ROWS))
        if options.labels is None and not _speaks_of(images, preview, options):
            return None
        rows = preview + list(lines)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{name}: no CSV or TSV table: {error}") from None
    if not rows:
        raise InputError(
            f"{name}: holds nothing; give a table with a row for each image or patient"
        )
    if any(images.knows_file(cell) for cell in rows[0]):  # as medmnist's `save` writes it
        header = [f"column {number}" for number in range(1, len(rows[0]) + 1)]
    else:
        header = rows.pop(0)
    width = len(header)
    for number, row in enumerate(rows, 1):
        if any(row[width:]):
            raise InputError(
                f"{name}: data row {number} has {len(row)} cells where the first row has {width}; "
                "quote cells that hold the delimiter"
            )
    return Table(path, name, tuple(header), _filled_up(rows, width), inside)


def _speaks_of(images: ImagePaths, rows: list[list[str]], options: AnnotationOptions) -> bool:
    """Whether a cell of the first row is named like paths, or any names an image or a folder."""
    if not rows:
        return False
    header, *rest = rows
    return (
        any(is_named(cell, PATH_NAMES) for cell in header)
        or any(images.knows(cell) for row in rows for cell in row)
        or folder_column(header, _filled_up(rest, len(header)), images, options) is not None
    )


def _filled_up(rows: list[list[str]], width: int) -> list[list[str]]:
    """Rows of as many cells as the header has."""
    return [(row + [""] * width)[:width] for row in rows]


def _decoded(content: bytes) -> str:
    """Text in UTF-8, in UTF-16 with its mark, or else in the Western code page of spreadsheets."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _delimiter(text: str) -> str:
    """The delimiter that cuts most of the first rows into as many cells as the header."""
    head = text[:65536]
    if len(head) < len(text):
        head = head[: head.rfind("\n") + 1]

    def agreement(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        widths = [len(row) for row in islice(reader, 50) if row]
        if not widths or widths[0] == 1:
            return 0, 0
        return widths.count(widths[0]), widths[0]

    return max(",;\t", key=agreement)


def split_of_table(name: str) -> str | None:
    """`val` for `valid_labels.csv`; None where the name speaks of no split, or of several."""
    found = {SPLITS[word] for word in words(without_extension(name)) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class MatchedTables:
    """Tables of one header, and the image that each row names.

    Attributes:
        tables: those of which some row names an image.
        columns: what their columns mean.
        rows: image, table and cells; a row that names a folder is there for each image in it.
        unmatched: the paths of rows that name no image, of tables inside the source.
        total: how many rows name a file, or a folder.
        folders: how many of them name a folder of images; None in a table of files.
    """

    tables: tuple[Table, ...]
    columns: Columns
    rows: list[tuple[str, Table, list[str]]]
    unmatched: tuple[str, ...]
    total: int
    folders: int | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self.tables[0].header

    @property
    def name(self) -> str:
        """The tables, for a message."""
        names = examples(table.name for table in self.tables)
        return names if len(self.tables) <= 3 else f"{names} and {len(self.tables) - 3} more"

    @property
    def label_names(self) -> list[str]:
        """The names of the label columns."""
        return [self.header[index] for index in self.columns.labels]

    @cached_property
    def task(self) -> str:
        """The task that the labels speak of; exactly one 1 in every row is a class (one-hot)."""
        if self.columns.listed:
            return "multilabel"
        one_each = all(len(classes) == 1 for _, classes in self.label_sets())
        return "classification" if one_each else "multilabel"

    def label_sets(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Image and classes of each row that has a label."""
        for image, _, row in self.rows:
            classes = self.columns.label_set(self.header, row)
            if classes is not None:
                yield image, classes

    def column(self, index: int | None) -> Iterator[tuple[str, str]]:
        """Image and cell of each row in which a column is filled."""
        if index is not None:
            yield from ((i, row[index]) for i, _, row in self.rows if not is_blank(row[index]))


def match_tables(
    tables: Sequence[Table], images: ImagePaths, options: AnnotationOptions
) -> MatchedTables | None:
    """Match the rows of tables of one header with images; None where no row names one.

    A row names a file or, where none of them does, a folder: then it speaks of each image in it.

    Raises:
        InputError: a path fits more than one image.
    """
    return _match_files(tables, images, options) or _match_folders(tables, images, options)


def _match_folders(
    tables: Sequence[Table], images: ImagePaths, options: AnnotationOptions
) -> MatchedTables | None:
    """Match rows with the images in the folders that they name, such as those of a patient."""
    header = tables[0].header
    column = folder_column(header, [row for table in tables for row in table.rows], images, options)
    if column is None:
        return None
    named = [(table, row) for table in tables for row in table.rows if row[column]]
    hits = [(table, row) for table, row in named if images.in_folder(row[column])]
    rows = [(image, table, row) for table, row in hits for image in images.in_folder(row[column])]
    matched = {table.name for table, _ in hits}
    return MatchedTables(
        tuple(table for table in tables if table.name in matched),
        infer_columns(header, [row for _, row in hits], column, options, of_folders=True),
        rows,
        tuple(
            f"a row of {table.name}"  # a folder's name may be a patient's
            for table, row in named
            if table.inside and table.name in matched and not images.in_folder(row[column])
        ),
        sum(table.name in matched for table, _ in named),
        len(hits),
    )


def _match_files(
    tables: Sequence[Table], images: ImagePaths, options: AnnotationOptions
) -> MatchedTables | None:
    """Match rows with the images whose paths they hold."""
    header = tables[0].header
    every_row = [row for table in tables for row in table.rows]
    column = path_column(header, every_row, images, options.path_column)
    if column is None:
        return None
    named = [(table, row) for table in tables for row in table.rows if row[column]]
    bases = {table.name: images.bases(table.path) for table in tables}
    reading = best_reading([(row[column], bases[table.name]) for table, row in named], images)
    found = [images.find(row[column], bases[table.name], reading) for table, row in named]
    pairs = list(zip(named, found, strict=True))
    shown = _shown_path(header, column)
    unclear = [shown(table, row) for (table, row), hits in pairs if len(hits) > 1]
    if unclear:
        raise InputError(
            f"{examples(table.name for table in tables)}: {len(unclear)} rows fit more than one "
            f"image, such as {examples(unclear)}; write their paths from the source folder down"
        )
    rows = [(hits[0], table, row) for (table, row), hits in pairs if hits]
    matched = {table.name for _, table, _ in rows}
    if not rows:
        return None
    return MatchedTables(
        tuple(table for table in tables if table.name in matched),
        infer_columns(header, [row for _, _, row in rows], column, options),
        rows,
        tuple(
            shown(table, row)
            for (table, row), hits in pairs
            if table.inside and table.name in matched and not hits
        ),
        sum(table.name in matched for table, _ in named),
    )


def _shown_path(header: Sequence[str], column: int) -> Callable[[Table, list[str]], str]:
    """How a row is named in a message: by its path, unless that is a patient's identifier."""
    if is_named(header[column], PATIENT_NAMES):
        return lambda table, _: f"a row of {table.name}"
    return lambda _, row: row[column]
