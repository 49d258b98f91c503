"""The recipes of docs/cluster.md are run, or at least read by what would read them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.builders import in_classes, manifest
from tests.snippets import blocks, commands, understood

DOCUMENT = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()


@pytest.fixture
def medshield_on_path(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "medshield"
    root = Path(__file__).parents[1]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m medshield "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def test_the_slurm_recipe_writes_a_release(tmp_path, medshield_on_path):
    in_classes(tmp_path / "ct", each=3)
    job, submit = (block.replace("/data", str(tmp_path)) for block in blocks(DOCUMENT, "bash"))
    job = job.replace("--eps 8/255", "--eps 8/255 --method synthetic")
    for number in (2, 1):
        slurm = {
            "SLURM_ARRAY_TASK_ID": str(number),
            "SLURM_ARRAY_TASK_COUNT": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        environment = medshield_on_path | slurm
        subprocess.run(["bash", "-e", "-c", job], check=True, env=environment)
    (merge,) = re.findall(r'--wrap "(.*)"', submit)
    subprocess.run(["bash", "-c", merge], check=True, env=medshield_on_path)
    assert len(manifest(tmp_path / "ct-release")) == 6
    subprocess.run(["bash", "-n", "-c", submit], check=True)


def test_the_kubernetes_job_gives_options_that_exist(monkeypatch):
    """What is in `console` blocks, tests/test_docs.py reads in all documents."""
    for variable in [name for name in os.environ if name.startswith("MEDSHIELD_")]:
        monkeypatch.delenv(variable)
    (job,) = [next(yaml.safe_load_all(block)) for block in blocks(DOCUMENT, "yaml")]
    (words,) = commands(job["spec"]["entrypoint"])
    assert understood(words)["ray_address"] == "auto"


def test_the_kubernetes_recipe_mounts_what_it_names():
    (job,) = [next(yaml.safe_load_all(block)) for block in blocks(DOCUMENT, "yaml")]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
