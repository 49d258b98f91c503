"""Leakage against visibility: what one method gives for being seen less, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medshield import progress
from medshield.evidence import CellResult, Leakage
from medshield.verifying import Evidence

HEADER = ["method", "eps", "PSNR", "SSIM", "HaarPSI", "leakage"]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by people who see colours otherwise (Okabe and Ito 2008)."""
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Point:
    """One release, as visible and as leaky as it is.

    Attributes:
        method, epsilon: as given to `protect`.
        cell: where leakage was measured: the first one.
        psnr: median, dB; None, as those below, where it is not defined.
        ssim, haarpsi: medians, at most 1.
        leakage, low, high: of the model's own decision, at the worse of the epochs that a
            trainer may pick, with its interval.
    """

    method: str
    epsilon: str
    cell: str
    psnr: float | None
    ssim: float | None
    haarpsi: float | None
    leakage: float
    low: float
    high: float

    @classmethod
    def of(cls, method: str, epsilon: str, evidence: Evidence) -> Point:
        """The point of a release that was verified."""
        medians = {name: found["median"] for name, found in evidence.facts["fidelity"].items()}
        result = evidence.cells[0]
        worst = _worst(result)
        return cls(
            method=method,
            epsilon=epsilon,
            cell=result.cell.name,
            psnr=medians.get("psnr"),
            ssim=medians.get("ssim"),
            haarpsi=medians.get("haarpsi"),
            leakage=worst.estimate,
            low=worst.low,
            high=worst.high,
        )

    def to_json(self) -> dict[str, Any]:
        """The point as plain data."""
        return asdict(self)


def _worst(result: CellResult) -> Leakage:
    decisions = [leakage for leakage in result.leakages if leakage.score == result.decision]
    return max(decisions, key=lambda leakage: leakage.estimate)


def lines(points: Sequence[Point]) -> list[list[str]]:
    """The table's rows, the header first."""
    return [
        HEADER,
        *(
            [
                point.method,
                point.epsilon,
                _number(point.psnr, 1),
                _number(point.ssim, 3),
                _number(point.haarpsi, 3),
                f"{point.leakage:.2f} [{point.low:.2f}, {point.high:.2f}]",
            ]
            for point in points
        ),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def figure_for(target: Path, **options: Any) -> Any:
    """A matplotlib figure; None where that is not installed, and a log line says how to get it.

    Args:
        target: the file that is to be drawn.
        options: of the figure.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        progress.logger.info("%s: not drawn; pip install 'medshield[plot]'", target.name)
        return None
    return Figure(layout="constrained", **options)


def draw(points: Sequence[Point], target: Path) -> bool:
    """Plot leakage against SSIM as a PNG, a marker per method and a point per eps.

    Returns:
        Whether it was drawn, see `figure_for`.
    """
    figure = figure_for(target, figsize=(6.4, 4.4))
    if figure is None:
        return False
    shown = [point for point in points if point.ssim is not None]
    axes = figure.add_subplot()
    for number, method in enumerate(dict.fromkeys(point.method for point in shown)):
        own = sorted(
            (point for point in shown if point.method == method), key=lambda point: point.ssim or 0
        )
        values = [point.leakage for point in own]
        below = [max(0.0, point.leakage - point.low) for point in own]
        above = [max(0.0, point.high - point.leakage) for point in own]
        axes.errorbar(
            [point.ssim or 0 for point in own],
            values,
            yerr=[below, above],
            label=method,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linewidth=1,
            capsize=3,
        )
        for point in own:
            axes.annotate(
                point.epsilon,
                (point.ssim or 0, point.leakage),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
    cell = shown[0].cell if shown else ""
    axes.set_xlabel("median SSIM of the protected files (right: seen less)")
    axes.set_ylabel(f"leakage, {cell} (down: protects more)")
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.margins(x=0.12)  # room for the labels
    axes.grid(alpha=0.25)
    if shown:
        axes.legend(frameon=False)
    figure.savefig(target, dpi=150)
    return True
