"""Writes the sample data: made-up medical images in four formats, the same bytes at every run.

    python sample_data/make_sample_data.py [FOLDER]

FOLDER is the one this script stands in unless another is named. No picture here comes from a
patient; `phantoms.py` draws them all.
"""

from __future__ import annotations

import argparse
import csv
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import phantoms
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SEED = 20_240_229
LABELS = ("normal", "nodule", "effusion")
SPLITS = ("train", "val", "test")

# One a patient, in turn: most are Explicit VR Little Endian.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
)
# Named, so that the bytes do not depend on which other encoders are installed.
ENCODERS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}
FAMILY_NAMES = ("Müster", "Пример", "例", "Esempío", "Þykjast", "Παράδειγμα", "Örnek", "Przykład")
GIVEN_NAMES = ("Zoë", "Åke", "Иван", "太郎")
# Exact in NIfTI's 32-bit floats.
SCALINGS = ((0.25, -16.5), (0.375, 8.25), (0.5, -64.0), (0.125, 100.75))


@dataclass(frozen=True)
class Sample:
    """One picture to draw.

    Attributes:
        patient: such as SYN-0042.
        number: counts the patient's pictures from 1.
        label: one of `LABELS`.
        split: one of `SPLITS`; the same for all pictures of a patient.
        seed: names the random streams; the patient's own is `seed[:-1]`.
    """

    patient: str
    number: int
    label: str
    split: str
    seed: tuple[int, ...]

    @property
    def random(self) -> np.random.Generator:
        """The picture's own random stream."""
        return np.random.default_rng(self.seed)

    @property
    def chest(self) -> phantoms.Chest:
        """The patient's build."""
        return phantoms.Chest.draw(np.random.default_rng(self.seed[:-1]))


def samples(first: int, patients: tuple[int, int, int], pictures: int) -> Iterator[Sample]:
    """Patients from number `first` on, each with as many pictures.

    Args:
        first: number of the first patient; one that no other set uses.
        patients: how many are for training, validation and testing.
        pictures: how many each has.

    Yields:
        The patients in order of their numbers; each split holds the labels equally often, or
        as nearly as its size allows.
    """
    random = np.random.default_rng((SEED, first))
    numbers = iter(random.permutation(sum(patients)) + first)
    chosen: list[Sample] = []
    for split, count in zip(SPLITS, patients, strict=True):
        total = count * pictures
        labels = iter(random.permutation(np.resize(np.roll(np.array(LABELS), len(chosen)), total)))
        for patient in (int(next(numbers)) for _ in range(count)):
            chosen += [
                Sample(f"SYN-{patient:04d}", n, str(next(labels)), split, (SEED, patient, n))
                for n in range(1, pictures + 1)
            ]
    yield from sorted(chosen, key=lambda sample: sample.seed)


def write_labels(folder: Path, rows: list[tuple[str, Sample]]) -> None:
    """The table beside the pictures; names are relative to it."""
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("filename", "label", "patient_id", "split"))
        writer.writerows((name, s.label, s.patient, s.split) for name, s in rows)


def make_radiographs(folder: Path) -> None:
    """480 chest films of 160 patients: 8-bit grey PNG."""
    rows = []
    for sample in samples(1, (96, 24, 40), 3):
        name = f"{sample.patient}/{sample.number}.png"
        (folder / sample.patient).mkdir(parents=True, exist_ok=True)
        film = phantoms.radiograph(sample.random, sample.chest, sample.label)
        # Without a search for repeats every zlib gives the same bytes.
        Image.fromarray(film).save(folder / name, compress_type=zlib.Z_HUFFMAN_ONLY)
        rows.append((name, sample))
    write_labels(folder, rows)


def make_ct(folder: Path) -> None:
    """48 chest slices of 16 patients: signed 12-bit DICOM in five transfer syntaxes."""
    rows = []
    for sample in samples(201, (10, 2, 4), 3):
        name = f"{sample.patient}/{sample.number}.dcm"
        (folder / sample.patient).mkdir(parents=True, exist_ok=True)
        stored = phantoms.chest_slice(sample.random, sample.chest, sample.label)
        patient = sample.seed[1] - 201
        syntax = TRANSFER_SYNTAXES[patient % len(TRANSFER_SYNTAXES)]
        dataset = ct_dataset(sample, patient)
        add_pixels(dataset, stored, syntax)
        dataset.save_as(folder / name, enforce_file_format=True)
        rows.append((name, sample))
    write_labels(folder, rows)


def uid(*names: object) -> UID:
    """A UID derived from a UUID (PS3.5 B.2), the same for the same names."""
    text = "/".join(("medshield sample data", *map(str, names)))
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, text).int}")


