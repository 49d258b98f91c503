"""The ways of making a perturbation, by the names of `--method`."""

from medshield.methods.adversarial_targeted import AdversarialTargeted
from medshield.methods.base import Method, Setting
from medshield.methods.error_minimizing import ErrorMinimizing
from medshield.methods.published import (
    AdversarialPoisons,
    LinearShortcuts,
    StableNoise,
    UnlearnableExamples,
)
from medshield.methods.random_noise import RandomNoise
from medshield.methods.robust import Robust
from medshield.methods.synthetic import Synthetic

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(ErrorMinimizing, AdversarialTargeted, Robust, Synthetic, RandomNoise),
        *(UnlearnableExamples, AdversarialPoisons, LinearShortcuts, StableNoise),
    )
}

__all__ = ["METHODS", "Method", "Setting"]
