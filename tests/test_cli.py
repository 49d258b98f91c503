"""The command line as a stranger meets it: exit codes, streams, and where options come from."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click import unstyle

from medshield import cli, cli_exit, progress
from medshield.dataset import scan as scan_module
from medshield.evidence import Verdict
from medshield.formats.png.codec import PngCodec
from medshield.method_names import OWN_NAMES
from medshield.methods import METHODS, adversarial_targeted
from tests.builders import (
    EIGHT,
    PATIENT,
    in_classes,
    manifest,
    medshield,
    state,
    tree,
    with_table,
)

COMMANDS = sorted(cli.cli.commands)


@pytest.fixture
def source(tmp_path):
    return in_classes(tmp_path / "in", each=2)


def with_a_damaged_file(source):
    path = source / "benign" / "0.png"
    path.write_bytes(path.read_bytes()[:-40])
    return source


def test_the_names_of_methods_are_those_that_exist():
    assert {*OWN_NAMES} == {*METHODS}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_fast_and_needs_no_torch(command):
    code = f"""
import sys
sys.argv = ["medshield", *{command.split()!r}, "--help"]
from medshield import cli
try:
    cli.main()
finally:
    assert not {{"torch", "numpy", "pydicom"}} & set(sys.modules), "a heavy import"
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "Usage: medshield" in result.stdout
    assert after.ru_utime - before.ru_utime < 0.5


def test_no_command_shows_help_and_is_a_usage_error():
    run = medshield()
    assert run.code == 2
    assert run.err.startswith("Usage: medshield")
    assert run.out == ""


def test_the_exit_codes(tmp_path, source):
    assert medshield("--version").code == 0
    assert medshield("scan", source).code == 0
    assert medshield("scan", tmp_path / "none").code == 2
    assert medshield("protect", source, "-o", tmp_path / "a", *EIGHT).code == 0
    assert medshield("check", tmp_path / "a").code == 0
    (tmp_path / "a" / "benign" / "0.png").unlink()
    assert medshield("check", tmp_path / "a").code == 4
    with_a_damaged_file(source)
    assert medshield("scan", source).code == 3
    assert medshield("protect", source, "-o", tmp_path / "b", *EIGHT).code == 3
    assert medshield("protect", source, "-o", tmp_path / "c", *EIGHT, "--dry-run").code == 3
    assert medshield("fit", source, "-o", tmp_path / "d", *EIGHT).code == 3


