"""What each image of a folder stands for: its label, findings or mask, its patient and split.

Nothing is opened but tables (and, where the user names a DICOM tag, headers): the rest is told
from the names of files and folders. What was inferred is said in notes; what can't be told for
sure is an error that names the option which settles it.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from medshield.dataset.label_tables import (
    FINDING_VALUES,
    SPLITS,
    ImagePaths,
    MatchedTables,
    Table,
    column_index,
    examples,
    is_blank,
    match_tables,
    read_table,
    split_of_table,
)
from medshield.dataset.masks import IMAGE_WORDS, MaskPairs, find_masks, words
from medshield.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

TASKS = ("auto", "classification", "multilabel", "segmentation")
# Folders so named, with a number, hold a person or a batch, and are no class.
SERIAL_WORDS = frozenset(
    {"patient", "subject", "sub", "case", "study", "series", "session", "ses", "scan", "scans"}
    | {"image", "images", "img", "imgs", "part", "batch", "fold"}
)
PATIENT_FOLDER = re.compile(r"(patient|subject|sub|case)[-_ ]?\w*\d\w*", re.IGNORECASE)
Value = TypeVar("Value")

NEARLY_ALL = 0.9  # of the images have masks: then the folder is one for segmentation


@dataclass(frozen=True)
class AnnotationOptions:
    """What the user said about labels and masks; None is for what is to be found out.

    Attributes:
        labels: a table (`--labels`).
        no_labels: look for none, and use none (`--labels none`).
        path_column, label_column, patient_column, split_column: names of its columns;
            `label_column` may be several findings, separated by commas.
        masks: a folder inside the source (`--masks`).
        label_tag: the DICOM tag that holds the class, `GGGG,EEEE` (`--label-tag`).
        task: auto, classification, multilabel or segmentation.
        allow_missing: leave out images without a label, and rows without an image.
    """

    labels: Path | None = None
    no_labels: bool = False
    path_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    split_column: str | None = None
    masks: Path | None = None
    label_tag: str | None = None
    task: str = "auto"
    allow_missing: bool = False


@dataclass(frozen=True)
class Annotation:
    """What one image stands for.

    Attributes:
        label: for classification, the position of its class.
        findings: for multi-label, 0 or 1 for each class.
        mask: for segmentation, posix path relative to the source.
        patient: what groups images of one person, or None. Never printed or logged.
        split: train, val, test or None.
    """

    label: int | None = None
    findings: tuple[int, ...] | None = None
    mask: str | None = None
    patient: str | None = field(default=None, repr=False)
    split: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What a folder's images stand for. Paths are posix, relative to the source.

    Attributes:
        task: classification, multilabel or segmentation.
        classes: names in natural order; `("foreground",)` for segmentation.
        by_path: the annotated images.
        unlabelled: images without annotation (only where `allow_missing`).
        masks: files that are masks, and so never images to protect.
        tables: label tables inside the source that were used.
        notes: what was inferred, for a person.
        labelled: False where no labels are used (`--labels none`): classes are clusters, and an
            image's cluster is told from its pixels.
    """

    task: str
    classes: tuple[str, ...]
    by_path: dict[str, Annotation]
    unlabelled: tuple[str, ...]
    masks: frozenset[str]
    tables: frozenset[str]
    notes: tuple[str, ...]
    labelled: bool = True


