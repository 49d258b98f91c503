"""What `verify` says of releases whose truth is known: mostly of ones that do not protect.

python -m tests.tools.verdicts DATA --workers 2 > verdicts.md

DATA holds the folders of real images that docs/evidence.md names. Of each set a few hundred images
are taken, and each kind of release is made from them and verified once for each seed. A cell of
`basic` is enough to call a false "protected", and one alone is more easily deceived than a level
that all cells decide: so only ResNet-18 is trained, and its cell is judged as `basic` judges.
"""

import argparse
import csv
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from medshield import medmnist_folder
from medshield.dataset.annotation_options import AnnotationOptions
from medshield.manifest import read_release
from medshield.private import make_private_folder
from medshield.protect_config import ProtectConfig
from medshield.protecting import protect
from medshield.verify_config import VerifyConfig
from medshield.verifying import verify
from tests.tools.tables import table

EIGHT, SIXTEEN, ONE = (Fraction(n, 255) for n in (8, 16, 1))
HEADER = ("set", "release", "seed", "verdict", "leakage", "why")
LABELS = "labels.csv"


@dataclass(frozen=True)
class Source:
    """A labelled folder of 8-bit PNG files.

    Attributes:
        name: of the set.
        folder: with LABELS in it.
        annotations: how to read them.
    """

    name: str
    folder: Path
    annotations: AnnotationOptions

    def labels(self) -> dict[str, str]:
        """By file name."""
        with (self.folder / LABELS).open(newline="") as file:
            return {row["filename"]: row["label"] for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Bench:
    """What all verifications share.

    Attributes:
        scratch: folder for releases and trials.
        cell: what victims do.
        epochs: of each; None to choose.
        workers: victims trained at a time.
    """

    scratch: Path
    cell: str
    epochs: int | None
    workers: int

    def protected(self, source: Source, method: str, epsilon: Fraction, seed: int) -> Path:
        """A release of a source, made once."""
        name = f"{source.name}-{method}-{epsilon.numerator}-{epsilon.denominator}-{seed}"
        release = self.scratch / name
        if not release.exists():
            protect(
                ProtectConfig(
                    source=source.folder,
                    target=release,
                    method=method,
                    epsilon=epsilon,
                    annotations=source.annotations,
                    image_size=32,
                    seed=seed,
                    workers=self.workers,
                )
            )
        return release

    def shuffled(self, source: Source, seed: int) -> Source:
        """The same images, with labels dealt out anew."""
        folder = self.scratch / f"{source.name}-shuffled-{seed}"
        if not folder.exists():
            labels = source.labels()
            dealt = np.random.default_rng(seed).permutation(list(labels.values()))
            shutil.copytree(source.folder, folder)
            _relabel(folder / LABELS, dict(zip(labels, dealt, strict=True)))
        return replace(source, name=folder.name, folder=folder)

    def few(self, source: Source, seed: int) -> Source:
        """Twenty of the images, ten of each of two classes."""
        folder = self.scratch / f"{source.name}-few-{seed}"
        if not folder.exists():
            labels = source.labels()
            order = np.random.default_rng(seed).permutation(list(labels))
            two = sorted(set(labels.values()))[:2]
            kept = {
                name: label
                for label in two
                for name in [name for name in order if labels[name] == label][:10]
            }
            folder.mkdir()
            for name in kept:
                shutil.copyfile(source.folder / name, folder / name)
            shutil.copyfile(source.folder / LABELS, folder / LABELS)
            _relabel(folder / LABELS, kept)
        return replace(source, name=folder.name, folder=folder)

    def copied(self, release: Path, name: str) -> Path:
        """A copy of a release and its private folder."""
        copy = self.scratch / f"{release.name}-{name}"
        for suffix in ("", ".private"):
            shutil.rmtree(f"{copy}{suffix}", ignore_errors=True)
            shutil.copytree(f"{release}{suffix}", f"{copy}{suffix}")
        return copy

    def verdict(self, source: Source, release: Path, seed: int, seeds: int = 3) -> list[str]:
        """The last three columns of the table."""
        evidence = verify(
            VerifyConfig(
                release=release,
                source=source.folder,
                cells=(self.cell,),
                seeds=seeds,
                seed=seed,
                epochs=self.epochs,
                image_size=32,
                annotations=source.annotations,
                workers=self.workers,
                cache=self.scratch / "trials",
            )
        )
        (result,) = evidence.cells
        verdict, why = result.judged("basic")
        last = result.leakages[0]
        return [str(verdict), f"{last.estimate:.2f} [{last.low:.2f}, {last.high:.2f}]", why]


Case = tuple[Source, Path]
"""What victims are to learn from, and its release."""
Kind = Callable[[Bench, Source, int], Case]


def unperturbed(bench: Bench, source: Source, seed: int) -> Case:
    """A release whose files are the originals."""
    return _some_original(bench, source, seed, "copies", lambda _: True)


def half(bench: Bench, source: Source, seed: int) -> Case:
    """Every second image is as it was."""
    names = sorted(source.labels())
    rng = np.random.default_rng(seed)
    clean = set(rng.permutation(names)[: len(names) // 2])
    return _some_original(bench, source, seed, "half", clean.__contains__)


def one_class(bench: Bench, source: Source, seed: int) -> Case:
    """Only one class was protected."""
    labels = source.labels()
    chosen = sorted(set(labels.values()))[seed % len(set(labels.values()))]
    return _some_original(bench, source, seed, "one-class", lambda name: labels[name] != chosen)


def _some_original(
    bench: Bench, source: Source, seed: int, name: str, is_clean: Callable[[str], bool]
) -> Case:
    release = bench.copied(bench.protected(source, "synthetic", EIGHT, seed), name)
    for record in read_release(release)[0]:
        if record.status == "protected" and is_clean(record.path):
            shutil.copyfile(source.folder / record.path, release / record.path)
    return source, release


def wrong_labels(bench: Bench, source: Source, seed: int) -> Case:
    """Patterns of classes, given to images of any class."""
    made = bench.protected(bench.shuffled(source, seed), "synthetic", EIGHT, seed)
    return source, bench.copied(made, "wrong")


def _relabel(path: Path, labels: dict[str, str]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            {**row, "label": labels[row["filename"]]} for row in rows if row["filename"] in labels
        )


def one_pixel(bench: Bench, source: Source, seed: int) -> Case:
    """The same pixel of every image of a class is 8 levels brighter or darker."""
    release = bench.copied(bench.protected(source, "random-noise", EIGHT, seed), "pixel")
    labels = source.labels()
    rng = np.random.default_rng(seed)
    places = {label: rng.random(2) for label in sorted(set(labels.values()))}
    for record in read_release(release)[0]:
        if record.status != "protected":
            continue
        with Image.open(source.folder / record.path) as image:
            pixels = np.array(image).astype(int)
        row, column = (places[labels[record.path]] * pixels.shape[:2]).astype(int)
        pixels[row, column] += np.where(pixels[row, column] > 127, -8, 8)
        Image.fromarray(pixels.astype(np.uint8)).save(release / record.path)
    return source, release


def by(method: str, epsilon: Fraction) -> Kind:
    """What `protect` makes."""
    return lambda bench, source, seed: (source, bench.protected(source, method, epsilon, seed))


def random_labels(bench: Bench, source: Source, seed: int) -> Case:
    """Nothing can be learned, so nothing can be said."""
    dealt = bench.shuffled(source, seed)
    return dealt, bench.protected(dealt, "synthetic", EIGHT, seed)


def twenty_images(bench: Bench, source: Source, seed: int) -> Case:
    """Too few to say anything."""
    few = bench.few(source, seed)
    return few, bench.protected(few, "synthetic", EIGHT, seed)


PROTECTING = "robust 16/255"
HOPELESS = ("random labels", "twenty images")
GROUPS = {PROTECTING: "are meant to protect", **dict.fromkeys(HOPELESS, "can't be told from")}
KINDS: dict[str, Kind] = {
    "unperturbed copies": unperturbed,
    "random noise 8/255": by("random-noise", EIGHT),
    "random noise 16/255": by("random-noise", SIXTEEN),
    "half of the images (synthetic 8/255)": half,
    "one class (synthetic 8/255)": one_class,
    "patterns on wrong labels (synthetic 8/255)": wrong_labels,
    "synthetic 1/255": by("synthetic", ONE),
    "one pixel a class, 8/255": one_pixel,
    PROTECTING: by("robust", SIXTEEN),
    "random labels": random_labels,
    "twenty images": twenty_images,
}


def sources(data: Path, scratch: Path, limit: int) -> Iterator[Source]:
    """PneumoniaMNIST, HAM10000 (its four largest classes) and BCCD, so many images of each."""
    whole = scratch / "whole"
    if not whole.exists():
        medmnist_folder.export(
            "pneumoniamnist", whole, root=data / "medmnist", limit=None, file_format="png"
        )
    for name, folder, group, kept in (
        ("pneumoniamnist", whole, "", ()),
        ("ham10000-224", data / "ham10000-224", "lesion_id", ("nv", "bkl", "mel", "bcc")),
        ("bccd-cells", data / "bccd-cells", "source_image", ()),
    ):
        target = scratch / name
        if not target.exists():
            _subset(folder, target, group, kept, limit)
        yield Source(name, target, AnnotationOptions(patient_column=group or None))


def _subset(source: Path, folder: Path, group: str, kept: tuple[str, ...], limit: int) -> None:
    """So many images of some classes, or of all, as PNG files of at most 64 px a side."""
    with (source / LABELS).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not kept or row["label"] in kept]
    columns = ["filename", "label", *filter(None, [group])]
    chosen = np.random.default_rng(0).permutation(len(rows))[:limit]
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with (temporary / LABELS).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for number in sorted(chosen):
            name = "-".join(Path(rows[number]["filename"]).with_suffix(".png").parts)
            with Image.open(source / rows[number]["filename"]) as image:
                small = image if image.mode == "L" else image.convert("RGB")
                small.thumbnail((64, 64))
                small.save(temporary / name)
            writer.writerow({**rows[number], "filename": name})
    temporary.rename(folder)


def main() -> None:
    """Print a row for each release as soon as it is known, and then a count of verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="pneumoniamnist,ham10000-224,bccd-cells")
    parser.add_argument("--kinds", type=int, nargs="*", help="numbers of the kinds; all if absent")
    parser.add_argument("--seeds", type=int, default=2, help="releases of each kind and set")
    parser.add_argument("--limit", type=int, default=400, help="images of each set")
    parser.add_argument("--cell", default="resnet18")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="kept; a temporary folder if absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        make_private_folder(scratch)
        bench = Bench(scratch, options.cell, options.epochs, options.workers)
        rows = []
        for source in sources(options.data, scratch, options.limit):
            if source.name not in options.sets.split(","):
                continue
            for number, (name, kind) in enumerate(KINDS.items()):
                if options.kinds and number not in options.kinds:
                    continue
                for seed in range(options.seeds):
                    started = time.monotonic()
                    learned, release = kind(bench, source, seed)
                    found = bench.verdict(learned, release, seed)
                    rows.append([source.name, name, str(seed), *found])
                    spent = time.monotonic() - started
                    sys.stderr.write(f"{' | '.join(rows[-1])} ({spent:.0f} s)\n")
    sys.stdout.write(table(HEADER, rows) + "\n")
    for group in ("do not protect", *dict.fromkeys(GROUPS.values())):
        verdicts = Counter(row[3] for row in rows if GROUPS.get(row[1], "do not protect") == group)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        sys.stdout.write(f"\n{verdicts.total()} releases that {group}: {counts}\n")


if __name__ == "__main__":
    main()