def test_an_unexpected_failure_is_one_line_without_its_words(source, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise RuntimeError(f"the header says {secret}")

    secret = "SECRET"

    monkeypatch.setattr(scan_module, "annotate", fails)
    log = tmp_path / "log"
    run = medshield("scan", source, "--verbose", "--log-file", log)
    assert run.code == 1
    assert "unexpected RuntimeError" in run.err
    assert "annotate" in run.err  # --verbose says where
    assert secret not in run.err + log.read_text()
    run = medshield("scan", source)
    assert run.err.count("\n") == 1
    assert "--verbose" in run.err


@pytest.mark.parametrize("typed", [["protct", "in"], ["protect", "in", "--epps", "8/255"]])
def test_a_typing_mistake_is_answered_in_whole_sentences(typed):
    run = medshield(*typed)
    assert run.code == 2
    assert re.search(r"No such (command|option).*(\? S|\?\) S|; s)ee medshield.* --help$", run.err)
    assert not re.search(r"[?.)];", run.err)


CASES = {
    "scan": (["scan", "{in}"], 0),
    "scan without labels": (["scan", "{flat}"], 2),
    "scan nothing": (["scan", "{out}/none"], 2),
    "scan with a refused file": (["scan", "{damaged}"], 3),
    "protect": (["protect", "{in}", "-o", "{out}/a", *EIGHT], 0),
    "protect --dry-run": (["protect", "{in}", *EIGHT, "--dry-run"], 0),
    "protect with a refused file": (["protect", "{damaged}", "-o", "{out}/b", *EIGHT], 3),
    "protect without eps": (["protect", "{in}"], 2),
    "protect a false option": (["protect", "{in}", "--epsilon", "3"], 2),
    "protect a false value": (["protect", "{in}", "--workers", "none"], 2),
    "protect without a source": (["protect"], 2),
    "fit": (["fit", "{in}", "-o", "{out}/g", *EIGHT], 0),
    "check nothing": (["check", "{in}"], 2),
}


@pytest.mark.parametrize("name", CASES)
def test_json_is_one_document_and_nothing_else(tmp_path, name):
    places = {
        "in": in_classes(tmp_path / "in", each=2),
        "damaged": with_a_damaged_file(in_classes(tmp_path / "damaged", each=2)),
        "flat": in_classes(tmp_path / "flat", each=1),
        "out": tmp_path,
    }
    arguments, code = CASES[name]
    run = medshield(*(part.format(**places) for part in arguments), "--json")
    assert run.code == code, run.err
    document = run.json
    assert isinstance(document, dict)
    if code == 2:
        problem = document.get("error") or document["problem"]
        assert run.err == f"medshield: {problem}\n"


def test_json_after_an_interruption(source, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PngCodec, "decode", interrupted)
    run = medshield("scan", source, "--json")
    assert run.code == run.json["exit_code"] == 130


def test_json_from_environment_and_file_holds_for_errors_too(source, tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("json = true\n")
    assert "error" in medshield("protect", source, "--config", config).json
    monkeypatch.setenv("MEDSHIELD_JSON", "1")
    assert "error" in medshield("protect", source).json


def test_progress_is_on_standard_error_and_quiet_leaves_it_out(source, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    run = medshield("scan", source)
    assert "reading: 4 of 4" in run.err
    assert "reading" not in run.out
    assert medshield("scan", source, "--quiet").err == ""


@pytest.mark.parametrize(
    ("done", "seconds", "said"),
    [
        (10, 30.0, "work: 10 of 100, 30 s, about 4 min left"),
        (50, 30.0, "work: 50 of 100, 30 s, about 30 s left"),
        (1, 300.0, "work: 1 of 100, 300 s, about 8.2 h left"),
        (100, 30.0, "work: 100 of 100, 30 s"),
    ],
)
def test_lines_of_progress_say_how_long_it_will_take(monkeypatch, caplog, done, seconds, said):
    now = iter([0.0, seconds])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress.logger, "propagate", True)
    monkeypatch.setattr(progress.logger, "handlers", [])
    progress.logger.setLevel("INFO")
    with progress.bar("work") as update:
        update(done, 100)
    assert caplog.messages == [said]


@pytest.mark.parametrize(
    ("done", "share", "said"),
    [
        (0, 0.25, "work: 0 of 2 (25 %), 30 s, about 2 min left"),
        (1, 0.75, "work: 1 of 2 (75 %), 30 s, about 10 s left"),
        (2, 0.999, "work: 2 of 2, 30 s"),
    ],
)
def test_lines_of_progress_go_by_work_where_items_take_long(monkeypatch, caplog, done, share, said):
    now = iter([0.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress.logger, "propagate", True)
    monkeypatch.setattr(progress.logger, "handlers", [])
    progress.logger.setLevel("INFO")
    with progress.bar("work") as update:
        update(done, 2, share)
    assert caplog.messages == [said]


def test_the_end_is_told_once(monkeypatch, caplog):
    now = iter([0.0, 30.0, 30.0, 30.1])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress.logger, "propagate", True)
    monkeypatch.setattr(progress.logger, "handlers", [])
    progress.logger.setLevel("INFO")
    with progress.bar("work") as update:
        update(1, 2, 0.9)
        update(2, 2, 0.9)
        update(2, 2, 1.0)
    assert caplog.messages[1:] == ["work: 2 of 2, 30 s"]


def test_progress_of_protect_moves_before_the_first_file_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(adversarial_targeted, "ATTACK_STEPS", 4)
    source = in_classes(tmp_path / "in", each=2)
    options = ["--method", "advt", "--eps", "8/255", "--effort", "0.001", "--image-size", "32"]
    run = medshield("protect", source, "-o", tmp_path / "out", *options)
    assert run.code == 0, run.err
    lines = [line for line in run.err.splitlines() if line.startswith("protecting: ")]
    assert lines[0].startswith("protecting: 0 of 4 (")
    percents = [int(line.split("(")[1].split(" %")[0]) for line in lines if "%" in line]
    assert len(percents) >= 4
    assert percents == sorted(percents)
    assert lines[-1].startswith("protecting: 4 of 4, ")


TERMINAL = """
import os, pty, subprocess, sys
def shown(*command, **environment):
    ours, theirs = pty.openpty()
    code = subprocess.run(command, stdout=theirs, stderr=theirs, env=os.environ | environment)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 4096):
            found += part
    except OSError:
        return found
command = sys.executable, "-m", "medshield", "check", sys.argv[1]
print(b"\\x1b[31m" in shown(*command), b"\\x1b" in shown(*command, NO_COLOR="1"))
"""


def test_colours_are_for_terminals_alone_and_for_who_wants_them(source):
    run = medshield("check", source)
    assert run.err.startswith("medshield: ")
    assert "\x1b" not in run.err
    found = subprocess.run(
        [sys.executable, "-c", TERMINAL, source], check=True, capture_output=True, text=True
    )
    assert found.stdout == "True False\n"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_has_its_colour_and_its_word(verdict):
    word = str(verdict).upper()
    text = f"a: {word} (b: {word} (c"
    shown = cli_exit.with_coloured_verdict(text, verdict)
    assert unstyle(shown) == text
    assert shown.startswith("a: \x1b[")
    assert shown.endswith(f"b: {word} (c")


def test_the_log_holds_progress_and_errors_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    log = tmp_path / "log"
    options = ("--log-file", log, "--verbose", "--seed", "8812")
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT, *options, "-q").code == 0
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT, *options).code == 2
    text = log.read_text()
    assert "protecting: 4 of 4" in text
    assert "already exists" in text
    key = (tmp_path / "out.private" / "generator" / "key").read_text().strip()
    for secret in (PATIENT, "SECRET", "8812", key):
        assert secret not in text
    assert log.stat().st_mode & 0o777 == 0o600


