"""Tiny labelled folders of images, and a way to run the command line inside the test's process."""

import contextlib
import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medshield import audit, cli

CLASSES = ("benign", "malignant")
PATIENT = "SECRET^PATIENT"
EIGHT = ("--method", "synthetic", "--eps", "8/255")


def texture(seed, shape=(40, 36), low=20, high=235):
    """Smooth random values, none of them at the ends of the range."""
    rng = np.random.default_rng(seed)
    small = rng.random((5, 5, *shape[2:]))
    rows = np.linspace(0, 4, shape[0]).astype(int)
    columns = np.linspace(0, 4, shape[1]).astype(int)
    values = small[np.ix_(rows, columns)] * 0.8 + rng.random(shape) * 0.2
    return np.round(low + values * (high - low))


def png(path, seed=0, bits=8, colour=False):
    values = texture(seed, (40, 36, 3) if colour else (40, 36), high=235 if bits == 8 else 60000)
    Image.fromarray(values.astype(f"u{bits // 8}")).save(path, format="PNG")


def jpeg(path, seed=0):
    values = texture(seed, (40, 36, 3)).astype("u1")
    Image.fromarray(values).save(path, format="JPEG", quality=92)


def dicom(path, seed=0, **elements):
    """A CT slice with a window of -160 to 240 HU, and a patient that nobody may hear of."""
    values = texture(seed, low=-150, high=230).astype("<i2") + 1024
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{seed + 1}"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CT"
    dataset.PatientName, dataset.PatientID = PATIENT, f"{PATIENT}-{seed}"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)


def nifti(path, seed=0, values=None):
    if values is None:
        planes = [texture(seed * 10 + k, high=900) for k in range(3)]
        values = np.stack(planes, -1).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]))
    nibabel.save(image, path)


MAKERS = {".png": png, ".jpg": jpeg, ".dcm": dicom, ".nii.gz": nifti}


def in_classes(root, suffixes=(".png",), each=3, classes=CLASSES, first=0):
    """A folder for each class, with `each` images of each suffix."""
    seed = first
    for name in classes:
        (root / name).mkdir(parents=True)
        for suffix in suffixes:
            for _ in range(each):
                MAKERS[suffix](root / name / f"{seed}{suffix}", seed)
                seed += 1
    return root


def with_table(root, rows, header="filename,label", name="labels.csv"):
    """Write a label table into the folder."""
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    return root


def segmented(root, suffix=".png", count=3):
    """images/ and masks/, the mask a square."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for seed in range(count):
        MAKERS[suffix](root / "images" / f"case{seed}{suffix}", seed)
        mask = np.zeros((40, 36), np.uint8)
        mask[8 : 20 + seed, 6:20] = 1
        if suffix == ".png":
            Image.fromarray(mask * 255).save(root / "masks" / f"case{seed}.png")
        else:
            nifti(root / "masks" / f"case{seed}{suffix}", values=np.stack([mask] * 3, -1))
    return root


def tree(root):
    """Every file below a folder and its bytes, or where a link leads."""
    found = {}
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            content = str(path.readlink()) if path.is_symlink() else path.read_bytes()
            found[path.relative_to(root).as_posix()] = content
    return found


def without_seconds(value):
    """A report less how long things took."""
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if key != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def state(root):
    """All that would tell that a folder was written to: names, bytes, times, modes."""
    facts = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names, "."):
            path = Path(folder, name)
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            facts[str(path)] = (status.st_mtime_ns, status.st_mode, status.st_size, content)
    return facts


def manifest(release):
    """The manifest's lines by path."""
    lines = (release / "medshield-manifest.jsonl").read_text().splitlines()
    return {record["path"]: record for record in map(json.loads, lines)}


def stored(path):
    """The stored values of an image, read with libraries that know nothing of medshield."""
    name = str(path)
    if name.endswith((".nii", ".nii.gz")):
        return np.asarray(nibabel.load(path).dataobj.get_unscaled())
    if name.endswith(".dcm"):
        return pydicom.dcmread(path).pixel_array
    with Image.open(path) as image:
        return np.array(image)


def furthest(source, released):
    """The greatest change of a stored value."""
    before, after = (stored(path).astype(np.float64) for path in (source, released))
    assert before.shape == after.shape
    return np.abs(before - after).max()


def outside_pixels(source, released, notes=(), **handling):
    """What the independent reading finds changed outside the pixels, beside what `notes` allow."""
    allowed = audit.Allowed(notes=tuple(notes), **handling)
    return list(audit.recognise(source).differences(source, released, allowed))


@dataclass(frozen=True)
class Run:
    """How the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


def medshield(*arguments):
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["medshield", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = None
        except SystemExit as end:
            code = end.code
    return Run(code, out.getvalue(), err.getvalue())
