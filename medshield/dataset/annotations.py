"""What each image of a folder stands for: its label, findings or mask, its patient and split.

Nothing is opened but tables (and, where the user names a DICOM tag, headers): the rest is told
from the names of files and folders. What was inferred is said in notes; what can't be told for
sure is an error that names the option which settles it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.folder_names import classes_by_folder, patient_in, split_in
from medshield.dataset.image_paths import ImagePaths
from medshield.dataset.masks import MaskPairs, find_masks
from medshield.dataset.table_facts import Labels, TableFacts
from medshield.errors import InputError
from medshield.text import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

TASKS = ("auto", "classification", "multilabel", "segmentation")
NEARLY_ALL = 0.9  # of the images have masks: then the folder is one for segmentation


@dataclass(frozen=True, slots=True)
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
class Labelling:
    """What the annotations of a folder's images mean.

    Attributes:
        task: classification, multilabel or segmentation.
        classes: names in natural order; `("foreground",)` for segmentation.
        notes: what was inferred, for a person.
        labelled: False where no labels are used (`--labels none`): classes are clusters, and an
            image's cluster is told from its pixels.
    """

    task: str
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    labelled: bool = True


@dataclass(frozen=True)
class Annotations:
    """What a folder's images stand for. Paths are posix, relative to the source.

    Attributes:
        task, classes, notes, labelled: see `Labelling`.
        by_path: the annotated images.
        unlabelled: images without annotation (only where `allow_missing`).
        masks: files that are masks, and so never images to protect.
        tables: label tables inside the source that were used.
    """

    task: str
    classes: tuple[str, ...]
    by_path: dict[str, Annotation]
    unlabelled: tuple[str, ...]
    masks: frozenset[str]
    tables: frozenset[str]
    notes: tuple[str, ...]
    labelled: bool = True

    @property
    def labelling(self) -> Labelling:
        """What they mean, without the images."""
        return Labelling(self.task, self.classes, self.notes, self.labelled)


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
    facts = TableFacts(ImagePaths(source, images, pairs.masks), options)
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


def _labels(
    source: Path,
    images: Sequence[str],
    facts: TableFacts,
    options: AnnotationOptions,
    read_tag: Callable[[Path, str], str | None],
    known: tuple[str, ...] | None,
) -> Labels | None:
    """The labels: of the named tag, else of tables, else of the folders' names."""
    if options.label_tag is not None:
        return _tag_labels(source, images, options.label_tag, read_tag)
    named = options.labels is not None or options.label_column is not None
    return facts.of_labels() or (None if named else _folder_labels(images, known or ()))


def _folder_labels(images: Sequence[str], known: tuple[str, ...]) -> Labels | None:
    found = classes_by_folder(images, known)
    if found is None:
        return None
    by_image, note = found
    return Labels("folders", by_image, "classification", (note,))


def _tag_labels(
    source: Path,
    images: Sequence[str],
    tag: str,
    read_tag: Callable[[Path, str], str | None],
) -> Labels:
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
    return Labels("tag", found, "classification", (note,))


def _task(
    options: AnnotationOptions, images: Sequence[str], pairs: MaskPairs, labels: Labels | None
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
        raise InputError(
            f"--masks: {masks}: no such folder; name the one of the masks, inside the source"
        )
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
    task: str, labels: Labels, known: tuple[str, ...] | None
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
                "name another column with --label-col, another table with --labels, or another tag "
                "with --label-tag"
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


def _check_rows(labels: Labels, facts: TableFacts, options: AnnotationOptions) -> None:
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


def _patients(images: Sequence[str], facts: TableFacts) -> tuple[dict[str, str], str]:
    """The patient of each image by table, else by folder names; and a note of it."""
    found = {image: facts.patients[image] for image in images if image in facts.patients}
    origin = "table"
    if not found:
        folders = {image: patient_in(image) for image in images}
        found = {image: folder for image, folder in folders.items() if folder}
        origin = "folder names"
    groups = len(set(found.values()))
    note = f"patients: {groups} groups, {len(found)} of {len(images)} images, by {origin}"
    return found, note if found else ""


def _splits(images: Sequence[str], facts: TableFacts) -> tuple[dict[str, str], str]:
    """The split of each image by column, else by folders, else by the tables' names.

    Where all images are in one and the same part, nothing is split.
    """
    folders = {image: split_in(image) for image in images}
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
