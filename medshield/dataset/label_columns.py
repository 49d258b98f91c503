"""What the columns of a label table mean: by the user's word, by their names, by their content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medshield.dataset.image_paths import evenly_spaced
from medshield.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medshield.dataset.annotation_options import AnnotationOptions
    from medshield.dataset.image_paths import ImagePaths

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
FOLDER_NAMES = tuple(name for name in PATIENT_NAMES if name not in ("groupid", "group"))
"""Of columns whose cells may name folders: those of whom or what the images are of."""
SPLIT_NAMES = ("split", "datasplit", "set", "subset", "partition", "fold", "phase", "usage")
# What describes a person or a picture and is often coded as 0 and 1, but is no finding.
COVARIATE_NAMES = frozenset(
    {"", "age", "patientage", "sex", "gender", "patientsex", "patientgender", "male", "female"}
    | {"view", "viewposition", "frontallateral", "appa", "laterality", "index", "unnamed0"}
    | {
        "fold",
        "followup",
        "acqtime",
        "acquisitiontime",
        "acquisitiondate",
        "studydate",
        "studytime",
    }
    | {"date", "time", "session", "sessionid", "handedness", "species", "site"}
)
KNOWN_NAMES = (
    *(*PATH_NAMES, *LABEL_NAMES, *PATIENT_NAMES, *SPLIT_NAMES),
    *(name for name in sorted(COVARIATE_NAMES) if name),
)
"""By which a first row is told from one of values."""
SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts", "holdout"), "test"),
}
BLANK = frozenset({"", "nan", "na", "n/a", "null"})
FINDING_VALUES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1}
NO_FINDING = frozenset({"no finding", "no findings"})

FIRST_ROWS = 500  # that decide whether a table or a column has anything to do with the images


def is_blank(value: str) -> bool:
    """Whether a cell says nothing, as spreadsheets, pandas and R write it."""
    return value.casefold() in BLANK


def _plain(header: str) -> str:
    """A header without signs, spaces and case."""
    return re.sub(r"[\W_]+", "", header).casefold()


def is_named(header: str, names: Sequence[str]) -> bool:
    """Whether a header is one of the names, whatever its signs, spaces and case."""
    return _plain(header) in names


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean, by their position.

    Attributes:
        path: whose cells name images, or folders of them.
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


def path_column(
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
        named = is_named(name, PATH_NAMES)
        looked_at = evenly_spaced(rows) if named else rows[:FIRST_ROWS]
        cells = [row[column] for row in looked_at if row[column]]
        known = {cell for cell in cells if images.knows(cell)}
        fit = max(
            sum(cell in known for cell in cells) / max(len(cells), 1),
            len(known) / max(images.count, 1) if named else 0.0,
        )
        if fit >= (0.1 if named else 0.5):
            fits[column] = fit
    good = [column for column, fit in fits.items() if 2 * fit >= max(fits.values())]
    by_name = [column for column in good if is_named(header[column], PATH_NAMES)]
    if by_name:
        return min(by_name, key=lambda column: PATH_NAMES.index(_plain(header[column])))
    return max(good, key=lambda column: fits[column], default=None)


def folder_column(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    images: ImagePaths,
    options: AnnotationOptions,
) -> int | None:
    """The column that names folders, of patients for example, by the user's word or by its name.

    A tenth of its cells must be folders. In a table that the user named, any column will do of
    which half are. Of several columns, the one that tells most folders apart.
    """
    best, most = None, 0
    for column in range(len(header)):
        share = _least_share_of_folders(header, column, options)
        if share is None:
            continue
        cells = {row[column] for row in rows if row[column]}
        known = sum(bool(images.in_folder(cell)) for cell in cells)
        if known > most and known >= share * len(cells):
            best, most = column, known
    return best


def _least_share_of_folders(
    header: Sequence[str], column: int, options: AnnotationOptions
) -> float | None:
    """Of the cells of a column that is to name folders; None where it can't be that column."""
    wanted = options.path_column or options.patient_column
    if wanted is not None:
        return 0.1 if column == column_index(header, wanted) else None
    if is_named(header[column], FOLDER_NAMES):
        return 0.1
    return 0.5 if options.labels is not None else None


def column_index(header: Sequence[str], name: str) -> int | None:
    """The column of that name: exactly, or else without signs, spaces and case."""
    if name in header:
        return list(header).index(name)
    return next((i for i, column in enumerate(header) if _plain(column) == _plain(name)), None)


def infer_columns(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    path: int,
    options: AnnotationOptions,
    *,
    of_folders: bool = False,
) -> Columns:
    """Tell the label, patient and split columns, by the user's word, by name, or by content.

    Args:
        header: column names.
        rows: those that name an image.
        path: the column of paths.
        options: the columns that the user named; one that this table lacks has no such column.
        of_folders: whether its cells are names of folders. Such a table tells much of a person,
            so labels are not told from the content of its columns.

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
        named = free | ({path: [row[path] for row in rows]} if of_folders else {})
        label = options.label_column and column_index(header, options.label_column)
        named = {i: values for i, values in named.items() if i != label}
        patient = _first_named(header, named, PATIENT_NAMES)
        if patient is None and of_folders:
            patient = path
    free = {i: values for i, values in free.items() if i != patient}
    labels = _label_columns(header, free, options, by_content=not of_folders)
    listed = len(labels) == 1 and (
        any("|" in cell for cell in cells[labels[0]])
        or _plain(header[labels[0]]) == "findinglabels"
    )
    return Columns(path, labels, listed, patient, split, tuple(notes))


def _first_named(
    header: Sequence[str], cells: Mapping[int, Sequence[str]], names: Sequence[str]
) -> int | None:
    """The column with the likeliest of the names, where it is not all blank."""
    filled = [i for i in cells if is_named(header[i], names) and not all(map(is_blank, cells[i]))]
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
    header: Sequence[str],
    cells: Mapping[int, Sequence[str]],
    options: AnnotationOptions,
    *,
    by_content: bool,
) -> tuple[int, ...]:
    """One column of class names, or several of findings, or none."""
    findings = [i for i, values in cells.items() if _are_findings(values)]
    if options.label_column is not None:
        return _wanted_labels(header, findings, options.label_column)
    named = _first_named(header, cells, LABEL_NAMES)
    if named is not None:
        return (named,)
    if not by_content:
        return ()
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
