"""How often `verify`'s intervals contain the truth, in simulated verifications.

python -m tests.tools.coverage --draws 500 --workers 2

Each draw makes up a whole cell: patients with one or three images, of unlike difficulty that all
victims share; trainings whose victims are better or worse, and lean to one class or the other;
and what one victim makes of one image. A victim is right where the sum of these is above 0, so the
true scores, over all patients and all trainings there could be, are known in closed form. Each
verification draws patients 200 times instead of 500, to save time.

Of each cell the first 3, the first 5 and all 10 trainings are weighed, and then as `verify` does:
three, and five and ten only where a score stays open after three and five. So *3 to 10* also counts
what it costs to look more than once.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from medshield import sample
from medshield.arms import CLEAN, PROTECTED
from medshield.evidence import Leakage, Verdict, measured
from medshield.sample import Sample
from medshield.tasks import Classification
from medshield.verify_config import VerifyConfig
from tests.tools.tables import table

TASK = Classification(("negative", "positive"))
FLOOR = {"balanced_accuracy": 0.5, "auroc": 0.5}
CLEAN_ACCURACY = 0.85
LEAN = {CLEAN: 0.3, PROTECTED: 1.0}
"""Victims of clean images lean less to one class."""
SPREADS = {"alike": 0.0, "as measured": 0.12, "unlike": 0.35}
"""Standard deviation of trainings, in units of the spread of images about the decision."""
ROUNDS = VerifyConfig().counts
COUNTS = {**{str(count): (count,) for count in ROUNDS}, f"{ROUNDS[0]} to {ROUNDS[-1]}": ROUNDS}
"""Name -> trainings of each arm after each round."""
HEADER = (
    "patients",
    "images each",
    "trainings",
    "trainings are",
    "score",
    "true leakage",
    "covered",
    "above the upper end",
    "median width",
    "called protected",
    "trainings, mean",
)

SUMMARY = (
    "trainings",
    "trainings are",
    "covered, lowest",
    "mean",
    "highest",
    "above the upper end, mean",
    "highest",
    "median width, most patients",
    "called protected, nothing leaks, most patients",
    "called protected, 0.15 leaks, highest",
    "trainings, mean",
)


@dataclass(frozen=True)
class Scene:
    """What is simulated.

    Attributes:
        patients: half of each class.
        images: of each.
        spread: a key of SPREADS.
        leakage: the true one, of balanced accuracy.
    """

    patients: int
    images: int
    spread: str
    leakage: float

    @property
    def own(self) -> float:
        """Standard deviation of a single victim's view of an image; patients have the rest of 1."""
        return 0.6

    def centre(self, arm: str) -> float:
        """How far above the decision images lie in the mean, so that scores are as wanted."""
        share = CLEAN_ACCURACY - 0.5
        wanted = 0.5 + share * (self.leakage if arm == PROTECTED else 1.0)
        return float(brentq(lambda centre: self._accuracy(arm, centre) - wanted, -9.0, 9.0))

    def _deviations(self, arm: str) -> tuple[float, float]:
        """Of what a training adds: to both classes alike, and to one against the other."""
        spread = SPREADS[self.spread]
        return spread, LEAN[arm] * spread

    def _accuracy(self, arm: str, centre: float) -> float:
        quality, lean = self._deviations(arm)
        return float(norm.cdf(centre / np.sqrt(1 + quality**2 + lean**2)))

    def true(self, score: str) -> float:
        """Leakage over all patients and trainings.

        A positive image is ranked above a negative one where the sum of both is above 0; a lean
        cancels. Of a ranking the distance from 0.5 counts, by training: a numerical mean.
        """
        if score == "balanced_accuracy":
            return self.leakage
        above = {}
        for arm in (CLEAN, PROTECTED):
            points, weights = np.polynomial.hermite_e.hermegauss(64)
            quality = self.centre(arm) + self._deviations(arm)[0] * points
            auroc = norm.cdf(2 * quality / np.sqrt(2))
            above[arm] = float(weights @ abs(auroc - 0.5) / weights.sum())
        return above[PROTECTED] / above[CLEAN]

    def draw(self, rng: np.random.Generator, trainings: int) -> Sample:
        """One verification of one cell, with so many trainings of each arm."""
        groups = np.repeat(np.arange(self.patients), self.images)
        targets = groups % 2
        sign = np.where(targets == 1, 1.0, -1.0)
        patients = rng.normal(0, np.sqrt(1 - self.own**2), self.patients)[groups]
        arms = {}
        for arm in (CLEAN, PROTECTED):
            quality, lean = self._deviations(arm)
            arms[arm] = []
            for _ in range(trainings):
                towards = rng.normal(0, lean) if lean else 0.0
                above = self.centre(arm) + (rng.normal(0, quality) if quality else 0.0) + patients
                above = above + rng.normal(0, self.own, len(groups)) + towards * sign
                positive = norm.cdf(sign * above)
                arms[arm].append(np.stack([1 - positive, positive], 1))
        return Sample.of(TASK, arms, targets, groups, rng)