def ct_dataset(sample: Sample, patient: int) -> Dataset:
    """A CT image (PS3.3 A.3) without its pixels."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = uid("instance", sample.patient, sample.number)
    dataset.StudyDate = dataset.SeriesDate = "20000229"
    dataset.StudyTime = dataset.SeriesTime = "120000"
    dataset.AccessionNumber = ""
    dataset.Modality = "CT"
    dataset.Manufacturer = "Made up"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic chest"
    family = FAMILY_NAMES[patient % len(FAMILY_NAMES)]
    dataset.PatientName = f"{family}^{GIVEN_NAMES[patient % len(GIVEN_NAMES)]}"
    dataset.PatientID = sample.patient
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "CHEST"
    dataset.SliceThickness = "5"
    dataset.KVP = "120"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uid("study", sample.patient)
    dataset.SeriesInstanceUID = uid("series", sample.patient)
    dataset.StudyID = str(patient + 1)
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = sample.number
    dataset.FrameOfReferenceUID = uid("frame of reference", sample.patient)
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = ["-196.875", "-196.875", f"{-5 * sample.number}"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing = ["6.25", "6.25"]
    dataset.PixelPaddingValue = phantoms.PADDING
    dataset.WindowCenter = ["40", "-600"]
    dataset.WindowWidth = ["400", "1500"]
    dataset.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    block = dataset.private_block(0x0199, "MADE UP SCANNER 1.0", create=True)
    block.add_new(0x01, "LO", "phantom")
    block.add_new(0x02, "DS", ["0.5", "-1.25"])
    block.add_new(0x03, "OB", bytes(range(16)))
    block.add_new(0x04, "UT", "näive βeam correction")
    return dataset


def add_pixels(dataset: Dataset, stored: NDArray[np.int16], syntax: UID) -> None:
    """Pixel Data in a transfer syntax, and what describes it (PS3.3 C.7.6.3)."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 1
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.ImplementationClassUID = uid("implementation")
    dataset.file_meta.ImplementationVersionName = "SAMPLE_DATA_1"
    dataset.PixelData = stored.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plugin = ENCODERS[syntax]
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    if syntax == JPEG2000Lossless:
        frames = generate_frames(dataset.PixelData, number_of_frames=1)
        dataset.PixelData = encapsulate([without_comment(frame) for frame in frames])


def without_comment(codestream: bytes) -> bytes:
    """A JPEG 2000 codestream less its COM segment (ITU-T T.800 A.9.2): the encoder's version."""
    start = codestream.index(b"\xff\x64")
    length = int.from_bytes(codestream[start + 2 : start + 4], "big")
    return codestream[:start] + codestream[start + 2 + length :]


def make_volumes(folder: Path) -> None:
    """8 belly volumes with masks of one organ: NIfTI-1, gzipped."""
    rows = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for sample in samples(301, (4, 1, 3), 1):
        signal, mask = phantoms.belly_volume(sample.random, sample.label)
        slope, intercept = SCALINGS[sample.seed[1] % len(SCALINGS)]
        stored = np.rint((signal - intercept) / slope).astype("<i2")
        name = f"{sample.patient}.nii.gz"
        write_nifti(folder / "images" / name, stored, (slope, intercept))
        write_nifti(folder / "masks" / name, mask, (1.0, 0.0))
        rows.append((f"images/{name}", sample))
    write_labels(folder, rows)


def write_nifti(path: Path, stored: NDArray[np.integer], scaling: tuple[float, float]) -> None:
    """A NIfTI-1 file of integers as they are; nibabel's images would scale them anew."""
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_slope_inter(*scaling)
    turn = np.deg2rad(6)
    affine = np.array(
        [
            [-8 * np.cos(turn), 8 * np.sin(turn), 0, 150],
            [-8 * np.sin(turn), -8 * np.cos(turn), 0, 170],
            [0, 0, 12, -66],
            [0, 0, 0, 1],
        ]
    )
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["descrip"] = b"made up"
    header["vox_offset"] = 352
    path.write_bytes(gzip_bytes(header.binaryblock + bytes(4) + stored.tobytes(order="F")))


def gzip_bytes(content: bytes) -> bytes:
    """A gzip member (RFC 1952) without name or time, the same from every zlib."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_HUFFMAN_ONLY)
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    tail = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return head + packer.compress(content) + packer.flush() + tail


def make_photos(folder: Path) -> None:
    """12 skin photographs: JPEG, the first progressive, the second grey."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, sample in enumerate(samples(401, (6, 3, 3), 1)):
        photo = Image.fromarray(phantoms.skin_photo(sample.random, sample.label))
        if index == 1:
            photo = photo.convert("L")
        name = f"{sample.patient}.jpg"
        photo.save(folder / name, quality=90, progressive=index == 0, exif=camera_exif(index))
        rows.append((name, sample))
    write_labels(folder, rows)


def camera_exif(index: int) -> Image.Exif:
    """What a camera that does not exist would say, without a thumbnail."""
    exif = Image.Exif()
    exif[0x010F] = "Made up"  # Make
    exif[0x0110] = "Dermatoscope 0"  # Model
    exif[0x0112] = 1  # Orientation: as stored
    exif[0x0131] = "sample data"  # Software
    camera = exif.get_ifd(0x8769)
    camera[0x829A] = 0.008  # ExposureTime
    camera[0x8827] = 100  # PhotographicSensitivity
    camera[0x9003] = f"2000:02:29 12:{index:02d}:00"  # DateTimeOriginal
    return exif


def main() -> None:
    """Write all four sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    folder = parser.parse_args().folder
    make_radiographs(folder / "radiographs")
    make_ct(folder / "ct")
    make_volumes(folder / "volumes")
    make_photos(folder / "photos")


if __name__ == "__main__":
    main()
