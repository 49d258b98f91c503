"""Label tables: which rows of a CSV or TSV file are of which image, and what its columns mean."""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from medshield.dataset.masks import without_extension, words
from medshield.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from medshield.dataset.annotations import AnnotationOptions

# Columns by name, the likeliest first; compared without signs, spaces and case.
PATH_NAMES = (
    *("filename", "filepath", "file", "path", "imagepath", "imagefilepath", "imagefile"),
    *("imagefilename", "imagename", "imageindex", "imageid", "image", "imgpath", "imgname"),
    *("imgid", "img", "isicid", "dicomid", "sopinstanceuid", "scan", "name", "id"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classname", "classes", "target", "diagnosis", "dx"),
    *("findinglabels", "finding", "findings", "category", "disease", "pathology"),
    *("labelid", "classid", "y"),
)
PATIENT_NAMES = (
    *("patientid", "patient", "subjectid", "subject", "participantid", "participant", "pid"),
    *("caseid", "case", "lesionid", "lesion", "sourceimage", "studyinstanceuid", "studyid"),
    *("study", "groupid", "group"),
)
SPLIT_NAMES = ("split", "datasplit", "set", "subset", "partition", "fold", "phase", "usage")
# What describes a person or a picture and is often coded as 0 and 1, but is no finding.
COVARIATE_NAMES = frozenset(
    {"", "age", "patientage", "sex", "gender", "patientsex", "patientgender", "male", "female"}
    | {"view", "viewposition", "frontallateral", "appa", "laterality", "index", "unnamed0"}
    | {"fold", "followup"}
)
SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts", "holdout"), "test"),
}
BLANK = frozenset({"", "nan", "na", "n/a", "null"})
FINDING_VALUES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1}
NO_FINDING = frozenset({"no finding", "no findings"})

Row = TypeVar("Row")

_PREVIEW = 500  # rows that decide whether a table has anything to do with the images
_SAMPLE = 20_000  # rows that decide how its paths are read


def examples(names: Iterable[str]) -> str:
    """Up to three names, for a message: `a.png, b.png, c.png`."""
    return ", ".join(sorted(set(names))[:3])


def is_blank(value: str) -> bool:
    """Whether a cell says nothing, as spreadsheets, pandas and R write it."""
    return value.casefold() in BLANK


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


def read_table(path: Path, name: str, images: ImagePaths, inside: bool) -> Table | None:
    """Read a CSV or TSV file of any usual delimiter and encoding.

    Returns:
        None where the file has nothing to do with the images: no column is named like one of
        paths, and no cell of the first rows names an image.

    Raises:
        InputError: it can't be read, or rows and header do not fit together.
    """
    try:
        text = _decoded(path.read_bytes())
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        lines = ([cell.strip() for cell in row] for row in reader if any(map(str.strip, row)))
        preview = list(islice(lines, _PREVIEW))
        if not _speaks_of(images, preview):
            return None
        rows = preview + list(lines)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{name}: no CSV or TSV table: {error}") from None
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
    padded = [(row + [""] * width)[:width] for row in rows]
    return Table(path, name, tuple(header), padded, inside)


def _speaks_of(images: ImagePaths, rows: list[list[str]]) -> bool:
    """Whether a cell of the first row is named like paths, or any cell names an image."""
    return any(_named(cell, PATH_NAMES) for row in rows[:1] for cell in row) or any(
        images.knows(cell) for row in rows for cell in row
    )


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


def _named(header: str, names: Sequence[str]) -> bool:
    return _plain(header) in names


def _plain(header: str) -> str:
    return re.sub(r"[\W_]+", "", header).casefold()


@dataclass(frozen=True)
class Reading:
    """One way to take the paths of a table.

    Attributes:
        base: which folder they start from (see `ImagePaths.bases`), or None: only their last
            components are compared.
        tail: how many last components.
        shortened: whose extension is left out: nobody's, the image's, or both.
        folded: whether case is ignored.
    """

    base: int | None
    tail: int
    shortened: str
    folded: bool


