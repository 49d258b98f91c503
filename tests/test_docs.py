"""The documents: the site builds without a warning, nothing leads nowhere, and commands exist."""

import ast
import html
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner

from medshield.budget import parse_epsilon
from medshield.cli import cli
from medshield.method_names import GROUP, OWN_NAMES, names
from medshield.threats import parse_cell
from tests import report_documents
from tests.snippets import (
    DOCS,
    DOCUMENTS,
    PAGES,
    ROOT,
    SHELLS,
    anchors,
    blocks,
    commands,
    links,
    name_of,
    prose,
    scripts,
    understood,
)

BUILD = """
import socket, sys
from sphinx.cmd.build import main

def refuse(*_):
    raise OSError("the site is built without a network")

socket.socket.connect = refuse
sys.exit(main(sys.argv[1:]))
"""
COMMANDS = sorted(cli.commands)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def build(target, *, source=DOCS):
    """As docs/index.md says, but quietly, and from nothing."""
    options = ["-W", "--keep-going", "-n", "-q", "-E", "-d", str(target.with_suffix(".trees"))]
    return subprocess.run(
        [sys.executable, "-c", BUILD, *options, str(source), str(target)],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the finished site."""
    target = tmp_path_factory.mktemp("docs") / "site"
    run = build(target)
    assert run.returncode == 0, run.stdout + run.stderr
    return target


def test_the_site_has_a_page_for_every_document(site):
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_bytes((DOCS / "conf.py").read_bytes())
    (source / "index.md").write_text("# Title\n\n[gone](#not-here)\n")
    run = build(tmp_path / "site", source=source)
    assert run.returncode != 0
    assert "not-here" in run.stderr


def test_the_site_fetches_nothing(site):
    fetched = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>"
        r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|icon))[^>]*href=[\"']?(?:https?:)?//[^>]*>"
    )
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style


def test_every_page_is_reached_from_the_index_by_links_that_a_code_host_shows():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [path for path, _ in links(page) if path in PAGES]
    assert reached == set(PAGES)


@each_document
def test_links_lead_to_files_and_headings_that_exist(document):
    for path, anchor in links(document):
        assert path.exists(), path
        if anchor:
            assert anchor in set(anchors(path.read_text(encoding="utf-8"))), f"{path}#{anchor}"


def plain(text):
    """Words without mark-up, so that rendered text can be compared with what it was made of."""
    return " ".join(re.sub(r"[`\b]", "", html.unescape(re.sub(r"<[^>]+>", "", text))).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_the_reference(site, command):
    page = (site / "cli.html").read_text(encoding="utf-8")
    (section,) = re.findall(
        rf'<section id="medshield-{command}">(.*?)(?=<section id="medshield-|\Z)', page, re.DOTALL
    )
    text = plain(section)
    for parameter in cli.commands[command].params:
        if isinstance(parameter, click.Option):
            for name in parameter.opts:
                assert f'id="cmdoption-medshield-{command}-{name.lstrip("-")}"' in section
            assert parameter.help, f"{parameter.opts[0]} says nothing"
            assert plain(parameter.help) in text
    for line in (cli.commands[command].help or "").splitlines():
        assert plain(line) in text


def test_the_reference_names_every_command_and_the_exit_codes(site):
    text = plain((site / "cli.html").read_text(encoding="utf-8"))
    assert all(f"medshield {command}" in text for command in COMMANDS)
    assert "130 interrupted" in text


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("medshield scan ./a   # why", ["scan", "./a"]),
        ("X=1 .venv/bin/medshield check r && echo done", ["check", "r"]),
        ("if medshield check r --quiet; then", ["check", "r", "--quiet"]),
        ("medshield protect a \\\n  --shard $I/${N}", ["protect", "a", "--shard", "1/1"]),
        ("medshield scan a --json > plan.json", ["scan", "a", "--json"]),
        ("torchrun --nproc-per-node 4 -m medshield verify r", ["verify", "r"]),
        ("podman run -v a:/b medshield:0.1.0 check r", ["check", "r"]),
    ],
)
def test_commands_are_found_in_a_shell_line(line, found):
    assert list(commands(line)) == [found]


@pytest.mark.parametrize(
    "words",
    [
        ["protekt", "a"],
        ["protect", "a", "--epsilon", "8/255"],
        ["protect", "a", "--method", "best"],
        ["protect"],
        ["scan", "a", "b"],
    ],
)
def test_a_command_line_that_is_none_is_not_understood(words):
    with pytest.raises(click.UsageError):
        understood(words)


def test_documents_have_commands_to_read():
    for name, fewest in [("README.md", 6), ("docs/how-to.md", 15), ("docs/protection.md", 30)]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len([c for block in blocks(text, *SHELLS) for c in commands(block)]) >= fewest


def test_what_the_recipes_of_other_programs_run_is_read_too():
    text = """
```snakemake
rule all:
    input: "done"

rule check:
    output: touch("done")
    shell:
        "medshield check {input.release}"
        " --quiet --workers {threads}"
```
```nextflow
process CHECK {
    input:
    val release

    script:
    \"\"\"
    medshield check ${release} --workers ${task.cpus} || code=\\$?
    \"\"\"
}
```
```yaml
jobs:
  gate:
    steps:
      - run: medshield check "$RELEASE"
      - uses: an/action
```
"""
    assert [[*commands(script)] for script in scripts(text)] == [
        [["check", "1", "--quiet", "--workers", "1"]],
        [["check", "1", "--workers", "1"]],
        [["check", "1"]],
    ]


@pytest.fixture
def options_of_documents(tmp_path, monkeypatch):
    """A folder whose medshield.toml is the document's own, and no option from the environment."""
    for variable in [name for name in os.environ if name.startswith("MEDSHIELD_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "medshield.toml"


@each_document
def test_every_command_line_is_understood(document, options_of_documents, monkeypatch):
    text = document.read_text(encoding="utf-8")
    for content in blocks(text, "toml"):
        options_of_documents.write_text(content, encoding="utf-8")
        offered = tomllib.loads(content).get("project", {}).get("entry-points", {}).get(GROUP, {})
        monkeypatch.setattr("medshield.method_names.OWN_NAMES", (*OWN_NAMES, *offered))
    for script in scripts(text):
        for words in commands(script):
            if "--config" in words:
                name = words[words.index("--config") + 1]
                options_of_documents.with_name(name).write_text(content, encoding="utf-8")
            try:
                values = understood(words)
            except click.ClickException as error:
                pytest.fail(f"medshield {' '.join(words)}: {error.format_message()}")
            for radius in filter(None, (values.get("eps") or "").split(",")):
                parse_epsilon(radius)
            assert {*filter(None, (values.get("methods") or "").split(","))} <= {*names()}
            for cell in filter(None, (values.get("cells") or "").split(",")):
                parse_cell(cell)


@each_document
def test_commands_in_the_prose_have_the_options_that_they_are_given(document):
    for code in re.findall(r"`(medshield [^`]+)`", prose(document.read_text(encoding="utf-8"))):
        for words in commands(code):
            if words[0] in COMMANDS:
                known = {name for option in cli.commands[words[0]].params for name in option.opts}
                given = {word.partition("=")[0] for word in words if word.startswith("-")}
                assert given <= known | {"-h", "--help"}, code
            else:
                assert words[0] in {"COMMAND", "--help", "--version"}, code


@each_document
def test_shell_blocks_can_be_pasted(document):
    for block in blocks(document.read_text(encoding="utf-8"), "sh", "bash", "console"):
        run = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert run.returncode == 0, f"{block}\n{run.stderr}"


@each_document
def test_python_blocks_compile_and_import_what_exists(document):
    for block in blocks(document.read_text(encoding="utf-8"), "python", "py"):
        tree = ast.parse(block)
        compile(tree, name_of(document), "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_report_is_read_as_the_tutorial_does(tmp_path, monkeypatch, capsys):
    (block,) = blocks((DOCS / "tutorial-researcher.md").read_text(), "python")
    folder = tmp_path / "bench.private" / "radiographs"
    folder.mkdir(parents=True)
    report = report_documents.document(
        report_documents.cell("resnet18:standard", 0.3),
        report_documents.cell("convnext_atto:standard", None),
    )
    (folder / "synthetic-16-255.json").write_text(json.dumps(report))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "tutorial-researcher.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert any("resnet18:standard partly fitted: 0.99" in line for line in lines)
    marked = next(line for line in lines if line.startswith("*"))
    assert marked == "* balanced_accuracy last epoch 0.30 0.25 0.35"


def run_with_a_stub(block, folder, codes):
    """Run a script of the documents with a medshield that only ends with these codes."""
    program = folder / "medshield"
    cases = "".join(f"{command}) exit {code};; " for command, code in codes.items())
    program.write_text(f"#!/bin/sh\ncase $1 in {cases}*) exit 99;; esac\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", block], env=environment, cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("codes", "code", "published"),
    [
        ({"protect": 0, "check": 0, "verify": 0}, 0, True),
        ({"protect": 3, "check": 0, "verify": 0}, 0, True),
        ({"protect": 2, "check": 0, "verify": 0}, 2, False),
        ({"protect": 130, "check": 0, "verify": 0}, 130, False),
        ({"protect": 0, "check": 4, "verify": 0}, 4, False),
        ({"protect": 0, "check": 0, "verify": 4}, 4, False),
        ({"protect": 0, "check": 0, "verify": 5}, 5, False),
    ],
)
def test_the_script_of_the_tutorial_publishes_nothing_that_failed(tmp_path, codes, code, published):
    (block,) = blocks((DOCS / "tutorial-data-manager.md").read_text(), "sh")
    run = run_with_a_stub(block, tmp_path, codes)
    assert run.returncode == code
    assert ("may be published" in run.stdout) == published


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ({"check": 0, "verify": 0}, 0, "within the limit"),
        ({"check": 4, "verify": 0}, 1, ""),
        ({"check": 0, "verify": 4}, 1, "too much leaks"),
        ({"check": 0, "verify": 5}, 1, "could not tell"),
        ({"check": 0, "verify": 2}, 1, "did not run"),
    ],
)
def test_the_gate_lets_only_what_holds_pass(tmp_path, codes, code, said):
    block, _ = blocks((DOCS / "how-to.md").read_text(), "sh")
    run = run_with_a_stub(block, tmp_path, codes)
    assert run.returncode == code
    assert said in run.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_set_up_as_the_documents_say(shell):
    text = (DOCS / "how-to.md").read_text()
    assert f"_MEDSHIELD_COMPLETE={shell}_source medshield" in text

    def asked(**variables):
        return CliRunner().invoke(cli, [], env=variables, prog_name="medshield").output

    assert f"_MEDSHIELD_COMPLETE={shell}_complete" in asked(_MEDSHIELD_COMPLETE=f"{shell}_source")
    assert "synthetic" in asked(
        _MEDSHIELD_COMPLETE=f"{shell}_complete",
        COMP_WORDS="medshield protect --method sy",
        COMP_CWORD="sy" if shell == "fish" else "3",
    )


def test_the_drawing_is_what_its_script_draws():
    code = runpy.run_path(str(DOCS / "drawing.py"))
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == code["drawn"]()
    for box in code["BOXES"]:
        for line in box.lines:  # of DejaVu Sans, a wide one, a letter takes half of its height
            assert len(line) * 18 * 0.51 < box.width - 20, line
