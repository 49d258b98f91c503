"""`--labels none`: clusters of images that look alike stand in for classes."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score

from medshield import clusters as clusters_module
from medshield import release_writer
from medshield.clusters import Clusters
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.scan import scan
from medshield.generator import Generator
from medshield.keys import Key
from medshield.methods import adversarial_targeted
from medshield.methods import base as methods_base
from tests.builders import in_classes, manifest, medshield, nifti, png, segmented, tree, with_table

NONE = ("--labels", "none", "--eps", "8/255", "--image-size", "32", "--seed", "3")
SYNTHETIC = (*NONE, "--method", "synthetic")
KEY = Key.from_seed(1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Fewer patches, so that tests are quick; what is promised does not depend on it."""
    monkeypatch.setattr(clusters_module, "PATCHES", 1000)
    monkeypatch.setattr(clusters_module, "FILTERS", 16)


def stripes(count, channels=1, seed=0):
    """Images of upright or lying stripes, of any phase, and which of the two each has."""
    rng = np.random.default_rng(seed)
    lying = rng.integers(0, 2, count)
    phases = rng.uniform(0, 6.3, (count, 1, 1))
    waves = 0.5 + 0.3 * np.sin(np.arange(32)[None, None] * 0.8 + phases).repeat(32, 1)
    images = np.where(lying[:, None, None] == 1, waves.swapaxes(1, 2), waves)
    images = images + rng.normal(0, 0.05, images.shape)
    return torch.from_numpy(images[:, None]).float().clamp(0, 1).repeat(1, channels, 1, 1), lying


@pytest.fixture
def folder(tmp_path):
    """Ten images without any label."""
    source = tmp_path / "images"
    source.mkdir()
    for number in range(10):
        png(source / f"{number}.png", number)
    return source


@pytest.mark.parametrize("channels", [1, 3])
def test_clusters_find_what_looks_alike(channels):
    images, truth = stripes(60, channels)
    clusters = Clusters.fit(images, 2, KEY)
    assert normalized_mutual_info_score(truth, clusters.assign(images)) > 0.9
    unseen, truth = stripes(40, channels, seed=1)
    assert normalized_mutual_info_score(truth, clusters.assign(unseen)) > 0.9


def test_a_cluster_depends_on_the_image_alone():
    images, _ = stripes(30)
    clusters = Clusters.fit(images, 4, KEY)
    known = clusters.assign(images)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(clusters.assign(images[order]), known[order])
    assert torch.equal(torch.cat([clusters.assign(image[None]) for image in images]), known)
    assert len(clusters.assign(images[:0])) == 0


def test_clusters_are_the_same_again_and_hang_on_the_key():
    images, _ = stripes(30)
    first, again, other = (Clusters.fit(images, 4, key).state() for key in (KEY, KEY, Key(b"0")))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["filters"], other["filters"])


def test_the_state_does_not_grow():
    sizes = [
        {name: value.shape for name, value in Clusters.fit(stripes(n)[0], 3, KEY).state().items()}
        for n in (10, 40)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("count", [1, 3])
def test_few_or_equal_images_are_no_reason_to_fail(count):
    images = torch.full((count, 1, 32, 32), 0.4)
    assert Clusters.fit(images, 5, KEY).assign(images).tolist() == [0] * count


def test_axes_are_found_of_a_few_images_that_are_repeated(monkeypatch):
    monkeypatch.setattr(clusters_module, "FILTERS", 128)
    two = torch.randn(2, 1025, generator=torch.Generator().manual_seed(1))
    features = (two - 1).relu().repeat(15, 1)  # of which torch.linalg.eigh finds no axes
    axes, origin = clusters_module._principal_axes(features)
    points = features @ axes - origin
    assert torch.allclose(points[::2], points[:1])
    assert torch.allclose(points[1::2], -points[:1], atol=1e-4)
    assert points[0].norm() > 0.1


@pytest.mark.parametrize(
    ("images", "clusters"), [(1, 2), (39, 2), (60, 3), (199, 9), (200, 10), (5000, 10)]
)
def test_scan_chooses_as_many_clusters_as_frames_allow(tmp_path, images, clusters):
    nifti(
        tmp_path / "a.nii.gz", values=np.arange(4 * 4 * images).reshape(4, 4, images).astype("i2")
    )
    found = scan(tmp_path, AnnotationOptions(no_labels=True), epsilon=Fraction(8, 255))
    assert found.annotations.classes[-1] == f"cluster {clusters}"
    assert len(found.annotations.classes) == clusters


def test_scan_says_what_it_does_and_what_it_costs(folder):
    run = medshield("scan", folder, "--labels", "none")
    assert run.code == 0, run.err
    assert "none used: images are put into 2 clusters" in run.out
    assert "weaker than with labels" in run.out
    facts = json.loads(medshield("scan", folder, "--labels", "none", "--json").out)
    assert facts["labels_used"] is False
    assert facts["task"] == "classification"
    assert facts["class_counts"] == {}


def test_without_labels_the_error_names_the_way_out(folder):
    run = medshield("protect", folder, "--eps", "8/255")
    assert run.code == 2
    assert "--labels none, which protects by clusters" in run.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "segmentation"), "--task segmentation: with --labels none"),
        (("--label-col", "finding"), "--label-col: --labels none reads no labels"),
        (("--label-tag", "0008,0060"), "--label-tag: --labels none reads no labels"),
    ],
)
def test_options_that_speak_of_labels_are_refused(folder, options, message):
    run = medshield("scan", folder, "--labels", "none", *options)
    assert run.code == 2
    assert message in run.err