def test_patients_are_named_nowhere(tmp_path):
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    path = source / "benign" / "0.dcm"
    path.write_bytes(path.read_bytes()[:-1500])
    runs = [
        medshield("scan", source),
        medshield("scan", source, "--json", "--verbose"),
        medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--verbose"),
        medshield("check", tmp_path / "out", "--source", source, "--json"),
    ]
    for run in runs:
        assert "SECRET" not in run.out + run.err
    release = tree(tmp_path / "out")
    assert b"SECRET" not in release["medshield-manifest.jsonl"] + release["medshield.json"]


def test_the_environment_gives_any_option(source, tmp_path, monkeypatch):
    settings = {"METHOD": "synthetic", "EPS": "6/255", "OUTPUT": str(tmp_path / "out")}
    for name, value in {**settings, "QUIET": "1", "WORKERS": "1", "SEED": "4"}.items():
        monkeypatch.setenv(f"MEDSHIELD_{name}", value)
    run = medshield("protect", source)
    assert run.code == 0, run.err
    assert {r["epsilon_stored"] for r in manifest(tmp_path / "out").values()} == {6}


def test_command_line_then_environment_then_file(source, tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text('eps = "4/255"\nintensity = "stored"\n[scan]\neps = "5/255"\nworkers = 1\n')
    monkeypatch.setenv("MEDSHIELD_CONFIG", str(config))

    def radius(*arguments):
        run = medshield("scan", source, "--json", *arguments)
        assert run.code == 0, run.err
        return run.json["files"][0]["epsilon_stored"]

    assert radius() == 5
    monkeypatch.setenv("MEDSHIELD_EPS", "6/255")
    assert radius() == 6
    assert radius("--eps", "7/255") == 7
    assert medshield("scan", source).out.count("all values that the files can store") == 1


def test_a_list_in_the_file_is_several_columns(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    with_table(
        source,
        [
            "benign/0.png,1,0,0",
            "benign/1.png,0,1,1",
            "malignant/2.png,1,1,0",
            "malignant/3.png,0,0,1",
        ],
        "path,a,b,c",
    )
    config = tmp_path / "config.toml"
    config.write_text('label-col = ["a", "b"]\n')
    run = medshield("scan", source, "--config", config, "--json")
    assert run.json["classes"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("eps = 8/255", "not TOML"),
        ("epsilon = 0.1", "no option is called epsilon"),
        ("[protect]\nthreat = 'basic'", "no option is called threat"),
        ("[protekt]\neps = 0.1", "no table is called protekt"),
        ("workers = 'many'", "'many' is not a valid integer"),
        ("method = 'best'", "'best' is not one of"),
        ("eps = 0.1\nworkers = 0", "0 is not in the range"),
        (None, "can't be read (No such file or directory)"),
        (b"\xff\xfe\x00", "not TOML"),
    ],
)
def test_a_bad_file_of_options(source, tmp_path, content, message):
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = medshield("protect", source, "--config", config, "-o", tmp_path / "out")
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "out.private").exists()


