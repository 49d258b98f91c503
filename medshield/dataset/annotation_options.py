"""What the user says about labels and masks."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AnnotationOptions:
    """What the user said about labels and masks; None is for what is to be found out.

    Attributes:
        labels: a table (`--labels`).
        no_labels: look for none, and use none (`--labels none`).
        path_column, label_column, patient_column, split_column: names of its columns;
            `label_column` may be several findings, separated by commas.
        masks: a folder inside the source (`--masks`).
        label_tag: the DICOM tag that holds the class, `GGGG,EEEE` (`--label-tag`).
        task: auto, classification, multilabel or segmentation.
        allow_missing: leave out images without a label, and rows without an image.
    """

    labels: Path | None = None
    no_labels: bool = False
    path_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    split_column: str | None = None
    masks: Path | None = None
    label_tag: str | None = None
    task: str = "auto"
    allow_missing: bool = False
