"""Several processes, started by torchrun, do together what one does alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medshield import models, processes
from medshield.errors import InputError
from medshield.processes import Processes
from medshield.states import read_state
from tests.builders import in_classes, medshield, tree, without_seconds
from tests.test_verify import make_set, protect

ROOT = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
QUICK = ("--cells", "small_convnet", "--epochs", "2", "--workers", "2", "--image-size", "32")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def run(*command):
    """Python with these arguments, every process of one thread."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    source = make_set(tmp_path_factory.mktemp("together") / "images", patients=24, each=2)
    return protect(source, source.with_name("release"), "random-noise")


def trials(folder):
    return {path.name for path in (folder / "verify" / "trials").iterdir()}


def test_two_processes_verify_as_one_does(release, tmp_path):
    private = release.with_name("release.private")
    reports = tmp_path / "together", tmp_path / "alone"
    together = run(*TORCHRUN, "-m", "medshield", "verify", release, *QUICK, "-o", reports[0])
    assert together.stdout.count("INCONCLUSIVE") == 1, together.stderr
    made = trials(private)
    assert len([name for name in made if name.endswith(".npz")]) == 3 + 3 + 1
    assert not any(name.startswith("seen-by-all") for name in made)
    (private / "verify").rename(tmp_path / "first")
    alone = run("-m", "medshield", "verify", release, *QUICK, "-o", reports[1])
    assert trials(private) == made
    first, second = (json.loads((folder / "report.json").read_text()) for folder in reports)
    assert without_seconds(first) == without_seconds(second)
    text = [
        re.sub(r"\d+ s\b", "", run.stdout.replace(str(folder), ""))
        for run, folder in zip((together, alone), reports, strict=True)
    ]
    assert text[0] == text[1]


ABORTED = """
import atexit, os
if os.environ["RANK"] == "1":
    atexit.register(os.abort)
from medshield.cli import main
main()
"""


def test_what_libraries_do_at_the_end_of_one_process_keeps_no_other_from_its_verdict(
    release, tmp_path
):
    script = tmp_path / "script.py"
    script.write_text(ABORTED)
    together = run(*TORCHRUN, script, "verify", release, *QUICK)
    assert together.stdout.count("INCONCLUSIVE") == 1, together.stderr
    assert re.search(r"exitcode *: 5 ", together.stderr), together.stderr


SHARED_FITS = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from medshield import processes
from medshield.methods import METHODS, adversarial_targeted, base, error_minimizing
from medshield.methods.published import stable_noise, surrogate, unlearnable_examples
from medshield.methods.surrogates import FreshSurrogate
from medshield.states import write_state
from tests.test_methods import SMALL_LINEUP, examples, setting
torch.set_default_dtype(torch.float64)  # optimisers make much of roundings in single precision
base.BLOCK = error_minimizing.BLOCK = 8
adversarial_targeted.TRIAL_STEPS = 200
adversarial_targeted.MisleadingSeveral.lineup = SMALL_LINEUP
adversarial_targeted.AdversarialTargeted.lineup = (FreshSurrogate("resnet18", "unet_resnet18"),)
error_minimizing.MOST_TURNS = error_minimizing.REFINING_STEPS = 1
error_minimizing.ErrorMinimizing._architectures = lambda _: ("small_convnet",)
surrogate.CLASSIFIER = "small_convnet"
unlearnable_examples.BATCHES_A_ROUND = unlearnable_examples.NOISE_STEPS = 2
stable_noise.DRAWS = stable_noise.NOISE_STEPS = 2
out = {}
with processes.joined():
    for name, task, effort, count in (
        ("advt", "segmentation", 0.05, 11),
        ("robust", "classification", 0.1, 11),
        ("tap", "multilabel", 0.1, 11),
        ("tap", "classification", 0.1, 1),  # one process has no row
        ("huang-em", "classification", 0.04, 11),
        ("sem", "classification", 0.02, 11),
        ("em", "classification", 0.01, 81),
    ):
        crew = processes.current()
        method = METHODS[name](replace(setting(task, effort=effort), crew=crew))
        images, targets, _ = examples(task, count=max(count, 11))
        images, targets = images[-count:].double(), targets[-count:]
        method.fit(images, targets.double() if targets.is_floating_point() else targets)
        out[f"{name} {task} {count}"] = {key: each.clone() for key, each in method.state().items()}
    # One alone while the others wait, as `verify` has a denoiser's pairs made.
    processes.in_turn(lambda: METHODS["tap"](setting(effort=0.1)).fit(*examples()[:2]))
