"""What `medshield verify` does not measure, as tables for docs/protection.md.

    python -m tests.tools.protection secrecy    SOURCE --method advt   two keys, and cleaning
    python -m tests.tools.protection unseen     SOURCE --method advt   images not fitted on
    python -m tests.tools.protection resolution SOURCE --method advt   after a trainer's resizing
    python -m tests.tools.protection keys       SOURCE --method advt   spread over keys

SOURCE is a folder as the command line takes it, or a MedMNIST set, NAME.npz. With -o, the table
replaces the block of its name (or of --block) in a document.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from medshield import progress
from medshield.budget import parse_epsilon
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.errors import InputError, MedshieldError
from medshield.methods import METHODS
from medshield.threats import parse_cell
from medshield.trials import CLEAN_MIX, Cell
from tests.tools.protection import key_spread, resolution, secrecy, unseen
from tests.tools.protection.study import Options, threads
from tests.tools.tables import renew

FEWEST_KEYS = 2


def parser() -> argparse.ArgumentParser:
    """All options, the same for every table."""
    found = argparse.ArgumentParser(
        prog="python -m tests.tools.protection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("table", choices=("secrecy", "unseen", "resolution", "keys"))
    found.add_argument("source", type=Path)
    add = found.add_argument
    add("--method", action="append", choices=sorted(METHODS), required=True, help="repeatable")
    add("--eps", default="8/255")
    add("--limit", type=int, help="training images of a victim (resolution: files) at the most")
    add("--image-size", type=int, help="side of grid and victims' input, px")
    add("--effort", default=1.0, type=float, help="multiplies the methods' training steps")
    add("--victim", help="victim[:training[:countermeasure]], as verify --cells")
    add("--epochs", type=int, help="of each victim; as verify chooses them if absent")
    add("--seeds", default=3, type=int, help="victims of each arm")
    add("--seed", default=0, type=int, help="of split, keys, victims and bootstrap")
    add("--keys", default=3, type=int, help="how many are tried; secrecy: the first is the secret")
    add("--workers", default=2, type=int, help="processes of one thread each")
    add("--cache", type=Path, help="folder where finished victims are kept and found again")
    add("--upscale", type=int, help="resolution: enlarge the images to this longer side first, px")
    add("--labels", type=Path)
    add("--path-col")
    add("--label-col")
    add("--patient-col")
    add("--split-col")
    add("--masks", type=Path)
    add("--task", default="auto", choices=("auto", "classification", "multilabel", "segmentation"))
    add("--allow-missing", action="store_true")
    add("-o", "--output", type=Path, help="document whose block is renewed")
    add("--block", help="its name; the table's if absent")
    return found


def victim(text: str) -> Cell:
    """A cell whose victims need nothing but the images of their arm.

    Raises:
        InputError: no such cell, or one that trains on more than that.
    """
    cell = parse_cell(text)
    if cell.is_pretrained or cell.training == CLEAN_MIX:
        raise InputError(
            f"--victim: {text!r} starts from weights or mixes clean images in, which these tables "
            "do not; measure it with `medshield verify --cells`"
        )
    return cell


def options_of(values: argparse.Namespace, scratch: Path) -> Options:
    """What was asked for.

    Raises:
        InputError: a radius or a victim that is none.
    """
    return Options(
        source=values.source,
        annotations=AnnotationOptions(
            labels=values.labels,
            path_column=values.path_col,
            label_column=values.label_col,
            patient_column=values.patient_col,
            split_column=values.split_col,
            masks=values.masks,
            task=values.task,
            allow_missing=values.allow_missing,
        ),
        methods=tuple(dict.fromkeys(values.method)),
        epsilon=parse_epsilon(values.eps),
        limit=values.limit,
        image_size=values.image_size,
        effort=values.effort,
        cell=victim(values.victim) if values.victim else None,
        epochs=values.epochs,
        seeds=values.seeds,
        seed=values.seed,
        keys=max(FEWEST_KEYS, values.keys),
        workers=values.workers,
        cache=values.cache or scratch / "trials",
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and write the table."""
    values = parser().parse_args(arguments)
    progress.set_up(quiet=False, verbose=False, log_file=None, source=values.source)
    tables: dict[str, Callable[[Options, Path], str]] = {
        "secrecy": secrecy.document,
        "unseen": unseen.document,
        "resolution": partial(resolution.document, upscale=values.upscale),
        "keys": key_spread.document,
    }
    with tempfile.TemporaryDirectory() as folder, threads(1):
        try:
            text = tables[values.table](options_of(values, Path(folder)), Path(folder))
        except MedshieldError as error:
            sys.stderr.write(f"protection: {error}\n")
            return error.exit_code
    if values.output:
        renew(values.output, values.block or values.table, text)
    else:
        sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
