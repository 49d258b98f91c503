"""A fit that is stopped at any checkpoint goes on to give what an uninterrupted one gives."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medshield import checkpoint as module
from medshield import models
from medshield.checkpoint import Checkpoint
from medshield.methods import METHODS, adversarial_targeted, error_minimizing
from medshield.states import read_state, write_state
from tests.builders import in_classes, medshield, png, tree
from tests.test_methods import (
    SMALL_LINEUP,
    TASK_TYPES,
    TRAINED,
    _small,
    examples,
    one_convolution,
    setting,
)
from tests.test_protect import protected

assert _small  # makes methods small here, too

TABLE = [(name, task) for name in TRAINED for task in TASK_TYPES if task in METHODS[name].trains]
UNSEEDED = ("--method", "tap", "--eps", "8/255", "--effort", "0.08", "--image-size", "32")
TINY = (*UNSEEDED, "--seed", "2")


class Stopped(Exception):
    """As a kill, but for this test."""


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """After every step; small models, and games of more than one turn."""

    def architectures(method):
        masks = method.setting.task.name == "segmentation"
        return ("one_convolution", "its_twin") if masks else ("small_convnet", "small_twin")

    monkeypatch.setitem(models.CLASSIFIERS, "small_twin", models.small_convnet)
    monkeypatch.setitem(models.SEGMENTERS, "its_twin", one_convolution)
    monkeypatch.setattr(error_minimizing.ErrorMinimizing, "_architectures", architectures)
    monkeypatch.setattr(adversarial_targeted.AdversarialTargeted, "lineup", SMALL_LINEUP[:1])
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(module, "SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 2)
    monkeypatch.setattr(error_minimizing, "BLOCK", 8)
    monkeypatch.setattr(adversarial_targeted, "TRIAL_STEPS", 2)


@pytest.fixture
def stopping(monkeypatch):
    """A function that has the checkpoint of that number, counted from 1, end the run."""

    def set_up(number, error=Stopped):
        written = []

        def write(state, path):
            write_state(state, path)
            written.append(path)
            if len(written) == number:
                raise error

        monkeypatch.setattr(module, "write_state", write)
        return written

    return set_up


def learned(name, task, path):
    """What a fit learns whose checkpoint lies there; two or three steps of every loop."""
    method = METHODS[name](setting(task, effort=0.02 if name in ("em", "sem") else 0.08))
    fresh_victim = (name, task) == ("em", "classification")
    images, targets, _ = examples(task, count=80 if fresh_victim else 11)
    method.fit(images, targets, checkpoint=Checkpoint(path, "this work"))
    return {key: value.clone() for key, value in method.state().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "task"), TABLE)
def test_a_fit_stopped_at_any_checkpoint_ends_as_if_it_had_not(tmp_path, stopping, name, task):
    written = stopping(0)
    whole = learned(name, task, tmp_path / "whole")
    count = len(written)
    assert count > 1
    for number in sorted({1, 2, count // 2, count - 1, count} - {0}):
        path = tmp_path / str(number)
        stopping(number)
        with pytest.raises(Stopped):
            learned(name, task, path)
        written = stopping(0)
        assert same(learned(name, task, path), whole), number
        assert len(written) == count - number  # nothing was done again


def test_a_fit_may_be_stopped_again_and_again(tmp_path, stopping):
    whole = learned("em", "classification", None)
    stops = 0
    while True:
        stopping(2)
        try:
            found = learned("em", "classification", tmp_path / "kept")
            break
        except Stopped:
            stops += 1
    assert stops > 2
    assert same(found, whole)


def test_without_a_file_nothing_is_kept(tmp_path, stopping):
    written = stopping(0)
    learned("tap", "classification", None)
    assert written == []


def test_a_checkpoint_is_written_once_in_a_while(tmp_path, stopping, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 3600.0)
    written = stopping(0)
    learned("tap", "classification", tmp_path / "kept")
    assert written == []


def test_slow_disks_are_written_to_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARE_OF_TIME", 0.05)
    clock, written = [0.0], []

    def write(_state, _path):
        written.append(clock[0])
        clock[0] += 1  # a second to write it

    monkeypatch.setattr(module, "write_state", write)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for _ in Checkpoint(tmp_path / "kept").loop(60):
        clock[0] += 1
    assert written == [1, 22, 43]


def test_a_checkpoint_that_can_not_be_written_ends_no_fit(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.progress.logger, "propagate", True)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medshield.private.os.fsync", full)
    path = tmp_path / "kept"
    assert same(learned("tap", "classification", path), learned("tap", "classification", None))
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["work", "cut short", "empty", "another file"])
def test_a_checkpoint_of_no_use_is_told_and_not_used(
    tmp_path, stopping, caplog, fault, monkeypatch
):
    monkeypatch.setattr(module.progress.logger, "propagate", True)
    whole, path = learned("tap", "classification", None), tmp_path / "kept"
    stopping(2)
    with pytest.raises(Stopped):
        learned("tap", "classification", path)
    stopping(0)
    content = path.read_bytes()
    if fault == "work":
        write_state({**read_state(path), "work": "another"}, path)
    else:
        path.write_bytes({"cut short": content[:-9], "empty": b""}.get(fault, b"{}" * 50))
    assert same(learned("tap", "classification", path), whole)
    assert "starting from the beginning" in caplog.text
    assert str(path) in caplog.text


# States


def test_a_state_survives_with_its_types(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "mean": shared}, 7: {}},
        "betas": (0.1, 0.999),
        "list": [1, None, True, "text", float("inf"), (), [], {}],
        "again": shared,
        "whole": torch.tensor([2**62 + 1]),
    }
    write_state(state, tmp_path / "state")
    again = read_state(tmp_path / "state")
    assert torch.equal(again["state"][0].pop("mean"), shared)
    assert torch.equal(again.pop("again"), shared)
    assert again.pop("whole").tolist() == [2**62 + 1]
    assert again["state"][0].pop("step").item() == 3
    assert again == {"state": {0: {}, 7: {}}, "betas": (0.1, 0.999), "list": state["list"]}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


def test_what_no_state_may_hold(tmp_path):
    with pytest.raises(TypeError):
        write_state({"function": print}, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


# Commands

KILLED = """
import os, signal, sys
from medshield import checkpoint, cli
from medshield.methods import base
from medshield.methods.published import adversarial_poisons, surrogate
base.BLOCK, adversarial_poisons.ATTACK_STEPS = 8, 3  # as `_small` has it
surrogate.CLASSIFIER = "small_convnet"
checkpoint.SECONDS_BETWEEN, checkpoint.SHARE_OF_TIME = 0.0, 1e9
write, done = checkpoint.write_state, []
def writing(*arguments):
    write(*arguments)
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_state = writing
cli.main()
"""


@pytest.mark.parametrize("command", ["fit", "protect"])
def test_a_killed_fit_is_finished_by_resume(tmp_path, command, stopping):
    source = in_classes(tmp_path / "in", each=4)
    run = medshield(command, source, "-o", tmp_path / "whole", *TINY)
    assert run.code == 0, run.err
    out = tmp_path / "out"
    folder = out.with_suffix(".partial" if command == "fit" else ".private")
    arguments = [command, str(source), "-o", str(out), *TINY]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        check=False,
        capture_output=True,
        cwd=Path(__file__).parents[1],
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    kept = folder / "fitting.safetensors"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept.with_name(kept.name + ".part").write_bytes(b"of a checkpoint that was not finished")

    again = medshield(*arguments)
    assert again.code == 2
    assert "--resume" in again.err
    other = medshield(*arguments, "--resume", "--effort", "0.2")
    assert other.code == 2
    assert "other settings (effort)" in other.err
    written = stopping(0)
    run = medshield(*arguments, "--resume")
    assert run.code == 0, run.err
    assert len(written) == 3 - 2
    names = {path.name.replace("whole", "out") for path in tmp_path.glob("whole*")}
    assert {path.name for path in tmp_path.glob("out*")} == names
    for name in names:
        made, wanted = tree(tmp_path / name), tree(tmp_path / name.replace("out", "whole"))
        assert made.keys() == wanted.keys()
        assert {path for path in made if made[path] != wanted[path]} <= {"cost.json"}
    if command == "protect":
        assert json.loads((folder / "cost.json").read_text())["fit"] is None


def interrupted_fit(tmp_path, stopping, settings=TINY):
    source = in_classes(tmp_path / "in", each=4)
    stopping(2, KeyboardInterrupt)
    arguments = ("fit", source, "-o", tmp_path / "out", *settings)
    run = medshield(*arguments)
    stopping(0)
    assert run.code == 130
    assert "--resume" in run.err
    return source, arguments


@pytest.mark.parametrize("change", ["written", "added", "removed"])
def test_a_fit_whose_source_changed_is_not_resumed(tmp_path, stopping, change):
    source, arguments = interrupted_fit(tmp_path, stopping)
    if change == "removed":
        (source / "benign" / "0.png").unlink()
    else:
        png(source / "benign" / ("0.png" if change == "written" else "new.png"), 50)
    run = medshield(*arguments, "--resume")
    assert run.code == 2
    assert "the source changed" in run.err
    assert "remove it to start again" in run.err


def test_fit_without_a_seed_keeps_its_key_when_resumed(tmp_path, stopping):
    _, arguments = interrupted_fit(tmp_path, stopping, UNSEEDED)
    key = (tmp_path / "out.partial" / "key").read_text()
    assert medshield(*arguments, "--resume").code == 0
    assert (tmp_path / "out" / "key").read_text() == key


def test_fit_with_nothing_to_resume_starts_from_the_beginning(tmp_path):
    source = in_classes(tmp_path / "in")
    run = medshield("fit", source, "-o", tmp_path / "out", *TINY, "--resume")
    assert run.code == 0, run.err
    again = medshield("fit", source, "-o", tmp_path / "out", *TINY, "--resume")
    assert again.code == 2
    assert "already exists" in again.err


def test_a_fit_that_was_stopped_after_its_last_step_is_not_done_again(
    tmp_path, stopping, monkeypatch
):
    source = in_classes(tmp_path / "in")
    arguments = ("fit", source, "-o", tmp_path / "out", *TINY)

    def stopped(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medshield.fitting.forget_checkpoint", stopped)
        assert medshield(*arguments).code == 130
    written = stopping(0)
    assert medshield(*arguments, "--resume").code == 0
    assert written == []
    protected(source, tmp_path / "release", "--generator", tmp_path / "out")
