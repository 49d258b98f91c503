"""verify end to end on small generated sets, with a small victim."""

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from medshield.cli import cli
from medshield.errors import InputError
from medshield.evidence import Verdict
from medshield.manifest import find_release
from medshield.preparation import prepare
from medshield.threats import cells_of, declared_cells, parse_cell
from medshield.trials import Cell
from medshield.verify_config import VerifyConfig
from medshield.verifying import Evidence

EPOCHS = 15
CELL = "small_convnet:standard"
QUICK = ["--cells", "small_convnet", "--epochs", str(EPOCHS), "--workers", "1"]


def make_set(folder, *, patients=40, each=3, random_labels=False, side=32):
    """Bright discs or bright squares, a few images for each patient."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    rows = []
    for patient in range(patients):
        label = patient % 2
        for number in range(each):
            image = rng.normal(100, 10, (32, 32))
            x, y = rng.integers(8, 24, 2)
            rows_, columns = np.ogrid[:32, :32]
            if label:
                shape = (rows_ - y) ** 2 + (columns - x) ** 2 < 36
            else:
                shape = (abs(rows_ - y) < 3) | (abs(columns - x) < 3)
            image[shape] += 110
            name = f"{patient:03d}-{number}.png"
            pixels = Image.fromarray(image.clip(0, 255).astype(np.uint8))
            pixels.resize((side, side)).save(folder / name)
            shown = rng.integers(0, 2) if random_labels else label
            rows.append([name, ["square", "disc"][shown], f"p{patient}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "label", "patient_id"], *rows])
    return folder


def run(*arguments):
    """Run the command line in this process; errors are raised."""
    words = [str(word) for word in arguments]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def protect(source, release, method, eps="8/255"):
    result = run("protect", source, "-o", release, "--method", method, "--eps", eps, "--seed", 1)
    assert result.return_value == 0, result.output
    return release


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("verify") / "images")


@pytest.fixture(scope="module")
def noise_release(source):
    return protect(source, source.with_name("noisy"), "random-noise")


@pytest.fixture(scope="module")
def report(source, noise_release):
    folder = source.with_name("noisy-report")
    result = run("verify", noise_release, *QUICK, "-o", folder)
    assert result.return_value == 4, result.output
    return result, json.loads((folder / "report.json").read_text())


def test_random_noise_does_not_protect(report):
    result, document = report
    assert document["verdict"] == "not protected"
    assert "NOT PROTECTED" in result.output


def test_the_report_has_every_arm_and_every_curve(report):
    _, document = report
    (cell,) = document["cells"]
    assert set(cell["scores"]) == set(cell["curves"]) == {"clean", "protected", "random noise"}
    for arm, curves in cell["curves"].items():
        assert len(curves) == (1 if arm == "random noise" else 3)
        assert all(len(curve["test"]) == len(curve["loss"]) == EPOCHS for curve in curves)
    assert cell["scores"]["clean"]["last epoch"]["balanced_accuracy"]["n"] == 3
    assert document["floor"]["balanced_accuracy"] == 0.5


def test_every_arm_s_score_has_an_interval_within_what_is_possible(report):
    _, document = report
    (cell,) = document["cells"]
    for selections in cell["scores"].values():
        for scores in selections.values():
            for name in ("balanced_accuracy", "auroc"):
                found = scores[name]
                assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1


def test_the_report_names_what_was_not_run(report):
    _, document = report
    declared = [cell.name for cell in cells_of("basic", "classification")]
    assert document["not_run"] == {"basic": [name for name in declared if name != CELL]}


def test_the_report_names_no_patient_and_no_key(source, report):
    _, document = report
    text = json.dumps(document)
    key = (source.with_name("noisy.private") / "generator" / "key").read_text().strip()
    assert key not in text
    assert "p17" not in text


def test_what_a_clean_model_loses_on_the_release_has_an_interval(report):
    result, document = report
    use = document["use"]
    drop = use["drop"]
    lost = use["on_clean"]["mean"] - use["on_protected"]["mean"]
    assert drop["mean"] == pytest.approx(lost)
    assert drop["low"] < drop["mean"] < drop["high"]
    (said,) = [line for line in result.output.splitlines() if line.startswith("use kept")]
    assert ", a drop of " in said


def test_parts_share_no_patient(report):
    _, document = report
    assert sum(document["patients"].values()) == 40
    assert sum(document["examples"].values()) == 120


def test_an_unperturbed_copy_does_not_protect(source, noise_release, tmp_path):
    copy = shutil.copytree(noise_release, tmp_path / "copy")
    shutil.copytree(noise_release.with_name("noisy.private"), tmp_path / "copy.private")
    for image in source.glob("*.png"):
        shutil.copyfile(image, copy / image.name)
    result = run("verify", copy, "--source", source, *QUICK, "--json")
    assert result.return_value == 4
    document = json.loads(result.stdout)
    (cell,) = document["cells"]
    assert cell["leakage"][0]["estimate"] == pytest.approx(1.0)


def test_twenty_images_are_inconclusive(tmp_path):
    source = make_set(tmp_path / "images", patients=20, each=1)
    release = protect(source, tmp_path / "release", "random-noise")
    result = run("verify", release, *QUICK)
    assert result.return_value == 5, result.output
    assert "does not surely beat its floor" in result.output


def test_random_labels_are_inconclusive(tmp_path):
    source = make_set(tmp_path / "images", random_labels=True)
    release = protect(source, tmp_path / "release", "synthetic")
    result = run("verify", release, *QUICK, "--json")
    assert result.return_value == 5
    assert json.loads(result.stdout)["verdict"] == "inconclusive"


def test_a_second_run_trains_nothing_anew_and_says_the_same(report, noise_release, monkeypatch):
    _, first = report
    monkeypatch.setattr("medshield.trials._train", lambda *_: pytest.fail("trained again"))
    result = run("verify", noise_release, *QUICK, "--json")
    assert json.loads(result.stdout)["cells"] == first["cells"]


def test_adversarial_training_is_part_of_determined(noise_release):
    arguments = ["--threat", "determined", "--cells", "small_convnet:adversarial", "--seeds", 1]
    result = run(
        "verify", noise_release, *arguments, "--epochs", 2, "--adv-steps", 1, "--json", "-q"
    )
    document = json.loads(result.stdout)
    assert document["adversary"] == {"epsilon": "4/255", "steps": 1}
    assert set(document["levels"]) == {"basic", "determined"}
    assert Cell("resnet18", "adversarial") in cells_of("determined", "classification")


def test_grey_is_no_cell_of_a_grey_set(noise_release):
    quick = ["--epochs", 1, "--seeds", 1, "--workers", 1, "--json", "-q"]
    cells = ["--cells", "small_convnet:standard:grey,small_convnet"]
    document = json.loads(run("verify", noise_release, *cells, *quick).stdout)
    assert [cell["cell"] for cell in document["cells"]] == ["small_convnet:standard"]
    assert any("small_convnet:standard:grey" in note for note in document["notes"])
    with pytest.raises(InputError, match="not applicable"):
        run("verify", noise_release, "--cells", "small_convnet:standard:grey", *quick)


def test_mixing_in_clean_data_adds_an_arm_that_has_nothing_else(noise_release):
    quick = ["--epochs", 1, "--seeds", 1, "--workers", 1, "--json", "-q"]
    result = run("verify", noise_release, "--cells", "small_convnet:clean-mix", *quick)
    (cell,) = json.loads(result.stdout)["cells"]
    assert list(cell["scores"]) == ["clean", "protected", "random noise", "clean fifth alone"]
    alone = cell["scores"]["clean fifth alone"]["last epoch"]["balanced_accuracy"]["mean"]
    assert cell["leakage"][0]["floor"] == alone
    assert Cell("resnet18", "clean-mix") in cells_of("expert", "classification")


def test_several_workers_say_what_one_says(noise_release, tmp_path):
    shutil.copytree(noise_release, tmp_path / "release")
    shutil.copytree(noise_release.with_name("noisy.private"), tmp_path / "release.private")
    shutil.rmtree(tmp_path / "release.private" / "verify", ignore_errors=True)
    short = ["--cells", "small_convnet", "--epochs", "1", "--seeds", "1", "--json"]
    source = ["--source", noise_release.with_name("images")]
    two = run("verify", tmp_path / "release", *short, *source, "--workers", 2)
    shutil.rmtree(tmp_path / "release.private" / "verify")
    one = run("verify", tmp_path / "release", *short, *source, "--workers", 1)
    losses = [
        json.loads(result.stdout)["cells"][0]["curves"][arm][0]["loss"]
        for result in (one, two)
        for arm in ("clean", "protected")
    ]
    assert losses[:2] == [pytest.approx(loss, rel=0.02) for loss in losses[2:]]


def test_the_source_must_be_known(noise_release, tmp_path):
    shutil.copytree(noise_release, tmp_path / "alone")
    with pytest.raises(InputError, match="--source"):
        run("verify", tmp_path / "alone", *QUICK)


def test_a_mistyped_cell_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="--cells: 'resnet81' is none of"):
        prepare(VerifyConfig(release=tmp_path / "nowhere", cells=("small_convnet", "resnet81")))


def test_a_release_is_found_by_itself(noise_release, tmp_path):
    assert find_release(noise_release) == noise_release
    assert find_release(noise_release.parent) == noise_release
    with pytest.raises(InputError, match="0 releases"):
        find_release(tmp_path)


@pytest.mark.parametrize(
    ("verdict", "limit", "good"),
    [
        (Verdict.PROTECTED, None, True),
        (Verdict.PARTLY, None, False),
        (Verdict.INCONCLUSIVE, None, None),
        (Verdict.PARTLY, {"met": True}, True),
        (Verdict.PROTECTED, {"met": False}, False),
        (Verdict.PARTLY, {"met": None}, None),
        (Verdict.INCONCLUSIVE, {"met": None}, None),
    ],
)
def test_what_is_good_enough(verdict, limit, good):
    """A limit that is kept where a cell could not tell is no answer: exit code 5, not 4."""
    evidence = Evidence("basic", {"basic": verdict}, {}, (), {"limit": limit})
    assert evidence.is_good_enough is good


def test_a_level_holds_those_below_it():
    below = declared_cells("basic", "classification")
    assert below.items() <= declared_cells("determined", "classification").items()


@pytest.mark.parametrize("text", ["resnet", "resnet18:hard", "resnet18:standard:magic", "a:b:c:d"])
def test_unknown_cells_are_named(text):
    with pytest.raises(InputError, match="--cells"):
        parse_cell(text)


def test_verdicts_have_an_order():
    assert max(Verdict, key=lambda verdict: verdict.severity) is Verdict.NOT_PROTECTED
    assert min(Verdict, key=lambda verdict: verdict.severity) is Verdict.PROTECTED


def test_segmentation_is_verified(tmp_path):
    source = tmp_path / "images-and-masks"
    rng = np.random.default_rng(2)
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    rows, columns = np.ogrid[:32, :32]
    for number in range(24):
        x, y = rng.integers(8, 24, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 40
        image = rng.normal(100, 5, (32, 32)) + 90 * disc
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(source / f"images/{number}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(source / f"masks/{number}.png")
    release = protect(source, tmp_path / "release", "synthetic")
    quick = ["--cells", "unet_mobilenet", "--epochs", 1, "--seeds", 1, "--json", "-q"]
    result = run("verify", release, *quick, "--workers", 1)
    document = json.loads(result.stdout)
    assert document["task"] == "segmentation"
    assert set(document["floor"]) == {"iou", "dice", "pixel_auroc", "predicted_foreground"}


def test_the_files_that_changed_most_are_named(report):
    _, document = report
    worst = document["worst_files"]
    assert len(worst) == 5
    assert [one["ssim"] for one in worst] == sorted(one["ssim"] for one in worst)
    assert worst[0]["ssim"] == document["fidelity"]["ssim"]["worst"]


def test_the_report_tells_of_every_class_and_of_no_twins(report):
    _, document = report
    (cell,) = document["cells"]
    assert set(cell["per_class"]["clean"]) == {"disc", "square"}
    assert document["duplicates"] == {"same": 0, "near": 0}


def test_what_will_be_trained_is_said_before_it_is(noise_release, report, tmp_path):
    log = tmp_path / "log"
    run("verify", noise_release, *QUICK, "-o", tmp_path / "report", "--log-file", log)
    said = log.read_text()
    assert "threat level basic, one cell: small_convnet:standard" in said
    assert "7 trainings at 32 px, 7 of them finished earlier, about 1 s; up to 21 if " in said


def test_a_dry_run_says_the_cells_and_trains_and_writes_nothing(noise_release, tmp_path):
    release = shutil.copytree(noise_release, tmp_path / "release")
    before = sorted(tmp_path.rglob("*"))
    source = noise_release.with_name("images")
    result = run("verify", release, "--source", source, "--threat", "determined", "--dry-run")
    assert result.return_value == 0
    level, trainings = result.stdout.splitlines()
    assert level.startswith("threat level determined, ")
    assert "resnet18:adversarial" in level
    assert "efficientnet_lite0:probe" in level
    assert " trainings at 32 px, about " in trainings
    plan = json.loads(
        run("verify", release, "--source", source, *QUICK, "--dry-run", "--json").stdout
    )
    assert plan["cells"] == ["small_convnet:standard"]
    assert (plan["trainings"], plan["most_trainings"], plan["finished"]) == (7, 21, 0)
    assert plan["seconds"] > 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("threat", "given", "side"), [("basic", (), 32), ("determined", (), 64), ("basic", 64, 64)]
)
def test_victims_of_a_quick_level_see_fewer_pixels(tmp_path, threat, given, side):
    source = make_set(tmp_path / "images", patients=12, side=96)
    release = protect(source, tmp_path / "release", "random-noise")
    size = ("--image-size", given) if given else ()
    result = run("verify", release, "--threat", threat, *size, "--dry-run", "--json", *QUICK)
    assert json.loads(result.stdout)["image_size"] == side