class ImagePaths:
    """Finds the images that the paths of a table mean.

    Args:
        source: the folder.
        images: posix paths relative to it.
        masks: those of them to prefer the others to.
    """

    def __init__(self, source: Path, images: Sequence[str], masks: frozenset[str]) -> None:
        self._root = posixpath.normpath(source.absolute().as_posix())
        self._images = images
        self._masks = masks
        self._indexes: dict[tuple[bool, bool, bool], dict[str, list[str]]] = {}

    @cached_property
    def count(self) -> int:
        """How many images there are that are no masks."""
        return sum(image not in self._masks for image in self._images)

    @cached_property
    def _stems(self) -> frozenset[str]:
        names = [posixpath.basename(image).casefold() for image in self._images]
        return frozenset(names) | {without_extension(name) for name in names}

    @cached_property
    def _files(self) -> frozenset[str]:
        names = (posixpath.basename(image).casefold() for image in self._images)
        return frozenset(name for name in names if without_extension(name) != name)

    def knows(self, value: str) -> bool:
        """Whether a cell may name an image: a quick look at its last component only."""
        name = value.replace("\\", "/").rpartition("/")[2].casefold()
        return name in self._stems or (name != "" and without_extension(name) in self._stems)

    def knows_file(self, value: str) -> bool:
        """Whether a cell ends in the full name, with extension, of an image."""
        return value.replace("\\", "/").rpartition("/")[2].casefold() in self._files

    def bases(self, table: Path) -> list[str]:
        """The folders that the paths of a table may start from, absolute."""
        folder = table.parent
        beside = (folder.parent, folder / table.stem)  # medmnist: NAME.csv lists what is in NAME/
        return [folder.as_posix(), self._root, *(base.as_posix() for base in beside)]

    def readings(self) -> Iterator[Reading]:
        """Every way to take a path, the strictest first."""
        depth = max(image.count("/") for image in self._images) + 1
        for folded in (False, True):
            for shortened in ("neither", "image", "both"):
                for base in range(4):
                    yield Reading(base, 0, shortened, folded)
                for tail in range(depth, 0, -1):
                    yield Reading(None, tail, shortened, folded)

    def find(self, value: str, bases: Sequence[str], reading: Reading) -> list[str]:
        """The images that a path may mean under one reading."""
        path = value.replace("\\", "/")
        if reading.base is not None:
            whole = posixpath.normpath(posixpath.join(bases[reading.base], path))
            key = whole.removeprefix(f"{self._root.rstrip('/')}/")
            if key == whole:
                return []
        else:
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            key = "/".join(parts[-reading.tail :])
        if reading.shortened == "both":
            key = without_extension(key)
        if reading.folded:
            key = key.casefold()
        index = self._index(reading.base is None, reading.shortened != "neither", reading.folded)
        found = index.get(key, [])
        return [image for image in found if image not in self._masks] or found

    def _index(self, tails: bool, shortened: bool, folded: bool) -> dict[str, list[str]]:
        """Images by path, or by every tail of it (`b/c.png` and `c.png` of `a/b/c.png`)."""
        wanted = (tails, shortened, folded)
        if wanted not in self._indexes:
            index: dict[str, list[str]] = defaultdict(list)
            for image in self._images:
                key = without_extension(image) if shortened else image
                key = key.casefold() if folded else key
                index[key].append(image)
                while tails and "/" in key:
                    key = key.partition("/")[2]
                    index[key].append(image)
            self._indexes[wanted] = dict(index)
        return self._indexes[wanted]


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean, by their position.

    Attributes:
        labels: none; one column of class names; or several findings of 0, 1, -1 and blank.
        listed: whether the one column lists any number of findings, separated by `|`.
        notes: what was seen and not used.
    """

    path: int
    labels: tuple[int, ...] = ()
    listed: bool = False
    patient: int | None = None
    split: int | None = None
    notes: tuple[str, ...] = ()

    def label_set(self, header: Sequence[str], row: Sequence[str]) -> frozenset[str] | None:
        """The classes of a row; None where it has no label."""
        if not self.labels:
            return None
        if len(self.labels) > 1:
            values = ((header[i], FINDING_VALUES.get(row[i].casefold(), 0)) for i in self.labels)
            return frozenset(name for name, value in values if value == 1)
        cell = row[self.labels[0]]
        if is_blank(cell):
            return None
        if not self.listed:
            return frozenset({_whole(cell)})
        listed = (name.strip() for name in cell.split("|"))
        return frozenset(name for name in listed if name and name.casefold() not in NO_FINDING)


def _whole(value: str) -> str:
    """`1` for `1.0`: pandas writes integers so where a column has blanks."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", value)


