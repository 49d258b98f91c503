"""A verification with its reports, as `medshield verify` is asked for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from medshield import preview, processes, reports
from medshield.compared_images import source_of
from medshield.places import Places
from medshield.preparation import Plan, prepare
from medshield.verify_config import VerifyConfig
from medshield.verifying import Evidence, trained, verify


@dataclass(frozen=True)
class Verification:
    """What `verify` is asked to do, and to write.

    Attributes:
        config: what to train; names a release.
        output: folder of the reports; None for the private folder.
        pictures: whether report.html shows a few images.
        junit: file of JUnit XML; None for none.
    """

    config: VerifyConfig
    output: Path | None = None
    pictures: bool = True
    junit: Path | None = None

    @property
    def release(self) -> Path:
        """The folder to verify."""
        assert self.config.release is not None  # noqa: S101 (who asks has found it)
        return self.config.release

    @property
    def source(self) -> Path:
        """The clean images.

        Raises:
            InputError: nobody says where they are.
        """
        return source_of(self.config, self._private)

    @property
    def folder(self) -> Path:
        """Of the reports."""
        return self.output or self._private / "verify"

    @property
    def _private(self) -> Path:
        return Places(self.release.resolve()).private

    def plan(self) -> Plan:
        """What would be trained; writes nothing and downloads nothing.

        Raises:
            InputError: the release or the source can't be used.
        """
        return prepare(self.config, fetch=False).plan

    def run(self) -> Evidence | None:
        """Train victims, and write the reports.

        Returns:
            What was found; None in a process that only trains victims for the first one.

        Raises:
            InputError: the release, the source or a target can't be used.
        """
        if self.output or self.junit:
            reports.refuse_targets(self.folder, self.junit, self.release, self.source)
        if not processes.current().is_first:
            trained(self.config)
            return None
        evidence = verify(self.config)
        pictures = preview.compared(self.source, self.release) if self.pictures else ()
        written = reports.write_reports(evidence.to_json(), self.folder, pictures)
        if self.junit:
            reports.write_junit(json.loads(written.read_text()), self.junit)
        return replace(evidence, reports=self.folder)
