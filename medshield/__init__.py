"""medshield: release medical images that are of no use for training a model without permission.

The verbs of the command line are functions here: see docs/api.md, or `help(medshield.protect)`.
Importing this brings no PyTorch; calling a verb does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medshield.errors import (
    InputError,
    MedshieldError,
    MethodError,
    NotAnImage,
    RefusedFile,
    SourceLost,
    Unfinished,
    VerdictError,
    WorkerLost,
)
from medshield.versions import __version__

if TYPE_CHECKING:
    from medshield.api import (
        bag,
        benchmark,
        card,
        check,
        fit,
        merge,
        plan_fit,
        plan_protect,
        plan_verify,
        protect,
        protect_share,
        scan,
        verify,
    )
    from medshield.bagging import Bag
    from medshield.benchmark_table import BenchmarkTable
    from medshield.checking import CheckResult
    from medshield.dataset.scanned import Scan, SourceFile
    from medshield.evidence import CellResult, Verdict
    from medshield.fitting import FitOutcome
    from medshield.manifest import Record
    from medshield.preparation import Plan
    from medshield.release_card import Card
    from medshield.release_run import Outcome
    from medshield.shares import ShareOutcome
    from medshield.verifying import Evidence

_WHERE = {
    **dict.fromkeys(("scan", "protect", "plan_protect", "protect_share", "merge"), "api"),
    **dict.fromkeys(("fit", "plan_fit", "check", "verify", "plan_verify", "benchmark"), "api"),
    **dict.fromkeys(("card", "bag"), "api"),
    "Scan": "dataset.scanned",
    "SourceFile": "dataset.scanned",
    "Outcome": "release_run",
    "Record": "manifest",
    "ShareOutcome": "shares",
    "FitOutcome": "fitting",
    "CheckResult": "checking",
    "Evidence": "verifying",
    "CellResult": "evidence",
    "Verdict": "evidence",
    "Plan": "preparation",
    "BenchmarkTable": "benchmark_table",
    "Card": "release_card",
    "Bag": "bagging",
}

__all__ = [
    # verbs
    "scan",
    "protect",
    "plan_protect",
    "protect_share",
    "merge",
    "fit",
    "plan_fit",
    "check",
    "card",
    "bag",
    "verify",
    "plan_verify",
    "benchmark",
    # what they return
    "Scan",
    "SourceFile",
    "Outcome",
    "Record",
    "ShareOutcome",
    "FitOutcome",
    "CheckResult",
    "Evidence",
    "CellResult",
    "Verdict",
    "Plan",
    "BenchmarkTable",
    "Card",
    "Bag",
    # what they raise
    "MedshieldError",
    "InputError",
    "Unfinished",
    "SourceLost",
    "WorkerLost",
    "MethodError",
    "VerdictError",
    "RefusedFile",
    "NotAnImage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """What was not asked for before, from the module where it is."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"medshield.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
