"""The ways of making a perturbation, by the names of `--method`.

Whoever adds one in a package of their own finds all that it needs here; see docs/own-method.md.
"""

from medshield.checkpoint import Checkpoint
from medshield.methods.adversarial_targeted import AdversarialTargeted
from medshield.methods.base import Method, Progress, Setting, UntrainedMethod
from medshield.methods.error_minimizing import ErrorMinimizing
from medshield.methods.published import (
    AdversarialPoisons,
    LinearShortcuts,
    StableNoise,
    UnlearnableExamples,
)
from medshield.methods.random_noise import RandomNoise
from medshield.methods.registry import Methods
from medshield.methods.robust import Robust
from medshield.methods.synthetic import Synthetic

METHODS = Methods(
    *(ErrorMinimizing, AdversarialTargeted, Robust, Synthetic, RandomNoise),
    *(UnlearnableExamples, AdversarialPoisons, LinearShortcuts, StableNoise),
)

__all__ = ["METHODS", "Checkpoint", "Method", "Methods", "Progress", "Setting", "UntrainedMethod"]
