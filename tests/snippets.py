"""What the documents tell a reader to type, and where their links lead."""

import ast
import re
import shlex
import string
import textwrap
from pathlib import Path

import click
import yaml

from medshield.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "sample_data" / "README.md", *PAGES]
SHELLS = ("sh", "bash", "console", "")
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


def scripts(text):
    """The shell code of a document: its shell blocks, and what the recipes of others run.

    Placeholders of Snakemake and Nextflow become 1, as a shell's variables do in `commands`.
    """
    yield from blocks(text, *SHELLS)
    for block in blocks(text, "snakemake"):
        yield from (re.sub(r"\{[\w.]+\}", "1", shell) for shell in shells_of_rules(block).values())
    for block in blocks(text, "nextflow"):
        for script in scripts_of_processes(block).values():
            yield re.sub(r"\$\{[\w.]+\}", "1", script)
    for block in blocks(text, "yaml"):
        for document in yaml.safe_load_all(block):
            for job in document.get("jobs", {}).values():
                yield from (step["run"] for step in job["steps"] if "run" in step)


def shells_of_rules(block):
    """The shell command of each rule of a Snakefile, by the rule's name."""
    rules = re.findall(r"^rule (\w+):\n((?:[ \t].*\n|\n)*)", block, re.MULTILINE)
    found = {
        name: re.search(r"^ +shell:((?:\s+\".*\")+)", body, re.MULTILINE) for name, body in rules
    }
    return {name: ast.literal_eval(f"({part[1]})") for name, part in found.items() if part}


def scripts_of_processes(block):
    """The script of each process of a Nextflow pipeline as bash gets it, by the process's name.

    What Nextflow fills in (`${...}`) is still there; a dollar sign of bash is written `\\$`.
    """
    found = re.findall(r'^process (\w+) \{.*?"""\n(.*?)"""\n\}$', block, re.DOTALL | re.MULTILINE)
    return {name: textwrap.dedent(script).replace(r"\$", "$") for name, script in found}


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
    elif words[:1] in (["podman"], ["docker"]) and words[1:2] == ["run"]:
        image = next((i for i, word in enumerate(words) if word.startswith("medshield:")), None)
        if image is not None:
            yield words[image + 1 :]
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
