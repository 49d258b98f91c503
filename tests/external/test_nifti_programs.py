"""nifti_tool on protected volumes: the header and the extensions, and nothing but voxels."""

import subprocess

import pytest

from medshield.errors import NotAnImage, RefusedFile
from tests.external.programs import files_of_format
from tests.tools.readers import reading
from tests.tools.trial import protect

pytestmark = [pytest.mark.external, pytest.mark.real_data]


def difference(program, option, source, target):
    """What nifti_tool says of two files; nothing where they agree."""
    command = [program("nifti_tool"), option, "-infiles", source, target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["nifti-odd", "hippocampus-nifti/images"])
def test_nifti_tool_sees_no_other_header(folder, real_data, program, tmp_path):
    compared = 0
    for path in list(files_of_format(real_data / folder, "nifti"))[:20]:
        target = tmp_path / path.name
        target.unlink(missing_ok=True)
        try:
            protect(path, target)
        except (NotAnImage, RefusedFile):
            continue
        second = "NIfTI-2" in reading(path).kind
        assert difference(program, "-diff_hdr2" if second else "-diff_hdr", path, target) == ""
        compared += 1
    assert compared >= 5