def _path_column(
    header: Sequence[str], rows: list[list[str]], images: ImagePaths, wanted: str | None
) -> int | None:
    """The column that names images: by the user's word, by its name, or by what is in it.

    A column that is named like one of paths must fit a tenth of the rows or of the images; one
    that is not, half of the rows.
    """
    if wanted is not None:
        return column_index(header, wanted)
    fits: dict[int, float] = {}
    for column, name in enumerate(header):
        named = _named(name, PATH_NAMES)
        sampled = _sample(rows) if named else rows[:_PREVIEW]
        cells = [row[column] for row in sampled if row[column]]
        known = {cell for cell in cells if images.knows(cell)}
        fit = max(
            sum(cell in known for cell in cells) / max(len(cells), 1),
            len(known) / max(images.count, 1) if named else 0.0,
        )
        if fit >= (0.1 if named else 0.5):
            fits[column] = fit
    good = [column for column, fit in fits.items() if 2 * fit >= max(fits.values())]
    by_name = [column for column in good if _named(header[column], PATH_NAMES)]
    if by_name:
        return min(by_name, key=lambda column: PATH_NAMES.index(_plain(header[column])))
    return max(good, key=lambda column: fits[column], default=None)


def column_index(header: Sequence[str], name: str) -> int | None:
    """The column of that name: exactly, or else without signs, spaces and case."""
    if name in header:
        return list(header).index(name)
    return next((i for i, column in enumerate(header) if _plain(column) == _plain(name)), None)


def _infer_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], path: int, options: AnnotationOptions
) -> Columns:
    """Tell the label, patient and split columns, by the user's word, by name, or by content.

    Args:
        header: column names.
        rows: those that name an image.
        path: the column of paths.
        options: the columns that the user named; one that this table lacks has no such column.

    Raises:
        InputError: a named column holds what it can't hold.
    """
    cells = {i: [row[i] for row in rows] for i in range(len(header)) if i != path}
    notes: list[str] = []
    split = _split_column(header, cells, options, notes)
    free = {i: values for i, values in cells.items() if i != split}
    if options.patient_column is not None:
        patient = column_index(header, options.patient_column)
    else:
        patient = _first_named(header, free, PATIENT_NAMES)
    free = {i: values for i, values in free.items() if i != patient}
    labels = _label_columns(header, free, options)
    listed = len(labels) == 1 and (
        any("|" in cell for cell in cells[labels[0]])
        or _plain(header[labels[0]]) == "findinglabels"
    )
    return Columns(path, labels, listed, patient, split, tuple(notes))


def _first_named(
    header: Sequence[str], cells: Mapping[int, Sequence[str]], names: Sequence[str]
) -> int | None:
    """The column with the likeliest of the names, where it is not all blank."""
    filled = [i for i in cells if _named(header[i], names) and not all(map(is_blank, cells[i]))]
    return min(filled, key=lambda column: names.index(_plain(header[column])), default=None)


def _split_column(
    header: Sequence[str],
    cells: Mapping[int, Sequence[str]],
    options: AnnotationOptions,
    notes: list[str],
) -> int | None:
    """The column whose values are all names of splits, by name before others."""
    holding = [
        column
        for column, values in cells.items()
        if any(values) and all(is_blank(v) or v.casefold() in SPLITS for v in values)
    ]
    if options.split_column is not None:
        wanted = column_index(header, options.split_column)
        if wanted is not None and wanted not in holding:
            raise InputError(
                f"--split-col: column {header[wanted]!r} holds other values than train, val and "
                "test (or training, valid, validation, dev, testing)"
            )
        return wanted
    named = _first_named(header, cells, SPLIT_NAMES)
    if named is not None and named not in holding:
        notes.append(
            f"column {header[named]!r} is no split: its values are not train, val and test"
        )
    return named if named in holding else next(iter(holding), None)


