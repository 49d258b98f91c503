"""A huge file takes no more memory than a small one, and comes out the same."""

import shutil
import tracemalloc

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medshield.formats import series
from medshield.metrics import psnr, psnr_of_runs, squared_errors
from tests import dicom_files, dicom_forms
from tests.builders import manifest, medshield, tree
from tests.tools import big_file, generated

OPTIONS = ("--method", "synthetic", "--eps", "8/255", "--labels", "none", "--seed", 0)
ALONE = ("--workers", 1)
"""Other processes would not know what a test has set."""
FEW = (
    "8 bit, many frames.dcm",
    "JPEG 2000, five frames.dcm",
    "compressed.nii.gz",
    "f4 big.nii",
    "icon.dcm",
    "lossy JPEG.dcm",
    "palette.dcm",
)
MEGABYTES = 16
SIDE = 256


def frame_by_frame(monkeypatch):
    """Nothing is held that can be made again."""
    monkeypatch.setattr(series, "VALUES_HELD", 1)
    monkeypatch.setattr(series, "VALUES_A_RUN", 1)
    monkeypatch.setattr(series, "BYTES_HELD", 0)


def released(source, target, *options):
    run = medshield("protect", source, "-o", target, *OPTIONS, *ALONE, *options)
    assert run.code in (0, 3), run
    return tree(target)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every form of DICOM and type of NIfTI, of several frames where that matters."""
    folder = tmp_path_factory.mktemp("files")
    generated.write_all(folder)
    for path in folder.iterdir():
        if path.suffix in (".jpg", ".tif") and path.name != "pages.tif":
            path.unlink()
    for syntax, name in (
        (JPEGLSLossless, "JPEG-LS"),
        (JPEG2000Lossless, "JPEG 2000"),
        (RLELossless, "RLE"),
    ):
        values = np.stack([dicom_forms.anatomy((40, 36), 4000, seed) for seed in range(5)])
        dicom_files.coded(
            folder / f"{name}, five frames.dcm",
            values.astype("u2")[..., None],
            syntax,
            big_file.coder(syntax),
            table=True,
            bits=12,
        )
    return folder


def test_frame_by_frame_gives_the_same_release(files, tmp_path, monkeypatch):
    whole = released(files, tmp_path / "whole")
    frame_by_frame(monkeypatch)
    assert released(files, tmp_path / "in-turn") == whole
    states = [record["status"] for record in manifest(tmp_path / "whole").values()]
    assert states.count("protected") > 40


@pytest.mark.parametrize("options", [("--min-ssim", 0.97), ("--uid", "new")])
def test_the_same_with_what_is_done_beside(files, tmp_path, monkeypatch, options):
    source = tmp_path / "source"
    source.mkdir()
    for name in FEW:
        shutil.copy(files / name, source)
    whole = released(source, tmp_path / "whole", *options)
    frame_by_frame(monkeypatch)
    assert released(source, tmp_path / "in-turn", *options) == whole
    records = manifest(tmp_path / "whole")
    assert all(records[name]["status"] == "protected" for name in FEW)


@pytest.mark.parametrize("name", ["dicom", "jpeg-ls", "nii", "nii.gz", "img"])
def test_no_large_file_is_ever_held(name, tmp_path, monkeypatch):
    small, source = tmp_path / "small", tmp_path / "source"
    suffix = name if name in ("nii", "nii.gz", "img") else "dcm"
    for folder, megabytes in ((small, 1), (source, MEGABYTES)):
        folder.mkdir()
        frames = megabytes * 1_000_000 // (2 * SIDE * SIDE)
        big_file.FORMATS[name](folder / f"volume.{suffix}", SIDE, frames)
    released(small, tmp_path / "small-out")  # loads what is loaded once
    monkeypatch.setattr(series, "VALUES_HELD", 1 << 17)
    monkeypatch.setattr(series, "VALUES_A_RUN", 1 << 16)
    monkeypatch.setattr(series, "BYTES_HELD", 1 << 18)
    tracemalloc.start()
    try:
        run = medshield("protect", source, "-o", tmp_path / "out", *OPTIONS, *ALONE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert run.code == 0, run
    assert manifest(tmp_path / "out")[f"volume.{suffix}"]["status"] == "protected"
    assert peak < 0.75 * MEGABYTES * 1e6


@pytest.mark.parametrize("cut", [1, 70_000, 10**6])
def test_errors_add_up_alike_however_they_come(cut):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(3, 301, 307, 1)).astype("f4")
    moved = clean + rng.normal(size=clean.shape).astype("f4") / 9
    errors = squared_errors(clean, moved)
    cuts = (errors[at : at + max(cut, 5000)] for at in range(0, len(errors), max(cut, 5000)))
    assert psnr_of_runs(cuts, len(errors), 2.0) == psnr(clean, moved, 2.0)
    exact = 10 * np.log10(4 / np.mean((clean.astype(float) - moved.astype(float)) ** 2))
    assert psnr(clean, moved, 2.0) == exact


def test_the_tool_prints_a_row(tmp_path, capsys, monkeypatch):
    argv = ["big_file", "--megabytes", "0.1", "--format", "nii.gz", "--side", "32"]
    monkeypatch.setattr("sys.argv", [*argv, "--scratch", str(tmp_path)])
    big_file.main()
    header, _, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert header.startswith("| format | frames |")
    assert cells[:3] == ["nii.gz", "49", "0.1"]
    assert float(cells[-1]) > 50
