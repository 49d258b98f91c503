"""How the pages of this folder become a site: `sphinx-build -W --keep-going -n docs build/site`."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from pygments.lexers import GroovyLexer, PythonLexer
from sphinx.errors import ExtensionError

from medshield import __version__

if TYPE_CHECKING:
    import click
    from sphinx.application import Sphinx

project = "medshield"
version = release = __version__
extensions = ["myst_parser", "sphinx_click"]
myst_heading_anchors = 4
smartquotes = False  # it would make one dash of the two before an option's name
html_theme = "furo"
html_title = f"medshield {__version__}"
html_static_path = ["_static"]
html_css_files = ["screen.css", "print.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}


def _literal(text: str) -> str:
    """`code` as in Markdown, as reStructuredText wants it."""
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)


def _with_code_blocks(_: Sphinx, __: click.Context, lines: list[str]) -> None:
    """Show the examples of a help text, which click leaves as they are, as commands."""
    shown: list[str] = []
    for line in lines:
        if not line.startswith("| "):
            shown.append(_literal(line))
            continue
        if not shown or not shown[-1].startswith("   "):
            shown += [".. code-block:: text", ""]
        shown.append("   " + line.removeprefix("| "))
    lines[:] = shown


def _in_sentences(_: Sphinx, __: click.Context, lines: list[str]) -> None:
    """Defaults and choices as a line each, as one would type them and not as Python shows them."""
    default = re.compile(r":default: ``(?:PosixPath\()?['\"]?(.*?)['\"]?\)?``")
    choices = re.compile(r":options: (.*)")
    shown: list[str] = []
    for line in lines:
        if choices.search(line):
            shown.append("")
        line = default.sub(r"Default: ``\1``.", _literal(line))
        shown.append(choices.sub(lambda found: f"One of {_listed(found[1])}.", line))
    lines[:] = shown


def _listed(choices: str) -> str:
    return ", ".join(f"``{choice}``" for choice in choices.split(" | "))


def _no_variables(_: Sphinx, __: click.Context, lines: list[str]) -> None:
    """Leave the variables out: the page says once how they follow from an option's name."""
    lines.clear()


def setup(app: Sphinx) -> None:
    """Say how the reference of the command line is to look, and code of other programs."""
    app.add_lexer("snakemake", PythonLexer)
    app.add_lexer("nextflow", GroovyLexer)
    app.connect("sphinx-click-process-description", _with_code_blocks)
    app.connect("sphinx-click-process-options", _in_sentences)
    with contextlib.suppress(ExtensionError):  # sphinx-click 6.2 emits this, and declares the next
        app.add_event("sphinx-click-process-envars")
    app.connect("sphinx-click-process-envars", _no_variables)
    app.connect("sphinx-click-process-envvars", _no_variables)
