"""Two processes beside one: the same bytes, the same verdict, and how much faster.

    python -m tests.tools.several --files 1000 --side 512

A folder of DICOM files is generated (`tests.tools.folders`) and protected with `--method synthetic`
by one process, by two, by two workers of Ray on this machine, and as two shares that run at the
same time and are merged; each release is compared with the first one, file by file. Then a release
of 500 generated images is verified by one process that trains one victim at a time, by one that
trains two at a time, and by two that torchrun starts; reports are compared in all but the time
that things took. Seconds are of whole commands, and every process computes in one thread;
Ray's workers, which by default let others go first, are as important as the others.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.builders import tree, without_seconds
from tests.tools.folders import make_folder
from tests.tools.levels import make_set
from tests.tools.tables import table
from tests.tools.throughput import device

MEDSHIELD = (sys.executable, "-m", "medshield")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
HOW = ("--method", "synthetic", "--eps", "8/255", "--seed", "1", "-q")
VERDICTS = {0, 4, 5}
TORCHRUN_FAILED = {1}
"""Whatever the verdict, if it is not `protected`."""


def timed(*commands: tuple[str, ...]) -> float:
    """Run commands at the same time; the seconds until the last one has ended.

    Raises:
        RuntimeError: one of them failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    started = time.monotonic()
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for command in commands
    ]
    for one, command in zip(running, commands, strict=True):
        _, said = one.communicate()
        fine = (VERDICTS | TORCHRUN_FAILED) if "verify" in command else {0}
        if one.returncode not in fine:  # without a verdict there is no report, either
            raise RuntimeError(f"{' '.join(command)}: {one.returncode}\n{said.decode()}")
    return time.monotonic() - started


def protected(scratch: Path, files: int, side: int) -> list[list[str]]:
    """A row for each way to write a release."""
    source = scratch / "source"
    make_folder(source, "dicom", side, files)

    def protect(name: str, *options: str) -> tuple[str, ...]:
        return (*MEDSHIELD, "protect", str(source), "-o", str(scratch / name), *HOW, *options)

    shares = [protect("shares", "--shard", f"{n}/2", "--workers", "1") for n in (1, 2)]
    merge = (*MEDSHIELD, "merge", str(scratch / "shares"), "-q")
    ways = {
        "one process": lambda: timed(protect("one", "--workers", "1")),
        "two processes": lambda: timed(protect("two", "--workers", "2")),
        "Ray, two workers": lambda: timed(protect("ray", "--engine", "ray")),
        "two shares, then merge": lambda: timed(*shares) + timed(merge),
    }
    first, rows, alone = None, [], 0.0
    for (name, run), folder in zip(ways.items(), ("one", "two", "ray", "shares"), strict=True):
        seconds = run()
        found = tree(scratch / folder)
        first, alone = first or found, alone or seconds
        same = "yes" if found == first else "NO"
        rows.append([f"protect, {name}", f"{seconds:.0f}", f"{alone / seconds:.2f}", same])
        sys.stderr.write(" ".join(rows[-1]) + "\n")
        if folder != "one":
            shutil.rmtree(scratch / folder)
    return rows


def verified(scratch: Path, images: int) -> list[list[str]]:
    """A row for each way to verify a release."""
    source, release = scratch / "set", scratch / "released"
    make_set(source, images, 64)
    timed((*MEDSHIELD, "protect", str(source), "-o", str(release), *HOW))
    evidence = Path(f"{release}.private") / "verify"
    victims = ("verify", str(release), "--cells", "small_convnet,resnet18", "--image-size", "32")
    victims += ("--epochs", "20")
    ways = {
        "one process": (*MEDSHIELD, *victims, "--workers", "1"),
        "one process, --workers 2": (*MEDSHIELD, *victims, "--workers", "2"),
        "torchrun, two processes": (
            *(sys.executable, *TORCHRUN, "-m", "medshield", *victims, "--workers", "2"),
        ),
    }
    first, rows, alone = None, [], 0.0
    for name, command in ways.items():
        seconds = timed(command)
        report = without_seconds(json.loads((evidence / "report.json").read_text()))
        shutil.rmtree(evidence)
        first, alone = first or report, alone or seconds
        same = "yes" if report == first else "NO"
        rows.append([f"verify, {name}", f"{seconds:.0f}", f"{alone / seconds:.2f}", same])
        sys.stderr.write(" ".join(rows[-1]) + "\n")
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000, help="to protect")
    parser.add_argument("--side", type=int, default=512, help="of them, px")
    parser.add_argument("--images", type=int, default=500, help="to verify; 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = protected(Path(scratch), options.files, options.side) if options.files else []
        rows += verified(Path(scratch), options.images) if options.images else []
    sys.stdout.write(f"{device()}\n\n")
    header = ["what", "seconds", "times as fast", "the same as by one process"]
    sys.stdout.write(table(header, rows) + "\n")


if __name__ == "__main__":
    main()
