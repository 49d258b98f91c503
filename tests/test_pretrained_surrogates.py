"""A surrogate that starts from ImageNet: asked, kept, named; weights of random numbers here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from medshield import checkpoint
from medshield.checkpoint import Checkpoint
from medshield.errors import InputError
from medshield.methods import METHODS, adversarial_targeted
from medshield.methods import base as methods_base
from medshield.methods.surrogates import FreshSurrogate
from medshield.pretrained import Backbone, Pretrained, Weights
from medshield.states import write_state
from tests.test_methods import examples, setting
from tests.test_verify import make_set, run

NAME = "mobilenetv3_small_100"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(timm.create_model(NAME).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few steps; a backbone that sees images as they are."""
    lineup = (FreshSurrogate("small_convnet", "one_convolution"),)
    monkeypatch.setattr(adversarial_targeted.MisleadingSeveral, "lineup", lineup)
    monkeypatch.setattr("medshield.methods.surrogates.MOST_EPOCHS", 2)
    monkeypatch.setattr(adversarial_targeted, "ATTACK_STEPS", 4)
    monkeypatch.setattr(methods_base, "BLOCK", 8)
    monkeypatch.setattr("medshield.pretrained.SMALLEST_SIDE", 32)


def asking(weights_file, **settings):
    backbone = Backbone(NAME, Weights.of(weights_file))
    return METHODS["robust"](replace(setting(**settings), pretrained=backbone))


