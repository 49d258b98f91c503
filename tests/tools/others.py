"""What other programs write of a folder's files, counted as docs/comparison.md prints it.

    python -m tests.tools.others dicognito FOLDER
    python -m tests.tools.others dicom-anonymizer FOLDER
    python -m tests.tools.others torchio FOLDER
    python -m tests.tools.others folder FOLDER --written OTHER_FOLDER

Each program is called by its Python interface with its defaults, one file at a time and in memory
or a temporary folder, so that a file it can't take stops nothing. `folder` compares with files of
the same relative paths that some program has written already. Nothing is kept and no value of a
header is printed. Run it from an environment that has the program and pydicom (torchio: nibabel,
too); nothing else of this project is needed.

Of DICOM files it counts elements of the data set's first level that are not sequences, by the
bytes of their values as they stand in the file. `beyond its rules` are those that the program
lists neither by name nor by value representation as what it changes.
"""

import argparse
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword

PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
NIFTI = (".nii", ".nii.gz", ".hdr", ".img")

Claims = Callable[[int, str], bool]


@dataclass(frozen=True)
class Program:
    """Turns a file into the bytes it would write, and says which elements it means to change."""

    write: Callable[[Path], bytes]
    claims: Claims


def dicognito() -> Program:
    from dicognito.anonymizer import Anonymizer  # of an environment of its own

    anonymizer = Anonymizer(seed="1")
    actions = anonymizer.describe_actions()
    kinds = set(re.findall(r"all ([A-Z]{2}) elements", actions))
    tags = {tag_for_keyword(word) for word in re.findall(r"\b[A-Z]\w{3,}", actions)}

    def write(path: Path) -> bytes:
        with pydicom.dcmread(path) as dataset:
            anonymizer.anonymize(dataset)
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return Program(write, lambda tag, kind: kind in kinds or tag in tags)


def dicom_anonymizer() -> Program:
    from dicomanonymizer.simpledicomanonymizer import (  # of an environment of its own
        anonymize_dicom_file,
        initialize_actions,
    )

    rules = [(*rule, 0xFFFF, 0xFFFF)[:4] for rule in initialize_actions()]

    def write(path: Path) -> bytes:
        buffer = io.BytesIO()
        anonymize_dicom_file(str(path), buffer)
        return buffer.getvalue()

    def claims(tag: int, _: str) -> bool:
        group, number = tag >> 16, tag & 0xFFFF
        return group % 2 == 1 or any(
            group & g == a & g and number & n == b & n for a, b, g, n in rules
        )

    return Program(write, claims)


