"""A release of TIFFs of many kinds: protected, checked, and refused by name where they must be."""

import numpy as np
import pytest
import tifffile

from tests.builders import CLASSES, EIGHT, manifest, medshield
from tests.formats.tiff_files import save, texture

SIZE = (40, 48)


@pytest.fixture
def source(tmp_path):
    """Two classes of six kinds each, and a file that no bound could hold for."""
    root = tmp_path / "in"
    for seed, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        page = texture(SIZE, "u2", seed)
        save(folder / "grey.tif", texture(SIZE, "u1", seed), compression="lzw", predictor=True)
        save(folder / "rgb.tiff", texture((*SIZE, 3), "u1", seed), photometric="rgb", tile=(16, 16))
        save(folder / "white.tif", texture(SIZE, "u1", seed), photometric="miniswhite")
        save(folder / "pages.tif", page, page[::-1], compression="zlib", byteorder=">")
        save(folder / "floats.tif", texture(SIZE, "f4", seed), compression="zstd", bigtiff=True)
        save(folder / "preview.tif", page, (page[::2, ::2], {"subfiletype": 1}))
    save(root / "benign" / "jpeg.tif", texture(SIZE, "u1"), compression="jpeg")
    return root


@pytest.mark.parametrize("icons", ["regenerate", "remove"])
def test_every_kind_is_protected_and_sound(source, tmp_path, icons):
    release = tmp_path / "out"
    run = medshield("protect", source, "-o", release, *EIGHT, "--icons", icons)
    assert run.code == 3, run
    records = manifest(release)
    refused = {path: r["reason"] for path, r in records.items() if r["status"] != "protected"}
    assert list(refused) == ["benign/jpeg.tif"]
    assert "compressed by JPEG" in refused["benign/jpeg.tif"]
    assert medshield("check", release, "--source", source).code == 0
    for path in records.keys() - refused.keys():
        before, after = (tifffile.imread(root / path) for root in (source, release))
        moved = np.abs(after.astype(float) - before.astype(float)).max()
        assert 0 < moved <= records[path]["epsilon_stored"], path
    with tifffile.TiffFile(release / "benign" / "preview.tif") as file:
        assert len(file.pages) == (2 if icons == "regenerate" else 1)
