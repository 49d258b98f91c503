"""What the names of the folders above an image tell: its class, its patient, its split."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medshield.dataset.label_columns import SPLITS
from medshield.dataset.masks import IMAGE_WORDS, words

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# Folders so named, with a number, hold a person or a batch, and are no class.
SERIAL_WORDS = frozenset(
    {"patient", "subject", "sub", "case", "study", "series", "session", "ses", "scan", "scans"}
    | {"image", "images", "img", "imgs", "part", "batch", "fold"}
)
MOST_NUMBERED_CLASSES = 20
PATIENT_FOLDER = re.compile(r"(patient|subject|sub|case)[-_ ]?\w*\d\w*", re.IGNORECASE)


def classes_by_folder(
    images: Sequence[str], known: tuple[str, ...]
) -> tuple[dict[str, frozenset[str]], str] | None:
    """One folder for each class, also below folders of splits, patients and batches.

    Where classes are known and every image lies in a folder named like one, that is its label,
    though all may be of the same class.

    Returns:
        The class of each image, and a note of how it was told; None where folders tell none.
    """
    recognised = {image: _known_folder(image, known) for image in images}
    if recognised and all(recognised.values()):
        labels = {image: frozenset(names) for image, names in recognised.items()}
        return labels, "labels: folders of known classes"
    folders = {image: _may_be_class(image) for image in images}
    while (firsts := {parts[:1] for parts in folders.values()}) != {()} and len(firsts) == 1:
        folders = {image: parts[1:] for image, parts in folders.items()}
    found = {image: frozenset(parts[:1]) for image, parts in folders.items() if parts}
    classes = {name for names in found.values() for name in names}
    if len(classes) < 2 or len(found) < 2 * len(classes):
        return None  # a folder for each image says what it is called, not what it is
    note = f"labels: one folder for each of {len(classes)} classes"
    if _are_numbered(classes):
        note += (
            ", whose names look numbered: if they are patients or studies, nothing is protected "
            "by them; give --labels CSV or --label-tag"
        )
    return found, note


def _are_numbered(classes: Collection[str]) -> bool:
    """Whether folders are called as patients are, and as classes seldom are."""
    patterns = {re.sub(r"\d+", "#", name) for name in classes}
    long = any(re.search(r"\d{3}", name) for name in classes)
    return (
        len(patterns) == 1
        and "#" in next(iter(patterns))
        and (long or len(classes) > MOST_NUMBERED_CLASSES)
    )


def _known_folder(image: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The nearest folder above an image that is named like a known class, or nothing."""
    folders = reversed(PurePosixPath(image).parent.parts)
    return next(((name,) for name in folders if name in known), ())


def _may_be_class(image: str) -> tuple[str, ...]:
    """The folders above an image that may be its class."""
    folders = PurePosixPath(image).parent.parts
    return tuple(name for name in folders if _folder_split(name) is None and not _is_serial(name))


def _is_serial(name: str) -> bool:
    """Whether a folder is one of a numbered series, such as `patient012` or `images_part_2`."""
    parts = words(name)
    serial = any(word.rstrip("0123456789") in SERIAL_WORDS for word in parts)
    return serial and (len(parts) == 1 or parts[-1][-1].isdigit())


def patient_in(image: str) -> str | None:
    """The folder of a patient above an image: CheXpert's `patient00001`, BIDS's `sub-01`."""
    folders = PurePosixPath(image).parent.parts
    return next((name for name in folders if PATIENT_FOLDER.fullmatch(name)), None)


def split_in(image: str) -> str | None:
    """The split that the nearest folder below the source speaks of, if one does."""
    folders = PurePosixPath(image).parent.parts
    return next((split for name in folders if (split := _folder_split(name))), None)


def _folder_split(name: str) -> str | None:
    """`train` for `train`, `Training`, `train_images` and `imagesTr`."""
    rest = [word for word in words(name) if word not in IMAGE_WORDS]
    return SPLITS.get(rest[0]) if len(rest) == 1 else None
