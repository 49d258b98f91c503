"""The commands behind docs/fidelity.md: they run, and they see what is wrong."""

import random
import sys

import numpy as np
import pytest
from PIL import Image

from medshield.formats.png.codec import PngCodec
from tests.builders import dicom, in_classes, jpeg, nifti, png
from tests.tools import fidelity, kills, scale, throughput
from tests.tools.tables import renew
from tests.tools.trial import EPSILON

BLOCK = "before\n<!-- begin tables -->\nold\n<!-- end tables -->\nafter\n"


def one_of_each(root):
    root.mkdir()
    png(root / "grey.png")
    png(root / "wide.png", bits=16)
    jpeg(root / "photo.jpg")
    dicom(root / "slice.dcm")
    nifti(root / "volume.nii.gz")
    Image.fromarray(np.eye(8, dtype=bool)).save(root / "line-art.png")
    (root / "notes.txt").write_text("copied")
    (root / "thumbs.db").write_bytes(b"omitted")
    (root / "broken.png").write_bytes((root / "grey.png").read_bytes()[:60])
    return root


def row(text, start):
    """The cells of the first table row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_fidelity_counts_every_file(tmp_path):
    document = tmp_path / "fidelity.md"
    document.write_text(BLOCK)
    folder = one_of_each(tmp_path / "in")
    assert fidelity.main([str(folder), "--workers", "1", "-o", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert row(text, "in") == ["9", "5", "1", "1", "2", "0"]
    shares = text.split("decodes\n")[1]
    assert row(shares, "in") == ["5", "4", "80.0 %", "1", "100.0 %", "0", "100.0 %"]
    assert "line-art.png" in text
    assert str(tmp_path) not in text


def of_one(folder):
    """What becomes of the only file of a folder."""
    (outcome,) = fidelity.measure("", folder, fidelity.files_of(folder), EPSILON, 1).outcomes
    return outcome


def spoil(monkeypatch, spoiled):
    """Let the PNG codec write what `spoiled` makes of the bytes."""
    write = PngCodec.write

    def worse(self, image, stored, target, radius):
        notes = write(self, image, stored, target, radius)
        spoiled(target)
        return notes

    monkeypatch.setattr(PngCodec, "write", worse)


def too_far(path):
    values = np.asarray(Image.open(path)).copy()
    values[3, 3] = 255 - values[3, 3]
    Image.fromarray(values).save(path)


def another_chunk(path):
    image = Image.open(path)
    image.save(path, dpi=(300, 300))


def smaller(path):
    image = Image.open(path)
    image.crop((0, 0, 8, 8)).save(path)


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        (too_far, "a value moved by"),
        (another_chunk, "changed outside the pixels"),
        (smaller, "sees another size"),
        (lambda path: path.write_bytes(b"nothing"), "medshield does not read"),
    ],
)
def test_fidelity_sees_what_is_wrong(spoiled, fault, monkeypatch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    png(folder / "grey.png")
    assert of_one(folder).category == "exact"
    spoil(monkeypatch, spoiled)
    outcome = of_one(folder)
    assert outcome.category == "wrong"
    assert fault in outcome.reason


def test_a_document_without_the_block_is_not_touched(tmp_path):
    document = tmp_path / "other.md"
    document.write_text("no block")
    with pytest.raises(ValueError, match="no block 'tables'"):
        renew(document, "tables", "text")
    assert document.read_text() == "no block"


def test_throughput_names_every_format(tmp_path):
    document = tmp_path / "fidelity.md"
    document.write_text(BLOCK.replace("tables", "throughput"))
    assert throughput.main(["--repeats", "2", "--scale", "0.06", "-o", str(document)]) == 0
    text = document.read_text()
    for name in throughput.FILES:
        codec_lands_later = name.startswith("TIFF") and name not in text
        assert codec_lands_later or float(row(text, name)[-1]) > 1


def test_kills_are_counted_and_lose_nothing(tmp_path):
    source = in_classes(tmp_path / "in", suffixes=(".png", ".dcm"))
    found = kills.run(source, tmp_path, 2, ["--method", "synthetic"], random.Random(0))
    assert found.kills.total() == 2
    assert found.releases >= 1
    assert found.faults == 0
    assert "2 kills" in kills.report(found)


def test_a_release_that_is_there_too_early_is_a_fault(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in")
    script = (
        "import pathlib, sys, time; place = pathlib.Path(sys.argv[1]); "
        "again = place.exists() or place.name == 'whole'; place.mkdir(exist_ok=True); "
        "(place / 'one').write_text('half'); time.sleep(0 if again else 60); "
        "(place / 'one').write_text('whole')"
    )
    monkeypatch.setattr(
        kills, "command", lambda _source, target, _: [sys.executable, "-c", script, str(target)]
    )
    monkeypatch.setattr(random.Random, "uniform", lambda *_: 2.0)
    found = kills.run(source, tmp_path, 1, [], random.Random(0))
    assert found.early.total() == 1
    assert found.differing == 1


def test_a_large_set_on_paper(monkeypatch, capsys):
    words = "--files 1000000 --plan-ms 9 --write-ms 36 --megabytes 0.5 --gpus 1 64 --cores 10"
    prices = "--storage 1000 --core-price 0.1 --gpu-price 2"
    monkeypatch.setattr(sys, "argv", ["scale", *words.split(), *prices.split()])
    scale.main()
    one = row(text := capsys.readouterr().out, "1,000,000 | 1")
    assert one[1:6] == ["10", "15.0 min", "60.0 min", "25.0 min", "75.0 min"]
    assert one[6:] == ["writing", "12", "1.25", "3.75"]
    many = row(text, "1,000,000 | 64")
    assert many[1:6] == ["640", "15.0 min", "0.9 min", "25.0 min", "25.0 min"]
    assert many[6:] == ["storage", "267", "26.67", "80.00"]
