"""A MedMNIST set as a folder of PNG or DICOM files with a label table, as a user would have it."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medshield.errors import InputError

SPLITS = ("train", "val", "test")
TABLE = "labels.csv"


def export(
    name: str, target: Path, *, root: Path | None, limit: int | None, file_format: str = "png"
) -> str:
    """Write one set; nothing is written where `target` exists.

    Args:
        name: as the medmnist package has it, such as "pneumoniamnist".
        target: the folder to write.
        root: where NAME.npz lies; None to let the medmnist package download it.
        limit: training images at the most, and a quarter as many validation images.
        file_format: "png", or "dicom" for single-frame secondary captures.

    Returns:
        What the limit left out; empty where there is none.

    Raises:
        InputError: no set of that name, none in `root` and none to be downloaded, a damaged one,
            or `target` was written with another limit or in another format.
    """
    import medmnist

    facts = medmnist.INFO.get(name)
    if facts is None:
        raise InputError(f"--sets: {name!r} is none of {', '.join(medmnist.INFO)}")
    if name.endswith("3d"):
        raise InputError(f"--sets: {name} holds volumes, which become no {file_format} files here")
    limits = {"train": limit, "val": limit and max(1, limit // 4), "test": None}
    suffix = ".dcm" if file_format == "dicom" else ".png"
    if not target.exists():
        _write(name, facts, target, root=root, limits=limits, suffix=suffix)
    with (target / TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    there = Counter(row["split"] for row in rows)
    sizes = _sizes(name, facts["n_samples"], root)
    wanted = {split: min(limits[split] or size, size) for split, size in sizes.items()}
    if there != wanted or not rows[0]["filename"].endswith(suffix):
        raise InputError(
            f"{target}: was written with another --limit or --format; choose another -o, or remove "
            "it and what was made of it"
        )
    if limit is None:
        return ""
    counts = ", ".join(f"{there[split]} of {sizes[split]} {split}" for split in SPLITS)
    return f"--limit {limit}: the first images of each part ({counts})"


def _sizes(name: str, official: dict[str, int], root: Path | None) -> dict[str, int]:
    """Images of each part: of the file that is there, else as published."""
    if root is None or not (root / f"{name}.npz").is_file():
        return official
    with np.load(root / f"{name}.npz", allow_pickle=False) as kept:
        return {split: len(kept[f"{split}_labels"]) for split in SPLITS}


def _write(
    name: str,
    facts: dict[str, Any],
    target: Path,
    *,
    root: Path | None,
    limits: dict[str, int | None],
    suffix: str,
) -> None:
    labels = list(facts["label"].values())
    multilabel = "multi-label" in facts["task"]
    rows: list[list[Any]] = []
    partial = target.with_name(target.name + ".partial")
    for split in SPLITS:
        part = _part(name, facts["python_class"], split, root)
        (partial / split).mkdir(parents=True, exist_ok=True)
        for number in range(len(part.imgs[: limits[split]])):
            path = f"{split}/{number:06d}{suffix}"
            if suffix == ".dcm":
                _write_dicom(part.imgs[number], f"{name}/{path}", partial / path)
            else:
                Image.fromarray(part.imgs[number]).save(partial / path)
            truth = np.asarray(part.labels[number]).reshape(-1)
            rows.append([path, split, *(truth if multilabel else [labels[int(truth[0])]])])
    with (partial / TABLE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "split", *(labels if multilabel else ["label"])])
        writer.writerows(rows)
    partial.rename(target)


def _part(name: str, python_class: str, split: str, root: Path | None) -> Any:
    """One part of a set, as the medmnist package reads it.

    Raises:
        InputError: there is none, or it can't be read.
    """
    import medmnist

    if root is not None and not (root / f"{name}.npz").is_file():
        raise InputError(f"{root / name}.npz: no such file; leave --root out to download the set")
    places = {"root": str(root)} if root else {}
    try:
        return getattr(medmnist, python_class)(split=split, download=root is None, **places)
    except (RuntimeError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if root is None:
            raise InputError(
                f"--sets: {name} could not be downloaded; get {name}.npz where there is a network "
                "(https://medmnist.com), and give its folder with --root"
            ) from error
        raise InputError(
            f"{root / name}.npz: can't be read; expected the file that medmnist.com publishes"
        ) from error


def _write_dicom(pixels: NDArray[np.uint8], identity: str, target: Path) -> None:
    """One image as a Secondary Capture (PS3.3 A.8.1); (height, width) or (height, width, 3)."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = generate_uid(None, [identity])
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID = generate_uid(None, [identity, "study"])
    image.SeriesInstanceUID = generate_uid(None, [identity, "series"])
    image.Modality = "OT"
    image.ConversionType = "WSD"
    image.PatientID = image.PatientName = ""
    image.Rows, image.Columns = pixels.shape[:2]
    image.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    image.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        image.PlanarConfiguration = 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    image.save_as(target, enforce_file_format=True)
