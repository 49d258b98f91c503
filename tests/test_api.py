"""`import medshield`: the same as the command line, for whoever writes Python."""

import inspect
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import click
import pytest

import medshield as package
from medshield import api, cli, pools
from medshield.benchmarking import BenchmarkConfig
from medshield.budget import to_epsilon
from medshield.protect_config import ProtectConfig
from medshield.verify_config import VerifyConfig
from tests.builders import in_classes, medshield, tree, without_seconds
from tests.test_verify import make_set

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)

OF_THE_TERMINAL = {"config", "as_json", "quiet", "verbose", "log_file"}
WITHOUT_USE = {("scan", "device"), ("check", "device")}
VERBS_INSTEAD = {
    ("protect", "dry_run"): "plan_protect",
    ("protect", "shard"): "protect_share",
    ("fit", "dry_run"): "plan_fit",
    ("verify", "dry_run"): "plan_verify",
}
OTHER_NAMES = {"format": "file_format"}


def parameters(verb):
    return inspect.signature(getattr(package, verb)).parameters


def as_text(value):
    """A default as the command line may have it: lists joined by commas, none for an empty one."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or None
    return str(value) if isinstance(value, os.PathLike) else value


def options_of(command):
    """Each option, and what the command is given where nothing is said."""
    words = ["in", *(["-o", "out"] if command == "fit" else [])]
    with cli.cli.commands[command].make_context(command, words) as context:
        given = context.params
    for option in cli.cli.commands[command].params:
        if option.name not in OF_THE_TERMINAL and (command, option.name) not in WITHOUT_USE:
            yield option, given[option.name]


# The two can't drift apart


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_each_option_is_a_keyword_with_the_same_default(command):
    known = dict(parameters(command))
    for option, default in options_of(command):
        if (command, option.name) in VERBS_INSTEAD:
            continue
        keyword = known.pop(option.name)
        if isinstance(option, click.Argument):
            assert keyword.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            assert (keyword.default is keyword.empty) == option.required
            continue
        word = max(option.opts, key=len).removeprefix("--").replace("-", "_")
        assert option.name == OTHER_NAMES.get(word, word)
        assert keyword.kind is inspect.Parameter.KEYWORD_ONLY
        if option.required:
            assert keyword.default is keyword.empty
        else:
            assert as_text(keyword.default) == as_text(default), option.name
            assert isinstance(keyword.default, bool) == option.is_flag
    assert not known  # and no keyword that the command line lacks


@pytest.mark.parametrize(("instead", "verb"), VERBS_INSTEAD.items())
def test_what_an_option_turns_a_command_into_has_its_keywords(instead, verb):
    command, option = instead
    assert any(found.name == option for found in cli.cli.commands[command].params)
    wanted = dict(parameters(command))
    assert {name: one.default for name, one in parameters(verb).items() if name != option} == {
        name: one.default for name, one in wanted.items()
    }


def test_settings_that_are_left_out_are_those_of_the_configurations(tmp_path):
    workers = api.protection("in").workers
    assert workers == max(1, min(8, os.cpu_count() or 1))
    assert api.protection("in") == ProtectConfig(Path("in"), workers=workers)
    wanted = ProtectConfig(Path("in"), Path("out"), workers=workers)
    assert api.lesson("in", output="out") == wanted
    (tmp_path / "medshield.json").touch()  # a release is looked for at once
    asked = api.verification(tmp_path).config
    assert asked == VerifyConfig(release=tmp_path, workers=workers)
    known = api.defaults_of(api.benchmark)
    for name, field in BenchmarkConfig.__dataclass_fields__.items():
        if name in known and field.default is not field.default_factory:
            assert known[name] == field.default or name in ("workers", "weights"), name


def test_choices_are_those_that_types_allow():
    for command in cli.cli.commands.values():
        for option in command.params:
            if isinstance(option.type, click.Choice):
                hint = getattr(api, option.name.title().replace("_", ""), None)
                if option.name == "task":
                    hint = api.TaskName
                assert tuple(option.type.choices) == hint.__args__


# The package


def test_all_names_are_there_and_known_to_dir():
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'protekt'"):
        package.protekt  # noqa: B018


def test_what_type_checkers_see_is_what_there_is():
    tree_of = (ROOT / "medshield" / "__init__.py").read_text()
    typed = re.search(r"if TYPE_CHECKING:\n(.*?)\n\n", tree_of, re.DOTALL)[1]
    seen = {}
    for module, several, one in re.findall(
        r"from medshield\.([\w.]+) import (?:\(([^)]*)\)|([^\n]*))", typed
    ):
        seen |= dict.fromkeys(re.findall(r"\w+", several or one), module)
    assert seen == package._WHERE


def test_modules_that_were_imported_do_not_take_the_place_of_verbs():
    code = """
