"""How much memory `protect` takes for one huge file, and how long.

    python -m tests.tools.big_file --megabytes 30 500 2000 --format dicom nii nii.gz

For each size and format, a file of many frames is generated (of a smooth picture and noise, 12
bits), released without labels by the real command in a process of its own, and a row is printed.
What grows with the number of frames alone, and not with their size, is the working grid: choose
--side to see it.
"""

import argparse
import gzip
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests import dicom_files

BITS = 12
ITEM, SEQUENCE_END = 0xE000FFFE, b"\xfe\xff\xdd\xe0\0\0\0\0"
DIFFERENT_FRAMES = 16


def frames(side, count):
    """Frames of noise on a slope, (side, side) of int16; a few, each time turned a bit further."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    some = [
        (across * 2000 / side + down * 1000 / side + rng.normal(500, 30, (side, side))).astype(
            "<u2"
        )
        for _ in range(DIFFERENT_FRAMES)
    ]
    for number in range(count):
        yield np.roll(some[number % DIFFERENT_FRAMES], number, axis=number % 2)


def coder(syntax):
    """What codes a frame of 12 bits."""
    if syntax == JPEG2000Lossless:
        return lambda frame: imagecodecs.jpeg2k_encode(
            frame, codecformat="j2k", level=0, reversible=True, bitspersample=BITS
        )
    return dicom_files.by_pydicom(syntax, BITS)


def dicom(path, side, count, syntax=ExplicitVRLittleEndian):
    """A file of many frames, written frame by frame."""
    one = np.zeros((1, side, side, 1), np.uint16)
    dataset = dicom_files.header(one, BITS, NumberOfFrames=count)
    del dataset.DataSetTrailingPadding
    dicom_files.saved(path, dataset, syntax)
    with path.open("ab") as file:
        length = 0xFFFFFFFF if syntax.is_encapsulated else 2 * side * side * count
        vr = b"OB" if syntax.is_encapsulated else b"OW"
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length))
        if not syntax.is_encapsulated:
            file.writelines(frame.tobytes() for frame in frames(side, count))
            return
        encode = coder(syntax)
        file.write(struct.pack("<II", ITEM, 0))
        for frame in frames(side, count):
            coded = bytes(encode(frame))
            coded += b"\0" * (len(coded) % 2)
            file.write(struct.pack("<II", ITEM, len(coded)) + coded)
        file.write(SEQUENCE_END)


def nifti(path, side, count):
    """A 4D volume of as many planes, in one file or two, compressed or not."""
    depth = next(depth for depth in (16, 8, 4, 2, 1) if count % depth == 0)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((side, side, depth, count // depth))
    paired = ".img" in path.name
    header["magic"], header["vox_offset"] = (b"ni1\0", 0) if paired else (b"n+1\0", 352)
    head = header.binaryblock + bytes(4)
    if paired:
        path.with_name(path.name.replace(".img", ".hdr")).write_bytes(head)
        head = b""
    with gzip.open(path, "wb", 6) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(head)
        for frame in frames(side, count):
            file.write(frame.tobytes())


FORMATS = {
    "dicom": dicom,
    "rle": lambda *file: dicom(*file, RLELossless),
    "jpeg-ls": lambda *file: dicom(*file, JPEGLSLossless),
    "jpeg-2000": lambda *file: dicom(*file, JPEG2000Lossless),
    "nii": nifti,
    "nii.gz": nifti,
    "img": nifti,
}


def measured(name, megabytes, side, scratch, options):
    """(frames, bytes of the file, seconds, peak MB) of a run of the command."""
    source = scratch / "source"
    source.mkdir()
    path = source / f"volume.{name if name in ('nii', 'nii.gz', 'img') else 'dcm'}"
    count = max(1, round(megabytes * 1e6 / (2 * side * side)))
    FORMATS[name](path, side, count)
    command = [sys.executable, "-m", "medshield", "protect", str(source), "--method", "synthetic"]
    command += ["--eps", "8/255", "--labels", "none", "--seed", "0", "--quiet", *options]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    peak = usage.ru_maxrss * 1024 / 1e6
    if sys.platform == "darwin":
        peak /= 1024
    return count, path.stat().st_size, time.monotonic() - started, peak


def main():
    """Measure each size of each format, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, nargs="+", default=[30], help="uncoded")
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=["dicom"])
    parser.add_argument("--side", type=int, default=512, help="of a frame, px")
    parser.add_argument("--scratch", type=Path, help="a folder with room for two such files")
    parser.add_argument("--keep", type=Path, help="move each release here, to be compared")
    parser.add_argument("options", nargs="*", help="further options of protect, after --")
    options = parser.parse_args()
    header = ["format", "frames", "uncoded, MB", "file, MB", "seconds", "peak, MB"]
    for line in (header, ["---"] * len(header)):
        sys.stdout.write("| " + " | ".join(line) + " |\n")
    for name in options.format:
        for megabytes in options.megabytes:
            with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
                count, size, seconds, peak = measured(
                    name, megabytes, options.side, Path(scratch), options.options
                )
                row = [name, count, f"{megabytes:g}", f"{size / 1e6:.0f}"]
                row += [f"{seconds:.1f}", f"{peak:.0f}"]
                sys.stdout.write("| " + " | ".join(map(str, row)) + " |\n")
                sys.stdout.flush()
                if options.keep:
                    released = Path(scratch) / "source-protected"
                    shutil.move(released, options.keep / f"{name}-{megabytes:g}")


if __name__ == "__main__":
    main()
