"""Telling masks from images, and which mask belongs to which image, by their names alone.

A mask is never perturbed: it is copied. So a file is taken for a mask only when its name, or a
folder of its path, says so *and* an image of a matching name exists.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MASK_WORDS = frozenset(
    {"mask", "masks", "seg", "segs", "segmentation", "segmentations", "label", "labels"}
    | {"annotation", "annotations", "gt", "groundtruth"}
)
IMAGE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "imaging", "scan", "scans", "volume", "volumes"}
    | {"input", "inputs", "data", "original", "originals", "photo", "photos", "jpeg", "jpg", "png"}
)

Folder = tuple[str, ...]


@dataclass(frozen=True)
class MaskPairs:
    """Which files are masks, and of which image.

    Attributes:
        by_image: the mask of each image that has exactly one best-fitting mask.
        masks: every file taken for a mask, paired or not.
        several: images that more than one mask fits equally well; not in `by_image`.
        orphans: masks, in a folder of masks, that fit no image.
    """

    by_image: dict[str, str]
    masks: frozenset[str]
    several: tuple[str, ...]
    orphans: tuple[str, ...]

    def without(self, images: Iterable[str]) -> MaskPairs:
        """The same pairs where `images` are known, from elsewhere, to be images and no masks."""
        images = frozenset(images)
        return MaskPairs(
            {image: mask for image, mask in self.by_image.items() if mask not in images},
            self.masks - images,
            self.several,
            tuple(mask for mask in self.orphans if mask not in images),
        )


def without_extension(path: str) -> str:
    """The path without its extension; `.nii.gz` counts as one, the parts of a UID as none."""
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{0,4}(\.gz)?$", "", path)


def words(name: str) -> list[str]:
    """The lower-case words of a name: `ISIC_Training-GroundTruth` is isic, training, groundtruth.

    Words end at signs, spaces and capitals (`labelsTr` is labels, tr); digits stay with letters.
    """
    name = re.sub(r"ground[ _-]?truth", "Groundtruth", name, flags=re.IGNORECASE)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return [word.casefold() for word in re.split(r"[\W_]+", name) if word]


def speaks_of_masks(path: str) -> bool:
    """Whether a folder or the name of a file has a word for masks."""
    parts = PurePosixPath(without_extension(path)).parts
    return any(_has_word(part, MASK_WORDS) for part in parts)


def find_masks(images: Sequence[str], chosen: str | None = None) -> MaskPairs:
    """Tell the masks among `images` and pair them.

    A folder named like masks (`masks`, `labelsTr`, `train_masks`) is paired with its sibling
    folders and its parent; `NAME_mask` and the like with `NAME` of the same folder.

    Args:
        images: posix paths relative to the source, masks among them.
        chosen: the folder that the user named: everything in it is a mask, and only its masks
            are paired. Other masks are still told from images.
    """
    shared = _common_depth(images)
    in_folders = {i: place for i in images if (place := _in_folder(i, shared, chosen))}
    fits = _fits(in_folders, [i for i in images if i not in in_folders])
    folders = {in_folders[mask].folder for mask in fits}
    masks = {mask for mask, place in in_folders.items() if place.folder in folders}
    beside, plain = _beside([image for image in images if image not in masks])
    fits.update(_fits(beside, plain))

    counted = fits if chosen is None else {m: f for m, f in fits.items() if _under(m, chosen)}
    by_image: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for mask, (distance, partners) in sorted(counted.items()):
        for image in partners:
            by_image[image].append((distance, mask))
    best = {i: [m for d, m in found if d == min(found)[0]] for i, found in by_image.items()}
    orphans = [m for m in masks - set(fits) if chosen is None or _under(m, chosen)]
    return MaskPairs(
        {image: found[0] for image, found in sorted(best.items()) if len(found) == 1},
        frozenset(masks) | frozenset(fits),
        tuple(sorted(image for image, found in best.items() if len(found) > 1)),
        tuple(sorted(orphans)),
    )


@dataclass(frozen=True)
class _Place:
    """Where a suspected mask lies: in a folder of masks, or (`folder` is None) beside its image.

    Attributes:
        folder: the path of the folder of masks.
        below: the folders between it and the file.
        anywhere: whether its image may be in any folder of the source.
    """

    folder: Folder | None
    below: Folder
    anywhere: bool = False


def _under(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _in_folder(path: str, shared: int, chosen: str | None) -> _Place | None:
    """The place of a file in a folder that is chosen, or named, as one of masks, or None.

    The first `shared` folders are those of every image, and tell nothing apart.
    """
    folders = PurePosixPath(path).parent.parts
    if chosen is not None and _under(path, chosen):
        depth = len(PurePosixPath(chosen).parts)
        return _Place(folders[:depth], folders[depth:], anywhere=True)
    for depth in range(len(folders), shared, -1):
        if _has_word(folders[depth - 1], MASK_WORDS):
            return _Place(folders[:depth], folders[depth:])
        if _has_word(folders[depth - 1], IMAGE_WORDS):
            break
    return None


def _beside(images: Sequence[str]) -> tuple[dict[str, _Place], list[str]]:
    """The files whose own names speak of a mask, and the others."""
    places: dict[str, _Place] = {}
    plain: list[str] = []
    for image in images:
        path = PurePosixPath(image)
        if _has_word(without_extension(path.name), MASK_WORDS):
            places[image] = _Place(None, path.parent.parts)
        else:
            plain.append(image)
    return places, plain


def _fits(places: dict[str, _Place], plain: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    """For each suspect that has any: the images it fits, and how closely (0 is closest)."""
    index = _PlainImages(plain) if places else None
    found = {mask: index.partners(mask, place) for mask, place in places.items() if index}
    return {mask: fit for mask, fit in found.items() if fit[1]}


def _common_depth(images: Sequence[str]) -> int:
    """How many folders all paths share."""
    folders = {PurePosixPath(image).parent.parts for image in images}
    shared = 0
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared += 1
    return shared


@lru_cache(1 << 10)  # folders come again and again, files once
def _has_word(name: str, vocabulary: frozenset[str]) -> bool:
    return any(word.rstrip("0123456789") in vocabulary for word in words(name))


def _joined(parts: Iterable[str], vocabulary: frozenset[str] = frozenset()) -> str:
    """A key of the words that are not in the vocabulary (with a number or not: mask, mask2)."""
    return " ".join(word for word in parts if word.rstrip("0123456789") not in vocabulary)


def _image_keys(stem: str) -> dict[str, str]:
    """What a mask's name may equal, form by form."""
    parts = words(stem)
    keys = {
        "name": stem,
        "words": " ".join(parts),
        "bare": _joined(parts, IMAGE_WORDS),
    }
    if len(parts) > 1:
        keys["modality"] = " ".join(parts[:-1])  # BraTS: NAME_t1, NAME_flair and NAME_seg
        if re.fullmatch(r"\d{4}", parts[-1]):
            keys["channel"] = keys["modality"]  # nnU-Net: NAME_0000, NAME_0001 and NAME
    return keys