def test_the_backbone_stays_as_it_was_and_only_its_head_learns(weights_file):
    method, (images, targets, _) = asking(weights_file), examples()
    model = method.chosen.surrogates[-1]
    assert isinstance(model, Pretrained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(
        before["backbone.conv_stem.weight"], torch.load(weights_file)["conv_stem.weight"]
    )
    method.fit(images, targets)
    after = model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head"}


def test_it_is_asked_beside_the_others_which_stay_the_same(weights_file):
    images, targets, names = examples()
    plain, more = METHODS["robust"](setting()), asking(weights_file)
    for method in (plain, more):
        method.fit(images, targets)
    for name, value in plain.chosen.surrogates[0].state_dict().items():
        assert torch.equal(more.chosen.surrogates[0].state_dict()[name], value)
    asked = []
    more.chosen.surrogates[-1].register_forward_hook(lambda *_: asked.append(1))
    delta = more.perturb(images, targets, names)
    assert len(asked) == 2 * len(images.split(8))  # of four steps of each block
    assert not torch.equal(delta, plain.perturb(images, targets, names))


def test_its_wrong_class_is_taken_for_the_right_one_by_the_backbone(weights_file):
    method, (images, targets, names) = asking(weights_file, effort=0.05), examples()
    method.fit(images, targets)
    delta = method.perturb(images, targets, names)
    model, wrong = method.chosen.surrogates[-1], method.chosen._wrong(targets)
    with torch.no_grad():
        before, after = (
            method.setting.task.loss(model(each), wrong) for each in (images, images + delta)
        )
    assert after.mean() < before.mean()


def test_a_kept_state_needs_no_weights(weights_file):
    method, data = asking(weights_file), examples()
    method.fit(*data[:2])
    bare = METHODS["robust"](replace(method.setting, pretrained=Backbone(NAME)))
    bare.load({name: value.clone() for name, value in method.state().items()})
    assert torch.equal(bare.perturb(*data), method.perturb(*data))


def test_a_fit_that_was_stopped_at_its_head_goes_on_to_the_same(
    weights_file, tmp_path, monkeypatch
):
    """Here after the first of two epochs of the head."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE_OF_TIME", 1e9)
    written = []

    def write(state, path):
        write_state(state, path)
        written.append([loop["step"] for loop in state["loops"]])
        if written[-1] == [1, 1]:
            raise KeyboardInterrupt

    images, targets, _ = examples()
    whole, stopped, again = (asking(weights_file, effort=1) for _ in range(3))
    whole.fit(images, targets)
    monkeypatch.setattr(checkpoint, "write_state", write)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(images, targets, checkpoint=Checkpoint(tmp_path / "kept", "work"))
    again.fit(images, targets, checkpoint=Checkpoint(tmp_path / "kept", "work"))
    assert written == [[0, 1], [0, 2], [1], [1, 1], [1, 2], [2]]
    known = whole.state()
    assert all(torch.equal(value, known[name]) for name, value in again.state().items())


QUICK = ["--eps", "8/255", "--seed", 3, "--effort", 0.01, "--image-size", 32]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("surrogates") / "images", patients=12)


def test_the_generator_names_the_backbone_and_needs_no_weights_and_the_release_is_silent(
    source, weights_file, tmp_path
):
    release, again = tmp_path / "release", tmp_path / "again"
    result = run("protect", source, "-o", release, "--surrogate-weights", weights_file, *QUICK)
    assert f"  asked     {NAME} from ImageNet" in result.stdout
    assert str(weights_file.parent) not in result.stdout
    for paper in ("medshield.json", "medshield-manifest.jsonl"):
        assert NAME not in (release / paper).read_text()
    generator = tmp_path / "release.private" / "generator"
    assert json.loads((generator / "generator.json").read_text())["pretrained"] == NAME
    run("protect", source, "-o", again, "--generator", generator)
    for name in (path.relative_to(release) for path in release.rglob("*.png")):
        assert (release / name).read_bytes() == (again / name).read_bytes()


def test_verify_says_where_the_victim_was_a_surrogate(source, weights_file, tmp_path):
    release = tmp_path / "release"
    run("protect", source, "-o", release, "--surrogate-weights", weights_file, *QUICK)
    result = run(
        *("verify", release, "--cells", f"small_convnet,{NAME}:probe", "--weights", weights_file),
        *("--epochs", 1, "--seeds", 1, "--workers", 1, "--json", "-q"),
    )
    flattered = [note for note in json.loads(result.stdout)["notes"] if "flattered" in note]
    assert [note.split(": ")[0] for note in flattered] == [f"{NAME}:probe"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "em"], "em on classification asks no pretrained model"),
        (["--method", "synthetic"], "synthetic on classification asks no pretrained model"),
    ],
)
def test_methods_that_ask_none_refuse_it(options, message, source, weights_file, tmp_path):
    with pytest.raises(InputError, match=message):
        run(
            *("protect", source, "-o", tmp_path / "release"),
            *("--surrogate-weights", weights_file, *options, *QUICK),
        )
    assert not list(tmp_path.iterdir())


def test_wrong_weights_and_a_generator_beside_them_are_refused(source, weights_file, tmp_path):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"nothing")
    arguments = ["protect", source, "-o", tmp_path / "release", *QUICK, "--surrogate-weights"]
    reason = r"^[^\n]*wrong\.pth: weights are no state dict; give [^\n]*$"
    with pytest.raises(InputError, match=reason):
        run(*arguments, wrong)
    with pytest.raises(InputError, match=r"wrong\.pth: weights are no state dict"):
        run(*arguments, wrong, "--dry-run")
    with pytest.raises(InputError, match="--surrogate-weights: the generator is fitted"):
        run("protect", source, "--generator", tmp_path, "--surrogate-weights", weights_file)
    assert sorted(tmp_path.iterdir()) == [wrong]


def test_benchmark_names_what_was_made_with_it(source, weights_file, tmp_path):
    run(
        *("benchmark", source, "-o", tmp_path, "--methods", "robust,synthetic", "--eps", "8/255"),
        *("--cells", "small_convnet", "--epochs", 1, "--seeds", 1, "--image-size", 32),
        *("--surrogate-weights", Path(f"{NAME}={weights_file}")),
    )
    folder = tmp_path / "images"
    releases = sorted(path.name for path in folder.iterdir() if (path / "medshield.json").is_file())
    assert releases == [f"robust+{NAME}-8-255", "synthetic-8-255"]
    rows = json.loads((folder / "table.json").read_text())["leakage"]
    assert {row["method"] for row in rows} == {f"robust+{NAME}", "synthetic"}
