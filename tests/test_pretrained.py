"""Victims that start from ImageNet, with random numbers in place of its weights: no network."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from medshield import pretrained, trials
from medshield.budget import Budget
from medshield.dataset.examples import Examples
from medshield.errors import InputError
from medshield.pretrained import Pretrained, Weights, find_weights, read_state
from medshield.tasks import Classification
from medshield.threats import cells_of, parse_cell
from medshield.trials import FINE_TUNED, PROBE, Cell, Job, Parts, Schedule
from tests.test_verify import make_set, protect, run

NAME = "mobilenetv3_small_100"
SCHEDULE = Schedule(2, 1, Budget(Fraction(4, 255)), adversary_steps=1)


@pytest.fixture(scope="module")
def whole_state():
    """A state dict as timm has it, ImageNet's 1,000 classes included."""
    torch.manual_seed(0)
    return timm.create_model(NAME).state_dict()


@pytest.fixture(scope="module")
def weights_file(whole_state, tmp_path_factory):
    """The same tensors as other code would name them."""
    path = tmp_path_factory.mktemp("weights") / "other-names.pth"
    renamed = {
        f"_{number}.{name.rpartition('.')[2]}": value
        for number, (name, value) in enumerate(whole_state.items())
    }
    torch.save(renamed, path)
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fetching fails at once."""
    backbone = pretrained._backbone

    def offline(name, *, pretrained=False):
        if pretrained:
            raise OSError("no network")
        return backbone(name)

    monkeypatch.setattr("medshield.pretrained._backbone", offline)


@pytest.fixture(autouse=True)
def small_victims(monkeypatch):
    monkeypatch.setattr("medshield.pretrained.SMALLEST_SIDE", 32)


def examples(count, seed, channels=1):
    """Dark and bright images."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    images = 0.2 * torch.rand(count, channels, 8, 8, generator=generator) + 0.2
    images += 0.5 * targets[:, None, None, None]
    return Examples(
        images, targets, tuple(map(str, range(count))), np.arange(count), np.full(count, "")
    )


@pytest.fixture
def job(weights_file, tmp_path):
    validation = examples(8, 1)
    return Job(
        task=Classification(("dark", "bright")),
        cell=Cell(NAME, PROBE),
        schedule=SCHEDULE,
        parts=Parts(examples(48, 0), validation, validation, examples(12, 2)),
        seed=0,
        device=torch.device("cpu"),
        cache=tmp_path / "trials",
        keep_model=True,
        weights=Weights.of(weights_file),
    )


def changed(job):
    """The names of the victim's tensors that training changed."""
    before = trials.fresh_victim(job).state_dict()
    job.run()
    after = job.kept_model().state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_other_names_in_the_same_order_are_the_same_weights(weights_file, whole_state):
    victim = pretrained.build(NAME, 3, Weights.of(weights_file))
    loaded = victim.backbone.state_dict()
    assert loaded
    assert all(torch.equal(loaded[name], whole_state[name]) for name in loaded)


def test_timm_s_own_names_load_from_safetensors(whole_state, tmp_path):
    path = tmp_path / "timm.safetensors"
    save_file(whole_state, path)
    victim = pretrained.build(NAME, 3, Weights.of(path))
    loaded = victim.backbone.state_dict()
    assert all(torch.equal(loaded[name], whole_state[name]) for name in loaded)


def test_files_without_counters_and_head_load_too(whole_state, tmp_path):
    path = tmp_path / "old.pth"
    kept = list(whole_state.items())[:-2]
    torch.save({f"m.{n}": v for n, v in kept if not n.endswith("num_batches_tracked")}, path)
    found, lacking = find_weights([NAME], [path], tmp_path)
    assert (found[NAME].path, lacking) == (path, {})


def unknown_tensors(path):
    torch.save({"weight": torch.zeros(3)}, path)


def swapped(path):
    state = list(timm.create_model(NAME).state_dict().items())
    state[1], state[2] = state[2], state[1]  # weight and bias of a batch norm, equal in shape
    torch.save({f"m.{name}": value for name, value in state}, path)


def not_torch(path):
    path.write_bytes(b"no weights here")


def code(path):
    torch.save(Path(), path)


def numbers(path):
    torch.save({"epoch": 3}, path)


