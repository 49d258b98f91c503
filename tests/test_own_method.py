"""Methods of other packages: found when they are asked for, and kept to what a method promises."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import medshield as package
from medshield import method_names
from medshield.methods import METHODS, Method, Setting
from medshield.methods.registry import KEPT
from tests.builders import furthest, in_classes, manifest, medshield, tree
from tests.test_methods import examples, setting

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)

GOOD = """
    import torch
    from medshield.methods import UntrainedMethod

    class Tint(UntrainedMethod):
        name = "tint"

        def _delta(self, images, targets, names):
            return torch.full_like(images, 5.0)
"""
TINT = ("--method", "tint", "--eps", "8/255")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes a package as pip leaves it: a module, and what it says of itself."""

    def installed(
        code=GOOD, *, name="tint", target="Tint", package="medshield-tint", version="1.0"
    ):
        site = tmp_path / "site" / package
        module = package.replace("-", "_")
        facts = site / f"{module}-{version}.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        (facts / "entry_points.txt").write_text(f"[medshield.methods]\n{name} = {module}:Tint\n")
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    yield installed
    for name in [name for name in sys.modules if name.startswith("medshield_")]:
        del sys.modules[name]


@pytest.fixture
def source(tmp_path):
    return in_classes(tmp_path / "in", each=2)


def line_of(run, code=2):
    """What one line says, of a command that has failed."""
    assert run.code == code, run.out + run.err
    assert run.err.count("\n") == 1, run.err
    return run.err


