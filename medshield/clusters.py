"""Clusters of images that look alike, which stand in for classes where there are no labels.

Zhang et al. 2023, Unlearnable Clusters: noise made for clusters of k-means hinders victims that
learn classes which nobody told the protector, as far as clusters and classes hang together.

The features are those of Coates, Ng & Lee 2011, An Analysis of Single-Layer Networks in
Unsupervised Feature Learning: small patches, normalised and whitened, compared with patches that
the key picks. Nothing is downloaded, and nothing is trained but means and axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits
from torch import Tensor

from medshield.augmentation import resized
from medshield.keys import Key

SIDE = 32
"""Of the images that features are taken of, px."""
PATCH = 6
"""Side of a patch, px."""
PATCHES = 20_000
FILTERS = 128
AXES = 32
TRIES = 5
"""Starts of k-means, of which the tightest clusters stay."""
FAINT = 1e-3
"""Added to a patch's variance, so that flat patches stay faint."""
ROUGH = 0.1
"""Added to the variances that whitening divides by, so that noise stays small."""
THRESHOLD = 0.5
QUARTERS = 2
"""Responses are averaged over as many rows and columns of an image."""
SHARE_OF_BRIGHTNESS = 0.5
"""Weight of brightness and colour, which the patches do not have, beside their responses."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Tells the cluster of any image, by that image alone.

    Attributes:
        filters: (channels * PATCH * PATCH, filters), whitening included.
        bias: (filters), what the mean patch answers.
        axes: (features, axes), principal axes of the features, their scales included.
        origin: (axes), where the mean image lies.
        centres: (clusters, axes).
    """

    filters: Tensor
    bias: Tensor
    axes: Tensor
    origin: Tensor
    centres: Tensor

    @classmethod
    def fit(
        cls,
        images: Tensor,
        count: int,
        key: Key,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Clusters:
        """Find clusters.

        Args:
            images: (n, channels, size, size) in [0, 1].
            count: clusters to make; those that find no image of their own stay empty.
            key: picks the patches and the starts of k-means.
            progress: told the number of images looked at and their total.
        """
        filters, bias = _dictionary(resized(images, SIDE, SIDE), key.torch("clusters", "patches"))
        rows = []
        for image in images:
            rows.append(_features(image, filters, bias))
            progress(len(rows), len(images))
        axes, origin = _principal_axes(torch.stack(rows))
        points = torch.stack([row @ axes - origin for row in rows])
        centres = _centres(points, count, key.number("clusters", "starts"))
        return cls(filters, bias, axes, origin, centres)

    def assign(self, images: Tensor) -> Tensor:
        """The cluster of each image, (n) indices; images as for `fit`.

        One image is looked at at a time, so that its neighbours can't change the last bit.
        """
        nearest = [
            (self.centres - (_features(image, self.filters, self.bias) @ self.axes - self.origin))
            .square()
            .sum(1)
            .argmin()
            for image in images
        ]
        return torch.stack(nearest) if nearest else torch.zeros(0, dtype=torch.long)

    def state(self) -> dict[str, Tensor]:
        """For safetensors; its size does not grow with the data set."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _dictionary(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whitened patches of random images as filters, and their biases."""
    rows = torch.randint(len(images), (PATCHES,), generator=generator).tolist()
    corners = torch.randint(SIDE - PATCH + 1, (PATCHES, 2), generator=generator).tolist()
    patches = _normalised(
        torch.stack(
            [
                images[row, :, y : y + PATCH, x : x + PATCH].flatten()
                for row, (y, x) in zip(rows, corners, strict=True)
            ]
        )
    )
    mean = patches.mean(0)
    values, vectors = _eigen((patches - mean).T @ (patches - mean) / PATCHES)
    whitening = vectors @ torch.diag((values.clamp(min=0) + ROUGH).rsqrt()) @ vectors.T
    chosen = F.normalize((patches[:FILTERS] - mean) @ whitening)
    filters = whitening @ chosen.T
    return filters, mean @ filters


def _normalised(patches: Tensor) -> Tensor:
    """(n, values) without their brightness and contrast."""
    spread = (patches.var(1, keepdim=True) + FAINT).sqrt()
    return (patches - patches.mean(1, keepdim=True)) / spread


def _features(image: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """What a (channels, size, size) image shows: mean responses, then brightness, per quarter."""
    small = resized(image[None], SIDE, SIDE)
    patches = F.unfold(small, PATCH)[0].T
    responses = (_normalised(patches) @ filters - bias).T.view(
        1, -1, SIDE - PATCH + 1, SIDE - PATCH + 1
    )
    both_signs = torch.cat([F.relu(responses - THRESHOLD), F.relu(-responses - THRESHOLD)], 1)
    pooled = [F.adaptive_avg_pool2d(part, QUARTERS).flatten() for part in (both_signs, small)]
    return torch.cat(pooled)


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Axes (features, axes) of standardised features, and the mean image's place on them."""
    mean, spread = features.mean(0), features.std(0, correction=0)
    responses = 2 * FILTERS * QUARTERS**2
    weights = torch.full_like(mean, responses**-0.5)
    weights[responses:] = SHARE_OF_BRIGHTNESS * (len(mean) - responses) ** -0.5
    scales = torch.where(spread > 1e-6, weights / spread.clamp(min=1e-6), 0.0)
    scaled = (features - mean) * scales
    _, vectors = _eigen(scaled.T @ scaled)
    axes = scales[:, None] * vectors[:, -AXES:]
    return axes, mean @ axes


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, which ascend, and vectors, in columns.

    By QR iteration in double precision: what divides the matrix, as torch does, fails where most
    values are equal, as of a few images that are repeated. One thread, as for `_centres`.
    """
    with threadpool_limits(1):
        values, vectors = eigh(symmetric.double().numpy(), driver="ev")
    return torch.from_numpy(values).float(), torch.from_numpy(vectors).float()


def _centres(points: Tensor, count: int, seed: int) -> Tensor:
    """(count, axes); one thread, as several would add up in an order that varies."""
    from sklearn.cluster import KMeans  # loads much, and for images without labels alone
    from sklearn.exceptions import ConvergenceWarning

    known = min(count, len(points))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters
        means = KMeans(known, n_init=TRIES, random_state=seed % 2**32).fit(points.double().numpy())
    return torch.from_numpy(means.cluster_centers_).float()