write_state(out, Path(sys.argv[1]) / os.environ.get("RANK", "alone"))
"""


def test_processes_that_share_a_fit_learn_what_one_learns_but_for_rounding(tmp_path):
    script = tmp_path / "fits.py"
    script.write_text(SHARED_FITS)
    together, alone = run(*TORCHRUN, script, tmp_path), run(script, tmp_path)
    assert together.returncode == alone.returncode == 0, together.stderr + alone.stderr
    first, second, known = (read_state(tmp_path / name) for name in ("0", "1", "alone"))
    for name, state in known.items():
        for key, value in state.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            assert torch.allclose(first[name][key], value, atol=1e-9), (name, key)


def test_what_is_fitted_at_once_is_fitted_by_two_processes_too(tmp_path):
    source, target = in_classes(tmp_path / "in"), tmp_path / "generator"
    settings = ("--method", "synthetic", "--eps", "8/255", "--json")
    ended = run(*TORCHRUN, "-m", "medshield", "fit", source, "-o", target, *settings)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["method"] == "synthetic"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "generator"}


STOPPED = """
import os, signal
from medshield import checkpoint
from medshield.cli import main
checkpoint.SECONDS_BETWEEN, checkpoint.SHARE_OF_TIME = 0.0, 1e9
write, done = checkpoint.write_state, []
def writing(*arguments):
    write(*arguments)
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_state = writing
main()
"""


def test_two_processes_fit_one_generator_and_go_on_with_it(tmp_path):
    source, script = in_classes(tmp_path / "in", each=6), tmp_path / "stopped.py"
    script.write_text(STOPPED)
    settings = ("--method", "tap", "--eps", "8/255", "--effort", "0.08", "--image-size", "32")
    command = ("fit", source, *settings, "--seed", "3")
    whole = run(*TORCHRUN, "-m", "medshield", *command, "-o", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count(": a generator") == 1
    stopped = run(*TORCHRUN, script, *command, "-o", tmp_path / "other")
    assert stopped.returncode != 0
    assert (tmp_path / "other.partial" / "fitting.safetensors").is_file()
    again = run(*TORCHRUN, "-m", "medshield", *command, "-o", tmp_path / "other", "--resume")
    assert again.returncode == 0, again.stderr
    assert tree(tmp_path / "other") == tree(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "stopped.py", "whole", "other"}


DYING = """
import os, signal, sys
from medshield import trials
from medshield.cli import main
train = trials._train
def dying(job):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return train(job)
trials._train = dying
main()
"""


def test_where_one_process_dies_all_end_and_nothing_is_reported(release, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    output = tmp_path / "report"
    settings = (*QUICK[:-4], "--workers", "1", "--image-size", "32", "--seed", "7")
    ended = run(*TORCHRUN, script, "verify", release, *settings, "-o", output)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert not output.exists()


def test_a_folder_that_not_all_see_is_told_before_anything_is_trained(release, tmp_path):
    script = tmp_path / "apart.py"
    script.write_text("""
import os
from dataclasses import replace
from pathlib import Path
from medshield import preparation, processes, rounds
from medshield.cli import main
processes.SECONDS_TO_APPEAR = 1.0
Preparation = preparation.Preparation
preparation.Preparation = lambda **facts: Preparation(
    **{**facts, "cache": Path(os.environ["APART"]) / os.environ["RANK"]}
)
rounds.trials.run_all = lambda *_: print("trained")
main()
""")
    os.environ["APART"] = str(tmp_path)
    try:
        ended = run(*TORCHRUN, script, "verify", release, *QUICK, "-o", tmp_path / "report")
    finally:
        del os.environ["APART"]
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "1 of 2 processes don't see what the first one writes there" in ended.stderr
    assert not (tmp_path / "report").exists()


def test_what_shares_no_work_says_so(monkeypatch, tmp_path):
    source = in_classes(tmp_path / "in")
    before = tree(tmp_path)
    for name, value in zip(VARIABLES, "0202", strict=True):
        monkeypatch.setenv(name, value)
    ended = medshield("protect", source, "--eps", "8/255")
    assert ended.code == 2
    assert "start it without torchrun" in ended.err
    assert tree(tmp_path) == before


def test_every_item_is_one_process_s():
    items = list(range(7))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) == 1
    assert Processes().share(items) == items


def test_a_machine_s_workers_are_dealt_out():
    assert [Processes(0, 4, 0, 4).workers(each) for each in (8, 6, 1)] == [2, 1, 1]
    assert Processes().workers(8) == 8


@pytest.mark.parametrize("values", ["2222", "x202", "0000", "-1 2 0 2"])
def test_variables_that_contradict_each_other_are_one_line(monkeypatch, values):
    for name, value in zip(VARIABLES, values.split() if " " in values else values, strict=True):
        monkeypatch.setenv(name, value)
    ended = medshield("scan", ".", "--json")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "start with torchrun, or unset them" in ended.err


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert models.pick_device("auto") == torch.device("cuda")
    for name, value in zip(VARIABLES, "1414", strict=True):
        monkeypatch.setenv(name, value)
    assert models.pick_device("auto") == torch.device("cuda", 1)
    assert models.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="4 processes on a machine with 2 GPUs"):
        models.pick_device("auto")


def test_alone_nothing_is_joined():
    code = """
import sys
from medshield import processes
with processes.joined():
    assert processes.agreed([True, False]) == [True, False]
    assert processes.in_turn(lambda: 3) == 3
print("torch" in sys.modules)
"""
    assert run("-c", code).stdout == "False\n"
    assert processes.current() == Processes()
