"""Published methods, re-implemented from their papers to be compared with in the same run.

They keep to their papers' mathematics where this project's own methods depart from it. What had
to be settled otherwise, because a delta here may only depend on the image, its target, its name
and the key, or because a paper speaks of 50,000 images and a GPU, is said in each module.
"""

from medshield.methods.published.adversarial_poisons import AdversarialPoisons
from medshield.methods.published.linear_shortcuts import LinearShortcuts
from medshield.methods.published.stable_noise import StableNoise
from medshield.methods.published.unlearnable_examples import UnlearnableExamples

__all__ = ["AdversarialPoisons", "LinearShortcuts", "StableNoise", "UnlearnableExamples"]
