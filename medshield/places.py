"""Where a release and its companions lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = "config.json"
GENERATOR = "generator"


@dataclass(frozen=True)
class Places:
    """The folders of one release.

    Attributes:
        release: the finished release.
    """

    release: Path

    @property
    def partial(self) -> Path:
        """The release while it grows."""
        return self.release.with_name(self.release.name + ".partial")

    @property
    def private(self) -> Path:
        """The private folder."""
        return self.release.with_name(self.release.name + ".private")
