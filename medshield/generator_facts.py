"""What a saved generator says of itself, which can be read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from medshield.bounded import MOST_DESCRIPTION_BYTES, parsed_json, read_bounded
from medshield.budget import parse_epsilon
from medshield.errors import InputError, MethodError
from medshield.formats import IntensityRange
from medshield.key_file import KEY
from medshield.method_names import names

DESCRIPTION = "generator.json"
WEIGHTS = "weights.safetensors"
MISSING = (FileNotFoundError, NotADirectoryError)
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError, InputError)


@dataclass(frozen=True)
class GeneratorFacts:
    """What a generator was fitted for.

    Attributes:
        method, plugin: its method's name, and the package and version that this is of; None for
            medshield's own.
        task, classes: what a victim is to learn.
        channels, size: of the working grid, px.
        epsilon: the radius, a fraction of the intensity range.
        ranges: the intensity range of each kind of image it was fitted on.
        labels_used: False where clusters stand in for classes.
        pretrained: the backbone that it asks; None for none.
    """

    method: str
    plugin: str | None
    task: str
    classes: tuple[str, ...]
    channels: int
    size: int
    epsilon: Fraction
    ranges: dict[str, IntensityRange]
    labels_used: bool
    pretrained: str | None

    @classmethod
    def read(cls, folder: Path) -> GeneratorFacts:
        """Those of a folder that `Generator.save` wrote.

        Raises:
            InputError: it is missing, incomplete or damaged.
            MethodError: its method is another package's, which is missing.
        """
        try:
            for name in (WEIGHTS, KEY):
                (folder / name).stat()
            facts = cls._of(_description(folder))
            facts._see_method(folder)
        except MISSING:
            raise InputError(
                f"{folder}: not a generator (it needs {DESCRIPTION}, {WEIGHTS} and {KEY}); "
                "make one with `medshield fit`"
            ) from None
        except MethodError:
            raise
        except UNREADABLE as error:
            raise unreadable(folder, error) from None
        return facts

    def _see_method(self, folder: Path) -> None:
        """See to it that there is such a method.

        Raises:
            KeyError: there never was.
            MethodError: it is another package's, which is missing.
        """
        if self.method in names():
            return
        if self.plugin is None:
            raise KeyError(self.method)
        package, _, version = str(self.plugin).partition(" ")
        raise MethodError(
            f"{folder}: its method {str(self.method)[:40]!r} comes from {package[:80]}, which is "
            f"not installed; install it (version {version[:40]})"
        )

    @classmethod
    def _of(cls, described: dict[str, Any]) -> GeneratorFacts:
        classes, pretrained = described["classes"], described.get("pretrained")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("no list of classes")
        if pretrained is not None and not isinstance(pretrained, str):
            raise TypeError("no name of a backbone")
        return cls(
            method=described["method"],
            plugin=described.get("plugin"),
            task=described["task"],
            classes=tuple(classes),
            channels=described["channels"],
            size=described["size"],
            epsilon=parse_epsilon(described["epsilon"]),
            ranges={kind: IntensityRange(*ends) for kind, ends in described["intensity"].items()},
            labels_used=described.get("labels_used", True),
            pretrained=pretrained,
        )


def asked_backbone(folder: Path) -> str | None:
    """The pretrained backbone that a saved generator asks; None if it asks none, or none is there.

    Raises:
        InputError: its description is damaged.
    """
    try:
        return GeneratorFacts._of(_description(folder)).pretrained
    except MISSING:
        return None
    except UNREADABLE as error:
        raise InputError(
            f"{folder}: the generator can't be read ({type(error).__name__}); restore it, or "
            "verify with --source and without the private folder"
        ) from None


def unreadable(folder: Path, error: Exception) -> InputError:
    """Says that a generator is damaged, and what to do."""
    return InputError(
        f"{folder}: the generator can't be read ({type(error).__name__}); fit it again"
    )


def _description(folder: Path) -> dict[str, Any]:
    """What `Generator.save` wrote of a generator.

    Raises:
        ValueError: no JSON object.
        InputError: longer than any.
        OSError: it can't be read.
    """
    found = parsed_json(read_bounded(folder / DESCRIPTION, MOST_DESCRIPTION_BYTES))
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found
