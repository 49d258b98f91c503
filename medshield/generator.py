"""A fitted method as a folder: what protects today's images protects next month's too.

The folder holds `generator.json`, `weights.safetensors` and `key`. It is secret as a whole:
whoever has it can compute the perturbation of every image and take it away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medshield.budget import Budget, parse_epsilon
from medshield.errors import InputError
from medshield.formats import IntensityRange
from medshield.keys import KEY_BYTES, Key
from medshield.methods import METHODS, Method, Setting
from medshield.private import make_private_folder, write_private
from medshield.tasks import TASKS
from medshield.text import epsilon_text
from medshield.versions import versions

DESCRIPTION = "generator.json"
WEIGHTS = "weights.safetensors"
KEY = "key"
FORMAT_VERSION = 1
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
    """

    method: Method
    ranges: dict[str, IntensityRange]

    def save(self, folder: Path) -> None:
        """Write the folder, mode 0700; its description comes last and marks it as complete."""
        setting = self.method.setting
        make_private_folder(folder)
        write_private(folder / KEY, setting.key.secret.hex().encode() + b"\n")
        state = {name: value.contiguous() for name, value in self.method.state().items()}
        save_file(state, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o600)
        description = {
            "format_version": FORMAT_VERSION,
            **self.facts(),
            "intensity": {
                kind: [r.low, r.high, r.reason] for kind, r in sorted(self.ranges.items())
            },
            "versions": versions(),
        }
        write_private(folder / DESCRIPTION, json.dumps(description, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Generator:
        """Read a folder that `save` wrote.

        Raises:
            InputError: it is missing, incomplete or damaged.
        """
        try:
            description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
            setting = Setting(
                task=TASKS[description["task"]](tuple(description["classes"])),
                channels=description["channels"],
                size=description["size"],
                budget=Budget(parse_epsilon(description["epsilon"])),
                key=read_key(folder / KEY),
                device=device,
            )
            method = METHODS[description["method"]](setting)
            method.load(load_file(folder / WEIGHTS))
            ranges = {k: IntensityRange(*v) for k, v in description["intensity"].items()}
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{folder}: not a generator (it needs {DESCRIPTION}, {WEIGHTS} and {KEY}); "
                "make one with `medshield fit`"
            ) from None
        except UNREADABLE as error:
            raise InputError(
                f"{folder}: the generator can't be read ({type(error).__name__}); fit it again"
            ) from None
        return cls(method, ranges)

    def facts(self) -> dict[str, Any]:
        """What it was fitted for, without the key."""
        setting = self.method.setting
        return {
            "method": self.method.name,
            "task": setting.task.name,
            "classes": list(setting.task.classes),
            "channels": setting.channels,
            "size": setting.size,
            "epsilon": epsilon_text(setting.budget.epsilon),
        }

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether `save` finished there."""
        return (folder / DESCRIPTION).is_file()


def read_key(path: Path) -> Key:
    """A key as `Generator.save` wrote it.

    Raises:
        InputError: no key of 32 bytes in hexadecimal.
    """
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise InputError(f"{path}: not a key (expected {2 * KEY_BYTES} hexadecimal digits)")
    return Key(secret)
