"""The key of a release or a generator, as its private folder keeps it."""

from __future__ import annotations

from pathlib import Path

from medshield.bounded import read_bounded
from medshield.errors import InputError
from medshield.keys import KEY_BYTES, Key
from medshield.private import write_private

KEY = "key"


def write_key(key: Key, folder: Path) -> None:
    """Keep a key in a folder, in hexadecimal, for the owner's eyes only."""
    write_private(folder / KEY, key.secret.hex().encode() + b"\n")


def read_key(path: Path) -> Key:
    """A key that was written in hexadecimal.

    Raises:
        InputError: no key of 32 bytes in hexadecimal.
    """
    try:
        secret = bytes.fromhex(read_bounded(path, 1 << 10).decode().strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise InputError(f"{path}: not a key (expected {2 * KEY_BYTES} hexadecimal digits)")
    return Key(secret)
