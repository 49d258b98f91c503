"""pngcheck, exiftool and libtiff's tools on protected pictures."""

import subprocess

import pytest

from medshield.errors import RefusedFile
from tests.external.programs import files_of_format, new_lines, said, tags
from tests.tiff_forms import FORMS
from tests.tools.trial import protect

pytestmark = pytest.mark.external
PLACES = ("StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts")


@pytest.mark.real_data
def test_pngcheck_and_exiftool_on_pngsuite(real_data, program, tmp_path):
    target = tmp_path / "target.png"
    compared, seen = 0, set()
    for path in files_of_format(real_data / "pngsuite", "png"):
        target.unlink(missing_ok=True)
        try:
            protect(path, target)
        except RefusedFile:
            continue
        assert new_lines(program("pngcheck"), path, target, "-q") == [], path
        compared += 1
        if (kind := path.name[:2]) not in seen:  # exiftool takes its time
            seen.add(kind)
            assert tags(program("exiftool"), path) == tags(program("exiftool"), target), path
    assert compared >= 76
    assert len(seen) > 10


@pytest.fixture(params=FORMS)
def pair(request, tmp_path):
    """A generated TIFF and its protected one."""
    source, target = FORMS[request.param](tmp_path / "source.tif"), tmp_path / "target.tif"
    protect(source, target)
    return source, target


def test_exiftool_sees_the_same_tags_of_tiff(pair, program):
    before, after = (tags(program("exiftool"), path, *PLACES) for path in pair)
    assert len(before) > 10
    assert before == after


def test_libtiff_sees_the_same_pages(pair, program):
    before, after = (said(program("tiffinfo"), path, "-c") for path in pair)
    kept = [[line for line in lines if "offset" not in line.lower()] for lines in (before, after)]
    assert len(kept[0]) > 8
    assert kept[0] == kept[1]


def test_tiffcmp_finds_pixels_that_differ_and_no_tag(pair, program):
    source, target = pair
    done = subprocess.run(
        [program("tiffcmp"), source, target], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    if "tiled image" in done.stderr or "not supported" in done.stderr + done.stdout:
        pytest.skip("tiffcmp compares neither tiles nor doubles")
    assert all(line.startswith(("Scanline", "Strip")) for line in lines), lines
    assert lines


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["ham10000-224/images", "kvasir-seg-352/train/images"])
def test_exiftool_on_photographs(folder, real_data, program, tmp_path):
    for path in sorted((real_data / folder).glob("*.jpg"))[::100]:
        target = tmp_path / path.name
        protect(path, target)
        assert tags(program("exiftool"), path) == tags(program("exiftool"), target), path
