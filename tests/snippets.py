"""What the documents tell a reader to type, and where their links lead."""

import re
import shlex
import string
from pathlib import Path

import click

from medshield.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "sample_data" / "README.md", *PAGES]
KEYWORDS = {"if", "while", "until", "!", "then", "else", "elif", "do"}


def name_of(document):
    return document.relative_to(ROOT).as_posix()


def blocks(text, *languages):
    """The contents of fenced blocks in any of these languages."""
    found = re.findall(r"^ *```(\S*)[^\n]*\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in languages]


def prose(text):
    """A document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(block):
    """The arguments of every `medshield` that a shell block starts, one list each.

    Variables become 1, since only a shell knows them.
    """
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, simple = [re.sub(r"\$\{?\w+\}?", "1", word) for word in lexer], []
        for word in [*words, ";"]:
            if set(word) <= set(lexer.punctuation_chars):
                yield from _arguments(simple)
                simple = []
            else:
                simple.append(word)


def _arguments(words):
    while words and (words[0] in KEYWORDS or re.match(r"[A-Z_]+=", words[0])):
        words = words[1:]
    if words and Path(words[0]).name == "medshield":
        yield words[1:]
    elif "-m" in words and words[words.index("-m") + 1 :][:1] == ["medshield"]:
        yield words[words.index("-m") + 2 :]


def understood(words):
    """What click makes of a command line, without running it: the values of its options.

    Raises:
        click.ClickException: there is no such command or option, or a value is none.
    """
    with click.Context(cli, info_name="medshield", obj={}) as context:
        try:
            if words[:1] and words[0].startswith("-"):
                return cli.make_context("medshield", list(words)).params
            name, command, rest = cli.resolve_command(context, list(words))
            return command.make_context(name, rest, parent=context).params
        except click.exceptions.Exit:  # --help and --version
            return {}


def anchors(text):
    """The anchors of a document's headings, as a code host makes them."""
    found = {}
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).strip().lower()
        allowed = string.ascii_lowercase + string.digits + "-_ "
        slug = "".join(letter for letter in plain if letter in allowed).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        yield f"{slug}-{found[slug]}" if found[slug] else slug


def links(document):
    """The links of a document to what lies in the repository: a path, and an anchor or ''."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text(encoding="utf-8"))):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            yield (document.parent / path).resolve() if path else document, anchor
