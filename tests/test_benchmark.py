"""`medshield benchmark`: published layouts, a part of a large folder, the paper, and resuming."""

import csv
import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from medshield import api, benchmarking, limited, paper_figures, score_plot, trials, verifying
from medshield.arms import ARMS
from medshield.benchmark_table import BenchmarkTable, beside
from medshield.benchmarking import paper_cells
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.errors import InputError
from medshield.threats import parse_cell
from tests.builders import in_classes, medshield, segmented, state, tree, with_table
from tests.published import FINDINGS, RARE, chexpert, kvasir
from tests.test_protect import interrupted_after
from tests.test_verify import make_set

ONCE = ("--seeds", 1, "--epochs", 1, "--workers", 1, "--json")
QUICK = ("--methods", "synthetic", "--image-size", 32, *ONCE)
SMALL = ("--cells", "small_convnet")


def bench(source, output, *options):
    done = medshield("benchmark", source, "-o", output, *options)
    assert done.code == 0, done.err
    (table,) = done.json.values()
    return table


def lines(folder, heading="| cell | images |"):
    """The first Markdown table of table.md: images and cell -> its cells by header."""
    text = (folder / "table.md").read_text()
    rows = text[text.index(heading) :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    header, _, *rest = cells
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rest}


# The published layouts


def test_kvasir_seg_just_works_and_stands_beside_the_paper(tmp_path):
    source = kvasir(tmp_path / "Kvasir-SEG")
    before = state(source)
    table = bench(source, tmp_path / "out", *QUICK)
    assert state(source) == before
    assert {row["cell"] for row in table["rows"]} == {
        "unet_resnet18:standard",
        "unet_resnet18:adversarial",
        "unet_resnet18:adversarial-8",
    }
    cells = {(row["eps"], row["cell"]) for row in table["verdicts"]}
    assert ("8/255", "unet_resnet18:adversarial") in cells
    assert ("16/255", "unet_resnet18:adversarial-8") in cells
    assert len(cells) == 4
    shown = lines(tmp_path / "out" / "Kvasir-SEG")
    theirs = {key: row["Liu et al., iou"] for key, row in shown.items() if row["Liu et al., iou"]}
    assert theirs == {
        ("unet_resnet18:standard", "clean"): "0.798",
        ("unet_resnet18:standard", "em 8/255"): "0.000 (constant)",
        ("unet_resnet18:standard", "em 16/255"): "0.000 (constant)",
        ("unet_resnet18:adversarial", "em 8/255"): "0.045",
        ("unet_resnet18:adversarial-8", "em 16/255"): "0.012",
    }
    assert shown["unet_resnet18:standard", "em 8/255"]["iou"] == ""  # not run here
    assert shown["unet_resnet18:standard", "constant guess"]["iou"]
    text = (tmp_path / "out" / "Kvasir-SEG" / "table.md").read_text()
    assert "radius of 8/255 (3 steps), at eps 16/255" in text
    assert "radius of 4/255 (3 steps), at eps 8/255" in text
    with (tmp_path / "out" / "Kvasir-SEG" / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "paper"]
    assert len(rows) == 5
    assert rows[0] | {"set": ""} == rows[0] | {"set": "", "score": "iou", "last": "0.798", "n": ""}


