"""A fitted method as a folder: what protects today's images protects next month's too.

The folder holds `generator.json`, `weights.safetensors` and `key`. It is secret as a whole:
whoever has it can compute the perturbation of every image and take it away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medshield.budget import Budget
from medshield.clusters import Clusters
from medshield.errors import MethodError
from medshield.formats import IntensityRange
from medshield.generator_facts import (
    DESCRIPTION,
    UNREADABLE,
    WEIGHTS,
    GeneratorFacts,
    unreadable,
)
from medshield.key_file import KEY, read_key, write_key
from medshield.method_names import plugin_facts, versions_of
from medshield.methods import METHODS, Method, Setting
from medshield.methods.base import Progress, blamed, untold
from medshield.models import LARGEST_SIZE, SIZE_STEP, TIMM_NAMES
from medshield.pretrained import Backbone
from medshield.private import make_private_folder, write_private
from medshield.tasks import TASKS
from medshield.text import epsilon_text
from medshield.versions import versions

FORMAT_VERSION = 1
SIZES = range(SIZE_STEP, LARGEST_SIZE + 1, SIZE_STEP)
OF_CLUSTERS = "clusters."
"""Names of the clusters' tensors begin so."""


@dataclass(frozen=True)
class Generator:
    """A fitted method with all that it needs to be applied.

    Attributes:
        method: fitted.
        ranges: the intensity range of each kind of image it was fitted on.
        clusters: tells the class of an image where no labels are used; None where they are.
    """

    method: Method
    ranges: dict[str, IntensityRange]
    clusters: Clusters | None = None

    def perturb(
        self,
        images: Tensor,
        targets: Tensor,
        names: Sequence[str],
        progress: Progress = untold,
    ) -> Tensor:
        """As `Method.perturb`; `targets` play no part where clusters stand in for them."""
        if self.clusters:
            targets = self.clusters.assign(images)
        return self.method.perturb(images, targets, names, progress)

    def save(self, folder: Path) -> None:
        """Write the folder, mode 0700; its description comes last and marks it as complete."""
        setting = self.method.setting
        make_private_folder(folder)
        write_key(setting.key, folder)
        state = _state(self.method)
        if self.clusters:
            state |= {OF_CLUSTERS + name: v for name, v in self.clusters.state().items()}
        write_private(folder / WEIGHTS, save({n: v.contiguous() for n, v in state.items()}))
        description = {
            "format_version": FORMAT_VERSION,
            **self.facts(),
            "intensity": {
                kind: [r.low, r.high, r.reason] for kind, r in sorted(self.ranges.items())
            },
            "versions": versions() | versions_of(self.method.name),
        }
        write_private(folder / DESCRIPTION, json.dumps(description, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Generator:
        """Read a folder that `save` wrote.

        Raises:
            InputError: it is missing, incomplete or damaged.
            MethodError: its method is another package's, which is missing or can't be used.
        """
        facts = GeneratorFacts.read(folder)
        try:
            if facts.channels not in (1, 3) or facts.size not in SIZES:
                raise ValueError("no size that images are worked on at")
            if facts.pretrained is not None and facts.pretrained not in TIMM_NAMES:
                raise ValueError("no backbone that is known")
            setting = Setting(
                task=TASKS[facts.task](facts.classes),
                channels=facts.channels,
                size=facts.size,
                budget=Budget(facts.epsilon),
                key=read_key(folder / KEY),
                device=device,
                pretrained=Backbone(facts.pretrained) if facts.pretrained else None,
            )
            method = METHODS.made(facts.method, setting)
            state = load_file(folder / WEIGHTS)
            known = {name: state.pop(name) for name in list(state) if name.startswith(OF_CLUSTERS)}
            with blamed(method.name):
                method.load(state)
            clusters = (
                None
                if facts.labels_used
                else Clusters(**{name.removeprefix(OF_CLUSTERS): v for name, v in known.items()})
            )
        except MethodError:
            raise
        except (*UNREADABLE, RuntimeError, SafetensorError) as error:
            raise unreadable(folder, error) from None
        return cls(method, facts.ranges, clusters)

    def facts(self) -> dict[str, Any]:
        """What it was fitted for, without the key."""
        setting = self.method.setting
        return {
            "method": self.method.name,
            **plugin_facts(self.method.name),
            "task": setting.task.name,
            "labels_used": self.clusters is None,
            "classes": list(setting.task.classes),
            "channels": setting.channels,
            "size": setting.size,
            "epsilon": epsilon_text(setting.budget.epsilon),
            **({"pretrained": setting.pretrained.name} if setting.pretrained else {}),
        }

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether `save` finished there."""
        return (folder / DESCRIPTION).is_file()


def _state(method: Method) -> dict[str, Tensor]:
    """What a method has learned.

    Raises:
        MethodError: that of another package returned something else.
    """
    with blamed(method.name):
        state = dict(method.state())
        if not all(
            isinstance(name, str) and isinstance(value, Tensor) and not name.startswith(OF_CLUSTERS)
            for name, value in state.items()
        ):
            raise TypeError("a state is tensors by names")
    return state
