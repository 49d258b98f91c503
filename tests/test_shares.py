"""A release written by many jobs is the one that a single run writes."""

import json
import math
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from medshield import places, planning, pools
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.formats import Handling
from medshield.formats.png.codec import PngCodec
from medshield.methods import error_minimizing
from medshield.places import joined, locked
from medshield.protect_config import ProtectConfig
from tests.builders import dicom, in_classes, manifest, medshield, tree, with_table

EIGHT = ("--method", "synthetic", "--eps", "8/255", "--seed", "2")
EM = ("--method", "em", "--eps", "8/255", "--effort", "0.001", "--seed", "2", "--image-size", "32")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Games of a size for tests, and no processes but those that a test starts."""
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 1)
    monkeypatch.setattr(error_minimizing, "REFINING_STEPS", 2)
    monkeypatch.setattr(pools, "WORTH_STARTING", math.inf)


def mixed(root):
    source = in_classes(root, each=4)
    with_table(source, [], "nothing,here", "notes.csv")
    for number in range(3):
        dicom(source / "benign" / f"{number}.dcm")
    (source / "malignant" / "broken.png").write_bytes(b"no image")
    return source


def share(source, out, which, *options):
    return medshield("protect", source, "-o", out, *options, "--shard", which)


@pytest.mark.parametrize("options", [(*EIGHT, "--uid", "new"), EM])
def test_shares_make_what_one_run_makes(tmp_path, monkeypatch, options):
    source = mixed(tmp_path / "in")
    assert medshield("protect", source, "-o", tmp_path / "whole", *options).code == 3
    out = tmp_path / "out"
    first = share(source, out, "2/3", *options, "--json")
    assert first.code == 0, first.err
    monkeypatch.setattr(planning, "scan", lambda *_, **__: pytest.fail("scanned again"))
    others = [share(source, out, which, *options, "--json") for which in ("1/3", "3/3")]
    reports = [json.loads(run.out) for run in (first, *others)]
    assert [report["shard"] for report in reports] == ["2/3", "1/3", "3/3"]
    assert sum(report["written"] for report in reports) == len(manifest(tmp_path / "whole"))
    assert sum(report["refused"] for report in reports) == 1
    assert not out.exists()
    merged = medshield("merge", out, "--json")
    assert merged.code == 3, merged.err
    assert [entry["path"] for entry in merged.json["refused"]] == ["malignant/broken.png"]
    assert tree(out) == tree(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "out.private").iterdir()}
    assert left == {path.name for path in (tmp_path / "whole.private").iterdir()}
    assert not (tmp_path / "out.partial").exists()


def test_merge_waits_for_all_shares(tmp_path):
    source, out = in_classes(tmp_path / "in", each=3), tmp_path / "out"
    assert share(source, out, "1/2", *EIGHT).code == 0
    early = medshield("merge", out)
    assert early.code == 2
    assert "3 of 6 files are not written yet, such as benign/1.png; run the shards" in early.err
    assert not out.exists()
    assert share(source, out, "2/2", *EIGHT).code == 0
    run = medshield("merge", out)
    assert run.code == 0, run.err
    assert medshield("check", out, "--source", source).code == 0
    assert "already exists" in medshield("merge", out).err
    assert "already exists" in share(source, out, "1/2", *EIGHT).err


def test_there_is_nothing_to_merge(tmp_path):
    run = medshield("merge", tmp_path / "out")
    assert run.code == 2
    assert "no shares of such a release" in run.err
    assert not list(tmp_path.iterdir())


def test_a_share_goes_on_where_it_was(tmp_path, monkeypatch):
    source, out = in_classes(tmp_path / "in", each=4), tmp_path / "out"
    write, calls = PngCodec.write, []

    def writing(self, *arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PngCodec, "write", writing)
        assert share(source, out, "1/2", *EIGHT).code == 130
    run = share(source, out, "1/2", *EIGHT)
    assert run.code == 0
    assert "share 1 of 2: 2 written, 2 by an earlier run" in run.out
    assert share(source, out, "2/2", *EIGHT).code == 0
    assert medshield("merge", out).code == 0
    assert medshield("protect", source, "-o", tmp_path / "whole", *EIGHT).code == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_what_a_whole_run_began_shares_may_finish(tmp_path, monkeypatch):
    source, out = in_classes(tmp_path / "in", each=4), tmp_path / "out"
    assert share(source, out, "1/2", *EIGHT).code == 0
    run = medshield("protect", source, "-o", out, *EIGHT, "--resume")
    assert run.code == 0, run.err
    assert medshield("protect", source, "-o", tmp_path / "whole", *EIGHT).code == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_other_settings_are_refused(tmp_path):
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    assert share(source, out, "1/2", *EIGHT).code == 0
    run = share(source, out, "2/2", *EIGHT, "--min-ssim", "0.9")
    assert run.code == 2
    assert "other settings (min_ssim)" in run.err
    (source / "benign" / "new.png").write_bytes(b"new")
    assert "source changed" in share(source, out, "2/2", *EIGHT).err
    assert "source changed" in medshield("merge", out).err


def test_nothing_is_left_where_nothing_can_be_protected(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "notes.txt").write_text("no image")
    assert share(source, tmp_path / "out", "1/2", *EIGHT).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_share(tmp_path, text):
    run = share(in_classes(tmp_path / "in"), tmp_path / "out", text, *EIGHT)
    assert run.code == 2
    assert f"--shard: '{text}' is no share; expected I/N" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_one_share_is_written_by_one_job_and_none_beside_a_whole_run(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_BETWEEN_TRIES", 0.01)
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    assert share(source, out, "1/2", *EIGHT).code == 0
    private = tmp_path / "out.private"
    with locked(private / "shares" / "1-of-2"):
        assert "another run is writing" in share(source, out, "1/2", *EIGHT).err
        assert share(source, out, "2/2", *EIGHT).code == 0
    with locked(private):
        assert "another run is writing" in share(source, out, "1/2", *EIGHT).err
    with joined(private, lambda: True, pytest.fail, is_first=False):
        assert "another run is writing" in medshield("merge", out).err
        again = medshield("protect", source, "-o", out, *EIGHT, "--resume")
        assert "another run is writing" in again.err
    assert medshield("merge", out).code == 0


def test_without_locks_the_first_share_gets_ready_and_the_others_ask_for_it(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(places.fcntl, "flock", no_locks)
    source, out = in_classes(tmp_path / "in", each=2), tmp_path / "out"
    early = share(source, out, "2/2", *EIGHT)
    assert early.code == 2
    assert "start shard 1 of them" in early.err
    for which in ("1/2", "2/2"):
        assert share(source, out, which, *EIGHT).code == 0
    assert medshield("merge", out).code == 0


SMALL = """
from medshield.cli import main
from medshield.methods import error_minimizing
error_minimizing.MOST_TURNS, error_minimizing.REFINING_STEPS = 1, 2
main()
"""


def test_jobs_that_start_at_the_same_time(tmp_path):
    source = mixed(tmp_path / "in")
    assert medshield("protect", source, "-o", tmp_path / "whole", *EM).code == 3
    shutil.rmtree(tmp_path / "whole.private")
    command = [sys.executable, "-c", SMALL, "protect", source, "-o", tmp_path / "out", *EM]
    jobs = [
        subprocess.Popen(
            [*map(str, command), "--shard", f"{number}/3"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for number in (1, 2, 3)
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert medshield("merge", tmp_path / "out").code == 3
    statuses = {path: line["status"] for path, line in manifest(tmp_path / "out").items()}
    assert statuses == {path: line["status"] for path, line in manifest(tmp_path / "whole").items()}


def test_settings_are_read_as_they_were_written(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,label\n")
    config = ProtectConfig(
        tmp_path,
        target=tmp_path / "out",
        method="em",
        epsilon=Fraction(8, 255),
        annotations=AnnotationOptions(labels=tmp_path / "labels.csv", task="classification"),
        generator=tmp_path / "generator",
        handling=Handling(icons="remove"),
        uid="new",
        min_ssim=0.9,
    )
    kept = config.fingerprint()
    again = ProtectConfig.from_fingerprint(kept, tmp_path / "out", "cpu", 3)
    assert again.fingerprint() == kept
    assert (again.target, again.device, again.workers) == (tmp_path / "out", "cpu", 3)
    assert again.epsilon == config.epsilon
    assert again.annotations == config.annotations
    assert again.handling == config.handling