def test_chexpert_just_works_on_a_part_of_it(tmp_path):
    source = chexpert(tmp_path / "CheXpert-v1.0-small")
    before = state(source)
    table = bench(source, tmp_path / "out", *QUICK, "--limit", 24, "--eps", "8/255")
    assert state(source) == before
    assert {row["cell"] for row in table["rows"]} == {"resnet18:standard", "resnet18:adversarial"}
    (said,) = [note for note in table["notes"] if note.startswith("--limit 24")]
    assert "of 34 patients" in said
    out = tmp_path / "out" / "CheXpert-v1.0-small"
    assert (out / "drawn-24-seed-0").stat().st_mode & 0o777 == 0o700
    drawn = out / "drawn-24-seed-0" / "CheXpert-v1.0-small"
    images = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.jpg"))
    assert 24 < len(images) <= 40
    assert {path.split("/")[0] for path in images} == {"train", "valid"}
    for path in images:
        assert (drawn / path).read_bytes() == (source / path).read_bytes()
    assert "patient000" not in (drawn / "labels.csv").read_text().split("\n", 1)[0]
    report = json.loads((out / "synthetic-8-255.json").read_text())
    assert report["task"] == "multilabel"
    assert sum(report["examples"].values()) == len(images)
    shown = lines(out)
    assert shown["resnet18:standard", "clean"]["Liu et al., accuracy"] == "0.820"
    assert shown["resnet18:standard", "em 8/255"]["Liu et al., accuracy"] == "0.767"
    assert not any("16/255" in images for _, images in shown)


def test_a_part_is_the_same_again_and_is_not_taken_for_another(tmp_path):
    source = chexpert(tmp_path / "CheXpert-v1.0-small", patients=12)
    options = (*QUICK, *SMALL, "--limit", 12, "--eps", "8/255")
    first = bench(source, tmp_path / "a", *options)
    again = bench(source, tmp_path / "b", *options)
    assert first["rows"] == again["rows"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medshield.benchmarking.scan", lambda *_, **__: pytest.fail("scanned again"))
        assert bench(source, tmp_path / "a", *options)["rows"] == first["rows"]
    other = medshield("benchmark", source, "-o", tmp_path / "a", *options, "--task", "multilabel")
    assert other.code == 2
    assert "was drawn from another folder or by other labels" in other.err
    more = medshield("benchmark", source, "-o", tmp_path / "a", *options, "--limit", 20)
    assert more.code == 2
    assert "other settings (annotations, source)" in more.err


# What a limit draws


def scanned(source, **told):
    found = scan(source, AnnotationOptions(**told))
    assert not found.problem
    return found


def by_patient(files):
    found = {}
    for file in files:
        found.setdefault(file.annotation.patient, []).append(file.path)
    return found


def test_whole_patients_are_drawn_and_rare_findings_among_them(tmp_path):
    found = scanned(chexpert(tmp_path / "CheXpert-v1.0-small", patients=150, side=32))
    files = list(found.with_action("protect"))
    drawn = limited.drawn(files, "multilabel", 60, 7)
    every, some = by_patient(files), by_patient(drawn)
    assert all(some[patient] == every[patient] for patient in some)
    assert 98 <= len(drawn) <= 100
    rare = found.annotations.classes.index(FINDINGS[RARE])
    shown = [file for file in drawn if file.annotation.findings[rare]]
    assert len(by_patient(shown)) >= 4
    assert drawn == limited.drawn(list(reversed(files)), "multilabel", 60, 7)
    assert drawn != limited.drawn(files, "multilabel", 60, 8)
    everything = limited.drawn(files, "multilabel", 10_000, 7)
    assert everything == files


def test_classes_keep_their_shares_and_splits_their_part(tmp_path):
    source = tmp_path / "in"
    in_classes(source, each=60, classes=("common",))
    in_classes(source, each=20, classes=("rare",), first=60)
    files = list(scanned(source).with_action("protect"))
    drawn = limited.drawn(files, "classification", 24, 0)
    counts = np.bincount([file.annotation.label for file in drawn])
    assert len(drawn) == 40
    assert counts.tolist() == pytest.approx([30, 10], abs=2)

    split = tmp_path / "split"
    in_classes(split, each=30)
    names = sorted(path.relative_to(split).as_posix() for path in split.rglob("*.png"))
    parts = ["train", "val", "test"]
    rows = [f"{name},{name[0]},{parts[number % 3]}" for number, name in enumerate(names)]
    with_table(split, rows, "filename,label,split")
    drawn = limited.drawn(list(scanned(split).with_action("protect")), "classification", 8, 0)
    assert [sum(f.annotation.split == part for f in drawn) for part in parts] == [8, 2, 8]


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_a_part_of_a_folder_with_masks_keeps_its_pairs(tmp_path, suffix):
    source = segmented(tmp_path / "in", suffix, count=12)
    found = scanned(source)
    part = limited.draw_part(found, AnnotationOptions(), tmp_path / "out", limit=3, seed=0)
    again = scan(part.folder, part.annotations)
    assert not again.problem
    kept = {file.path: file.annotation.mask for file in again.with_action("protect")}
    whole = {file.path: file.annotation.mask for file in found.with_action("protect")}
    assert len(kept) == 5
    assert kept.items() <= whole.items()


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("filename,label,patient_id,split", lambda n: f"class {n % 3},p{n // 2},"),
        ("filename,label", lambda n: f"{n % 2}.0"),
        ("filename,Finding Labels", lambda n: ["Edema|Mass", "No Finding", "Mass"][n % 3]),
        ("filename,b,a,patient_id", lambda n: f"{n % 2},{n % 3 % 2},p{n // 2}"),
        ("filename,findings", lambda n: ["only|only", "No Finding"][n % 2]),
    ],
)
def test_a_part_says_of_its_images_what_the_folder_said(tmp_path, header, cells):
    names = [f"{number:02d}.png" for number in range(24)]
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (33, 33)).astype("u1")).save(tmp_path / "in" / name)
    rows = [f"{name},{cells(number)}" for number, name in enumerate(names)]
    source = with_table(tmp_path / "in", rows, header)
    found = scanned(source)
    before = tree(source)
    part = limited.draw_part(found, AnnotationOptions(), tmp_path / "out", limit=6, seed=1)
    assert tree(source) == before
    again = scan(part.folder, part.annotations)
    assert not again.problem
    assert again.annotations.task == found.annotations.task
    assert again.annotations.classes == found.annotations.classes
    said = {f.path: (f.annotation.label, f.annotation.findings, f.annotation.split)
            for f in found.with_action("protect")}  # fmt: skip
    kept = {f.path: (f.annotation.label, f.annotation.findings, f.annotation.split)
            for f in again.with_action("protect")}  # fmt: skip
    assert len(kept) == 10
    assert kept.items() <= said.items()
    if "patient_id" in header:
        groups = [sorted(paths) for paths in by_patient(again.with_action("protect")).values()]
        assert sorted(groups) == [[f"{n:02d}.png", f"{n + 1:02d}.png"] for n in
                                  sorted(int(group[0][:2]) for group in groups)]  # fmt: skip