@pytest.mark.parametrize("make", [unknown_tensors, swapped, not_torch, code, numbers, Path.mkdir])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", f"{NAME}="])
def test_wrong_files_are_refused_in_one_line(make, suffix, prefix, tmp_path):
    path = tmp_path / f"wrong{suffix}"
    make(path)
    with pytest.raises(InputError, match=rf"^[^\n]*wrong{suffix}: weights [^\n]*$"):
        find_weights([NAME], [Path(f"{prefix}{path}")], tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        find_weights([NAME], [tmp_path / "absent.pth"], tmp_path)


def test_files_are_not_read_where_no_cell_needs_them(tmp_path):
    assert find_weights([], [tmp_path / "absent.pth"], tmp_path) == ({}, {})


def test_without_file_and_network_the_reason_says_what_to_do(tmp_path):
    found, lacking = find_weights([NAME], [], tmp_path)
    assert found == {}
    assert "--weights FILE, or leave the cell out" in lacking[NAME]


def test_what_libraries_say_of_a_download_is_no_result(tmp_path, capsys):
    find_weights([NAME], [], tmp_path)
    assert capsys.readouterr().out == ""


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("medshield.pretrained._backbone", None)
    assert find_weights([NAME], [], tmp_path, fetch=False) == ({}, {})


def test_weights_are_downloaded_once(tmp_path, monkeypatch):
    calls = []

    def fetched(name, *, pretrained=False):
        calls.append(pretrained)
        return timm.create_model(NAME, num_classes=0)

    monkeypatch.setattr("medshield.pretrained._backbone", fetched)
    first = find_weights([NAME], [], tmp_path / "trials")
    assert find_weights([NAME], [], tmp_path / "trials") == first
    assert calls == [True]
    assert pretrained.build(NAME, 2, first[0][NAME])


def test_a_probe_leaves_the_backbone_as_it_was(job):
    assert changed(job) == {"head.weight", "head.bias"}


def test_fine_tuning_changes_all_layers_and_statistics(job):
    tuned = replace(job, cell=Cell(NAME, FINE_TUNED))
    names = changed(tuned)
    assert {name for name, _ in tuned.kept_model().named_parameters()} <= names
    assert any(name.endswith("running_mean") for name in names)


def test_a_probe_learns(job):
    schedule = replace(SCHEDULE, standard=6)
    random = replace(job, cell=Cell("resnet18", PROBE), schedule=schedule, weights=None)
    assert random.run().test_scores[-1]["balanced_accuracy"] > 0.9


@pytest.mark.parametrize("countermeasure", ["none", "blur"])
def test_a_probe_s_model_predicts_what_the_trial_kept(job, countermeasure):
    keeping = replace(job, cell=Cell(NAME, PROBE, countermeasure))
    trial = keeping.run()
    images = keeping.parts.test.images
    for counter in keeping.cell.countermeasures:
        images = counter.on_test_images(images)
    with torch.no_grad():
        found = keeping.kept_model().eval()(images).softmax(1)
    assert found.numpy() == pytest.approx(trial.predictions[trials.LAST], abs=1e-5)


def test_a_trial_is_named_by_its_weights(job):
    other = replace(job, weights=replace(job.weights, sha256="0"))
    moved = replace(job, weights=replace(job.weights, path=Path("elsewhere")))
    assert other.place != job.place == moved.place
    assert replace(job, cell=Cell(NAME, FINE_TUNED)).place != job.place


@pytest.mark.parametrize(
    ("name", "seen_red"),
    [("efficientnet_lite0", (0.6 - 0.5) / 0.5), ("resnet18", (0.6 - 0.485) / 0.229)],
)
def test_the_victim_sees_large_normalised_colour_images(name, seen_red, monkeypatch):
    monkeypatch.setattr("medshield.pretrained.SMALLEST_SIDE", 128)
    victim = Pretrained(name, 2)
    seen = []

    def record(images):
        seen.append(images)
        return torch.zeros(len(images), victim.head.in_features)

    monkeypatch.setattr(victim.backbone, "forward", record)
    victim(torch.full((2, 1, 32, 32), 0.6))
    victim(torch.rand(2, 3, 160, 160))
    assert [images.shape for images in seen] == [(2, 3, 128, 128), (2, 3, 160, 160)]
    assert seen[0][:, 0].unique().tolist() == pytest.approx([seen_red], abs=1e-5)


def test_pretrained_cells_have_pretrained_victims():
    assert parse_cell("efficientnet_lite0:probe:blur") == Cell("efficientnet_lite0", PROBE, "blur")
    for victim in ("small_convnet", "unet_resnet18", "vit_tiny"):
        with pytest.raises(InputError, match="ImageNet weights are for"):
            parse_cell(f"{victim}:fine-tuned")


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_determined_declares_them(task):
    found = [cell.name for cell in cells_of("determined", task) if cell.is_pretrained]
    assert found == [
        "efficientnet_lite0:fine-tuned",
        "efficientnet_lite0:probe",
        "resnet18:fine-tuned",
    ]
    assert not any(cell.is_pretrained for cell in cells_of("determined", "segmentation"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    source = make_set(tmp_path_factory.mktemp("pretrained") / "images", patients=12)
    return protect(source, source.with_name("release"), "random-noise")


QUICK = ["--epochs", 1, "--seeds", 1, "--workers", 1, "--json", "-q"]


def test_verify_takes_weights_and_names_the_file(release, weights_file, monkeypatch):
    monkeypatch.setenv("MEDSHIELD_WEIGHTS", f"{NAME}={weights_file}")
    cells = f"{NAME}:probe,{NAME}:fine-tuned"
    result = run("verify", release, "--threat", "determined", "--cells", cells, *QUICK)
    document = json.loads(result.stdout)
    assert [cell["cell"] for cell in document["cells"]] == cells.split(",")
    (facts,) = document["weights"].values()
    assert facts["file"] == weights_file.name
    assert str(weights_file.parent) not in result.stdout


def test_a_named_cell_without_weights_ends_before_any_training(release, monkeypatch):
    monkeypatch.setattr("medshield.trials._train", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match=f"weights of {NAME} could not be fetched"):
        run("verify", release, "--cells", f"small_convnet,{NAME}:probe", *QUICK)
    source, output = release.with_name("images"), release.with_name("benchmark")
    with pytest.raises(InputError, match=f"weights of {NAME} could not be fetched"):
        run("benchmark", source, "-o", output, "--cells", f"{NAME}:probe", "--epochs", 1)
    assert not list((output / "images").iterdir())


def test_a_level_without_weights_is_incomplete(release, monkeypatch):
    declared = (Cell("small_convnet"), Cell(NAME, PROBE))
    level = dict.fromkeys(declared, "determined")
    monkeypatch.setattr("medshield.chosen_cells.declared_cells", lambda *_: level)
    result = run("verify", release, "--threat", "determined", *QUICK)
    document = json.loads(result.stdout)
    (reason,) = document["not_run"]["determined"]
    assert reason.startswith(f"{NAME}:probe: the ImageNet weights")
    assert document["levels"]["determined"] != "protected"


def test_a_state_keeps_its_order(weights_file, whole_state):
    assert [v.shape for v in read_state(weights_file).values()] == [
        v.shape for v in whole_state.values()
    ]
