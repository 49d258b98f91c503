"""Writing the reports, each whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from medshield.contact_sheet import Tile
from medshield.errors import InputError
from medshield.places import target_errors
from medshield.private import make_private_folder, write_private
from medshield.reports import html, junit, markdown
from medshield.reports.document import Document, finite, readable

REPORT = "report.json"


def write_reports(document: Document, folder: Path, pictures: Sequence[Tile] = ()) -> Path:
    """Write `report.json`, `report.md` and `report.html` to a private folder.

    Args:
        document: what `Evidence.to_json()` gives.
        folder: made, mode 0700, if absent.
        pictures: clean, protected and difference of a few images, for the page.

    Returns:
        The path of `report.json`.

    Raises:
        InputError: the folder can't be written.
    """
    known = finite(document)
    shown = readable(known)
    with target_errors(folder, resumable=False):
        make_private_folder(folder)
        write_private(folder / "report.html", html.page(shown, pictures).encode())
        write_private(folder / "report.md", markdown.page(shown).encode())
        path = folder / REPORT
        write_private(path, (json.dumps(known, indent=1) + "\n").encode())
    return path


def refuse_targets(folder: Path, junit: Path | None, *untouched: Path) -> None:
    """Say at once, before anything is trained, that reports can't be written where they are asked.

    Args:
        folder: of the reports.
        junit: the file of JUnit XML, if any; one that exists is replaced.
        untouched: folders in which nothing is written.

    Raises:
        InputError: a target lies in one of those, or the file is a folder or can't be written.
    """
    _refuse_inside("-o", folder, untouched)
    if junit is None:
        return
    _refuse_inside("--junit", junit, untouched)
    parent = Path(os.path.realpath(junit)).parent
    if junit.is_dir():
        raise InputError(f"--junit {junit}: is a folder; give the name of a file")
    if not parent.is_dir():
        raise InputError(f"--junit {junit}: its folder does not exist; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--junit {junit}: its folder can't be written to; choose another")


def _refuse_inside(option: str, target: Path, untouched: Sequence[Path]) -> None:
    for folder in untouched:
        if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder)):
            raise InputError(
                f"{option} {target}: lies in {folder}, where nothing is written; choose a place "
                "outside"
            )


def write_junit(document: Document, target: Path) -> None:
    """Write the cells as JUnit XML, readable as other files are: a pipeline collects it.

    Raises:
        InputError: the file can't be written.
    """
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(junit.suites(readable(finite(document))))
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"--junit {target}: can't be written ({error.strerror}); choose another place"
        ) from error