def test_labels_and_masks_are_copied_but_not_used(tmp_path):
    source = segmented(in_classes(tmp_path / "in", each=2))
    with_table(source, ["nothing.png,benign"])  # would be an error if it were read
    run = medshield("protect", source, "-o", tmp_path / "out", *SYNTHETIC)
    assert run.code == 0, run.err
    assert "none used, but clusters" in run.out
    statuses = {path: record["status"] for path, record in manifest(tmp_path / "out").items()}
    copied = {path for path, status in statuses.items() if status == "copied"}
    assert copied == {"labels.csv", *(f"masks/case{number}.png" for number in range(3))}
    assert set(statuses.values()) == {"protected", "copied"}
    assert medshield("check", tmp_path / "out", "--source", source).code == 0


@pytest.mark.parametrize("method", ["synthetic", "advt"])
def test_the_same_bytes_for_any_number_of_workers_and_any_file_order(tmp_path, method, monkeypatch):
    monkeypatch.setattr(methods_base, "BLOCK", 4)
    monkeypatch.setattr(release_writer, "BLOCK", 4)
    monkeypatch.setattr(adversarial_targeted, "ATTACK_STEPS", 2)
    names = [f"{number}.png" for number in range(10)]
    for folder, order in (("a", names), ("b", names[::-1])):
        (tmp_path / folder).mkdir()
        for name in order:
            png(tmp_path / folder / name, int(name[:-4]))
    for folder, workers in (("a", 1), ("b", 3)):
        options = (*NONE, "--method", method, "--effort", "0.001", "--workers", workers)
        run = medshield("protect", tmp_path / folder, "-o", tmp_path / f"{folder}-out", *options)
        assert run.code == 0, run.err
    assert tree(tmp_path / "a-out") == tree(tmp_path / "b-out")


def test_the_generator_protects_what_it_has_seen_alike_and_what_it_has_not(tmp_path, folder):
    run = medshield("fit", folder, "-o", tmp_path / "generator", *SYNTHETIC)
    assert run.code == 0, run.err
    assert "none used, but clusters" in run.out
    medshield("protect", folder, "-o", tmp_path / "out", *SYNTHETIC)
    (tmp_path / "new").mkdir()
    png(tmp_path / "new" / "3.png", 3)  # seen before
    png(tmp_path / "new" / "unseen.png", 77)
    arguments = ("-o", tmp_path / "more", "--generator", tmp_path / "generator")
    run = medshield("protect", tmp_path / "new", *arguments)
    assert run.code == 0, run.err
    assert (tmp_path / "more" / "3.png").read_bytes() == (tmp_path / "out" / "3.png").read_bytes()
    assert manifest(tmp_path / "more")["unseen.png"]["status"] == "protected"
    assert json.loads((tmp_path / "more" / "medshield.json").read_text())["labels_used"] is False


def test_a_generator_keeps_its_clusters(tmp_path, folder):
    medshield("fit", folder, "-o", tmp_path / "generator", *SYNTHETIC)
    found = Generator.load(tmp_path / "generator", torch.device("cpu"))
    images, _ = stripes(10)
    assert set(found.clusters.assign(images).tolist()) <= {0, 1}
    assert found.method.setting.task.classes == ("cluster 1", "cluster 2")


def test_a_generator_and_labels_must_fit_together(tmp_path, folder):
    medshield("fit", folder, "-o", tmp_path / "without", *SYNTHETIC)
    labelled = in_classes(tmp_path / "labelled", each=3)
    options = ("--method", "synthetic", "--eps", "8/255")
    medshield("fit", labelled, "-o", tmp_path / "with", *options)
    with_table(folder, ["0.png,a"])
    for name, labels, message in (
        ("with", "none", "the generator was fitted to labels"),
        ("without", "labels.csv", "the generator was fitted without labels"),
    ):
        run = medshield(
            *("protect", folder, "-o", tmp_path / "out", "--labels", labels),
            *("--generator", tmp_path / name),
        )
        assert run.code == 2
        assert message in run.err


def test_verify_needs_labels(tmp_path, folder):
    medshield("protect", folder, "-o", tmp_path / "out", *SYNTHETIC)
    for options in ((), ("--labels", "none")):
        run = medshield("verify", tmp_path / "out", *options)
        assert run.code == 2
        assert "victims need labels to learn from" in run.err
        assert "--labels CSV" in run.err
        assert len(run.err.strip().splitlines()) == 1


@pytest.mark.parametrize("given", [True, False])
def test_verify_takes_labels_that_are_given_or_found(tmp_path, given, monkeypatch):
    source = tmp_path / "images"
    source.mkdir()
    images, truth = stripes(40)
    rows = []
    for number, (image, lying) in enumerate(zip(images, truth, strict=True)):
        Image.fromarray((image[0] * 255).byte().numpy()).save(source / f"{number}.png")
        rows.append(f"{number}.png,{'lying' if lying else 'upright'}")
    medshield("protect", source, "-o", tmp_path / "out", *SYNTHETIC)
    (tmp_path / "elsewhere").mkdir()
    labels = with_table(tmp_path / "elsewhere" if given else source, rows) / "labels.csv"
    seen = []

    def train(jobs, _workers, _tell):
        job = jobs[0]
        seen.append((job.task.classes, job.parts.train.targets))
        raise KeyboardInterrupt

    monkeypatch.setattr("medshield.trials.run_all", train)
    run = medshield("verify", tmp_path / "out", *(("--labels", labels) if given else ()))
    assert run.code == 130, run.err
    classes, targets = seen[0]
    assert classes == ("lying", "upright")
    assert set(targets.tolist()) == {0, 1}
