"""Targets that fail: one line, the contract's exit code, no release, and `--resume` finishes."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medshield.errors import InputError
from medshield.places import Places
from tests.builders import EIGHT, in_classes, medshield, state, tree

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (*EIGHT, "--seed", "3", "--workers", "1")
FAILURES = {
    errno.ENOSPC: "free some space, then run again with --resume",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "choose another place with -o",
    errno.EACCES: "you may write to",
    errno.EIO: "mend that and run again with --resume",
}


@pytest.fixture
def source(tmp_path):
    return in_classes(tmp_path / "in", (".png", ".dcm"))


@pytest.fixture
def whole(tmp_path, source):
    """What an uninterrupted run writes."""
    assert medshield("protect", source, "-o", tmp_path / "whole", *SETTINGS).code == 0
    return tree(tmp_path / "whole")


def failed(run, release, words=""):
    """See that a run failed as the contract says, and left nothing that looks finished."""
    assert run.code == 2, run
    assert run.err.count("\n") == 1, run.err
    assert words in run.err
    assert not os.path.lexists(release)


class Failing:
    """Calls a function a few times, and then fails.

    Args:
        call: the function.
        times: that it works.
        number: of the error.
    """

    def __init__(self, call, times, number):
        self.call, self.times, self.number = call, times, number

    def __call__(self, *arguments, **named):
        self.times -= 1
        if self.times < 0:
            raise OSError(self.number, os.strerror(self.number))
        return self.call(*arguments, **named)


@pytest.mark.parametrize("number", FAILURES)
def test_a_target_that_fails_when_files_get_their_names(
    tmp_path, source, whole, monkeypatch, number
):
    before, release = state(source), tmp_path / "out"
    for times in (0, 1, 3, 7, 11):
        with monkeypatch.context() as patch:
            failing = Failing(os.replace, times, number)
            patch.setattr(Path, "replace", lambda path, to, call=failing: call(path, to))
            run = medshield("protect", source, "-o", release, *SETTINGS, "--resume")
        failed(run, release, FAILURES[number])
    assert state(source) == before
    assert medshield("protect", source, "-o", release, *SETTINGS, "--resume").code == 0
    assert tree(release) == whole


@pytest.mark.parametrize("function", ["mkdir", "open", "fsync", "rename"])
def test_a_target_that_fails_at_any_call_of_the_system(
    tmp_path, source, whole, monkeypatch, function
):
    """At the first, and at later ones; what is only read goes on."""
    before, release, call = state(source), tmp_path / "out", getattr(os, function)
    for times in range(0, 12, 3):
        with monkeypatch.context() as patch:
            failing = Failing(call, times, errno.ENOSPC)

            def one(path, *arguments, failing=failing, **named):
                inside = function == "fsync" or str(path).startswith(str(release))
                writes = function != "open" or (arguments and arguments[0] & os.O_CREAT)
                return (failing if inside and writes else call)(path, *arguments, **named)

            patch.setattr(os, function, one)
            run = medshield("protect", source, "-o", release, *SETTINGS, "--resume")
        if run.code == 0:
            break
        failed(run, release, "No space left on device")
    assert state(source) == before
    if run.code:
        assert medshield("protect", source, "-o", release, *SETTINGS, "--resume").code == 0
    assert tree(release) == whole


def limited_run(most, *arguments):
    """The command in a process that can't write files of more than `most` bytes."""
    command = [sys.executable, "-m", "medshield", *map(str, arguments)]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )


def test_writes_that_the_system_really_cuts_short(tmp_path, source, whole):
    """The first is too small for the plan, the second for images, the third for the papers."""
    before, release = state(source), tmp_path / "out"
    for most in (100, 1_500, 4_000):
        run = limited_run(most, "protect", source, "-o", release, *SETTINGS, "--resume", "-q")
        assert run.returncode == 2, run
        assert run.stderr.count("\n") == 1, run.stderr
        assert "can't be written (File too large)" in run.stderr
        assert not release.exists()
    assert state(source) == before
    assert medshield("protect", source, "-o", release, *SETTINGS, "--resume").code == 0
    assert tree(release) == whole


