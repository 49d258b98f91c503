"""Made-up documents of `verify`, as small as they may be, for the tests of its reports."""

SELECTIONS = ("last epoch", "best epoch on released data", "best epoch on clean data")
SCORES = {
    "classification": ("balanced_accuracy", "auroc", "accuracy"),
    "multilabel": ("auroc", None, "map"),
    "segmentation": ("iou", "pixel_auroc", "dice"),
}
ARMS = ("clean", "protected", "random noise")


def leakage(score, selection, estimate, *, counts=True, decides=False, half=0.05):
    undefined = estimate is None
    return {
        "score": score,
        "selection": selection,
        "estimate": estimate,
        "low": None if undefined else estimate - half,
        "high": None if undefined else estimate + half,
        "clean": 0.9,
        "protected": 0.5 + 0.4 * (estimate or 0),
        "floor": 0.5,
        "clean_low": 0.5 if undefined else 0.85,
        "counts": counts,
        "decides": decides,
    }


def cell(name, leaks, *, task="classification", level="basic", verdict=None, arms=ARMS, epochs=4):
    """A cell that leaks so much by every score, or whose leakage is not defined (None)."""
    decision, ranking, other = SCORES[task]
    measured = [score for score in (decision, ranking) if score]
    means = dict.fromkeys(arms, 0.9) | {"protected": 0.5 + 0.4 * (leaks or 0)}
    rising = [
        [0.5 + (mean - 0.5) * (i + 1) / epochs for i in range(epochs)] for mean in means.values()
    ]
    if verdict is None and leaks is None:
        verdict = "inconclusive"
    if verdict is None:
        verdict = "protected" if leaks <= 0.1 else "partly" if leaks <= 0.45 else "not protected"
    return {
        "cell": name,
        "level": level,
        "seeds": 3,
        "verdict": verdict,
        "why": "can't be told" if leaks is None else f"leakage of {decision} {leaks}",
        "surely_leaks": verdict in ("partly", "not protected"),
        "fitted": None if leaks is None else 0.99,
        "leakage": [
            leakage(
                score,
                picked,
                leaks,
                counts=score == decision and picked != SELECTIONS[2],
                decides=score == decision and picked == SELECTIONS[0],
            )
            for score in measured
            for picked in SELECTIONS
        ],
        "scores": {
            arm: {
                selection: {
                    score: {"mean": means[arm], "sd": None if leaks is None else 0.01, "n": 3}
                    for score in (*measured, other, "predicted_foreground")
                }
                for selection in SELECTIONS
            }
            for arm in arms
        },
        "curves": {
            arm: [
                {
                    "loss": [1.0] * epochs,
                    "validation": [],
                    "test": [{decision: value + 0.02 * seed} for value in values],
                }
                for seed in range(3)
            ]
            for arm, values in zip(arms, rising, strict=True)
        },
    }


def document(*cells, task="classification", release="scans-protected", **changed):
    """What `Evidence.to_json()` gives; keywords replace its fields."""
    order = ["protected", "inconclusive", "partly", "not protected"]
    verdict = max((one["verdict"] for one in cells), key=order.index)
    decision, ranking, other = SCORES[task]
    mean = {"mean": 0.9, "sd": 0.01, "n": 3}
    return {
        "schema_version": 1,
        "verdict": verdict,
        "threat": "basic",
        "levels": {"basic": verdict},
        "not_run": {},
        "cells": list(cells),
        "release": release,
        "method": "robust",
        "epsilon": "8/255",
        "task": task,
        "arms": list(ARMS),
        "examples": {"train": 90, "val": 10, "test": 30},
        "patients": {"train": 45, "val": 5, "test": 15},
        "notes": ["split as the data give it"],
        "weights": {},
        "seeds": 3,
        "most_seeds": 10,
        "image_size": 32,
        "epochs": {"standard": 4, "adversarial": 4},
        "adversary": {"epsilon": "4/255", "steps": 3},
        "floor": {score: 0.5 for score in (decision, ranking, other) if score},
        "use": {
            "victim": cells[0]["cell"],
            "score": decision,
            "on_clean": mean,
            "on_protected": {"mean": None, "sd": None, "n": 3},
            "drop": {"mean": None, "low": None, "high": None},
        },
        "cost": {one["cell"]: {"seconds": 2.5, "passes": 1000.0} for one in cells},
        "fidelity": {
            "psnr": {"median": 32.0, "worst": None},
            "haarpsi": {"median": 0.9, "worst": 0.8, "files": 64},
        },
        "seconds": 12.5,
        "versions": {"python": "3.11.7", "medshield": "0.1.0"},
        "limit": None,
        **changed,
    }
