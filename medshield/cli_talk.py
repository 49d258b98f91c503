"""What every command does beside its work: messages to where they are wanted, and the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medshield import processes


def set_up(values: dict[str, Any], source: Path | None = None) -> None:
    """Send messages where the user wants them.

    Args:
        values: of all options of the command.
        source: the folder of images, which no log may lie in.
    """
    from medshield import progress

    progress.set_up(
        quiet=values["quiet"] or not processes.current().is_first,
        verbose=values["verbose"],
        log_file=values["log_file"],
        source=source,
    )


def show(as_json: bool, document: dict[str, Any], text: str) -> None:
    """Print a result on standard output: one JSON document, or text."""
    click.echo(json.dumps(document, indent=1) if as_json else text)