def annotate(
    source: Path,
    files: Sequence[str],
    images: Sequence[str],
    options: AnnotationOptions,
    read_tag: Callable[[Path, str], str | None],
    known_classes: tuple[str, ...] | None = None,
) -> Annotations:
    """Find the labels or masks, the patients and the splits of a folder's images.

    Args:
        source: the folder.
        files: every regular file in it, posix paths relative to it, in any order.
        images: those that are images, masks among them.
        options: what the user said.
        read_tag: reads one DICOM tag of a file, None where it is absent.
        known_classes: classes in an order fixed by an earlier run; only these may occur.

    Returns:
        With `no_labels`, no classes unless they are known: how many clusters the images allow
        is seen when they are decoded.

    Raises:
        InputError: no labels, labels that contradict each other or that fit no image, images
            without a label, or an option that can't be followed.
    """
    images = sorted(images)
    if not images:
        raise InputError("no image was found; give a folder that holds images")
    if options.task not in TASKS:
        raise InputError(f"--task: {options.task!r} is none of {', '.join(TASKS)}")
    pairs = find_masks(images, _mask_folder(source, options.masks))
    if options.no_labels:
        return _without_labels(images, pairs, options, known_classes)
    facts = _TableFacts(ImagePaths(source, images, pairs.masks), options)
    facts.collect(source, sorted(files))
    pairs = pairs.without(facts.labels)
    plain = [image for image in images if image not in pairs.masks]
    labels = _labels(source, plain, facts, options, read_tag, known_classes)
    task = _task(options, plain, pairs, labels)
    if task == "segmentation":
        classes: tuple[str, ...] = ("foreground",)
        targets = _mask_targets(pairs, options)
    elif labels is None:
        raise InputError(_nothing_found(len(plain), facts.ignored))
    else:
        _check_rows(labels, facts, options)
        classes, targets = _class_targets(task, labels, known_classes)
    unlabelled = tuple(image for image in plain if image not in targets)
    if unlabelled and not options.allow_missing:
        raise InputError(
            f"{len(unlabelled)} of {len(plain)} images have no "
            f"{'mask' if task == 'segmentation' else 'label'}, such as {examples(unlabelled)}; "
            "add what is missing, take them out, or give --allow-missing to leave them out"
        )
    patients, patient_note = _patients(sorted(targets), facts)
    splits, split_note = _splits(sorted(targets), facts)
    by_path = {
        image: replace(target, patient=patients.get(image), split=splits.get(image))
        for image, target in sorted(targets.items())
    }
    origin = () if task == "segmentation" or labels is None else labels.notes
    notes = (*origin, *_mask_notes(task, pairs), patient_note, split_note, *facts.notes())
    tables = [table for group in facts.groups for table in group.tables]
    used = frozenset(table.name for table in tables if table.inside)
    return Annotations(
        task, classes, by_path, unlabelled, pairs.masks, used, tuple(filter(None, notes))
    )


def _without_labels(
    images: Sequence[str],
    pairs: MaskPairs,
    options: AnnotationOptions,
    known: tuple[str, ...] | None,
) -> Annotations:
    """Every image as it is; masks are told by their names, and are no images here either.

    Raises:
        InputError: another option speaks of labels after all.
    """
    told = {
        "--path-col": options.path_column,
        "--label-col": options.label_column,
        "--patient-col": options.patient_column,
        "--split-col": options.split_column,
        "--label-tag": options.label_tag,
    }
    for option, value in told.items():
        if value is not None:
            raise InputError(f"{option}: --labels none reads no labels; leave one of the two out")
    if options.task not in ("auto", "classification"):
        raise InputError(
            f"--task {options.task}: with --labels none, clusters stand in for classes, which is "
            "classification; leave one of the two out"
        )
    by_path = {image: Annotation() for image in images if image not in pairs.masks}
    return Annotations(
        "classification",
        known or (),
        by_path,
        unlabelled=(),
        masks=pairs.masks,
        tables=frozenset(),
        notes=tuple(_mask_notes("classification", pairs)),
        labelled=False,
    )


def natural_key(name: str) -> tuple[int, float, list[str | int], str]:
    """Sorts numbers by value, and names by their words and the numbers in them: 2 before 10."""
    if re.fullmatch(r"-?\d+(\.\d+)?", name):
        return 0, float(name), [], name
    parts = re.split(r"(\d+)", name.casefold())
    return 1, 0.0, [int(part) if i % 2 else part for i, part in enumerate(parts)], name


