"""`protect` killed with SIGKILL at random moments, again and again, and what is left each time.

    python -m tests.tools.kills --kills 50
    python -m tests.tools.kills --kills 50 --at-end
    python -m tests.tools.kills --kills 50 --method em --effort 0.02 --image-size 32 --every 6

A source of every kind of file that is read (two classes, `tests.tools.generated`), or of every Nth
of them, is protected once without interruption. Then the same command runs with `--resume` and is
killed after a random time, until it ends by itself; and so on, with fresh targets, until it was
killed as often as asked. After each kill there must be no release, or the whole one (files are
written by two processes, which are not killed: they have to end by themselves); in the end every
release must be the uninterrupted one, byte by byte, and no file that an earlier run finished may be
written again. With `--at-end` the moments lie within a fraction of a second after the manifest has
been begun, which random ones hardly ever meet.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medshield import journal
from medshield.generator import Generator
from medshield.manifest import MANIFEST
from medshield.places import CONFIGURATION, GENERATOR, Places
from tests.builders import tree
from tests.tools.generated import write_all
from tests.tools.tables import table

PROGRAM = """
from medshield import checkpoint, cli, pools
pools.WORTH_STARTING = 0.0  # or so small a folder would be written by one process
checkpoint.SECONDS_BETWEEN = 1.0  # or so short a fit would have no checkpoint
cli.main()
"""
HEADER = ("killed while", "times", "released too early", "a whole release was there")
SCANNING, FITTING, WRITING, ENDING = "scanning", "fitting", "writing files", "ending"
COMPLETE = "already ended"
SECONDS_TO_END = 0.03
MORE_THAN_ALL = 100_000
"""Than there are files."""
PHASES = (SCANNING, FITTING, WRITING, ENDING, COMPLETE)


@dataclass
class Findings:
    """What was found.

    Attributes:
        kills: by phase.
        early: kills after which something had a release's name and was none.
        whole: kills after which the whole release was there.
        differing: releases that are not, in the end, what an uninterrupted run makes.
        again: files that were finished and written again.
        releases: that came to an end.
    """

    kills: Counter[str] = field(default_factory=Counter)
    early: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    differing: int = 0
    again: int = 0
    releases: int = 0

    @property
    def faults(self) -> int:
        """What must not be."""
        return self.early.total() + self.differing + self.again


def command(source: Path, target: Path, options: list[str]) -> list[str]:
    """The command line that is run."""
    return [
        *(sys.executable, "-c", PROGRAM, "protect", str(source), "-o", str(target)),
        *("--seed", "7", "--eps", "8/255", "--workers", "2", "--resume", "-q", *options),
    ]


def phase(places: Places) -> str:
    """How far a run came, by what it left."""
    if places.release.exists():
        return COMPLETE
    if not (places.private / CONFIGURATION).is_file():
        return SCANNING
    if not Generator.is_complete(places.private / GENERATOR):
        return FITTING
    return ENDING if (places.partial / MANIFEST).exists() else WRITING


def written(places: Places) -> dict[tuple[str, bool], int]:
    """The files that are finished, with what changes when one is written again: its inode.

    New UIDs make another file of it, so each counts with and without.
    """
    return {
        (path, finished.renewed): (places.partial / path).stat().st_ino
        for finished in journal.whole(places.private, places.partial, MORE_THAN_ALL)
        if finished.record.sha256 and (path := finished.record.path)
    }


def again(places: Places, before: dict[tuple[str, bool], int]) -> int:
    """How many files that were finished before a run were written once more by it."""
    if not places.release.exists():
        after = written(places)
        return sum(after.get(file, inode) != inode for file, inode in before.items())
    return sum(
        (places.release / path).stat().st_ino != inode
        for (path, renewed), inode in before.items()
        if renewed or not path.endswith(".dcm")  # which may have got its new UIDs now
    )


def wait_for_end(process: subprocess.Popen[bytes], places: Places) -> None:
    """Wait until a run begins its last papers."""
    while process.poll() is None and not (places.partial / MANIFEST).exists():
        time.sleep(0.001)


def run(
    source: Path,
    scratch: Path,
    kills: int,
    options: list[str],
    rng: random.Random,
    *,
    at_end: bool = False,
) -> Findings:
    """Kill so many times.

    Args:
        source: labelled.
        scratch: for releases.
        kills: in all.
        options: of `protect`.
        rng: for the moments.
        at_end: they are of the end alone.
    """
    found = Findings()
    reference = Places(scratch / "whole")
    started = time.monotonic()
    subprocess.run(command(source, reference.release, options), check=False, capture_output=True)
    longest = time.monotonic() - started
    whole = tree(reference.release)
    assert whole, "the uninterrupted run wrote no release"
    while found.kills.total() < kills:
        places = Places(scratch / f"killed {found.releases}")
        while not places.release.exists():
            before = written(places)
            process = subprocess.Popen(
                command(source, places.release, options),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            moment = rng.uniform(0, SECONDS_TO_END if at_end else longest)
            try:
                if at_end:
                    (places.partial / MANIFEST).unlink(missing_ok=True)
                    wait_for_end(process, places)
                process.wait(moment if found.kills.total() < kills else None)
                ended = True
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = False
            found.again += again(places, before)
            if not ended:
                came_to = phase(places)
                found.kills[came_to] += 1
                if places.release.exists():
                    same = tree(places.release) == whole
                    (found.whole if same else found.early)[came_to] += 1
        found.releases += 1
        found.differing += tree(places.release) != whole
        for folder in places.all():
            shutil.rmtree(folder, ignore_errors=True)
    return found


def make_source(folder: Path, every: int) -> None:
    """Two classes of generated files; of each, every Nth with what belongs to it."""
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        write_all(folder / name)
        stems = sorted({path.stem for path in (folder / name).iterdir()})
        for path in (folder / name).iterdir():
            if path.stem not in stems[::every]:
                path.unlink()


def report(found: Findings) -> str:
    """The findings as text."""
    rows = [
        [name, *(str(counts[name]) for counts in (found.kills, found.early, found.whole))]
        for name in PHASES
    ]
    return "\n\n".join(
        [
            table(HEADER, rows),
            f"{found.kills.total()} kills, {found.releases} releases: {found.differing} differ "
            f"from an uninterrupted run, {found.again} files were written again, "
            f"{found.early.total()} releases were there too early.",
        ]
    )


def main() -> int:
    """Kill, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--method", default="synthetic")
    parser.add_argument("--effort", default="1", help="of the method")
    parser.add_argument("--image-size", default="64", help="of the working grid, px")
    parser.add_argument("--every", type=int, default=1, help="of the kinds of files")
    parser.add_argument("--uid", default="new")
    parser.add_argument("--at-end", action="store_true", help="kill while the last is written")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        make_source(source, options.every)
        given = ["--method", options.method, "--effort", options.effort, "--uid", options.uid]
        given += ["--image-size", options.image_size]
        rng = random.Random(options.seed)
        found = run(source, Path(scratch), options.kills, given, rng, at_end=options.at_end)
    sys.stdout.write(report(found) + "\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
