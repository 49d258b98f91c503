"""A MedMNIST set as a folder of PNG or DICOM files with a label table, as a user would have it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medshield.errors import InputError

SPLITS = ("train", "val", "test")


def export(
    name: str, target: Path, *, root: Path | None, limit: int | None, file_format: str = "png"
) -> None:
    """Write one set; nothing is done where `target` exists.

    Args:
        name: as the medmnist package has it, such as "pneumoniamnist".
        target: the folder to write.
        root: where NAME.npz lies; None to let the medmnist package download it.
        limit: training images at the most, and a quarter as many validation images.
        file_format: "png", or "dicom" for single-frame secondary captures.

    Raises:
        InputError: no set of that name, or no file in `root`.
    """
    import medmnist

    if target.exists():
        return
    facts = medmnist.INFO.get(name)
    if facts is None:
        raise InputError(f"--sets: {name!r} is none of {', '.join(medmnist.INFO)}")
    if root is not None and not (root / f"{name}.npz").is_file():
        raise InputError(f"{root / name}.npz: no such file; leave --root out to download the set")
    dataset = getattr(medmnist, facts["python_class"])
    labels = list(facts["label"].values())
    multilabel = "multi-label" in facts["task"]
    limits = {"train": limit, "val": limit and max(1, limit // 4), "test": None}
    rows: list[list[Any]] = []
    partial = target.with_name(target.name + ".partial")
    for split in SPLITS:
        places = {"root": str(root)} if root else {}
        part = dataset(split=split, download=root is None, **places)
        (partial / split).mkdir(parents=True, exist_ok=True)
        for number in range(len(part.imgs[: limits[split]])):
            path = f"{split}/{number:06d}.{'dcm' if file_format == 'dicom' else 'png'}"
            if file_format == "dicom":
                _write_dicom(part.imgs[number], f"{name}/{path}", partial / path)
            else:
                Image.fromarray(part.imgs[number]).save(partial / path)
            truth = np.asarray(part.labels[number]).reshape(-1)
            rows.append([path, split, *(truth if multilabel else [labels[int(truth[0])]])])
    with (partial / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "split", *(labels if multilabel else ["label"])])
        writer.writerows(rows)
    partial.rename(target)


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
