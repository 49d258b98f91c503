"""How much alike two keys' deltas are: image by image, on average, and in the spectrum."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from medshield.tasks import Classification, MultiLabel, Task


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(n) cosines between the rows of two (n, ...); 0 where either is nothing."""
    return torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))


def class_rows(task: Task, targets: Tensor) -> list[Tensor]:
    """The rows of each class, or of each finding's positives; one group where there are none."""
    if isinstance(task, Classification):
        found = [torch.nonzero(targets == k)[:, 0] for k in range(len(task.classes))]
    elif isinstance(task, MultiLabel):
        found = [torch.nonzero(targets[:, k] > 0)[:, 0] for k in range(len(task.classes))]
    else:
        found = [torch.arange(len(targets))]
    return [rows for rows in found if len(rows)]


def class_means(delta: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """(groups, channels, size, size): what an average would find."""
    return torch.stack([delta[rows].mean(0) for rows in groups])


def class_spectra(delta: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """(groups, channels, size, size // 2 + 1): mean amplitudes, which no shift changes.

    The mean over the frequencies is taken away, as all amplitudes are positive and anything would
    be like anything.
    """
    spectra = class_means(torch.fft.rfft2(delta).abs(), groups)
    return spectra - spectra.mean((2, 3), keepdim=True)


def between_classes(spectra: Tensor) -> Tensor:
    """What tells a class's spectrum from the others'."""
    return spectra - spectra.mean(0, keepdim=True)


HEADER = (
    *("deltas", "image by image", "signed", "with another of the class"),
    *("class means", "class spectra", "spectra less their mean"),
)


def row(deltas: Sequence[Tensor], task: Task, targets: Tensor) -> list[str]:
    """Mean |cosine| over pairs of keys; the second column keeps the sign.

    Args:
        deltas: the same images' under each key, (n, channels, size, size).
        task: of the targets.
        targets: of the images.
    """
    groups = class_rows(task, targets)

    def between(seen: Callable[[Tensor], Tensor], *, sign: bool = False) -> str:
        views = [seen(delta) for delta in deltas]
        found = torch.cat([cosines(one, other) for one, other in combinations(views, 2)])
        return f"{float(found.mean() if sign else found.abs().mean()):.3f}"

    others = torch.cat(
        [
            cosines(one[rows], other[rows].roll(1, 0))
            for one, other in combinations(deltas, 2)
            for rows in groups
        ]
    )
    several = len(groups) > 1
    return [
        between(lambda delta: delta),
        between(lambda delta: delta, sign=True),
        f"{float(others.abs().mean()):.3f}",
        between(lambda delta: class_means(delta, groups)),
        between(lambda delta: class_spectra(delta, groups)),
        between(lambda delta: between_classes(class_spectra(delta, groups))) if several else "",
    ]
