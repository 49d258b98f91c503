"""Small files that claim to be huge, or inflate to it, are refused in little memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from medshield import audit
from medshield.errors import RefusedFile
from tests.tools.bombs import bombs

READ_ALL_THE_SAME = {"inflates.png", "text.png", "deflated.tif"}
"""Their pixels are few, and what else the file inflates to is never looked at."""


@pytest.mark.parametrize(("name", "content"), [(name, data) for name, _, data in bombs()])
def test_a_bomb_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    auditor = audit.recognise(path)
    assert auditor is not None
    if name in READ_ALL_THE_SAME:
        assert auditor.read(path).values.size < 1000
    else:
        with pytest.raises(RefusedFile, match=r"too many|more than its header"):
            auditor.read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory as Linux does")
def test_no_bomb_takes_much_memory():
    """Not even a part of what it would inflate to fits into the memory of this process."""
    code = """
import pathlib, resource, tempfile
from medshield import audit
from medshield.errors import RefusedFile
from tests.tools.bombs import bombs
audit.auditor_named("nifti")
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20),) * 2)
for name, _, data in bombs():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        path.write_bytes(data)
        try:
            audit.recognise(path).read(path)
        except RefusedFile:
            pass
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
