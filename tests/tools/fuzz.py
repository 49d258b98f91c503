"""Damages files at random and sees to it that every codec refuses them or stays exact.

    python -m tests.tools.fuzz --mutations 100000 --seed 0 --seconds 1800 [--corpus DIR ...]

Takes generated files of every format (and, with --corpus, real ones up to --largest bytes), damages
them (see `mutations`), and runs decode -> moved -> write -> decode in a process of its own with
limits on memory and time. Each must end with RefusedFile, NotAnImage, or a file whose values lie
within the bound. Anything else is a fault: another exception, a value that moved too far, a
process that was killed by a decoder, a case longer than --patience seconds, more memory than
--memory MiB, or a word of the header in a message. Decompression bombs come first.

It prints a table and, of every kind of fault, one line with its number and a file that shows it,
kept in the folder of --keep. The same seed gives the same cases: `--only FORMAT:NUMBER` runs one of
them alone. Exit code 1 where there was a fault. It runs outside CI, as it takes minutes.
"""

import argparse
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from medshield.formats import CODECS, recognise
from tests.generated import STRATEGIES
from tests.tools.bombs import bombs
from tests.tools.judge import judged, quotes
from tests.tools.mutations import mutated

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "dicom": ".dcm", "nifti": ".nii"}
FORMATS = tuple(codec.name for codec in CODECS if codec.name in STRATEGIES)
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Seedling:
    """A sound file that is to be damaged."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Case:
    """A damaged file."""

    format: str
    number: int
    name: str
    content: bytes = field(repr=False)


@dataclass
class Row:
    """What came of the files of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[int]] = field(default_factory=dict)
    slowest: float = 0.0


def generated(format_name: str, number: int, seed: int) -> list[Seedling]:
    """Sound files of every kind of a format."""
    found: list[Seedling] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[format_name]())
    def collect(file):
        if not file.companions:
            found.append(Seedling(file.name, file.content))

    collect()
    return found


def real(folders: list[Path], largest: int) -> dict[str, list[Seedling]]:
    """Small files of every format below some folders."""
    found: dict[str, list[Seedling]] = {name: [] for name in FORMATS}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and 0 < path.stat().st_size <= largest:
                codec = recognise(path)
                if codec and codec.name in found:
                    name = f"real{SUFFIXES[codec.name]}{'.gz' * (path.suffix == '.gz')}"
                    found[codec.name].append(Seedling(name, path.read_bytes()))
    return found


class Cases:
    """The cases of a run, each by its number alone.

    Args:
        corpus: sound files by format.
        seed: of the run.
    """

    def __init__(self, corpus: dict[str, list[Seedling]], seed: int) -> None:
        self._corpus = corpus
        self._seed = seed

    def case(self, format_name: str, number: int) -> Case:
        """The damaged file of that number."""
        chance = random.Random(f"{self._seed} {format_name} {number}")
        files = self._corpus[format_name]
        one, other = chance.choice(files), chance.choice(files)
        return Case(format_name, number, one.name, mutated(one.content, other.content, chance))


class Worker:
    """A process that judges cases, started again whenever one of them ends it.

    Args:
        folder: of its own, for the files.
        memory: MiB of address space beyond what it starts with.
        patience: seconds that a case may take.
    """

    def __init__(self, folder: Path, memory: int, patience: float) -> None:
        self._folder = folder
        self._memory = memory
        self._patience = patience
        self._process: multiprocessing.Process | None = None
        self._pipe: Connection | None = None

    def judge(self, case: Case) -> tuple[str, str]:
        """What came of a case; see `judged`."""
        if self._process is None:
            self._start()
        path = self._folder / f"case{case.name[case.name.index('.') :]}"
        path.write_bytes(case.content)
        self._pipe.send((str(path), case.format, case.number))
        try:
            if self._pipe.poll(self._patience):
                return self._pipe.recv()
            why = f"hang: longer than {self._patience:g} s"
        except EOFError:
            self._process.join()
            why = f"crash: ended by {_signal(self._process.exitcode)}"
        self.stop()
        return "fault", why

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=_work, args=(theirs, self._folder, self._memory), daemon=True
        )
        self._process.start()
        theirs.close()


def _signal(code: int | None) -> str:
    return f"signal {-code}" if code and code < 0 else f"exit code {code}"