def test_a_part_that_is_protected_without_labels_still_has_some_for_victims(tmp_path):
    source = make_set(tmp_path / "images", patients=24, each=2)
    options = ("--labels", "none", "--limit", 20, "--eps", "8/255", *SMALL, *QUICK)
    table = bench(source, tmp_path / "out", *options)
    folder = tmp_path / "out" / "images"
    summary = json.loads((folder / "synthetic-8-255" / "medshield.json").read_text())
    assert summary["labels_used"] is False
    assert "balanced_accuracy" in {row["score"] for row in table["rows"]}
    assert "of 24 patients" in table["notes"][0]


# Cells


def test_victims_of_releases_without_labels_follow_what_there_is(tmp_path, monkeypatch):
    source = segmented(tmp_path / "masks", count=8)
    asked = []

    def verify(config):
        asked.append(config.cells)
        raise InputError("seen")

    monkeypatch.setattr(benchmarking, "verify", verify)
    options = ("--labels", "none", "--methods", "synthetic", "--eps", "8/255")
    run = medshield("benchmark", source, "-o", tmp_path / "b", *options, "--image-size", "32")
    assert run.err.endswith("seen\n")
    assert asked == [("unet_resnet18", "unet_resnet18:adversarial")]
    run = medshield("benchmark", source, "-o", tmp_path / "c", *options, "--cells", "resnet18")
    assert run.code == 2
    assert "resnet18" in run.err
    assert len(asked) == 1
    assert not list((tmp_path / "c").glob("synthetic*"))


