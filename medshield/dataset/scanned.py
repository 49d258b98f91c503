"""What was found out about a folder: every file, what it is, what will be done with it, and why."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medshield.dataset.annotations import Annotation, Labelling
from medshield.formats import IntensityRange
from medshield.formats.base import DEFAULT_HANDLING, Handling
from medshield.kept_lines import Chosen

MASK_REASON = "a mask"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the source and its plan.

    Attributes:
        path: relative to the source, with forward slashes.
        action: "protect", "copy", "omit" or "refuse".
        reason: why it is not protected; empty for "protect".
        format: the codec's name, or the file's suffix.
        kind: which intensity range it shares; empty where it is no image.
        shape: (frames, height, width, channels) of an image.
        epsilon_stored: the radius in stored units, the largest of its frames; 0 before it is
            known.
        annotation: its label, findings or mask, patient and split.
        details: technical facts, as the codec gave them.
        grey, is_integer, step: of an image, see `DecodedImage`.
        slopes: the smallest and the largest size of a slope in its frames.
        stamp: tells whether it was written to since, see `walk.stamp_of`.
        number: its place among the files of a plan, from 0.
    """

    path: str
    action: str
    reason: str = ""
    format: str = ""
    kind: str = ""
    shape: tuple[int, ...] = ()
    epsilon_stored: float = 0.0
    annotation: Annotation | None = field(default=None, repr=False)
    details: dict[str, str] = field(default_factory=dict, repr=False)
    grey: bool = True
    slopes: tuple[float, float] = (1.0, 1.0)
    is_integer: bool = True
    step: float = 1.0
    stamp: tuple[int, int] | None = None
    number: int = -1

    def to_line(self) -> bytes:
        """One line of JSON."""
        values = {name: getattr(self, name) for name in _OF_FILE}
        if self.annotation:
            values["annotation"] = {n: getattr(self.annotation, n) for n in _OF_ANNOTATION}
        return json.dumps(values).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> SourceFile:
        """The inverse of `to_line`."""
        values = json.loads(line)
        values["shape"], values["slopes"] = tuple(values["shape"]), tuple(values["slopes"])
        values["stamp"] = values["stamp"] and tuple(values["stamp"])
        if annotation := values["annotation"]:
            annotation["findings"] = annotation["findings"] and tuple(annotation["findings"])
            values["annotation"] = Annotation(**annotation)
        return cls(**values)


_OF_FILE = [field.name for field in fields(SourceFile)]
_OF_ANNOTATION = [field.name for field in fields(Annotation)]


@dataclass(frozen=True)
class Scan:
    """Everything that was found out about a folder.

    Attributes:
        source: the folder.
        files: sorted by path; of many, each is read when it is asked for.
        annotations: what labels or masks mean, or None where `problem` says why there are none.
        ranges: intensity range of each kind of image.
        problem: what keeps the folder from being protected; empty where nothing does.
        handling: of thumbnails and signatures, with which its files were read.
    """

    source: Path
    files: Sequence[SourceFile]
    annotations: Labelling | None
    ranges: dict[str, IntensityRange]
    problem: str = ""
    handling: Handling = DEFAULT_HANDLING
    _by_action: dict[str, array[int]] = field(
        default_factory=dict,
        init=False,
        repr=False,
        compare=False,
    )

    @property
    def without_files(self) -> Scan:
        """What all files share."""
        return replace(self, files=())

    def with_action(self, action: str) -> Sequence[SourceFile]:
        """The files of one plan."""
        if not self._by_action:
            for place, file in enumerate(self.files):
                self._by_action.setdefault(file.action, array("q")).append(place)
        return Chosen(self.files, self._by_action.get(action, ()))

    @property
    def channels(self) -> int:
        """3 if any image to protect has colour, else 1."""
        return 1 if all(file.grey for file in self.with_action("protect")) else 3

    def to_json(self) -> dict[str, Any]:
        """The scan as plain data: no header values, no patients' names."""
        found = self.annotations
        protect = self.with_action("protect")
        return {
            "source": str(self.source),
            "task": found.task if found else None,
            "labels_used": found.labelled if found else None,
            "classes": list(found.classes) if found else [],
            "class_counts": class_counts(found, protect) if found else {},
            "patients": _count_patients(protect),
            "splits": dict(
                sorted(
                    Counter(f.annotation.split or "none" for f in protect if f.annotation).items()
                )
            ),
            "inferred": list(found.notes) if found else [],
            "problem": self.problem or None,
            "actions": dict(sorted(Counter(file.action for file in self.files).items())),
            "formats": dict(sorted(Counter(f.format for f in self.files if f.kind).items())),
            "sizes": dict(sorted(Counter(_size(f) for f in self.files if f.kind).items())),
            "details": _detail_counts(self.files),
            "intensity": {
                kind: {"low": r.low, "high": r.high, "reason": r.reason}
                for kind, r in sorted(self.ranges.items())
            },
            "files": [
                {
                    "path": file.path,
                    "action": file.action,
                    "reason": file.reason,
                    "format": file.format,
                    "epsilon_stored": file.epsilon_stored or None,
                }
                for file in self.files
            ],
        }


def class_counts(found: Labelling, files: Iterable[SourceFile]) -> dict[str, int]:
    """How many images show each class (or finding); images with a mask for segmentation."""
    notes = [file.annotation for file in files if file.annotation]
    if not found.labelled:
        return {}  # an image's cluster is not known before the fit
    if found.task == "segmentation":
        return {"images with a mask": sum(note.mask is not None for note in notes)}
    if found.task == "multilabel":
        return {
            name: sum(bool(note.findings and note.findings[k]) for note in notes)
            for k, name in enumerate(found.classes)
        }
    return {name: sum(note.label == k for note in notes) for k, name in enumerate(found.classes)}


def _count_patients(files: Iterable[SourceFile]) -> int:
    return len({f.annotation.patient for f in files if f.annotation and f.annotation.patient})


def _size(file: SourceFile) -> str:
    frames, height, width, _ = file.shape
    return f"{width} x {height}" + (f" x {frames}" if frames > 1 else "")


def _detail_counts(files: Iterable[SourceFile]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for file in files:
        for name, value in file.details.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in sorted(counts.items())}