def _label_columns(
    header: Sequence[str], cells: Mapping[int, Sequence[str]], options: AnnotationOptions
) -> tuple[int, ...]:
    """One column of class names, or several of findings, or none."""
    findings = [i for i, values in cells.items() if _are_findings(values)]
    if options.label_column is not None:
        return _wanted_labels(header, findings, options.label_column)
    named = _first_named(header, cells, LABEL_NAMES)
    if named is not None:
        return (named,)
    others = {i for i in cells if _plain(header[i]) not in (*COVARIATE_NAMES, *PATH_NAMES)}
    findings = [i for i in findings if i in others]
    if len(findings) > 1:
        return tuple(findings)
    rest = [i for i in sorted(others) if not all(map(is_blank, cells[i]))]
    return tuple(rest) if len(rest) == 1 else ()


def _wanted_labels(header: Sequence[str], findings: Sequence[int], wanted: str) -> tuple[int, ...]:
    """The columns that the user named, one or several."""
    one = column_index(header, wanted)
    if one is not None:
        return (one,)
    found = [column_index(header, name.strip()) for name in wanted.split(",")]
    columns = tuple(column for column in found if column is not None)
    if len(columns) < len(found):
        return ()
    for column in columns:
        if column not in findings:
            raise InputError(
                f"--label-col: column {header[column]!r} holds other values than 0, 1, -1 and "
                "blank, so it can't be one of several findings"
            )
    return columns


def _are_findings(values: Sequence[str]) -> bool:
    """Whether all values are 0, 1, -1 (uncertain) or blank, and not all of them blank."""
    seen = {value.casefold() for value in values}
    return all(value in FINDING_VALUES or value in BLANK for value in seen) and not seen <= BLANK


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
        rows: image, table and cells.
        unmatched: the paths of rows that name no image, of tables inside the source.
        total: how many rows name a file.
    """

    tables: tuple[Table, ...]
    columns: Columns
    rows: list[tuple[str, Table, list[str]]]
    unmatched: tuple[str, ...]
    total: int

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

    Raises:
        InputError: a path fits more than one image.
    """
    header = tables[0].header
    every_row = [row for table in tables for row in table.rows]
    column = _path_column(header, every_row, images, options.path_column)
    if column is None:
        return None
    named = [(table, row) for table in tables for row in table.rows if row[column]]
    bases = {table.name: images.bases(table.path) for table in tables}
    reading = _best_reading([(row[column], bases[table.name]) for table, row in named], images)
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
        _infer_columns(header, [row for _, _, row in rows], column, options),
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
    if _named(header[column], PATIENT_NAMES):
        return lambda table, _: f"a row of {table.name}"
    return lambda _, row: row[column]


def _best_reading(paths: list[tuple[str, list[str]]], images: ImagePaths) -> Reading:
    """The one way to take a table's paths that finds the most images, the strictest if equal.

    One way for all rows: a row that only another way could match names another file.
    """
    sampled = _sample(paths)
    enough = min(images.count, len({path for path, _ in sampled}))

    best, score = Reading(0, 0, "neither", folded=False), (0, 0)
    for reading in images.readings():
        hits = [images.find(path, bases, reading) for path, bases in sampled]
        single = len({hit[0] for hit in hits if len(hit) == 1})
        candidate = (single, sum(len(hit) > 1 for hit in hits))
        if candidate > score:
            best, score = reading, candidate
        if single >= enough:
            break
    return best


def _sample(rows: list[Row]) -> list[Row]:
    """At most so many rows, evenly spaced."""
    return rows[:: 1 + len(rows) // _SAMPLE]