def test_default_cells_are_those_of_the_paper():
    eight, sixteen = Fraction(8, 255), Fraction(16, 255)
    assert paper_cells("classification", eight) == ("resnet18", "resnet18:adversarial")
    assert paper_cells("multilabel", sixteen) == ("resnet18", "resnet18:adversarial-8")
    assert paper_cells("segmentation", eight) == ("unet_resnet18", "unet_resnet18:adversarial")
    assert paper_cells("segmentation", Fraction(4, 255))[1] == "unet_resnet18:adversarial-2"
    assert paper_cells("classification", Fraction(12, 255))[1] == "resnet18:adversarial"
    assert api.defaults_of(api.benchmark)["cells"] == ()


@pytest.mark.parametrize("command", ["benchmark", "verify"])
def test_a_victim_that_is_not_for_such_labels_is_refused_before_any_work(tmp_path, command):
    masks = segmented(tmp_path / "masks", count=8)
    labels = in_classes(tmp_path / "labels", each=8)
    for source, victim, what in ((masks, "resnet18", "labels"), (labels, "unet_resnet18", "masks")):
        given = (source, "-o", tmp_path / "out" / what)
        if command == "verify":
            made = medshield("protect", *given, "--method", "synthetic", "--eps", "8/255")
            assert made.code == 0, made.err
            given = (tmp_path / "out" / what,)
        done = medshield(command, *given, "--cells", victim, "--epochs", 1, "--workers", 1)
        assert done.code == 2
        assert f"--cells: {victim} is for {what}" in done.err
    if command == "benchmark":
        assert not list((tmp_path / "out" / "labels").rglob("medshield.json"))


def test_a_release_of_other_settings_is_not_taken_for_what_is_asked(tmp_path):
    source = make_set(tmp_path / "images", patients=16, each=2)
    options = ("--eps", "8/255", *QUICK, *SMALL)
    bench(source, tmp_path / "out", *options)
    other = medshield("benchmark", source, "-o", tmp_path / "out", *options, "--seed", 5)
    assert other.code == 2
    assert "was made with other settings (seed)" in other.err
    assert "\n" not in other.err.strip().splitlines()[-1]


# The paper


def test_sets_of_the_paper_are_known_by_name_or_layout(tmp_path):
    known = paper_figures.set_of
    assert known(tmp_path / "breastmnist") == "breastmnist"
    assert known(tmp_path / "pneumoniamnist") is None
    assert known(tmp_path / "CheXpert-v1.0-small") == "chexpert"
    assert known(chexpert(tmp_path / "films", patients=3)) == "chexpert"
    assert known(kvasir(tmp_path / "polyps", count=2)) == "kvasir-seg"
    assert known(tmp_path / "Kvasir-SEG") == "kvasir-seg"
    assert known(in_classes(tmp_path / "images", each=2)) is None
    with_table(tmp_path / "images", ["a.png,1"], "Path,Edema", "train.csv")
    assert known(tmp_path / "images") is None


def test_figures_of_the_paper_are_as_it_prints_them():
    def said(name):
        return {
            (f.method, str(f.epsilon and 255 * f.epsilon)): (f.value, f.is_constant)
            for f in paper_figures.figures_of(name)
            if f.adversary is None
        }

    assert said("octmnist") == {
        ("clean", "None"): (0.696, False),
        ("advt", "None"): (0.214, False),
        ("em", "8"): (0.25, True),
        ("em", "16"): (0.21, False),
        ("synthetic", "8"): (0.227, False),
        ("synthetic", "16"): (0.25, True),
    }
    assert said("chestmnist") == {
        ("clean", "None"): (0.948, True),
        ("em", "8"): (0.787, False),
        ("em", "16"): (0.71, False),
    }
    assert said("breastmnist")["em", "16"] == (0.731, True)
    assert said("pneumoniamnist") == {}
    assert paper_figures.figures_of(None) == ()