import medshield.protecting, medshield.verifying, medshield.checking, medshield.benchmarking
import medshield, medshield.cli
for name in medshield.__all__:
    assert not isinstance(getattr(medshield, name), type(medshield)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("verb", ["protect", "protect_share", "fit", "verify", "plan_verify"])
def test_help_says_what_every_argument_is(verb):
    told = inspect.getdoc(getattr(package, verb))
    for name in parameters(verb):
        assert re.search(rf"^ {{4}}(\w+, )*{name}(, \w+)*: ", told, re.MULTILINE), name
    assert told.count("Args:") == told.count("Raises:") == 1


def test_the_import_is_fast_and_says_nothing():
    code = "import medshield, sys; print({'torch', 'numpy', 'click'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert run.stdout == "set()\n"
    assert run.stderr == ""


def test_python_may_leave_docstrings_out():
    code = "import medshield; print(medshield.protect.__doc__)"
    run = [sys.executable, "-OO", "-c", code]
    told = subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT)
    assert told.stdout == "None\n"


# The verbs


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        ("8/255", "8/255"),
        (8 / 255, "8/255"),
        (1 / 255, "1/255"),
        (0.0314, "157/5000"),
        (0.03137, "3137/100000"),
        (Fraction(3, 100), "3/100"),
        (16 / 4095, "16/4095"),
    ],
)
def test_an_epsilon_in_any_form_is_exact(given, exact):
    assert to_epsilon(given) == Fraction(exact)


@pytest.mark.parametrize("given", ["8", 8, 0.0, 1.0, -0.1, float("nan"), float("inf"), "a", True])
def test_what_is_no_epsilon(given):
    with pytest.raises(package.InputError, match="--eps"):
        to_epsilon(given)


