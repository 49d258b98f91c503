"""An independent reading of every format, for `check`: it shares no code with the codecs."""

from __future__ import annotations

from pathlib import Path

from medshield.audit.base import Allowed, AuditedImage, Auditor
from medshield.audit.dicom import DicomAuditor
from medshield.audit.jpeg import JpegAuditor
from medshield.audit.nifti import NiftiAuditor
from medshield.audit.png import PngAuditor
from medshield.audit.tiff import TiffAuditor

AUDITORS: tuple[Auditor, ...] = (
    PngAuditor(),
    JpegAuditor(),
    DicomAuditor(),
    TiffAuditor(),
    NiftiAuditor(),
)
HEAD_BYTES = 512


def recognise(path: Path) -> Auditor | None:
    """The auditor of a file by its first bytes, or None where none knows it."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((auditor for auditor in AUDITORS if auditor.recognises(head, path)), None)


def auditor_named(name: str) -> Auditor | None:
    """The auditor of a manifest's `format`, or None where there is none."""
    return next((auditor for auditor in AUDITORS if auditor.name == name), None)


__all__ = ["AUDITORS", "Allowed", "AuditedImage", "Auditor", "auditor_named", "recognise"]