def test_the_plot_shows_every_point_and_the_papers_as_hollow_ones(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    cells = [parse_cell(text) for text in ("resnet18", "resnet18:adversarial")]
    rows = []
    for cell in cells:
        what = ("breastmnist", "em", "16/255", cell.name)
        rows += [(*what, arm, "accuracy", 0.7, 0.1, 0.7, 0.1, 3) for arm in ARMS]
        rows.append(
            ("breastmnist", "", "", cell.name, "constant guess", "accuracy", 0.6, *[None] * 4)
        )
    run = [(cell, Fraction(16, 255)) for cell in cells]
    paper = beside(paper_figures.figures_of("breastmnist"), run)
    table = BenchmarkTable(tuple(rows), (), paper=paper)
    assert score_plot.draw(table, tmp_path / "scores.png")
    plain, adversarial = drawn[0].axes
    hollow = [
        line.get_ydata()[0] for line in plain.get_lines() if line.get_markerfacecolor() == "white"
    ]
    assert sorted(hollow) == [0.372, 0.449, 0.731, 0.846]
    assert "Liu et al., as a constant guess" in plain.get_legend_handles_labels()[1]
    assert not any(line.get_markerfacecolor() == "white" for line in adversarial.get_lines())
    for axes in (plain, adversarial):
        labels = axes.get_legend_handles_labels()[1]
        assert {"clean images", "constant guess", "random noise 16/255"} <= set(labels)
        assert "protected, 16/255" in labels
        assert axes.get_xlabel() == "method"
    assert drawn[0].get_supylabel() == "accuracy on clean test images, last epoch"


def test_a_comparison_draws_its_scores(tmp_path):
    pytest.importorskip("matplotlib")
    source = make_set(tmp_path / "images", patients=16, each=2)
    bench(source, tmp_path / "out", "--eps", "8/255", *QUICK, *SMALL)
    with Image.open(tmp_path / "out" / "images" / "scores.png") as drawn:
        assert min(drawn.size) > 400
    assert score_plot.draw(BenchmarkTable((), ()), tmp_path / "empty.png")


def test_clean_images_are_drawn_once_however_many_releases_are_compared():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    rows = [
        ("set", method, "8/255", "a", arm, "auroc", 0.8, 0.1, 0.8, 0.1, 3)
        for method in ("em", "advt")
        for arm in ("clean", "protected")
    ]
    score_plot._panel(axes, "a", rows, [], ["em", "advt"], ["8/255"])
    assert len(axes.patches) == 1  # the band
    assert len(axes.containers) == 2  # the points


# MedMNIST


def save_set(folder, name, images=40, labels=2):
    """NAME.npz as medmnist publishes it, of noise."""
    rng = np.random.default_rng(0)
    parts = {}
    for split, count in (("train", images), ("val", images // 4), ("test", images // 2)):
        parts[f"{split}_images"] = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        parts[f"{split}_labels"] = (np.arange(count) % labels)[:, None].astype(np.uint8)
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **parts)
    return folder


def test_medmnist_sets_stand_beside_the_paper(tmp_path):
    root = save_set(save_set(tmp_path / "npz", "breastmnist"), "pneumoniamnist")
    sets = ("medmnist", "--sets", "breastmnist,pneumoniamnist", "--root", root)
    options = ("--limit", 20, "--eps", "16/255", *QUICK, *SMALL)
    done = medshield("benchmark", *sets, "-o", tmp_path / "out", *options)
    assert done.code == 0, done.err
    breast, pneumonia = done.json["breastmnist"], done.json["pneumoniamnist"]
    assert breast["notes"][0] == (
        "--limit 20: the first images of each part (20 of 40 train, 5 of 10 val, 20 of 20 test)"
    )
    shown = lines(tmp_path / "out" / "breastmnist")
    column = "Liu et al., accuracy"
    assert shown["small_convnet:standard", "clean"][column] == "0.846"
    assert shown["small_convnet:standard", "synthetic 16/255"][column] == "0.372"
    assert shown["small_convnet:standard", "em 16/255"][column] == "0.731 (constant)"
    assert shown["small_convnet:standard", "advt (eps unknown)"][column] == "0.449"
    assert pneumonia["paper"] == []
    assert "Liu" not in (tmp_path / "out" / "pneumoniamnist" / "table.md").read_text()
    other = medshield(
        *("benchmark", *sets, "-o", tmp_path / "out", *options, "--limit", 10),
    )
    assert other.code == 2
    assert "was written with another --limit or --format" in other.err


def test_a_medmnist_set_that_is_not_to_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "medmnist.dataset.MedMNIST.download", lambda *_: (_ for _ in ()).throw(RuntimeError("net"))
    )
    monkeypatch.setattr("medmnist.dataset.os.path.exists", lambda _: True)
    for name, words in (("breastmnist", "could not be downloaded"), ("nodulemnist3d", "volumes")):
        done = medshield("benchmark", "medmnist", "--sets", name, "-o", tmp_path / "out", *ONCE)
        assert done.code == 2
        assert words in json.loads(done.out)["error"] + done.err
    monkeypatch.undo()
    (tmp_path / "breastmnist.npz").write_bytes(b"PK no")
    done = medshield(
        "benchmark", "medmnist", "--sets", "breastmnist", "--root", tmp_path, "-o", tmp_path / "o"
    )
    assert done.code == 2
    assert "can't be read" in done.err


# Resuming


def same(table):
    """All but what time it took."""
    return {name: table[name] for name in ("rows", "verdicts", "leakage", "frontier", "notes")}


@pytest.mark.parametrize("where", ["in a release", "between releases", "in a training"])
def test_a_comparison_that_was_killed_goes_on(tmp_path, monkeypatch, where):
    source = make_set(tmp_path / "images", patients=16, each=2)
    options = (
        *("--methods", "synthetic,lsp", "--eps", "8/255", "--seeds", 2, "--epochs", 1),
        *("--image-size", 32, "--workers", 1, *SMALL, "--json"),
    )
    whole = bench(source, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        if where == "in a release":
            interrupted_after(patch, 32 + 5)
        elif where == "between releases":
            patch.setattr("medshield.benchmarking.verify", stopping(verifying.verify, 1))
        else:
            patch.setattr("medshield.trials._train", stopping(trials._train, 3))
        done = medshield("benchmark", source, "-o", tmp_path / "out", *options)
        assert done.code == 130, done.err
    assert not (tmp_path / "out" / "images" / "table.csv").exists()
    with monkeypatch.context() as patch:
        writes = interrupted_after(patch, -1)
        again = bench(source, tmp_path / "out", *options)
    assert len(writes) == {"in a release": 27, "between releases": 0, "in a training": 32}[where]
    assert same(again) == same(whole)
    for name in ("table.csv",):
        paths = (tmp_path / run / "images" / name for run in ("whole", "out"))
        assert len({path.read_bytes() for path in paths}) == 1


def stopping(function, count):
    """The function, which raises what Ctrl-C raises when it is called once more than so often."""
    calls = []

    def run(*arguments):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(arguments)
        return function(*arguments)

    return run


def test_the_reason_of_a_verdict_stands_once_for_all_images_that_share_it():
    """And not in the table of scores, which it would make too wide to read."""
    few = "the victim learned too little"
    what = ("8/255", "resnet18:standard", "protected", "accuracy", 0.5, None, None, None, 1)
    rows = [("images", method, *what) for method in ("em", "advt", "robust")]
    verdicts = [
        ("em", "8/255", "resnet18:standard", "inconclusive", few),
        ("advt", "8/255", "resnet18:standard", "inconclusive", few),
        ("robust", "8/255", "resnet18:standard", "protected", "nothing leaks"),
    ]
    text = BenchmarkTable(tuple(rows), tuple(verdicts)).to_markdown()
    assert "| resnet18:standard | em 8/255 | 0.500 | inconclusive |\n" in text
    assert f"| resnet18:standard | inconclusive | advt 8/255, em 8/255 | {few} |\n" in text
    assert "| resnet18:standard | protected | robust 8/255 | nothing leaks |\n" in text
    assert text.count(few) == 1
