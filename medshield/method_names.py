"""The names that `--method` takes: medshield's own, and those of other packages.

A package offers a method by an entry point of the group `medshield.methods`, whose name is that of
the method. Only names are read here, from the metadata of what is installed; nothing of another
package is imported before one of its methods is asked for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from medshield.errors import InputError, MethodError

GROUP = "medshield.methods"
PUBLISHED_NAMES = ("huang-em", "tap", "lsp", "sem")
OWN_NAMES = ("robust", "em", "advt", "synthetic", "random-noise", *PUBLISHED_NAMES)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
"""It becomes a part of file names and of tables."""


@dataclass(frozen=True)
class Plugin:
    """A method that another package offers.

    Attributes:
        name: of the method.
        distribution, version: of the package, as pip knows it.
        entry: where the class is.
    """

    name: str
    distribution: str
    version: str
    entry: metadata.EntryPoint

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def plugins() -> dict[str, tuple[Plugin, ...]]:
    """What other packages offer, by the method's name, sorted; nothing of theirs is imported."""
    found: dict[str, list[Plugin]] = {}
    for entry in _entries():
        package = entry.dist
        if package is None or not _NAME.fullmatch(entry.name):
            continue
        plugin = Plugin(entry.name, str(package.name), str(package.version), entry)
        if plugin not in (known := found.setdefault(entry.name, [])):
            known.append(plugin)
    return {name: tuple(found[name]) for name in sorted(found)}


def _entries() -> Iterator[metadata.EntryPoint]:
    """Those of the group, less what a package with damaged metadata says."""
    try:
        yield from metadata.entry_points(group=GROUP)
        return
    except Exception:  # noqa: S110 (any package's metadata may be damaged in any way)
        pass
    seen = set()
    for package in metadata.distributions():
        try:
            name = re.sub(r"[-_.]+", "-", package.name).lower()
            entries = package.entry_points.select(group=GROUP) if name not in seen else ()
            seen.add(name)
            yield from entries
        except Exception:  # noqa: S112 (that one; the others are to be found)
            continue


def names() -> tuple[str, ...]:
    """All that `--method` takes, medshield's own first."""
    return (*OWN_NAMES, *(name for name in plugins() if name not in OWN_NAMES))


def plugin_of(name: str) -> Plugin | None:
    """The package that a method comes from; None for medshield's own, and for what is unknown.

    Raises:
        MethodError: more than one package offers it.
    """
    offers = () if name in OWN_NAMES else plugins().get(name, ())
    if len(offers) > 1:
        raise MethodError(
            f"--method {name}: {' and '.join(map(str, offers))} both offer a method of that name; "
            "uninstall one of them"
        )
    return offers[0] if offers else None


def versions_of(name: str) -> dict[str, str]:
    """Name and version of the package that a method comes from; empty for medshield's own."""
    plugin = plugin_of(name)
    return {plugin.distribution: plugin.version} if plugin else {}


def plugin_facts(name: str) -> dict[str, str]:
    """What papers say of a method beside its name; nothing of medshield's own."""
    plugin = plugin_of(name)
    return {"plugin": str(plugin)} if plugin else {}


def refuse_unknown(name: str, option: str = "--method") -> None:
    """See to it that there is such a method, as far as that is known without importing it.

    Raises:
        InputError: there is none.
        MethodError: more than one package offers it.
    """
    if name not in OWN_NAMES and plugin_of(name) is None:
        raise InputError(f"{option}: {unknown(name)}")


def tell_of_namesakes(name: str) -> None:
    """Warn of packages that offer one of medshield's own methods, which is never replaced."""
    for plugin in plugins().get(name, ()) if name in OWN_NAMES else ():
        logging.getLogger("medshield").warning(
            "--method %s: is medshield's own; the method of that name in %s is not used, its "
            "author has to give it another one",
            *(name, plugin),
        )


def unknown(name: str) -> str:
    """What is said where there is no such method."""
    choices = ", ".join(map(repr, names()))
    return (
        f"{name!r} is not one of {choices}; a method of another package needs that package "
        "installed beside medshield"
    )