def test_a_dry_run_writes_nothing_and_tells_what_will_be(tmp_path):
    source = with_a_damaged_file(in_classes(tmp_path / "in", (".png", ".dcm"), each=2))
    (source / "notes.txt").write_text("any notes")
    (source / "what.xyz").write_bytes(b"?")
    (source / "SHA256SUMS").write_text("of another release")
    before = state(tmp_path)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--dry-run", "--json")
    assert run.code == 3
    assert state(tmp_path) == before
    assert medshield("fit", source, "-o", tmp_path / "g", *EIGHT, "--dry-run").code == 3
    assert state(tmp_path) == before
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 3
    statuses = {"protect": "protected", "copy": "copied", "omit": "omitted", "refuse": "refused"}
    records = manifest(tmp_path / "out")
    for planned in run.json["files"]:
        record = records.pop(planned["path"])
        assert record["status"] == statuses[planned["action"]]
        assert record["epsilon_stored"] == planned["epsilon_stored"]
        assert (record["reason"] or "") == planned["reason"]
    assert records == {}


def test_what_protect_says(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = medshield("protect", "./in", *EIGHT)
    lines = run.out.splitlines()
    assert lines[0] == "in-protected: 4 protected"
    assert "  moved     png: at most 8 of 8 stored units (4)" in lines
    assert lines[-1] == "  next      medshield verify in-protected"
    assert "in-protected.private holds the key" in lines[-2]
    assert run.err == ""


def test_a_source_by_any_name(tmp_path, source, monkeypatch):
    monkeypatch.chdir(source)
    assert medshield("protect", ".", *EIGHT).code == 0
    assert (tmp_path / "in-protected" / "medshield.json").is_file()
    monkeypatch.chdir(source / "benign")
    run = medshield("protect", "..", *EIGHT)
    assert run.code == 2
    assert "already exists" in run.err
    (tmp_path / "link").symlink_to(source)
    assert medshield("protect", tmp_path / "link", *EIGHT).code == 0
    assert (tmp_path / "link-protected").is_dir()
    trailing = f"{tmp_path}/trailing/"
    assert medshield("protect", f"{source}/", "-o", trailing, *EIGHT).code == 0
    assert (tmp_path / "trailing.private").is_dir()


def test_labels_are_found_again_from_any_folder(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in", each=2, classes=("x", "y"))
    rows = ["x/0.png,a", "x/1.png,b", "y/2.png,a", "y/3.png,b"]
    with_table(tmp_path, rows, name="truth.csv")
    monkeypatch.chdir(tmp_path)
    assert medshield("protect", "in", "--labels", "truth.csv", *EIGHT).code == 0
    kept = json.loads(Path("in-protected.private/config.json").read_text())
    assert kept["annotations"]["labels"] == str(tmp_path / "truth.csv")
    assert kept["source"] == str(source)


def test_a_closed_pipe_is_no_traceback(source):
    command = f'"{sys.executable}" -m medshield scan "{source}" | true'
    result = subprocess.run(
        command, shell=True, check=False, capture_output=True, text=True, env={**os.environ}
    )
    assert "Traceback" not in result.stderr
