"""Text that others may have written: read up to a limit, and refused where it is nested too deep.

A file may be endless (a device, a sparse file), and a parser recurse until Python gives up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medshield.errors import InputError

MOST_CONFIG_BYTES = 1 << 14
"""Of a `--config` file: a key takes TOML's parser the square of its length in time."""

MOST_DESCRIPTION_BYTES = 16 << 20
"""Of `medshield.json`, of `generator.json`, and of a private folder's `config.json`."""

MOST_MANIFEST_BYTES = 2 << 30
"""Of a manifest: a million files take 0.6 GB."""

MOST_TABLE_BYTES = 256 << 20
"""Of a table of labels."""


def read_bounded(path: Path, most: int) -> bytes:
    """A file's bytes.

    Raises:
        InputError: more of them than `most`.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(
            f"{path}: has more than {most} bytes, which no such file needs; give another one, or "
            "remove what does not belong there"
        )
    return content


def parsed_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
