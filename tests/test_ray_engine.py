"""A Ray cluster writes the release that one process writes, whoever of it dies."""

import os
import signal
import sys
from dataclasses import dataclass

import pytest

from medshield import engines, ray_engine, release_writer
from medshield.dataset.scanned import Scan, SourceFile
from medshield.errors import InputError, SourceLost, WorkerLost
from medshield.journal import Finished
from medshield.manifest import Record
from medshield.places import Places
from tests.builders import in_classes, medshield, tree

EIGHT = ("--method", "synthetic", "--eps", "8/255", "--seed", "2")


@dataclass(frozen=True)
class Given(engines.Order):
    """An order whose writer dies, always or once."""

    behaviour: str = "write"

    def writer(self):
        return self

    def written(self, block, _progress=None):
        mark = self.places.release / "died"
        for file in block:
            if file.path == "2" and (self.behaviour == "die" or not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield Finished(file.number, Record(file.path, "omitted", "txt"))


def order(tmp_path, behaviour):
    places = Places(tmp_path / "out")
    for folder in (places.release, places.partial, places.private):
        folder.mkdir()
    return Given(Scan(tmp_path, (), None, {}), places, "cpu", None, behaviour)


def blocks(count):
    return [[SourceFile(str(number), "omit")] for number in range(count)]


def test_the_same_bytes_on_a_cluster(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in", (".png", ".dcm"), each=4)
    whole, out = tmp_path / "whole" / "out", tmp_path / "out"
    assert medshield("protect", source, "-o", whole, *EIGHT, "--card").code == 0
    monkeypatch.setattr(release_writer, "BLOCK", 3)
    run = medshield(
        "protect", source, "-o", out, *EIGHT, "--card", "--engine", "ray", "--device", "cpu"
    )
    assert run.code == 0, run.err
    assert tree(out) == tree(whole)


def test_what_a_worker_that_died_had_to_do_is_done_again(tmp_path):
    kept, told = [], []
    ray_engine.write_on_ray(
        order(tmp_path, "once"), blocks(5), kept.append, address="local", tell=told.append
    )
    assert sum(told) == pytest.approx(sum(map(release_writer.work_of, blocks(5))))
    assert sorted(one.record.path for one in kept) == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "out" / "died").exists()


def test_a_block_that_kills_every_worker_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "MOST_RETRIES", 1)
    with pytest.raises(WorkerLost, match="--resume"):
        ray_engine.write_on_ray(order(tmp_path, "die"), blocks(3), [].append, address="local")


def test_a_machine_must_have_the_folders_and_the_versions(tmp_path):
    given = order(tmp_path, "write")
    ray_engine._see_machine(given, ray_engine.versions())
    for name in ("numpy", "imagecodecs", "jpeglib", "zlib"):
        with pytest.raises(InputError, match=f"another version of {name}; give all"):
            ray_engine._see_machine(given, {**ray_engine.versions(), name: "0.1"})
    given.places.partial.rmdir()
    with pytest.raises(SourceLost, match=r"out\.partial: not there on .*--resume"):
        ray_engine._see_machine(given, ray_engine.versions())


def test_without_ray_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    source = in_classes(tmp_path / "in")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--engine", "ray")
    assert run.code == 2
    assert "--engine ray: Ray is not installed; pip install 'medshield[cluster]'" in run.err


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    source = in_classes(tmp_path / "in")
    options = (*EIGHT, "--engine", "ray", "--ray-address", "ray://127.0.0.1:1")
    run = medshield("protect", source, "-o", tmp_path / "out", *options)
    assert run.code == 2
    assert "--ray-address ray://127.0.0.1:1: no Ray cluster can be reached there" in run.err
    assert "Traceback" not in run.err
