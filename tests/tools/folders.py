"""`protect` on folders of many files: files a second and memory, beside a plain loop.

    python -m tests.tools.folders --kind png --side 64 --files 300 3000 --workers 1 2

The plain loop is what a short script would do, in one process: read a file with Pillow or pydicom,
take its pixels, put them back and write it. It looks at nothing and checks nothing. `protect` runs
as a command with `--method synthetic` and labels from a table: it looks at every file, perturbs,
writes, decodes what it wrote, and measures it. Seconds are of the whole command, from start to end;
memory is what all of its processes hold together (their proportional set size), at its highest.
`scan` alone, of one process, tells what `protect` holds before it loads PyTorch.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.dicom_forms import anatomy, save
from tests.tools.tables import table
from tests.tools.throughput import device

PATIENT = 4
"""Images of each."""
A_FOLDER = 1000
SUFFIXES = {"png": "png", "dicom": "dcm"}


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        seconds: on the clock.
        processor: seconds, of all processes.
        memory: MB.
    """

    seconds: float
    processor: float
    memory: float


def make_folder(root: Path, kind: str, side: int, files: int) -> None:
    """Files of two classes, no two alike, and their labels."""
    rows = []
    for number in range(files):
        path = root / f"{number // A_FOLDER:04d}" / f"{number}.{SUFFIXES[kind]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        depth = 255 if kind == "png" else 4095
        values = np.roll(anatomy_of(side, depth), (number % side, number // side % side), (0, 1))
        if kind == "png":
            Image.fromarray(values.astype(np.uint8)).save(path)
        else:
            shaped = values.astype("<u2")[None, :, :, None]
            save(path, shaped, ExplicitVRLittleEndian, 12, CTImageStorage)
        name = path.relative_to(root).as_posix()
        rows.append([name, number % 2, f"P{number // PATIENT}"])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "label", "patient_id"], *rows])


_kept: dict[tuple[int, int], np.ndarray] = {}


def anatomy_of(side: int, depth: int) -> np.ndarray:
    """One picture of each size, made once."""
    if (side, depth) not in _kept:
        _kept[side, depth] = anatomy((side, side), depth)
    return _kept[side, depth]


def plain_loop(source: Path, target: Path, kind: str) -> None:
    """Read every file, take its pixels, put them back and write it."""
    for path in sorted(source.rglob(f"*.{SUFFIXES[kind]}")):
        written = target / path.relative_to(source)
        written.parent.mkdir(parents=True, exist_ok=True)
        if kind == "png":
            with Image.open(path) as image:
                Image.fromarray(np.asarray(image)).save(written)
        else:
            found = pydicom.dcmread(path)
            found.PixelData = found.pixel_array.tobytes()
            found.save_as(written)


def measured(command: list[str]) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    highest = 0.0
    while process.poll() is None:
        highest = max(highest, sum(map(held, family(process.pid))))
        time.sleep(0.2)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(seconds, spent, highest)


def family(number: int) -> list[int]:
    """A process and all that it started."""
    try:
        tasks = list(Path(f"/proc/{number}/task").iterdir())
        children = [int(n) for t in tasks for n in (t / "children").read_text().split()]
    except OSError:
        return [number]
    return [number, *(one for child in children for one in family(child))]


def held(number: int) -> float:
    """MB of memory that a process holds; what several share is counted once between them."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def protect(source: Path, target: Path, workers: int) -> list[str]:
    """The command."""
    return [
        *(sys.executable, "-m", "medshield", "protect", str(source), "-o", str(target), "-q"),
        *("--method", "synthetic", "--eps", "8/255", "--seed", "1", "--workers", str(workers)),
    ]


def rows_of(kind: str, side: int, files: int, workers: list[int]) -> list[list[str]]:
    """The rows of one folder: the plain loop, `protect` by each number of workers, and `scan`."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        make_folder(source, kind, side, files)
        size = sum(path.stat().st_size for path in source.rglob("*.*")) / 1e6
        loop = [sys.executable, "-m", "tests.tools.folders", "--kind", kind]
        ways = {"plain loop": [*loop, "--loop", str(source), f"{scratch}/plain"]}
        for count in workers:
            name = f"protect, {count} worker" + "s" * (count > 1)
            ways[name] = protect(source, Path(scratch) / f"release-{count}", count)
        ways["scan"] = [sys.executable, "-m", "medshield", "scan", str(source), "-q"]
        ways["scan"] += ["--workers", "1"]
        rows, plain = [], 0.0
        for name, command in ways.items():
            found = measured(command)
            plain = plain or found.seconds
            rows.append(
                [
                    *(str(files), f"{size:.0f}", name, f"{found.seconds:.1f}"),
                    *(f"{files / found.seconds:.0f}", f"{plain / found.seconds:.2f}"),
                    f"{found.processor / found.seconds:.2f}",
                    f"{1000 * found.processor / files:.2f}",
                    f"{found.memory:.0f}",
                ]
            )
            sys.stderr.write(" ".join(rows[-1]) + "\n")
        if len(workers) > 1:
            first, last = (
                Path(scratch) / f"release-{count}" for count in (workers[0], workers[-1])
            )
            same = subprocess.run(["diff", "-r", "-q", first, last], check=False).returncode == 0
            sys.stderr.write(f"releases are {'the same' if same else 'UNLIKE'}\n")
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=SUFFIXES, default="png")
    parser.add_argument("--side", type=int, default=64, help="of the images, px")
    parser.add_argument("--files", type=int, nargs="+", default=[300])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loop", nargs=2, type=Path, help="run the plain loop, and nothing else")
    options = parser.parse_args()
    if options.loop:
        plain_loop(*options.loop, options.kind)
        return
    rows = [
        row
        for files in options.files
        for row in rows_of(options.kind, options.side, files, options.workers)
    ]
    header = ["files", "MB", "what", "seconds", "files/s", "of the plain loop's speed"]
    header += ["cores busy", "processor, ms a file", "memory, MB"]
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    sys.stdout.write(f"{device()}; threads: {threads}; {options.kind}, {options.side} px\n\n")
    sys.stdout.write(table(header, rows) + "\n")


if __name__ == "__main__":
    main()