def _mask_keys(stem: str, beside: bool) -> list[tuple[str, str]]:
    """Form and key of the images that a mask may belong to, the closest first."""
    parts = words(stem)
    rest = _joined(parts, MASK_WORDS)
    keys = [("name", stem), ("words", rest), ("bare", _joined(parts, MASK_WORDS | IMAGE_WORDS))]
    if len(parts) > 2 and parts[-1].isdigit() and parts[-2] in MASK_WORDS:
        keys.append(("words", _joined(parts[:-1], MASK_WORDS)))  # BUSI: NAME_mask_1, a second mask
    keys.append(("modality" if beside else "channel", rest))
    return keys


class _PlainImages:
    """The images that are no masks, by folder and by what a mask's name may equal."""

    def __init__(self, images: Sequence[str]) -> None:
        self._keys: dict[Folder, dict[tuple[str, str], list[str]]] = {}
        self._everywhere: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._siblings: dict[Folder, set[str]] = defaultdict(set)
        for image in images:
            path = PurePosixPath(image)
            keys = self._keys.setdefault(path.parent.parts, defaultdict(list))
            for item in _image_keys(without_extension(path.name)).items():
                keys[item].append(image)
                self._everywhere[item].append(image)
        for folder in self._keys:
            for depth, name in enumerate(folder):
                self._siblings[folder[:depth]].add(name)
        self._levels: dict[_Place, list[list[Folder]]] = {}

    def partners(self, mask: str, place: _Place) -> tuple[int, list[str]]:
        """How closely the best images fit (0 is closest), and which they are."""
        keys = _mask_keys(without_extension(PurePosixPath(mask).name), place.folder is None)
        if place not in self._levels:
            self._levels[place] = [
                [folder for folder in level if folder in self._keys]
                for level in self._folders(place)
            ]
        levels = [[self._keys[folder] for folder in level] for level in self._levels[place]]
        if place.anywhere:
            levels.append([self._everywhere])
        for level, indexes in enumerate(levels):
            for form, key in enumerate(keys):
                found = [image for index in indexes for image in index.get(key, ())]
                if found:
                    return level * len(keys) + form, found
        return 0, []

    def _folders(self, place: _Place) -> Iterator[list[Folder]]:
        """Where the images of a mask may lie, the likeliest first."""
        if place.folder is None:
            yield [place.below]
            return
        above, name = place.folder[:-1], place.folder[-1]
        while True:
            siblings = sorted(self._siblings[above])
            twins = [s for s in siblings if _folder_key(s) == _folder_key(name)]
            yield [(*above, twin, *place.below) for twin in twins]
            yield [(*above, *place.below)]
            yield [(*above, other, *place.below) for other in siblings if other not in twins]
            if not above or not _has_word(above[-1], MASK_WORDS):
                return
            above = above[:-1]  # ManualMask/leftMask: both are folders of masks


def _folder_key(name: str) -> str:
    """Equal for `images` and `masks`, for `imagesTr` and `labelsTr`, for `train` and `train_gt`."""
    return _joined(words(name), MASK_WORDS | IMAGE_WORDS)
