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

from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.budget import Budget, parse_epsilon
from medshield.clusters import Clusters
from medshield.errors import InputError, MethodError
from medshield.formats import IntensityRange
from medshield.method_names import plugin_facts, versions_of
from medshield.methods import METHODS, Method, Setting
from medshield.methods.base import blamed
from medshield.models import LARGEST_SIZE, SIZE_STEP, TIMM_NAMES
from medshield.pretrained import Backbone
from medshield.private import KEY, make_private_folder, read_key, write_private
from medshield.tasks import TASKS
from medshield.text import epsilon_text
from medshield.versions import versions

DESCRIPTION = "generator.json"
WEIGHTS = "weights.safetensors"
FORMAT_VERSION = 1
SIZES = range(SIZE_STEP, LARGEST_SIZE + 1, SIZE_STEP)
OF_CLUSTERS = "clusters."
"""Names of the clusters' tensors begin so."""
UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError),
    *(SafetensorError, InputError),
)


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

    def perturb(self, images: Tensor, targets: Tensor, names: Sequence[str]) -> Tensor:
        """As `Method.perturb`; `targets` play no part where clusters stand in for them."""
        if self.clusters:
            targets = self.clusters.assign(images)
        return self.method.perturb(images, targets, names)

    def save(self, folder: Path) -> None:
        """Write the folder, mode 0700; its description comes last and marks it as complete."""
        setting = self.method.setting
        make_private_folder(folder)
        write_private(folder / KEY, setting.key.secret.hex().encode() + b"\n")
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
        try:
            description = _description(folder)
            backbone = description.get("pretrained")
            setting = Setting(
                task=TASKS[description["task"]](tuple(description["classes"])),
                channels=description["channels"],
                size=description["size"],
                budget=Budget(parse_epsilon(description["epsilon"])),
                key=read_key(folder / KEY),
                device=device,
                pretrained=Backbone(backbone) if backbone else None,
            )
            method = _method(folder, description, setting)
            state = load_file(folder / WEIGHTS)
            known = {name: state.pop(name) for name in list(state) if name.startswith(OF_CLUSTERS)}
            with blamed(method.name):
                method.load(state)
            clusters = (
                Clusters(**{name.removeprefix(OF_CLUSTERS): v for name, v in known.items()})
                if not description.get("labels_used", True)
                else None
            )
            ranges = {k: IntensityRange(*v) for k, v in description["intensity"].items()}
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{folder}: not a generator (it needs {DESCRIPTION}, {WEIGHTS} and {KEY}); "
                "make one with `medshield fit`"
            ) from None
        except MethodError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{folder}: the generator can't be read ({type(error).__name__}); fit it again"
            ) from None
        return cls(method, ranges, clusters)

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


def asked_backbone(folder: Path) -> str | None:
    """The pretrained backbone that a saved generator asks; None if it asks none, or none is there.

    Raises:
        InputError: its description is damaged.
    """
    try:
        asked: str | None = _description(folder).get("pretrained")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UNREADABLE as error:
        raise InputError(
            f"{folder}: the generator can't be read ({type(error).__name__}); restore it, or "
            "verify with --source and without the private folder"
        ) from None
    return asked


def _description(folder: Path) -> dict[str, Any]:
    """What `save` wrote of a generator.

    Raises:
        ValueError: no JSON object, or one with classes, a size or a backbone that can't be.
        TypeError: a backbone that is no text.
        InputError: longer than any.
        OSError: it can't be read.
    """
    found = parsed_json(read_bounded(folder / DESCRIPTION, MOST_DESCRIPTION_BYTES))
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    if found.get("channels") not in (1, 3) or found.get("size") not in SIZES:
        raise ValueError("no size that images are worked on at")
    classes, backbone = found.get("classes"), found.get("pretrained")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("no list of classes")
    if backbone is not None and backbone not in TIMM_NAMES:
        raise ValueError("no backbone that is known")
    return found


def _method(folder: Path, description: dict[str, Any], setting: Setting) -> Method:
    """The method that a description names.

    Raises:
        KeyError: it names none.
        MethodError: it is another package's, which is missing or can't be used.
    """
    name, plugin = description["method"], description.get("plugin")
    if plugin is not None and name not in METHODS:
        package, _, version = str(plugin).partition(" ")
        raise MethodError(
            f"{folder}: its method {str(name)[:40]!r} comes from {package[:80]}, which is not "
            f"installed; install it (version {version[:40]})"
        )
    return METHODS.made(name, setting)


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