class _TableFacts:
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
            seen = f" ({_listed(self._headers[0])})" if self._headers else ""
            raise InputError(f"--labels: {self.ignored[0]}; --path-col names another column{seen}")

    def _add(self, candidates: Mapping[Path, str], inside: bool) -> None:
        """Read tables, match those of one header together, and keep what they say."""
        by_header: dict[tuple[str, ...], list[Table]] = defaultdict(list)
        for path, name in candidates.items():
            table = read_table(path, name, self._paths, inside)
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
                seen = _listed(self._headers[0]) if self._headers else "no label table was found"
                raise InputError(f"{option}: no label table has a column {wanted!r} ({seen})")

    def of_labels(self) -> _Labels | None:
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
        return _Labels("table", self.labels, min(tasks), notes, vocabulary)

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


@dataclass(frozen=True)
class _Labels:
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


def _listed(header: Sequence[str]) -> str:
    """The first columns of a table, for a message."""
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
    yield f"labels: {group.name}, {column}, {len(group.rows)} of {group.total} rows matched"
    if len(names) > 1:
        cells = [row[i].casefold() for _, _, row in group.rows for i in group.columns.labels]
        uncertain = sum(FINDING_VALUES.get(cell) == -1 for cell in cells)
        blank = sum(map(is_blank, cells))
        if uncertain or blank:
            yield f"{group.name}: {uncertain} uncertain (-1) and {blank} blank findings count as 0"


def _labels(
    source: Path,
    images: Sequence[str],
    facts: _TableFacts,
    options: AnnotationOptions,
    read_tag: Callable[[Path, str], str | None],
    known: tuple[str, ...] | None,
) -> _Labels | None:
    """The labels: of the named tag, else of tables, else of the folders' names."""
    if options.label_tag is not None:
        return _tag_labels(source, images, options.label_tag, read_tag)
    named = options.labels is not None or options.label_column is not None
    return facts.of_labels() or (None if named else _folder_labels(images, known or ()))


def _tag_labels(
    source: Path,
    images: Sequence[str],
    tag: str,
    read_tag: Callable[[Path, str], str | None],
) -> _Labels:
    """The value of one DICOM element as the class of its image."""
    if not re.fullmatch(r"[0-9a-fA-F]{4},[0-9a-fA-F]{4}", tag):
        raise InputError(f"--label-tag: {tag!r} is no DICOM tag; write it as 0008,103E")
    values = {image: read_tag(source / image, tag) for image in images}
    found = {i: frozenset({v.strip()}) for i, v in values.items() if v and v.strip()}
    if not found:
        raise InputError(
            f"--label-tag: none of {len(images)} images has a value at ({tag}); "
            "name another tag, or give --labels"
        )
    note = f"labels: DICOM tag ({tag}), {len(found)} of {len(images)} images"
    return _Labels("tag", found, "classification", (note,))


def _folder_labels(images: Sequence[str], known: tuple[str, ...]) -> _Labels | None:
    """One folder for each class, also below folders of splits, patients and batches.

    Where classes are known and every image lies in a folder named like one, that is its label,
    though all may be of the same class.
    """
    recognised = {image: _known_folder(image, known) for image in images}
    if recognised and all(recognised.values()):
        labels = {image: frozenset(names) for image, names in recognised.items()}
        return _Labels("folders", labels, "classification", ("labels: folders of known classes",))
    folders = {image: _class_folders(image) for image in images}
    while (firsts := {parts[:1] for parts in folders.values()}) != {()} and len(firsts) == 1:
        folders = {image: parts[1:] for image, parts in folders.items()}
    found = {image: frozenset(parts[:1]) for image, parts in folders.items() if parts}
    classes = {name for names in found.values() for name in names}
    if len(classes) < 2 or len(found) < 2 * len(classes):
        return None  # a folder for each image says what it is called, not what it is
    note = f"labels: one folder for each of {len(classes)} classes"
    return _Labels("folders", found, "classification", (note,))


