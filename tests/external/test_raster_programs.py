"""pngcheck, exiftool and libtiff's tools on protected pictures."""

import pytest

from medshield.errors import RefusedFile
from tests.external.programs import files_of_format, new_lines, tags
from tests.tools.trial import protect

pytestmark = pytest.mark.external


@pytest.mark.real_data
def test_pngcheck_and_exiftool_on_pngsuite(real_data, program, tmp_path):
    target = tmp_path / "target.png"
    compared = 0
    for path in files_of_format(real_data / "pngsuite", "png"):
        target.unlink(missing_ok=True)
        try:
            protect(path, target)
        except RefusedFile:
            continue
        assert new_lines(program("pngcheck"), path, target, "-q") == [], path
        assert tags(program("exiftool"), path) == tags(program("exiftool"), target), path
        compared += 1
    assert compared >= 76


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["ham10000-224/images", "kvasir-seg-352/train/images"])
def test_exiftool_on_photographs(folder, real_data, program, tmp_path):
    for path in sorted((real_data / folder).glob("*.jpg"))[::100]:
        target = tmp_path / path.name
        protect(path, target)
        assert tags(program("exiftool"), path) == tags(program("exiftool"), target), path
