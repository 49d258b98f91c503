"""The commands behind docs/evidence.md: what they simulate, and the releases that they make."""

import numpy as np
import pytest
from PIL import Image

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.evidence import Leakage
from medshield.sample import Sample
from tests.test_verify import make_set
from tests.tools import coverage, levels, verdicts
from tests.tools.coverage import Scene


@pytest.mark.parametrize("spread", coverage.SPREADS)
def test_the_true_leakage_is_what_many_patients_and_trainings_show(spread, monkeypatch):
    monkeypatch.setattr("medshield.sample.BOOTSTRAP_DRAWS", 2)
    scene = Scene(patients=4000, images=1, spread=spread, leakage=0.4)
    sample = scene.draw(np.random.default_rng(0), trainings=100)
    for score in coverage.FLOOR:
        found = sample.leakage(score, "protected", "clean", 0.5).estimate
        assert found == pytest.approx(scene.true(score), abs=0.08)


def test_the_rows_of_a_scene(monkeypatch):
    monkeypatch.setattr("medshield.sample.BOOTSTRAP_DRAWS", 200)  # set anew by the simulation
    made = coverage.rows((Scene(60, 1, "alike", 0.0), 20, 20, 0))
    assert [row[2] for row in made[::2]] == ["3", "5", "10", "3 to 10"]
    assert [row[4] for row in made[:2]] == ["balanced accuracy", "auroc"]
    assert all(len(row) == len(coverage.HEADER) for row in made)
    assert all(0 <= float(row[6].rstrip(" %")) <= 100 for row in made)
    counts = [float(row[10]) for row in made]
    assert counts[:6] == [3, 3, 5, 5, 10, 10]
    assert all(3 <= count <= 10 for count in counts[6:])


@pytest.mark.parametrize(("open_after", "decided"), [((), 3), ((3,), 5), ((3, 5), 10)])
def test_a_simulated_score_is_weighed_again_only_while_it_is_open(open_after, decided):
    def found(count):
        high = 0.2 if count in open_after else 0.1
        return Leakage("auroc", "", 0.0, 0.0, high, 0.9, 0.5, 0.5, 0.8, high_interim=high)

    rounds = {count: (found(count),) for count in coverage.ROUNDS}
    assert coverage.decided(rounds, coverage.ROUNDS, 0) == (decided, rounds[decided][0])


def test_the_summary_says_what_the_rows_have_in_common():
    def row(score, leakage, *numbers):
        return ["60", "1", "3", "alike", score, leakage, *numbers, "3.0"]

    text = coverage.summary(
        [
            row("balanced accuracy", "0.00", "95.0 %", "1.0 %", "0.20", "80.0 %"),
            row("auroc", "0.00", "92.0 %", "0.0 %", "0.20", "40.0 %"),
            row("balanced accuracy", "0.15", "98.0 %", "2.0 %", "0.20", "2.2 %"),
            row("balanced accuracy", "0.40", "95.0 %", "2.0 %", "0.20", "0.4 %"),
        ]
    )
    line = "| 3 | alike | 92.0 % | 95.0 % | 98.0 % | 1.2 % | 2.0 % | 0.20 | 80 % | 2.2 % | 3.0 |"
    assert line in text
    assert (
        "4 combinations: covered 95.0 % in the mean; 2 within 93 to 97 %, 1 above, 1 below." in text
    )
    assert "at most 0.4 %" in text


def test_patients_of_a_scene_have_as_many_images_each(monkeypatch):
    monkeypatch.setattr("medshield.sample.BOOTSTRAP_DRAWS", 2)
    sample = Scene(10, 3, "unlike", 0.4).draw(np.random.default_rng(0), trainings=4)
    assert isinstance(sample, Sample)
    assert sample.patients == 10
    assert sample.scores.shape == (4, 2, 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = make_set(tmp_path_factory.mktemp("verdicts") / "images", patients=24, each=1)
    return verdicts.Source("made", folder, AnnotationOptions())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return verdicts.Bench(tmp_path_factory.mktemp("scratch"), "small_convnet", 1, 1)


def changed(source, release):
    """Which images are not as they were, and by how much at most."""
    found = {}
    for name in source.labels():
        before, after = (
            np.array(Image.open(folder / name)).astype(int) for folder in (source.folder, release)
        )
        if (before != after).any():
            found[name] = (abs(after - before).max(), (after != before).sum())
    return found


def test_copies_are_unperturbed(bench, source):
    _, release = verdicts.unperturbed(bench, source, 0)
    assert changed(source, release) == {}


def test_half_of_the_images_are_protected(bench, source):
    _, release = verdicts.half(bench, source, 0)
    assert len(changed(source, release)) == 12


def test_one_class_is_protected(bench, source):
    _, release = verdicts.one_class(bench, source, 1)
    labels = source.labels()
    moved = changed(source, release)
    assert set(moved) == {name for name, label in labels.items() if label == "square"}


def test_one_pixel_of_each_image_is_moved_and_the_same_within_a_class(bench, source):
    _, release = verdicts.one_pixel(bench, source, 0)
    moved = changed(source, release)
    assert set(moved) == set(source.labels())
    assert set(moved.values()) == {(8, 1)}


def test_wrong_labels_are_those_of_the_patterns_alone(bench, source):
    learned, release = verdicts.wrong_labels(bench, source, 0)
    assert learned is source
    dealt = bench.shuffled(source, 0).labels()
    assert sorted(dealt.values()) == sorted(source.labels().values())
    assert dealt != source.labels()
    assert set(changed(source, release)) == set(source.labels())


def test_twenty_images_are_ten_of_each_class(bench, source):
    few = bench.few(source, 0)
    labels = few.labels()
    assert len(labels) == 20 == len(list(few.folder.glob("*.png")))
    assert sorted(labels.values()) == ["disc"] * 10 + ["square"] * 10
    assert labels.items() <= source.labels().items()


def test_every_kind_belongs_to_one_group():
    assert set(verdicts.GROUPS) <= set(verdicts.KINDS)
    assert len(verdicts.KINDS) - len(verdicts.GROUPS) == 8


def test_a_level_s_time_is_a_row(monkeypatch, capsys):
    words = ["levels", "--images", "24", "--side", "32", "--cells", "small_convnet"]
    monkeypatch.setattr("sys.argv", words)
    levels.main()
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.startswith("| images | level | cells | trainings |")
    assert row.startswith("| 24 | basic | 1 | 7 | 32 | ")


def test_a_level_too_long_to_run_is_measured_by_an_epoch_of_each_cell(monkeypatch, capsys):
    cells = "small_convnet,small_convnet:standard:purified"
    words = ["levels", "--images", "24", "--side", "32", "--cells", cells, "--sample"]
    words += ["--threat", "expert"]
    monkeypatch.setattr("sys.argv", words)
    levels.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| small_convnet:standard | 7 | 60 | ")
    once, training = (float(entry) for entry in lines[3].strip(" |").split(" | ")[4:])
    assert 0 < once <= training
    header, _, below, row = lines[-4:]
    assert header.endswith(" | by an epoch of each, min |")
    assert below.startswith("| 24 | determined | 1 | 7 | 32 |  | ")
    assert row.startswith("| 24 | expert | 2 | 14 | 32 | ")