def apart(write: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    """The same in a child process for each file, as a decoder may end its process."""

    def in_child(path: Path) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result"
            child = os.fork()
            if child == 0:
                try:
                    result.write_bytes(write(path))
                finally:
                    os._exit(0)
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                raise ChildProcessError("the process was ended by a signal")
            if not result.is_file():
                raise RuntimeError("an error of the program's own")
            return result.read_bytes()

    return in_child


def torchio() -> Program:
    import torchio as tio  # of an environment of its own

    def write(path: Path) -> bytes:
        image = tio.ScalarImage(path)
        image.load()
        suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / f"image{suffix if suffix in NIFTI else '.dcm'}"
            image.save(written)
            return written.read_bytes()

    return Program(apart(write), lambda tag, kind: False)


def of_folder(source: Path, written: Path) -> Program:
    def write(path: Path) -> bytes:
        return (written / path.relative_to(source)).read_bytes()

    return Program(write, lambda tag, kind: False)


def usual(tag: int) -> str:
    """The value representation that the dictionary has of an element."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def elements(dataset: Any) -> Iterator[tuple[int, str, bytes]]:
    """Tag, value representation and value of what is neither a sequence nor a group length."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        kind = str(element.VR or usual(tag))
        if "SQ" not in (kind, usual(tag)) and int(tag) & 0xFFFF:
            value = element.value or b""
            yield int(tag), kind, value if isinstance(value, bytes) else repr(value).encode()


def bare(value: bytes) -> bytes:
    return value.replace(b" ", b"").replace(b"\0", b"")


def compare_dicom(source: bytes, written: bytes, claims: Claims) -> Counter[str]:
    before, after = (pydicom.dcmread(io.BytesIO(data), force=True) for data in (source, written))
    old = {tag: (kind, value) for tag, kind, value in elements(before)}
    new = {tag: (kind, value) for tag, kind, value in elements(after)}
    counts: Counter[str] = Counter(
        {
            "written": 1,
            "same preamble": source[:128] == written[:128],
            "same transfer syntax": before.file_meta.get("TransferSyntaxUID")
            == after.file_meta.get("TransferSyntaxUID"),
            "elements": len(old.keys() - PIXELS),
            "elements added": len(new.keys() - old.keys() - PIXELS),
        }
    )
    beyond = False
    for tag, (kind, value) in old.items():
        if tag in PIXELS:
            counts["with pixels"] += 1
            counts["pixels kept to the byte"] += tag in new and new[tag][1] == value
            counts["pixels lost"] += tag not in new
            continue
        if tag not in new:
            what = "elements removed"
        elif new[tag][1] != value:
            what = "elements with another value"
        elif new[tag][0] != kind:
            what = "elements with another value representation"
        else:
            continue
        counts[what] += 1
        if not (claims(tag, kind) or claims(tag, usual(tag))):
            counts[f"{what}, beyond its rules"] += 1
            beyond = True
            counts["elements with another value, beyond its rules, by spaces alone"] += (
                tag in new and value != new[tag][1] and bare(value) == bare(new[tag][1])
            )
    counts["files changed beyond its rules"] += beyond
    return counts


def compare_nifti(path: Path, written: bytes) -> Counter[str]:
    import nibabel as nib
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / ("image.nii.gz" if path.name.endswith(".gz") else "image.nii")
        copy.write_bytes(written)
        old, new = nib.load(path), nib.load(copy)
        counts: Counter[str] = Counter(
            {
                "written": 1,
                "same header bytes": old.header.binaryblock == new.header.binaryblock,
                "same data type": old.get_data_dtype() == new.get_data_dtype(),
                "same shape": old.shape == new.shape,
                "with extensions": bool(old.header.extensions),
                "extensions kept": bool(old.header.extensions)
                and old.header.extensions == new.header.extensions,
            }
        )
        if old.shape == new.shape:
            counts["same values"] += np.allclose(
                old.get_fdata(), new.get_fdata(), rtol=1e-6, atol=0, equal_nan=True
            )
    return counts


def tally(source: Path, program: Program) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Counts per kind of file, and how many files of a kind ended in which error."""
    counts: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    for path in sorted(found for found in source.rglob("*") if found.is_file()):
        data = path.read_bytes()
        if path.name.endswith(NIFTI):
            kind = "NIfTI" if ".nii" in path.name else "header or voxels of a pair"
        else:
            kind = "DICOM" if data[128:132] == b"DICM" else "other"
        mine = counts.setdefault(kind, Counter())
        mine["files"] += 1
        try:
            written = program.write(path)
        except (Exception, SystemExit) as error:
            errors[f"{kind}: {type(error).__name__}"] += 1
            continue
        if kind in ("DICOM", "other"):
            mine.update(compare_dicom(data, written, program.claims))
        elif kind == "NIfTI":
            mine.update(compare_nifti(path, written))
    return counts, errors


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=["dicognito", "dicom-anonymizer", "torchio", "folder"])
    parser.add_argument("source", type=Path)
    parser.add_argument("--written", type=Path, help="what `folder` compares with")
    chosen = parser.parse_args(arguments)
    if (chosen.program == "folder") != (chosen.written is not None):
        parser.error("--written goes with `folder`, and `folder` with --written")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    made = {"dicognito": dicognito, "dicom-anonymizer": dicom_anonymizer, "torchio": torchio}
    program = (
        of_folder(chosen.source, chosen.written)
        if chosen.program == "folder"
        else made[chosen.program]()
    )
    versions = [f"Python {sys.version.split()[0]}", f"pydicom {version('pydicom')}"]
    if chosen.program != "folder":
        versions.append(f"{chosen.program} {version(chosen.program)}")
    counts, errors = tally(chosen.source, program)
    lines = [", ".join(versions)]
    for title, numbers in [*counts.items(), ("errors", errors)]:
        lines += [title, *(f"  {number:6} {what}" for what, number in numbers.items() if number)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