@pytest.mark.external
def test_a_disk_that_fills_up_at_any_moment(tmp_path, source, whole, program):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = program("mount")
    words = [mount, "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    before, release = state(source), disk / "out"
    try:
        for size in (8, 16, 24, 32, 40, 48):
            words = [mount, "-o", f"remount,size={size}k", str(disk)]
            subprocess.run(words, check=True, capture_output=True)
            run = medshield("protect", source, "-o", release, *SETTINGS, "--resume")
            failed(run, release, "No space left on device")
        words = [mount, "-o", "remount,size=9m", str(disk)]
        subprocess.run(words, check=True, capture_output=True)
        run = medshield("protect", source, "-o", release, *SETTINGS, "--resume")
        assert run.code == 0, run.err
        assert tree(release) == whole
    finally:
        subprocess.run([program("umount"), str(disk)], check=True)
    assert state(source) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("command", ["protect", "fit"])
def test_a_target_that_belongs_to_somebody_else(tmp_path, source, command):
    run = medshield(command, source, "-o", tmp_path / "mine", *EIGHT)  # imports all that it needs
    assert run.code == 0, run.err
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "theirs").mkdir(mode=0o755)
    release = tmp_path / "theirs" / "out"
    os.seteuid(65534)
    try:
        run = medshield(command, source, "-o", release, *EIGHT)
    finally:
        os.seteuid(0)
    assert run.code == 2, run
    assert run.err.count("\n") == 1
    assert "you may write to" in run.err
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_mistake_when_a_run_is_resumed_takes_nothing_away(tmp_path, source, whole, monkeypatch):
    """Such as a device that this machine does not have."""
    release = tmp_path / "out"
    with monkeypatch.context() as patch:
        failing = Failing(os.replace, 9, errno.ENOSPC)
        patch.setattr(Path, "replace", lambda path, to: failing(path, to))
        failed(medshield("protect", source, "-o", release, *SETTINGS), release)
    left = state(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("medshield.fitting.pick_device", no_device)
        failed(medshield("protect", source, "-o", release, *SETTINGS, "--resume"), release)
    lost = left.keys() - state(tmp_path).keys()
    assert {path for path in lost if "scratch" not in path} == set()  # there, halves may go
    assert medshield("protect", source, "-o", release, *SETTINGS, "--resume").code == 0
    assert tree(release) == whole


def no_device(_name):
    raise InputError("--device cuda: there is none here; take cpu")


STOPPED = """
import os, signal
from medshield import cli
from medshield.formats.png.codec import PngCodec
write, done = PngCodec.write, []
def writing(*arguments):
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    return write(*arguments)
PngCodec.write = writing
cli.main()
"""


def test_two_processes_on_one_target(tmp_path, source, whole):
    release = tmp_path / "out"
    words = ("protect", source, "-o", release, *SETTINGS)
    first = subprocess.Popen([sys.executable, "-c", STOPPED, *map(str, words), "-q"], cwd=ROOT)
    os.waitpid(first.pid, os.WUNTRACED)
    try:
        left = state(tmp_path)
        for more in ((), ("--resume",)):
            failed(medshield(*words, *more), release, "another run is writing")
        assert state(tmp_path) == left
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert tree(release) == whole


def test_another_run_that_finished_while_this_one_read_the_source(tmp_path, source, monkeypatch):
    """Both find nothing at the start; the slower one must leave the other's key alone."""
    release = tmp_path / "out"
    from medshield import protecting

    planned = protecting.planned

    def slow(*arguments):
        found = planned(*arguments)
        monkeypatch.setattr(protecting, "planned", planned)
        assert medshield("protect", source, "-o", release, *SETTINGS).code == 0
        return found

    for more in ((), ("--resume",)):
        monkeypatch.setattr(protecting, "planned", slow)
        run = medshield("protect", source, "-o", release, *EIGHT[:2], "--eps", "9/255", *more)
        assert run.code == 2
        assert run.err.count("\n") == 1
        assert medshield("check", release, "--source", source).code == 0
        again = tmp_path / "again"
        kept = Places(release).private / "generator"
        assert medshield("protect", source, "-o", again, "--generator", kept).code == 0
        for made in (release, again):
            for folder in Places(made).all():
                if folder.exists():
                    folder.rename(tmp_path / f"{folder.name}-{len(list(tmp_path.iterdir()))}")


def test_two_fits_of_one_generator(tmp_path, source, monkeypatch):
    from medshield import fitting

    fitted, second = fitting._fitted, []

    def slow(*arguments):
        monkeypatch.setattr(fitting, "_fitted", fitted)
        second.append(medshield("fit", source, "-o", tmp_path / "generator", *EIGHT))
        return fitted(*arguments)

    monkeypatch.setattr(fitting, "_fitted", slow)
    assert medshield("fit", source, "-o", tmp_path / "generator", *EIGHT).code == 0
    assert second[0].code == 2
    assert "another run" in second[0].err
    generator = tmp_path / "generator"
    run = medshield("protect", source, "-o", tmp_path / "out", "--generator", generator)
    assert run.code == 0, run.err