def _known_folder(image: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The nearest folder above an image that is named like a known class, or nothing."""
    folders = reversed(PurePosixPath(image).parent.parts)
    return next(((name,) for name in folders if name in known), ())


def _class_folders(image: str) -> tuple[str, ...]:
    """The folders above an image that may be its class."""
    folders = PurePosixPath(image).parent.parts
    return tuple(name for name in folders if _folder_split(name) is None and not _is_serial(name))


def _is_serial(name: str) -> bool:
    """Whether a folder is one of a numbered series, such as `patient012` or `images_part_2`."""
    parts = words(name)
    serial = any(word.rstrip("0123456789") in SERIAL_WORDS for word in parts)
    return serial and (len(parts) == 1 or parts[-1][-1].isdigit())


def _folder_split(name: str) -> str | None:
    """`train` for `train`, `Training`, `train_images` and `imagesTr`."""
    rest = [word for word in words(name) if word not in IMAGE_WORDS]
    return SPLITS.get(rest[0]) if len(rest) == 1 else None


def _task(
    options: AnnotationOptions, images: Sequence[str], pairs: MaskPairs, labels: _Labels | None
) -> str:
    """What the annotations are for, unless the user says."""
    masked = len(set(pairs.by_image).union(pairs.several).intersection(images))
    if not masked and (options.task == "segmentation" or options.masks is not None):
        raise InputError(
            f"no mask fits any of {len(images)} images; give a mask the name of its image, in "
            "masks/ beside images/ or as NAME_mask, or name the folder with --masks"
        )
    if options.task != "auto":
        return options.task
    needed = {"table": 1.0, "tag": 1.0, "folders": NEARLY_ALL}[labels.origin] if labels else 0.0
    if masked and (options.masks is not None or masked >= needed * len(images)):
        return "segmentation"
    return labels.task if labels else "classification"


def _mask_folder(source: Path, masks: Path | None) -> str | None:
    """The folder of `--masks`, as a posix path relative to the source."""
    if masks is None:
        return None
    root = source.resolve()
    found = [path.resolve() for path in (masks, source / masks) if path.is_dir()]
    if not found:
        raise InputError(f"--masks: {masks} is not a folder")
    for path in found:
        if path != root and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    raise InputError(
        f"--masks: {masks} is not a folder inside the source; put the masks inside it, since the "
        "release holds a copy of them"
    )


def _mask_targets(pairs: MaskPairs, options: AnnotationOptions) -> dict[str, Annotation]:
    """The mask of each image."""
    if pairs.several:
        raise InputError(
            f"{len(pairs.several)} images have more than one mask, such as "
            f"{examples(pairs.several)}; merge them into one file, or name one folder with --masks"
        )
    if pairs.orphans and not options.allow_missing:
        raise InputError(
            f"{len(pairs.orphans)} masks have no image, such as {examples(pairs.orphans)}; add the "
            "images, take the masks out, or give --allow-missing"
        )
    return {image: Annotation(mask=mask) for image, mask in pairs.by_image.items()}


def _mask_notes(task: str, pairs: MaskPairs) -> Iterable[str]:
    """How many files were taken for masks, and where they lie."""
    if task == "segmentation":
        used = set(pairs.by_image.values())
        folders = examples(PurePosixPath(mask).parent.as_posix() for mask in used)
        yield f"masks: {len(used)} in {folders}, for {len(pairs.by_image)} images"
        if unused := len(pairs.masks - used):
            yield f"masks: {unused} more are not used; they are copied"
    elif pairs.masks:
        yield f"masks: {len(pairs.masks)} files, such as {examples(pairs.masks)}; they are copied"


def _class_targets(
    task: str, labels: _Labels, known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, Annotation]]:
    """The classes in natural (or known) order, and each image's class or findings."""
    sets = labels.by_image
    seen = frozenset[str]().union(*sets.values())
    strange = sorted(seen - set(known), key=natural_key) if known else []
    if strange:
        raise InputError(
            f"{len(strange)} classes are new to the generator, such as {examples(strange)}; "
            "fit a generator on images of all classes"
        )
    if task == "classification":
        unclear = [image for image, names in sets.items() if len(names) != 1]
        if unclear:
            raise InputError(
                f"{len(unclear)} images have several findings or none, such as "
                f"{examples(unclear)}; --task multilabel takes them"
            )
        classes = known or tuple(sorted(seen, key=natural_key))
        if len(classes) < 2:
            raise InputError(
                f"all {len(sets)} labelled images are of one class; classification needs two: "
                "name another column with --label-col or another table with --labels"
            )
        position = {name: index for index, name in enumerate(classes)}
        return classes, {
            i: Annotation(label=position[n]) for i, names in sets.items() for n in names
        }
    if not seen and not known:
        raise InputError(f"none of {len(sets)} labelled images has any finding")
    classes = known or tuple(sorted(seen | labels.vocabulary, key=natural_key))
    return classes, {
        image: Annotation(findings=tuple(int(name in names) for name in classes))
        for image, names in sets.items()
    }


def _check_rows(labels: _Labels, facts: _TableFacts, options: AnnotationOptions) -> None:
    """Every row of the tables that label must name an image."""
    if facts.unmatched and labels.origin == "table" and not options.allow_missing:
        raise InputError(
            f"{len(facts.unmatched)} rows name no image in the source, such as "
            f"{examples(facts.unmatched)}; add the images, take the rows out, or give "
            "--allow-missing to pass over them"
        )


def _nothing_found(images: int, ignored: Sequence[str]) -> str:
    return (
        f"no labels and no masks were found for {images} images: looked for a CSV or TSV table in "
        "the folder and beside it, for a folder for each class, and for masks (masks/ beside "
        "images/, or NAME_mask); give --labels, --masks or --label-tag, or --labels none, which "
        "protects by clusters of images that look alike, and far less well"
        + (f" ({'; '.join(ignored[:3])})" if ignored else "")
    )


def _patients(images: Sequence[str], facts: _TableFacts) -> tuple[dict[str, str], str]:
    """The patient of each image by table, else by folder names; and a note of it."""
    found = {image: facts.patients[image] for image in images if image in facts.patients}
    origin = "table"
    if not found:
        folders = {image: _patient_folder(image) for image in images}
        found = {image: folder for image, folder in folders.items() if folder}
        origin = "folder names"
    groups = len(set(found.values()))
    note = f"patients: {groups} groups, {len(found)} of {len(images)} images, by {origin}"
    return found, note if found else ""


def _patient_folder(image: str) -> str | None:
    """CheXpert's `patient00001`, BIDS's `sub-01`."""
    folders = PurePosixPath(image).parent.parts
    return next((name for name in folders if PATIENT_FOLDER.fullmatch(name)), None)


def _splits(images: Sequence[str], facts: _TableFacts) -> tuple[dict[str, str], str]:
    """The split of each image by column, else by folders, else by the tables' names.

    Where all images are in one and the same part, nothing is split.
    """
    folders = {image: _path_split(image) for image in images}
    for origin, known in (
        ("column", facts.splits),
        ("folder names", folders),
        ("table names", facts.table_splits),
    ):
        found = {image: part for image in images if (part := known.get(image))}
        parts = Counter(found.values())
        if len(parts) > 1 or (found and len(found) < len(images)):
            counts = ", ".join(f"{part} {parts[part]}" for part in sorted(parts))
            return found, f"split: {counts}, by {origin}"
    return {}, ""


def _path_split(image: str) -> str | None:
    folders = PurePosixPath(image).parent.parts
    return next((split for name in folders if (split := _folder_split(name))), None)
