"""Whether new UIDs are the same wherever a UID is referenced in a release."""

from __future__ import annotations

import hashlib
from threading import Lock

_BYTES = 16  # of a digest that stands for a UID: a million of them take a few dozen megabytes


class UidMap:
    """The UIDs of the source and what stands in their places, over all files.

    It must be a function, and one-to-one. UIDs are held as digests, so they are never printed.
    """

    def __init__(self) -> None:
        self._new: dict[bytes, tuple[bytes, str]] = {}
        self._old: dict[bytes, tuple[bytes, str]] = {}
        self._faults: set[tuple[str, str]] = set()
        self._lock = Lock()

    def add(self, path: str, old: bytes, new: bytes) -> None:
        """Take note of one place: a UID, or several joined by backslashes."""
        for one, two in zip(old.split(b"\\"), new.split(b"\\"), strict=False):
            if not one and not two:
                continue
            before, after = (hashlib.sha256(part).digest()[:_BYTES] for part in (one, two))
            with self._lock:
                self._check(self._new, before, after, path, "a UID that is another one in")
                self._check(self._old, after, before, path, "one UID for two of the source, with")

    def _check(
        self,
        known: dict[bytes, tuple[bytes, str]],
        key: bytes,
        value: bytes,
        path: str,
        what: str,
    ) -> None:
        first, where = known.setdefault(key, (value, path))
        if first != value:
            self._faults.add((path, f"{what} {where}"))

    def faults(self) -> list[tuple[str, str]]:
        """(path, fault), sorted."""
        return sorted(self._faults)
