"""What was done to a release and what that means for its users: the same sentences everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from medshield.manifest import Record

NOT_FOR_DIAGNOSIS = (
    "Do not diagnose from these images, neither by a model nor by eye: their pixels were changed "
    "on purpose, with some methods towards the looks of another finding."
)
NOT_FOR_TRAINING = (
    "Do not train models on these images without permission of their owner. The change is there to "
    "keep a model from learning from them; what a model scores after training on them says nothing "
    "of how it would do on the originals."
)
NOT_A_LICENCE = (
    "The change is a technical hurdle. It is not a licence, not de-identification and no "
    "guarantee: how much it holds off depends on the data and on the trainer."
)
STATUS_WORDS = {
    "protected": "images with changed pixels",
    "copied": "other files (labels, masks, text and objects that are no images), unchanged but for "
    "what the manifest's notes list",
    "omitted": "files of unknown kind, not in this release",
    "refused": "images that could not be changed faithfully, not in this release",
}
"""What each status means, in the order in which they are told."""


def manipulation(summary: Mapping[str, Any]) -> str:
    """What was done to the pixels.

    Args:
        summary: what `medshield.json` says.
    """
    maker = summary["versions"].get("medshield")
    tool = f"medshield {maker}" if maker else "medshield"
    labels = "with the use of labels" if summary["labels_used"] else "without the use of labels"
    return (
        f"{tool} added a perturbation to the pixels of every protected image, by method "
        f"{summary['method']}, {labels} (task: {summary['task']}). No stored value moved by more "
        f"than {summary['epsilon']} of the intensity range of its kind of files. This was "
        "measured on every written file. Names, formats and metadata are those of the originals, "
        "but for what the manifest's notes list."
    )


def description(records: Iterable[Record], summary: Mapping[str, Any]) -> str:
    """What the release is, in a few sentences."""
    counts = Counter(record.status for record in records)
    images = (
        "1 medical image" if counts["protected"] == 1 else f"{counts['protected']} medical images"
    )
    copied = "1 other file" if counts["copied"] == 1 else f"{counts['copied']} other files"
    return (
        f"{images} with a small, bounded perturbation that is to keep models from learning from "
        f"them without permission, and {copied}. {manipulation(summary)} {NOT_FOR_TRAINING} "
        f"{NOT_FOR_DIAGNOSIS} {NOT_A_LICENCE}"
    )