def _work(pipe: Connection, folder: Path, memory: int) -> None:
    """Judge what comes through the pipe, until it is closed."""
    printed = folder / "printed"
    descriptor = os.open(printed, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory * MEBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            path, format_name, number = pipe.recv()
        except EOFError:
            return
        os.truncate(printed, 0)
        outcome, why = judged(
            Path(path), folder / f"out{path[path.index('.') :]}", format_name, number
        )
        text = printed.read_text(errors="replace")
        if outcome != "fault" and (word := quotes(text, Path(path).read_bytes())):
            outcome, why = "fault", f"printed a word of the header: {word}"
        elif text and outcome != "fault":
            outcome = f"{outcome} (library printed)"
        pipe.send((outcome, why))


def kind_of(why: str) -> str:
    """Faults of one kind, whatever the numbers in their text."""
    return re.sub(r"(?<![.\w])-?\d[\d.e+-]*(?!\w)", "N", why.split(" | ")[0])[:230]


def table(rows: dict[str, Row]) -> str:
    """Mutations and their outcomes by format."""
    names = ("mutations", "refused", "no image", "exact", "faults", "slowest")
    lines = ["format  " + "".join(f"{name:>10}" for name in names)]
    for name, row in rows.items():
        counts = Counter[str]()
        for outcome, number in row.outcomes.items():
            counts[outcome.split(" (")[0]] += number
        numbers = [
            counts.total(),
            *(counts[key] for key in ("refused", "no image", "exact", "fault")),
        ]
        told = "".join(f"{number:10}" for number in numbers)
        lines.append(f"{name:8}{told}{row.slowest:8.2f} s")
    printed = sum(
        n for row in rows.values() for name, n in row.outcomes.items() if "printed" in name
    )
    lines.append(f"a library printed something, but no word of a header, in {printed} cases")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Run bombs and mutations; returns the exit code."""
    started = time.monotonic()
    keep = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    corpus = real(arguments.corpus, arguments.largest)
    for name in FORMATS:
        corpus[name] += generated(name, arguments.generated, arguments.seed)
    cases = Cases(corpus, arguments.seed)
    if arguments.only:
        name, number = arguments.only.split(":")
        case = cases.case(name, int(number))
        path = keep / f"only{case.name[case.name.index('.') :]}"
        path.write_bytes(case.content)
        say(f"{path}: {judged(path, keep / ('out' + path.suffix), name, int(number))}")
        return 0
    rows = {name: Row() for name in ("bombs", *FORMATS)}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        worker = Worker(Path(folder), arguments.memory, arguments.patience)
        try:
            if not arguments.no_bombs:
                _drop_bombs(worker, rows["bombs"], keep)
            _fuzz(cases, worker, rows, arguments, keep, started)
        finally:
            worker.stop()
    say(table(rows))
    faults = 0
    for name, row in rows.items():
        for kind, numbers in sorted(row.faults.items(), key=lambda item: -len(item[1])):
            faults += len(numbers)
            say(f"{name}: {len(numbers)} x {kind} (numbers {numbers[:5]})")
    say(f"{time.monotonic() - started:.0f} s; files that show faults are in {keep}")
    return 1 if faults else 0


def _drop_bombs(worker: Worker, row: Row, keep: Path) -> None:
    for number, (name, what, content) in enumerate(bombs()):
        suffix = name.split(".", 1)[1]
        format_of = {suffix: name for name, suffix in SUFFIXES.items()}
        case = Case(format_of[f".{suffix.removesuffix('.gz')}"], number, name, content)
        if case.format not in FORMATS:
            continue
        outcome, why = _timed(worker, case, row, keep)
        say(f"bomb: {what} ({len(content)} bytes): {outcome}: {why[:150]}")


def _fuzz(
    cases: Cases,
    worker: Worker,
    rows: dict[str, Row],
    arguments: argparse.Namespace,
    keep: Path,
    started: float,
) -> None:
    chosen = [name for name in arguments.formats.split(",") if name in FORMATS]
    told = started
    for number in range(-(-arguments.mutations // len(chosen))):
        for name in chosen:
            _timed(worker, cases.case(name, number + arguments.first), rows[name], keep)
        now = time.monotonic()
        if now - started > arguments.seconds:
            say(f"out of time after {number + 1} files of each format")
            return
        if now - told > 60:
            told = now
            say(f"{now - started:.0f} s\n{table(rows)}")


def _timed(worker: Worker, case: Case, row: Row, keep: Path) -> tuple[str, str]:
    start = time.monotonic()
    outcome, why = worker.judge(case)
    row.slowest = max(row.slowest, time.monotonic() - start)
    row.outcomes[outcome] += 1
    if outcome == "fault":
        numbers = row.faults.setdefault(kind_of(why), [])
        if len(numbers) < 3:
            suffix = case.name[case.name.index(".") :]
            (keep / f"{case.format}-{case.number}{suffix}").write_bytes(case.content)
            say(f"fault: {case.format}:{case.number}: {why[:400]}")
        numbers.append(case.number)
    return outcome, why


def say(text: str) -> None:
    """Print at once, whatever standard output is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--mutations", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of a format")
    parser.add_argument("--seconds", type=float, default=1800, help="at most")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="folders of real files")
    parser.add_argument("--largest", type=int, default=20_000, help="bytes of a real file")
    parser.add_argument("--generated", type=int, default=200, help="files made of each format")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--memory", type=int, default=2048, help="MiB that a case may take")
    parser.add_argument("--patience", type=float, default=30, help="seconds that a case may take")
    parser.add_argument("--keep", type=Path, help="folder for files that show faults")
    parser.add_argument("--only", metavar="FORMAT:NUMBER", help="run one case in this process")
    parser.add_argument("--no-bombs", action="store_true")
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
