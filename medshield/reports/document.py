"""The document that all reports are made of: its numbers as text, whatever is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medshield.evidence import Verdict
from medshield.text import printable

Document = Mapping[str, Any]
"""What `Evidence.to_json()` gives, made `finite`; its fields are told in docs/evidence.md."""

NOTHING = "n/a"
"""Stands where there is no number."""
NAMES = {
    "auroc": "AUROC",
    "map": "mAP",
    "iou": "IoU",
    "dice": "Dice",
    "pixel_auroc": "pixel AUROC",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "haarpsi": "HaarPSI",
}
NO_SCORES = ("predicted_foreground",)
"""Kept beside the scores, but neither good when high nor when low."""


def finite(value: Any) -> Any:
    """The same data with null for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def readable(value: Any) -> Any:
    """The same data with every text on one line, without what no page and no XML can hold."""
    if isinstance(value, Mapping):
        return {printable(str(key)): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def named(score: str) -> str:
    """The name of a score or a measure as people write it."""
    return NAMES.get(score, score.replace("_", " "))


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits, without a minus before a zero."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def leakage_parts(leakage: Document) -> tuple[str, str]:
    """`0.03` and `[0.00, 0.12]`."""
    ends = f"[{number(leakage.get('low'))}, {number(leakage.get('high'))}]"
    return number(leakage.get("estimate")), ends


def leakage_text(leakage: Document) -> str:
    """`0.03 [0.00, 0.12]`."""
    return " ".join(leakage_parts(leakage))


def spread_text(score: Document) -> str:
    """How far a mean score is to be trusted: its interval where there is one, else its deviation.

    Returns:
        `[0.94, 0.98]`, `±0.012`, or nothing where neither is known.
    """
    if score.get("low") is not None and score.get("high") is not None:
        return f"[{number(score['low'])}, {number(score['high'])}]"
    return "" if score.get("sd") is None else f"±{number(score['sd'], 3)}"


def score_text(score: Document) -> str:
    """`0.963 ±0.012`, or with its interval."""
    return f"{number(score.get('mean'), 3)} {spread_text(score)}".rstrip()


def ends_of(score: Document) -> tuple[float | None, float | None]:
    """Both ends of what is drawn about a mean: its interval, else one deviation to each side."""
    mean, deviation = score.get("mean"), score.get("sd")
    if score.get("low") is not None and score.get("high") is not None:
        return score["low"], score["high"]
    if mean is None or deviation is None:
        return None, None
    return mean - deviation, mean + deviation


def arms_of(document: Document) -> list[str]:
    """Every arm of any cell, those of all cells first."""
    arms = list(document["arms"])
    return list(
        dict.fromkeys([*arms, *(arm for cell in document["cells"] for arm in cell["scores"])])
    )


def counting(cell: Document) -> list[Document]:
    """The leakages that the verdict on a cell is made of."""
    return [leakage for leakage in cell["leakage"] if leakage.get("counts", True)]


def highest(cell: Document) -> float | None:
    """The upper end of the widest-reaching leakage that counts; None where none is defined."""
    ends = [leakage["high"] for leakage in counting(cell) if leakage.get("high") is not None]
    return max(ends, default=None)


def decisive(cell: Document) -> Document | None:
    """The leakage that decides on a cell; None for a cell that could not tell."""
    if cell["verdict"] == Verdict.INCONCLUSIVE:
        return None
    return next((one for one in cell["leakage"] if one.get("decides")), None)
