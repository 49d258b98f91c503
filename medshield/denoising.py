"""Taking a perturbation away by a denoiser that learns from pairs made with another key.

Whoever has clean images of the same kind can protect them by the release's own method, which is
public, and look at what it does to them. How far that carries over to another key is how little the
key keeps secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medshield.augmentation import flip_and_shift
from medshield.budget import Budget
from medshield.dataset.examples import Examples
from medshield.errors import MethodError
from medshield.keys import Key
from medshield.method_names import versions_of
from medshield.methods import METHODS, Setting
from medshield.private import make_private_folder, write_private
from medshield.randomness import seeded
from medshield.tasks import Task

WIDTH = 32
DILATIONS = (1, 2, 3, 4, 3, 2, 1)
IMAGES_SEEN = 20_000
BATCH = 32
CLEAN_SHARE = 4
"""One in so many images of a batch is clean, so that a denoiser leaves clean images alone."""
KEYS = 2
"""Keys of their own under which trainers protect their images."""
EFFORT = 0.4
"""Of `verify`: the denoiser sees as many images as a victim."""
DENOISER_VERSION = "1"


class Denoiser(nn.Module):
    """A residual network that sees 33 px around a pixel (Zhang et al. 2017, IRCNN).

    Unlike there, the norm is over one image's channels: batches here are small, and of two kinds.
    """

    def __init__(self, channels: int, radius: float) -> None:
        super().__init__()
        self.radius = radius
        layers: list[nn.Module] = []
        inputs = channels
        for dilation in DILATIONS[:-1]:
            layers += [
                nn.Conv2d(inputs, WIDTH, 3, padding=dilation, dilation=dilation),
                nn.GroupNorm(4, WIDTH),
                nn.ReLU(inplace=True),
            ]
            inputs = WIDTH
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1))

    def delta(self, images: Tensor) -> Tensor:
        """What it takes for the perturbation, in units of epsilon."""
        found: Tensor = self.layers((images - 0.5) / 0.25)
        return found

    @torch.no_grad()
    def cleaned(self, some: Examples) -> Examples:
        """The examples without it."""
        self.eval()
        device = next(self.parameters()).device
        batches = [
            (batch - self.radius * self.delta(batch.to(device)).cpu()).clamp(0, 1)
            for batch in torch.split(some.images, 128)
        ]
        return replace(some, images=torch.cat(batches))


@dataclass(frozen=True)
class Pairs:
    """Clean images and their deltas, from which a denoiser learns.

    Attributes:
        clean, deltas: (n, channels, size, size).
        radius: epsilon.
        seed: of weights and order.
        effort: multiplies the number of steps.
        device: where to train.
    """

    clean: Tensor
    deltas: Tensor
    radius: float
    seed: int
    effort: float
    device: torch.device


def fit_denoiser(pairs: Pairs) -> Denoiser:
    """Train to find the delta of protected images, and none in clean ones; on the CPU at last."""
    clean, deltas = pairs.clean.to(pairs.device), pairs.deltas.to(pairs.device)
    steps = max(1, round(pairs.effort * IMAGES_SEEN / BATCH))
    with seeded(pairs.seed):
        model = Denoiser(clean.shape[1], pairs.radius).to(pairs.device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(clean), (BATCH,)).to(pairs.device)
            delta = deltas[rows]
            delta[::CLEAN_SHARE] = 0
            both, _ = flip_and_shift(torch.cat([clean[rows], delta], 1), rows)
            image, delta = both.chunk(2, 1)
            loss = (model.delta(image + delta) - delta / pairs.radius).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model.cpu()


def unknown_method(summary: Mapping[str, Any]) -> str | None:
    """Why nobody can protect other images as a release was, if so.

    Args:
        summary: what the release says of itself.
    """
    try:
        METHODS[summary["method"]]
    except KeyError:
        return f"no method {summary['method']!r} is installed to make pairs with"
    except MethodError as error:
        return str(error)
    if not summary.get("labels_used", True):
        return "the release was made without labels, by clusters that only its owner knows"
    return None


@dataclass(frozen=True)
class OtherKeys:
    """A trainer who protects their own clean images as the release says that it was made.

    Attributes:
        method: of the release, a key of METHODS.
        epsilon: of the release.
        task: what is learned.
        seed: of the trainer's keys and of the denoiser.
        device: where to train.
        cache: keeps the finished denoiser.
        effort: multiplies the steps of the denoiser.
        method_effort: multiplies the steps of the method.
    """

    method: str
    epsilon: Fraction
    task: Task
    seed: int
    device: torch.device
    cache: Path
    effort: float = EFFORT
    method_effort: float = 1.0

    def denoiser(self, own: Examples) -> Denoiser:
        """Trained on these clean images and what the method makes of them, or kept from before."""
        model = Denoiser(own.images.shape[1], float(self.epsilon))
        path = self._place(own)
        if path.is_file():
            model.load_state_dict(load_file(path))
            return model
        found = fit_denoiser(self.pairs(own))
        make_private_folder(self.cache)
        write_private(path, save(found.state_dict()))
        return found

    def pairs(self, own: Examples) -> Pairs:
        """The images under each of the trainer's keys, each fitted on them as `protect` does it."""
        deltas = []
        for number in range(KEYS):
            method = METHODS.made(self.method, self._setting(own, number))
            method.fit(own.images, own.targets)
            deltas.append(method.perturb(own.images, own.targets, own.names))
        return Pairs(
            clean=own.images.repeat(KEYS, 1, 1, 1),
            deltas=torch.cat(deltas),
            radius=float(self.epsilon),
            seed=self.seed,
            effort=self.effort,
            device=self.device,
        )

    def _setting(self, own: Examples, number: int) -> Setting:
        return Setting(
            task=self.task,
            channels=own.images.shape[1],
            size=own.images.shape[-1],
            budget=Budget(self.epsilon),
            key=self.key(number),
            device=self.device,
            effort=self.method_effort,
        )

    def key(self, number: int) -> Key:
        """One of the trainer's keys: repeatable, and none that `protect --seed` gives."""
        return Key(Key.from_seed(self.seed).secret_for("a trainer's own key", str(number)))

    def _place(self, own: Examples) -> Path:
        """The file of the finished denoiser, named by all that it depends on."""
        digest = hashlib.blake2b(digest_size=16)
        words = [DENOISER_VERSION, torch.__version__, self.method, str(self.epsilon)]
        words += versions_of(self.method).values()
        words += [self.task.name, *self.task.classes]
        words += [str(number) for number in (self.seed, self.effort, self.method_effort, KEYS)]
        digest.update("\0".join([*words, *own.names]).encode("utf-8", "surrogateescape"))
        digest.update(own.images.contiguous().numpy().data)
        digest.update(own.targets.contiguous().numpy().data)
        return self.cache / f"{digest.hexdigest()}.denoiser.safetensors"
