"""Files written by several processes: the same bytes, and an orderly end whoever dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from medshield import engines, release_writer
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError, SourceLost, WorkerLost
from medshield.journal import Finished
from medshield.manifest import Record
from medshield.methods import error_minimizing
from medshield.places import Places, locked
from tests.builders import dicom, in_classes, medshield, tree, with_table

TINY = (
    "--method",
    "em",
    "--eps",
    "8/255",
    "--effort",
    "0.001",
    "--seed",
    "2",
    "--image-size",
    "32",
)
EIGHT = ("--method", "synthetic", "--eps", "8/255", "--seed", "2")


@pytest.fixture
def quick_to_start(monkeypatch):
    """Processes write from the second block on, and blocks of five files; returns how many."""
    begun, here, write = [], engines.write_here, engines.write_in_processes

    def little_here(*arguments, most_seconds, tell):
        return here(*arguments, most_seconds=None if most_seconds is None else 0.0, tell=tell)

    def counting(*arguments, **named):
        begun.append(named["count"])
        write(*arguments, **named)

    monkeypatch.setattr(release_writer, "BLOCK", 5)
    monkeypatch.setattr(engines, "write_here", little_here)
    monkeypatch.setattr(engines, "write_in_processes", counting)
    return begun


def mixed(root):
    source = in_classes(root, (".png", ".jpg"), each=3)
    with_table(source, [], "nothing,here", "notes.csv")
    dicom(source / "benign" / "slice.dcm")
    (source / "malignant" / "broken.png").write_bytes(b"no image")
    return source


@pytest.mark.parametrize("options", [TINY, (*EIGHT, "--uid", "new", "--min-ssim", "0.97")])
def test_the_same_bytes_by_any_number_of_processes(tmp_path, quick_to_start, monkeypatch, options):
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 1)  # only this process fits
    source = mixed(tmp_path / "in")
    for workers in (1, 3):
        out = tmp_path / str(workers)
        run = medshield("protect", source, "-o", out, *options, "--workers", workers)
        assert run.code == 3, run.err
    assert quick_to_start == [3]
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    assert (tmp_path / "1.private" / "SOURCE_SHA256SUMS").read_text() == (
        tmp_path / "3.private" / "SOURCE_SHA256SUMS"
    ).read_text()


def test_a_source_that_vanishes_stops_every_process(tmp_path, quick_to_start, monkeypatch):
    source = in_classes(tmp_path / "in", each=6)
    whole = tmp_path / "whole"
    assert medshield("protect", source, "-o", whole, *EIGHT, "--workers", "1").code == 0
    write = engines.write_in_processes

    def lost(*arguments, **named):
        source.rename(tmp_path / "away")
        source.mkdir()
        write(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(engines, "write_in_processes", lost)
        run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--workers", "2")
    assert run.code == 2
    assert f"{source}: the source can't be read any more" in run.err
    source.rmdir()
    (tmp_path / "away").rename(source)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume")
    assert run.code == 0, run.err
    assert tree(tmp_path / "out") == tree(whole)


def test_what_the_target_says_is_one_line(tmp_path, quick_to_start, monkeypatch):
    source = in_classes(tmp_path / "in", each=6)
    write = engines.write_in_processes

    def barred(order, *arguments, **named):
        (order.places.partial / "benign").rename(tmp_path / "elsewhere")
        (order.places.partial / "benign").write_bytes(b"a file where a folder should be")
        write(order, *arguments, **named)

    monkeypatch.setattr(engines, "write_in_processes", barred)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--workers", "2")
    assert run.code == 2
    assert "out: can't be written (" in run.err
    assert "Traceback" not in run.err


@dataclass(frozen=True)
class Given(engines.Order):
    """An order whose writer behaves as told."""

    behaviour: str = "write"

    def writer(self):
        return self

    def written(self, block, progress):
        for file in block:
            if self.behaviour == "halfway":
                progress(0.5)
                time.sleep(1)
                progress(0.25)  # which is told to nobody
            if self.behaviour == "die" and file.path == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.behaviour == "raise" and file.path == "1":
                raise SourceLost("gone")
            if self.behaviour == "wait":
                (self.places.release / str(os.getpid())).write_text(file.path)
                time.sleep(60)
            yield Finished(file.number, Record(file.path, "omitted", "txt"))


def order(tmp_path, behaviour):
    return Given(Scan(tmp_path, (), None, {}), Places(tmp_path), "cpu", None, behaviour)


def blocks(count):
    return [[SourceFile(str(number), "omit")] for number in range(count)]


def written(tmp_path, behaviour, count=5):
    kept = []
    with locked(tmp_path) as lock:
        given = order(tmp_path, behaviour)
        try:
            engines.write_in_processes(given, blocks(count), kept.append, count=2, lock=lock)
        except InputError as error:
            return kept, error
    return kept, None


def test_a_process_that_is_killed_ends_the_run_with_one_line(tmp_path):
    kept, error = written(tmp_path, "die")
    assert isinstance(error, WorkerLost)
    assert "--resume" in str(error)
    assert {one.record.path for one in kept} <= {"0", "2", "3", "4"}


@pytest.mark.parametrize("count", [1, 5])
def test_progress_within_blocks_is_told_by_processes_too(tmp_path, monkeypatch, count):
    monkeypatch.setattr(engines, "SECONDS_BETWEEN_LOOKS", 0.05)
    files = [SourceFile(str(number), "protect", shape=(2, 8, 8, 1)) for number in range(count)]
    told = []
    with locked(tmp_path) as lock:
        engines.write_in_processes(
            order(tmp_path, "halfway"),
            [[file] for file in files],
            lambda _: None,
            count=2,
            lock=lock,
            tell=told.append,
        )
    a_block = release_writer.work_of(files[:1])
    assert told == pytest.approx([a_block / 2] * 2 * count)


def test_progress_within_blocks_is_told_by_this_process(tmp_path):
    files = [[SourceFile(str(number), "protect", shape=(2, 8, 8, 1))] for number in range(2)]
    told = []
    writer = order(tmp_path, "halfway")
    engines.write_here(writer, files, lambda _: None, most_seconds=None, tell=told.append)
    assert told == pytest.approx([release_writer.work_of(files[0]) / 2] * 4)


def test_what_others_finish_is_kept_when_one_fails(tmp_path):
    kept, error = written(tmp_path, "raise")
    assert isinstance(error, SourceLost)
    assert {one.record.path for one in kept} >= {"0"}


WAITING = """
import sys
from pathlib import Path
from medshield import engines
from medshield.places import locked
from tests.test_engines import blocks, order
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with locked(folder) as lock:
        waiting = order(folder, "wait")
        engines.write_in_processes(waiting, blocks(2), print, count=2, lock=lock)
"""


def test_processes_end_with_the_one_that_started_them_and_hold_its_lock_until_then(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    at_work = tmp_path / "release"
    at_work.mkdir()
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, tmp_path / "waiting.py", at_work],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,  # Python says that semaphores are left
    )
    wait_for(lambda: len(list(at_work.iterdir())) == 2)
    with pytest.raises(InputError, match="another run"), locked(at_work):
        pass
    workers = [int(path.name) for path in at_work.iterdir()]
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_alive(worker) for worker in workers))
    wait_for(lambda: can_lock(at_work))


def wait_for(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def can_lock(folder):
    try:
        with locked(folder):
            return True
    except InputError:
        return False
