"""Which class the images of each class should be taken for.

A victim that trains on images moved towards a wrong class learns that class's features under the
name of theirs. How far that leads it astray depends on which class was chosen for which: images
that can hardly be moved teach their own class, whatever else they carry. With four classes there
are nine ways to choose, with very unlike results, so they are tried: a sample of the images is
moved towards every other class, and of each choice linear classifiers on the surrogates' features
say how well it teaches to rank clean images. Ranking tells choices apart more surely than accuracy
does, and strong penalties more surely than weak ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medshield.metrics import macro_auroc

MOST_CLASSES = 16
"""Trials move the sample once per class; sets of more classes keep the key's choice."""
SAMPLE = 256
"""Images that are tried, the classes alike."""
PENALTY = 0.001
"""The classifier's C: the inverse strength of its L2 penalty on standardised features."""
MOST_ITERATIONS = 300

Choice = tuple[int, ...]
"""The wrong class of each class: every class once, none its own."""
Features = NDArray[np.float32]


def least_taught(
    move: Callable[[Tensor, Tensor], Tensor],
    models: Iterable[nn.Module],
    images: Tensor,
    targets: Tensor,
    count: int,
) -> Choice:
    """The choice from which linear classifiers learn least about clean images.

    Args:
        move: takes images (n, channels, side, side) and the wrong class of each (n,), and gives
            the images moved towards it.
        models: each sees images by what its last linear layer is given.
        images: a sample, (n, channels, side, side) in [0, 1].
        targets: (n) class indices.
        count: classes, 3 or more.
    """
    truth = targets.cpu().numpy()
    moved = {shift: move(images, (targets + shift) % count) for shift in range(1, count)}
    views = [
        (_features(model, images), {shift: _features(model, x) for shift, x in moved.items()})
        for model in models
    ]

    def taught(choice: Choice) -> float:
        shifts = (np.array(choice)[truth] - truth) % count
        found = 0.0
        for clean, by_shift in views:
            seen = np.stack([by_shift[shift][row] for row, shift in enumerate(shifts.tolist())])
            found += _taught(seen, clean, truth)
        return found

    shifted = [tuple((each + shift) % count for each in range(count)) for shift in moved]
    return _lowest(taught, shifted)


def sample(targets: Tensor, rng: np.random.Generator) -> Tensor:
    """Row numbers of about `SAMPLE` images, of each class as many, or all that there are."""
    truth = targets.cpu().numpy()
    order = rng.permutation(len(truth))
    classes = np.unique(truth)
    drawn = [order[truth[order] == each][: SAMPLE // len(classes)] for each in classes]
    return torch.from_numpy(np.concatenate(drawn))


def _lowest(value: Callable[[Choice], float], starts: list[Choice]) -> Choice:
    """The best start, bettered by exchanges of two classes' wrong ones while any betters it."""
    known: dict[Choice, float] = {}

    def valued(choice: Choice) -> float:
        if choice not in known:
            known[choice] = value(choice)
        return known[choice]

    best = min(starts, key=valued)
    while neighbours := list(_exchanged(best)):
        nearest = min(neighbours, key=valued)
        if valued(nearest) >= valued(best):
            break
        best = nearest
    return best


def _exchanged(choice: Choice) -> Iterator[Choice]:
    for one, other in combinations(range(len(choice)), 2):
        if choice[one] != other and choice[other] != one:
            changed = list(choice)
            changed[one], changed[other] = choice[other], choice[one]
            yield tuple(changed)


def _taught(seen: Features, clean: Features, truth: NDArray[np.int64]) -> float:
    """How far from 0.5 the macro AUROC on clean features is, after a fit to those seen."""
    from sklearn.linear_model import LogisticRegression  # loads much; most methods need none

    mean, spread = seen.mean(0), seen.std(0) + 1e-6
    classifier = LogisticRegression(
        C=PENALTY, max_iter=MOST_ITERATIONS, class_weight="balanced"
    ).fit((seen - mean) / spread, truth)
    known = classifier.predict_proba((clean - mean) / spread)
    return abs(macro_auroc(known, classifier.classes_ == truth[:, None]) - 0.5)


@torch.no_grad()
def _features(model: nn.Module, images: Tensor) -> Features:
    """What the last linear layer of a model is given, (n, features)."""
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    rows: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: rows.append(given[0].flatten(1)))
    try:
        for batch in torch.split(images, 64):
            model(batch)
    finally:
        hook.remove()
    return torch.cat(rows).cpu().numpy()