WRONG = {
    "--eps": ("protect", {"eps": 8}),
    "--method": ("protect", {"method": "best"}),
    "--image-size": ("protect", {"image_size": 31}),
    "--effort": ("fit", {"output": "o", "effort": 0}),
    "--min-ssim": ("protect", {"min_ssim": 1.0}),
    "--task": ("scan", {"task": "guess"}),
    "--icons": ("scan", {"icons": "keep"}),
    "--uid": ("plan_protect", {"uid": "old"}),
    "--engine": ("protect", {"engine": "slurm"}),
    "--device": ("merge", {"device": "tpu"}),
    "--workers": ("check", {"workers": 0}),
    "--threat": ("verify", {"threat": "weak"}),
    "--seeds": ("verify", {"seeds": 0}),
    "--most-seeds": ("plan_verify", {"most_seeds": 0}),
    "--epochs": ("verify", {"epochs": 0}),
    "--adv-steps": ("benchmark", {"adv_steps": 0}),
    "--fail-above": ("verify", {"fail_above": 0.0}),
    "--methods": ("benchmark", {"methods": "em,best"}),
    "--format": ("benchmark", {"file_format": "gif"}),
    "--limit": ("benchmark", {"limit": 0}),
    "--surrogate-weights": ("protect", {"generator": "g", "surrogate_weights": "w"}),
    "--preview": ("check", {"preview": "a.png"}),
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_argument_is_told_by_the_name_of_its_option(option, tmp_path):
    verb, keywords = WRONG[option]
    with pytest.raises(package.InputError) as caught:
        getattr(package, verb)(in_classes(tmp_path / "in", each=1), **keywords)
    assert str(caught.value).startswith(option)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_generator_has_its_own_method(tmp_path):
    with pytest.raises(package.InputError, match="--method: the generator has its own"):
        package.protect(tmp_path, generator="g", method="em")


@pytest.mark.parametrize("verb", ["protect", "verify", "merge", "benchmark", "protect_share"])
def test_several_processes_at_a_time_are_refused(verb, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = ("1/2", "in") if verb == "protect_share" else ("in",)
    with pytest.raises(package.InputError, match=f"medshield.{verb} shares no work"):
        getattr(package, verb)(*given)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("api") / "images", patients=24, each=2)


def test_the_verbs_do_what_the_commands_do(source, tmp_path, capfd):
    """The same files to the last byte, and the same findings."""
    quick = ("--cells", "small_convnet", "--seeds", "1", "--epochs", "2", "--image-size", "32")
    told = ("--method", "synthetic", "--eps", "8/255", "--seed", "5", "--workers", "1")
    runs = [
        medshield("scan", source, "--eps", "8/255", "--json"),
        medshield("protect", source, "-o", tmp_path / "a", *told, "--json"),
        medshield("check", tmp_path / "a", "--source", source, "--json"),
        medshield("verify", tmp_path / "a", *quick, "--workers", "1", "--json"),
    ]
    logging.getLogger("medshield").handlers = []
    capfd.readouterr()

    found = package.scan(str(source), eps=8 / 255)
    outcome = package.protect(
        source, output=tmp_path / "b", method="synthetic", eps=8 / 255, seed=5, workers=1
    )
    result = package.check(str(outcome.release), source=source)
    evidence = package.verify(
        outcome.release, cells="small_convnet", seeds=1, epochs=2, image_size=32, workers=1
    )
    assert capfd.readouterr() == ("", "")  # neither prints

    assert found.to_json() == runs[0].json
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert json.loads(json.dumps(outcome.to_json())) == {
        **runs[1].json,
        "release": str(tmp_path / "b"),
        "private": str(tmp_path / "b.private"),
    }
    assert result.passed
    assert result.to_json() == {**runs[2].json, "release": str(tmp_path / "b")}
    assert runs[3].code == 4 if str(evidence.verdict) == "not protected" else 5
    reports = [tmp_path / name / "verify" for name in ("a.private", "b.private")]
    assert evidence.reports == reports[1]
    assert {path.name for path in reports[0].iterdir()} == {
        path.name for path in reports[1].iterdir()
    }
    one, other = (json.loads((folder / "report.json").read_text()) for folder in reports)
    assert without_costs(one) == {**without_costs(other), "release": "a"}


def without_costs(report):
    return {name: value for name, value in without_seconds(report).items() if name != "cost"}


def test_a_fit_and_its_generator_are_those_of_the_command_line(source, tmp_path):
    told = ("--method", "tap", "--eps", "8/255", "--seed", "5", "--effort", "0.02")
    assert medshield("fit", source, "-o", tmp_path / "a", *told).code == 0
    lesson = package.fit(
        source, output=str(tmp_path / "b"), method="tap", eps="8/255", seed=5, effort=0.02
    )
    assert lesson.folder == tmp_path / "b"
    assert lesson.to_json()["method"] == "tap"
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_script_that_does_not_ask_for_its_name_may_use_processes(tmp_path):
    """Processes that ran it again would start processes, and so on."""
    in_classes(tmp_path / "in", each=40)
    (tmp_path / "script.py").write_text(
        "import medshield\n"
        "from medshield import pools\n"
        "pools.WORTH_STARTING = 0.0\n"
        "print('begun')\n"
        "print(len(medshield.scan('in', workers=2).files))\n"
        "medshield.protect('in', eps='8/255', method='synthetic', workers=2)\n"
    )
    run = subprocess.run(
        [sys.executable, "script.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "begun\n80\n"
    assert (tmp_path / "in-protected" / "medshield.json").is_file()


def test_processes_know_nothing_of_the_script(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    with pools.pool_of(1) as pool:
        told = pool.submit(eval, "vars(__import__('sys').modules['__main__']).get('__file__')")
        assert told.result() is None
    assert sys.modules["__main__"].__file__ == __file__  # which is back


# The page


def test_every_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """In one folder and in turn, as a reader would paste them."""
    make_set(tmp_path / "images", patients=12, each=1)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("medshield")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging, "basicConfig", lambda level: logger.setLevel(level))
    names = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/api.md", "exec"), names)
    out = capsys.readouterr().out
    assert "release 13 files, 0 refused" in out
    assert "--eps: the generator was fitted for 8/255; leave --eps out, or" in out
    assert tree(tmp_path / "shared").keys() == tree(tmp_path / "release").keys()
    assert "| small_convnet:standard | synthetic 8/255 |" in out


def test_the_page_names_every_verb_and_error():
    for name in package.__all__:
        is_seen = name in ("SourceFile", "Record", "CellResult", "Verdict", "VerdictError")
        assert is_seen or name == "__version__" or f"`{name}" in DOCUMENT or name in DOCUMENT, name
    told = re.findall(r"^\| `(\w+)\(.*?\| (.*?) \| .*?`(\w+)`", DOCUMENT, re.MULTILINE)
    assert {verb for verb, _, _ in told} == {name for name in package.__all__ if name.islower()} - {
        "__version__"
    }
    for verb, _, result in told:
        assert result in inspect.signature(getattr(package, verb)).return_annotation


# Types


SCRIPT = """
from fractions import Fraction
from pathlib import Path

import medshield

found = medshield.scan("dicoms", eps=8 / 255)
outcome = medshield.protect(Path("dicoms"), eps=Fraction(8, 255), method="em", uid="new")
share = medshield.protect_share("1/2", "dicoms", eps="8/255", engine="local")
lesson = medshield.fit("dicoms", output="generator", eps="8/255")
evidence = medshield.verify(outcome.release, threat="determined", cells=["resnet18"])
plan = medshield.plan_verify(outcome.release)
tables = medshield.benchmark("dicoms", eps=[0.03, "8/255"], methods="em,robust")
reveal_type(found)
reveal_type(outcome)
reveal_type(share)
reveal_type(lesson)
reveal_type(evidence)
reveal_type(plan)
reveal_type(tables)
reveal_type(medshield.merge(outcome.release))
reveal_type(medshield.check(outcome.release, source="dicoms").passed)
reveal_type(outcome.refused[0].reason)
reveal_type(medshield.InputError("").exit_code)
medshield.protect("dicoms", eps=[8])  # wrong
medshield.protect("dicoms", epsilon="8/255")  # wrong
medshield.verify(threat="weak")  # wrong
medshield.fit("dicoms")  # wrong
"""
REVEALED = [
    "medshield.dataset.scanned.Scan",
    "medshield.release_run.Outcome",
    "medshield.shares.ShareOutcome",
    "medshield.fitting.FitOutcome",
    "medshield.verifying.Evidence",
    "medshield.preparation.Plan",
    "dict[str, medshield.benchmark_table.BenchmarkTable]",
    "medshield.release_run.Outcome",
    "bool",
    "str | None",
    "int",
]
MISTAKES = ["arg-type", "call-arg", "arg-type", "call-arg"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A Python that has the built package and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    tree_of = folder / "tree"
    shutil.copytree(ROOT / "medshield", tree_of / "medshield")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree_of)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    quiet = ("-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "install", *quiet, "--target", site, tree_of)
    subprocess.run(pip, check=True)
    return folder / "venv" / "bin" / "python"


def test_a_user_s_script_sees_real_types(installed, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "script.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert re.findall(r'Revealed type is "(.*)"', run.stdout) == REVEALED, run.stdout
    lines = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if "# wrong" in line]
    mistakes = re.findall(r"script\.py:(\d+): error: .*\[(.*)\]", run.stdout)
    assert mistakes == [(str(n), kind) for n, kind in zip(lines, MISTAKES, strict=True)], run.stdout