# The example of the page


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The files of the page, installed by pip into a folder of their own."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "medshield-apart").mkdir()
    (folder / "medshield-apart" / "medshield_apart.py").write_text(CODE)
    (folder / "medshield-apart" / "pyproject.toml").write_text(PROJECT)
    quiet = ("-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "install", *quiet, "--target", folder / "site")
    subprocess.run([*pip, folder / "medshield-apart"], check=True)
    return folder / "site"


def command(site, *words):
    """The command line in a process of its own, with a package or without."""
    paths = [str(ROOT), *([str(site)] if site else [])]
    return subprocess.run(
        [sys.executable, "-m", "medshield", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )


def test_the_example_of_the_page_protects_images(example, tmp_path, source):
    told = ("--eps", "8/255", "--seed", "3", "--workers", "1")
    run = command(example, "protect", source, "--method", "apart", "-o", tmp_path / "out", *told)
    assert run.returncode == 0, run.stderr
    assert medshield("check", tmp_path / "out", "--source", source).code == 0
    for path, record in manifest(tmp_path / "out").items():
        assert furthest(source / path, tmp_path / "out" / path) == record["max_abs_delta"] == 8
    summary = json.loads((tmp_path / "out" / "medshield.json").read_text())
    assert summary["method"] == "apart"
    assert summary["plugin"] == "medshield-apart 1.0"
    assert summary["versions"]["medshield-apart"] == "1.0"

    kept = tmp_path / "out.private" / "generator"
    assert json.loads((kept / "generator.json").read_text())["plugin"] == "medshield-apart 1.0"
    again = ("protect", source, "--generator", kept, "-o", tmp_path / "again")
    run = command(None, *again)
    assert run.returncode == 2
    assert run.stderr == (
        f"medshield: {kept}: its method 'apart' comes from medshield-apart, which is not "
        "installed; install it (version 1.0)\n"
    )
    run = command(example, *again)
    assert run.returncode == 0, run.stderr
    images = {name: data for name, data in tree(tmp_path / "out").items() if "/" in name}
    assert images == {name: data for name, data in tree(tmp_path / "again").items() if "/" in name}


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_the_example_learns_and_says_what_it_has_learned(example, task, monkeypatch):
    monkeypatch.syspath_prepend(example)
    images, targets, names = examples(task)
    one, other = (METHODS.made("apart", setting(task)) for _ in range(2))
    one.fit(images, targets)
    other.load(one.state())
    delta = one.perturb(images, targets, names)
    assert torch.equal(delta, other.perturb(images, targets, names))
    assert delta.abs().max() <= 8 / 255 + 1e-6
    part = slice(0, 3)
    assert torch.equal(delta[part], one.perturb(images[part], targets[part], names[part]))


def test_the_example_is_written_as_the_project_is(tmp_path):
    (tmp_path / "medshield_apart.py").write_text(CODE)
    ruff = ["ruff", "check", "--config", ROOT / "pyproject.toml", "medshield_apart.py"]
    subprocess.run([sys.executable, "-m", *ruff, "--ignore", "D,I"], check=True, cwd=tmp_path)


def test_the_page_says_what_the_example_is_called():
    project = tomllib.loads(PROJECT)
    (entry,) = project["project"]["entry-points"][method_names.GROUP].items()
    assert entry == ("apart", "medshield_apart:Apart")
    assert f"{project['project']['name']} {project['project']['version']}" in DOCUMENT
    for word in ("tasks", "trains", "misleads"):
        assert f"| `{word}` |" in DOCUMENT
        assert hasattr(Method, word)


# How it is found


def test_help_lists_it_and_imports_nothing(install):
    install("raise SystemExit('imported')")
    assert "|tint]" in medshield("protect", "--help").out.replace("\n", "").replace(" ", "")
    assert method_names.names()[-1] == "tint"
    assert "tint" in METHODS
    assert list(METHODS)[-1] == "tint"
    assert "medshield_tint" not in sys.modules


def test_it_goes_where_methods_go(install, tmp_path, source):
    install()
    out = tmp_path / "out"
    assert medshield("fit", source, "-o", tmp_path / "g", *TINT, "--seed", "1").code == 0
    run = medshield("protect", source, "--generator", tmp_path / "g", "-o", out)
    assert run.code == 0
    assert "tint at 8/255" in run.out
    assert {record["max_abs_delta"] for record in manifest(out).values()} == {8}
    outcome = package.protect(source, output=tmp_path / "b", method="tint", eps=8 / 255, seed=1)
    assert outcome.summary["plugin"] == "medshield-tint 1.0"


def test_an_unknown_name_says_what_may_be_missing(source):
    line = line_of(medshield("protect", source, *TINT))
    assert "'tint' is not one of 'robust', 'em'" in line
    assert "needs that package installed" in line
    run = medshield("benchmark", source, "--methods", "em,tint", "-o", source / "b")
    assert "--methods: 'tint' is not one of" in line_of(run)


def test_benchmark_tells_releases_of_two_versions_apart(install):
    from medshield.benchmarking import _release_name

    assert _release_name("em", "8/255", None) == "em-8-255"
    install(version="1.2")
    assert _release_name("tint", "8/255", 0.9) == "tint-1.2-8-255-ssim-0.9"


# What can be wrong with it


class Case:
    """A package that can't be used, and what is said of it."""

    def __init__(self, code, message, **facts):
        self.code, self.message, self.facts = code, message, facts


BROKEN = {
    "no module that it needs": Case("import no_such_module", "no module 'no_such_module'"),
    "no such class": Case("", r"can't be imported \(AttributeError\)"),
    "an error on import": Case("raise RuntimeError('secret')", r"\(RuntimeError\)"),
    "no syntax": Case("class Tint(:", r"\(SyntaxError\)"),
    "no class": Case("Tint = 3", "is no subclass of medshield.methods.Method"),
    "another class": Case("class Tint: pass", "is no subclass of medshield.methods.Method"),
    "another name": Case(GOOD.replace('"tint"', '"hue"'), r"has another name \('hue'\)"),
    "no name": Case(GOOD.replace('name = "tint"', "pass"), r"has another name \(None\)"),
    "no delta": Case(GOOD.replace("_delta", "_other"), "lacks _delta"),
    "a bound of its own": Case(GOOD.replace("_delta", "perturb"), "replaces perturb|lacks _delta"),
    "no tasks": Case(
        GOOD.replace('name = "tint"', 'name = "tint"; tasks = "all"'), "tasks has to be a frozenset"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_one_line_and_disturbs_no_other_command(
    name, install, tmp_path, source
):
    case = BROKEN[name]
    install(case.code)
    before = tree(tmp_path / "in")
    line = line_of(medshield("protect", source, "-o", tmp_path / "out", *TINT))
    assert line.startswith("medshield: --method tint: the method of medshield-tint 1.0 ")
    assert re.search(case.message, line), line
    assert "uninstall it" in line
    assert "secret" not in line
    assert {path.name for path in tmp_path.iterdir()} == {"in", "site"}
    assert medshield("scan", source).code == 0
    assert medshield("protect", "--help").code == 0
    other = ("--method", "synthetic", "--eps", "8/255")
    assert medshield("protect", source, "-o", tmp_path / "out", *other).code == 0
    assert tree(tmp_path / "in") == before


@pytest.mark.parametrize("word", KEPT)
def test_what_keeps_the_bound_can_not_be_replaced(word, install):
    own = f"{GOOD}\n        def {word}(self, *_):\n            return torch.ones(1)\n"
    install(own)
    with pytest.raises(package.MethodError, match=f"replaces {word}, which keeps the bound"):
        METHODS["tint"]


def test_metadata_that_can_not_be_read_are_those_of_one_package(install, tmp_path):
    install()
    site = install(package="medshield-odd", name="odd")
    (entries,) = site.glob("*.dist-info/entry_points.txt")
    entries.write_bytes(b"[medshield.methods]\nno equals sign\n\xff\xfe")
    assert "tint" in method_names.names()
    assert "odd" not in method_names.names()
    assert medshield("protect", "--help").code == 0


@pytest.mark.parametrize("name", ["Tint", "a/b", "x" * 41, "-t"])
def test_a_name_that_is_no_name_is_left_out(name, install):
    install(name=name)
    assert method_names.names() == method_names.OWN_NAMES


def test_two_packages_with_one_name(install, source, tmp_path):
    install()
    install(package="medshield-hue", version="2")
    line = line_of(medshield("protect", source, *TINT))
    assert "medshield-hue 2 and medshield-tint 1.0 both offer a method of that name" in line
    assert "uninstall one" in line
    assert medshield("scan", source).code == 0


def test_medshield_s_own_methods_are_not_replaced(install, source, tmp_path):
    install(GOOD.replace('"tint"', '"synthetic"'), name="synthetic")
    plain = ("--method", "synthetic", "--eps", "8/255", "--seed", "1")
    run = medshield("protect", source, "-o", tmp_path / "out", *plain, "--quiet")
    assert run.code == 0
    assert run.err == (
        "--method synthetic: is medshield's own; the method of that name in medshield-tint 1.0 is "
        "not used, its author has to give it another one\n"
    )
    assert "plugin" not in json.loads((tmp_path / "out" / "medshield.json").read_text())
    assert "medshield_tint" not in sys.modules


RUDE = {
    "no tensor": ("None", "returned NoneType where a tensor is expected"),
    "no numbers": ("images * float('nan')", "no numbers"),
    "one for all": ("images[:1]", r"returned shape \(1, 1, 32, 32\) where \(64, 1, 32, 32\)"),
    "integers": ("images.long()", "torch.int64 where floating-point"),
    "an error": ("1 / 0 * images", r"failed \(ZeroDivisionError\)"),
    "a key that is not there": ("{}['secret']", r"failed \(KeyError\)"),
}


@pytest.mark.parametrize("name", RUDE)
def test_what_is_no_delta_ends_the_run_and_names_the_package(name, install, source, tmp_path):
    returned, message = RUDE[name]
    install(GOOD.replace("torch.full_like(images, 5.0)", returned))
    more = ("-o", tmp_path / "out", *TINT, "--image-size", "32", "--seed", "4")
    line = line_of(medshield("protect", source, *more))
    assert "the method tint of medshield-tint 1.0" in line
    assert re.search(message, line), line
    assert "secret" not in line
    assert not (tmp_path / "out").exists()
    run = medshield("protect", source, *more, "--resume", "--verbose")
    assert run.code == 2
    if "failed" in message:
        assert "in _delta" in run.err  # where, of --verbose


KIND = {
    "far outside": "torch.full_like(images, 5.0)",
    "infinite": "torch.full_like(images, float('inf'))",
    "of other precision": "torch.ones_like(images, dtype=torch.float64)",
    "of half precision": "torch.ones_like(images, dtype=torch.bfloat16)",
    "after changing what it was given": "images.zero_().add(1)",
}


@pytest.mark.parametrize("name", KIND)
def test_the_bound_holds_whatever_it_returns(name, install):
    install(GOOD.replace("torch.full_like(images, 5.0)", KIND[name]))
    made: Setting = setting()
    images, targets, names = examples()
    before = images.clone()
    delta = METHODS.made("tint", made).perturb(images, targets, names)
    radius = float(Fraction(8, 255))
    assert torch.equal(images, before)
    assert delta.dtype == torch.float32
    assert torch.allclose(images + delta, (images + radius).clamp(max=1), atol=1e-6)


@pytest.mark.parametrize("returned", ["3", "{'a': 3}", "{'clusters.a': torch.ones(1)}"])
def test_a_state_is_tensors_by_names(returned, install, source, tmp_path):
    state = f"\n        def state(self):\n            return {returned}\n"
    install(GOOD + state)
    line = line_of(medshield("fit", source, "-o", tmp_path / "g", *TINT))
    assert "the method tint of medshield-tint 1.0 failed (TypeError)" in line


def test_a_task_that_it_is_not_for(install, source):
    install(GOOD.replace('name = "tint"', 'name = "tint"; tasks = frozenset({"segmentation"})'))
    line = line_of(medshield("protect", source, *TINT))
    assert "--method tint: is for segmentation, and this is classification" in line


def test_a_run_is_resumed_with_the_same_version_alone(install, source, tmp_path, monkeypatch):
    failing = GOOD.replace("torch.full_like(images, 5.0)", "1 / 0")
    site = install(failing)
    more = ("-o", tmp_path / "out", *TINT, "--seed", "1")
    line_of(medshield("protect", source, *more))
    (facts,) = site.glob("*.dist-info")
    facts.rename(facts.with_name("medshield_tint-1.1.dist-info"))
    metadata = site / "medshield_tint-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    line = line_of(medshield("protect", source, *more, "--resume"))
    assert "the interrupted run had other settings (plugin)" in line
    metadata.parent.rename(facts)
    metadata = facts / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.1", "1.0"))
    (site / "medshield_tint.py").write_text(textwrap.dedent(GOOD))
    monkeypatch.delitem(sys.modules, "medshield_tint")
    sys.path_importer_cache.clear()
    assert medshield("protect", source, *more, "--resume").code == 0
