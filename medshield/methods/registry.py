"""Methods by name; one of another package is imported when it is asked for, and not before."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from medshield import method_names
from medshield.errors import MethodError
from medshield.method_names import Plugin, plugin_of
from medshield.methods.base import Method, Setting, blamed
from medshield.tasks import TASKS

KEPT = ("fit", "perturb", "_block_delta")
"""What keeps the promises of every method, and is no method's own."""


class Methods(Mapping[str, type[Method]]):
    """All methods that there are: medshield's own, and those of other packages."""

    def __init__(self, *own: type[Method]) -> None:
        self._own = {method.name: method for method in own}

    def __getitem__(self, name: str) -> type[Method]:
        """The method of that name.

        Raises:
            KeyError: there is none.
            MethodError: it is another package's, and can't be used.
        """
        if name in self._own:
            return self._own[name]
        plugin = plugin_of(name)
        if plugin is None:
            raise KeyError(name)
        return _loaded(plugin)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in method_names.plugins() if name not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Whether there is one, without importing it."""
        return name in tuple(self)

    def made(self, name: str, setting: Setting) -> Method:
        """A method that is still to be fitted, or to be loaded.

        Raises:
            KeyError: there is none of that name.
            MethodError: it is another package's, and can't be used.
        """
        method = self[name]
        with blamed(name):
            return method(setting)


def _loaded(plugin: Plugin) -> type[Method]:
    """The class that a package offers, if it can be trusted to be a method.

    Raises:
        MethodError: it can't be imported, or is none.
    """
    try:
        found = plugin.entry.load()
    except ModuleNotFoundError as error:
        raise _unusable(
            plugin, f"can't be imported (no module {error.name!r}); install what it needs"
        ) from error
    except Exception as error:
        raise _unusable(
            plugin, f"can't be imported ({type(error).__name__}); install another version of it"
        ) from error
    problem = _problem(found, plugin.name)
    if problem:
        raise _unusable(plugin, f"{problem}; ask its author to mend it")
    checked: type[Method] = found
    return checked


def _problem(found: object, name: str) -> str:
    """Why it can't be used as a method of that name; empty where it can."""
    if not (isinstance(found, type) and issubclass(found, Method)):
        return "is no subclass of medshield.methods.Method"
    if getattr(found, "name", None) != name:
        return f"has another name ({getattr(found, 'name', None)!r}) than its entry point"
    if inspect.isabstract(found):
        return f"lacks {', '.join(sorted(found.__abstractmethods__))}"
    if own := [word for word in KEPT if getattr(found, word) is not getattr(Method, word)]:
        return f"replaces {', '.join(own)}, which keeps the bound and is not a method's own"
    for word in ("tasks", "trains", "asks_pretrained", "misleads"):
        known = getattr(found, word)
        if not isinstance(known, frozenset) or not known <= TASKS.keys():
            return f"{word} has to be a frozenset of {', '.join(TASKS)}"
    return ""


def _unusable(plugin: Plugin, why: str) -> MethodError:
    return MethodError(f"--method {plugin.name}: the method of {plugin} {why}, or uninstall it")