def scenes() -> Iterator[Scene]:
    """All that are simulated."""
    for patients, images in ((60, 1), (200, 3), (600, 1)):
        for spread in SPREADS:
            for leakage in (0.0, 0.15, 0.4):
                yield Scene(patients, images, spread, leakage)


def rows(job: tuple[Scene, int, int, int]) -> list[list[str]]:
    """The table's rows of one scene, one for each number of trainings and each score."""
    scene, draws, bootstrap, seed = job
    sample.BOOTSTRAP_DRAWS = bootstrap
    rng = np.random.default_rng([seed, scene.patients, round(100 * scene.leakage)])
    found = []
    for _ in range(draws):
        drawn = scene.draw(rng, ROUNDS[-1])
        found.append({count: measured(_first(drawn, count), FLOOR, "") for count in ROUNDS})
    return [
        _row(scene, name, score, [decided(each, counts, number) for each in found])
        for name, counts in COUNTS.items()
        for number, score in enumerate(FLOOR)
    ]


def _first(drawn: Sample, count: int) -> Sample:
    """With the first trainings alone."""
    return replace(drawn, scores=drawn.scores[:count], drawn=drawn.drawn[:, :count])


def decided(
    found: dict[int, tuple[Leakage, ...]], counts: Sequence[int], number: int
) -> tuple[int, Leakage]:
    """The round after which a score is no longer open, or the last one."""
    for count in counts:
        if not found[count][number].is_open:
            break
    return count, found[count][number]


def _row(scene: Scene, trainings: str, score: str, counted: list[tuple[int, Leakage]]) -> list[str]:
    true, found = scene.true(score), [one for _, one in counted]
    covered = [one.low <= true <= one.high for one in found]
    above = [true > one.high for one in found]
    called = [one.verdict is Verdict.PROTECTED for one in found]
    return [
        str(scene.patients),
        str(scene.images),
        trainings,
        scene.spread,
        score.replace("_", " "),
        f"{true:.2f}",
        *(f"{100 * np.mean(each):.1f} %" for each in (covered, above)),
        f"{np.median([one.high - one.low for one in found]):.2f}",
        f"{100 * np.mean(called):.1f} %",
        f"{mean(count for count, _ in counted):.1f}",
    ]


def summary(made: Sequence[Sequence[str]]) -> str:
    """What the table's rows have in common: by trainings and their spread, and in all."""
    kinds = dict.fromkeys((row[2], row[3]) for row in made)
    lines = []
    for trainings, spread in kinds:
        own = [row for row in made if (row[2], row[3]) == (trainings, spread)]
        most = max(own, key=lambda row: int(row[0]))[0]
        decisions = [row for row in own if row[4] == "balanced accuracy"]
        # A single cell that leaks nothing, with as many patients as there were at the most.
        (best,) = (row for row in decisions if (row[0], row[5]) == (most, "0.00"))
        limit = [_percent(row[9]) for row in decisions if row[5] == "0.15"]
        covered, above = ([_percent(row[column]) for row in own] for column in (6, 7))
        lines.append(
            [
                trainings,
                spread,
                *(f"{value:.1f} %" for value in (min(covered), mean(covered), max(covered))),
                *(f"{value:.1f} %" for value in (mean(above), max(above))),
                best[8],
                f"{_percent(best[9]):.0f} %",
                f"{max(limit):.1f} %",
                f"{mean(float(row[10]) for row in own):.1f}",
            ]
        )
    covered = [_percent(row[6]) for row in made]
    leaking = [_percent(row[9]) for row in made if float(row[5]) > 0.3]
    return "\n\n".join(
        [
            table(SUMMARY, lines),
            f"{len(made)} combinations: covered {mean(covered):.1f} % in the mean; "
            f"{sum(93 <= value <= 97 for value in covered)} within 93 to 97 %, "
            f"{sum(value > 97 for value in covered)} above, "
            f"{sum(value < 93 for value in covered)} below. "
            f"Above the upper end {mean(_percent(row[7]) for row in made):.1f} % in the mean. "
            f"Called protected where 0.3 and more leaks: at most {max(leaking):.1f} %.",
        ]
    )


def _percent(text: str) -> float:
    return float(text.rstrip(" %"))


def main() -> None:
    """Print the table and its summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500, help="simulated verifications a scene")
    parser.add_argument("--bootstrap", type=int, default=200, help="draws of patients in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    jobs = [(scene, options.draws, options.bootstrap, options.seed) for scene in scenes()]
    with ProcessPoolExecutor(options.workers) as pool:
        made = [row for part in pool.map(rows, jobs) for row in part]
    sys.stdout.write(f"{table(HEADER, made)}\n\n{summary(made)}\n")


if __name__ == "__main__":
    main()
