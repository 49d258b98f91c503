"""What becomes of every file of a folder, and whether it is exact: the tables of docs/fidelity.md.

    python -m tests.tools.fidelity FOLDER... [--packaged] [--generated] [--eps 8/255]
        [-o docs/fidelity.md]

Each file goes the way that `medshield protect` takes it, with a perturbation of plus or minus
epsilon in every value: the hardest to store. What was written is judged by the established reader
of its format (`tests.tools.readers`): the same size, no value further than epsilon, none past
what was asked for, no byte changed outside the pixels.
"""

import argparse
import contextlib
import importlib.metadata
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path

import nibabel
import pydicom

from medshield.budget import parse_epsilon
from medshield.dataset.scan import scan
from medshield.dataset.scanned import SourceFile
from medshield.dataset.walk import walk
from tests.tools.generated import write_all
from tests.tools.tables import DataSet, document
from tests.tools.trial import NO_LABELS, Outcome, attempt

CODE = {".py", ".pyc", ".m"}


def packaged() -> Iterator[tuple[str, Path, list[str]]]:
    """pydicom's and nibabel's own test files, as far as the installed packages hold them."""
    for module, below in ((pydicom, "data"), (nibabel, "tests/data")):
        root = Path(module.__file__).parent
        files = [path for path in files_of(root) if below in path and Path(path).suffix not in CODE]
        version = importlib.metadata.version(module.__name__)
        yield f"{module.__name__} {version}, packaged", root, files


def files_of(folder: Path) -> list[str]:
    """Every readable file below a folder."""
    return sorted(path for path, reason in walk(folder) if not reason)


def measure(
    name: str, folder: Path, files: Sequence[str], epsilon: Fraction, workers: int
) -> DataSet:
    """What becomes of these files of a folder."""
    wanted = set(files)
    found = _quietly(scan, folder, NO_LABELS, epsilon=epsilon, workers=workers)
    plans = [file for file in found.files if file.path in wanted]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        mapped = map
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers))
            mapped = partial(pool.map, chunksize=4)
        work = partial(_attempt, folder, found.ranges, epsilon, Path(scratch))
        outcomes = []
        for outcome in mapped(work, plans):
            outcomes.append(outcome)
            if outcome.category == "wrong":
                sys.stderr.write(f"WRONG {name}/{outcome.path}: {outcome.reason}\n")
    return DataSet(name, tuple(outcomes))


def generated(epsilon: Fraction, workers: int) -> DataSet:
    """What becomes of one file of each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder)
        return measure("generated", folder, files_of(folder), epsilon, workers)


def _quietly(function, *arguments, **options):
    """Call it with the warnings of libraries left out."""
    with contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments, **options)


def _attempt(folder, ranges, epsilon, scratch: Path, file: SourceFile) -> Outcome:
    return _quietly(attempt, folder, ranges, epsilon, scratch / str(os.getpid()), file)


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by what tells it from the others: what the tables call it."""
    folders = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath([folder.parent for folder in folders]))
    return {folder.relative_to(common).as_posix(): folder for folder in folders}


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fidelity", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--packaged", action="store_true", help="pydicom's and nibabel's own files")
    parser.add_argument("--generated", action="store_true", help="one file of each kind, too")
    parser.add_argument("--eps", default="8/255", type=parse_epsilon)
    parser.add_argument("--workers", default=os.cpu_count(), type=int)
    parser.add_argument("-o", "--output", type=Path, help="document whose block is renewed")
    options = parser.parse_args(arguments)
    if not (options.folders or options.packaged):
        parser.error("no folder to measure")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure and write the tables; 4 if any file came out wrong."""
    options = parsed(arguments)
    work = [(n, path, files_of(path)) for n, path in named(options.folders).items()]
    work += packaged() if options.packaged else []
    sets = [
        measure(name, folder, files, options.eps, options.workers) for name, folder, files in work
    ]
    made = generated(options.eps, options.workers) if options.generated else None
    document(sets, made, options.eps, options.output)
    return 4 if any(found.of("wrong") for found in (*sets, *([made] if made else []))) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
