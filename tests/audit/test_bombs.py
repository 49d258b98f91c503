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


def test_no_bomb_takes_much_memory():
    """Of the process that read them all, in a fresh one."""
    code = """
import pathlib, resource, tempfile
from medshield import audit
from medshield.errors import RefusedFile
from tests.tools.bombs import bombs
for name, _, data in bombs():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        path.write_bytes(data)
        try:
            audit.recognise(path).read(path)
        except RefusedFile:
            pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    kibibytes = int(run.stdout) if sys.platform != "darwin" else int(run.stdout) // 1024
    assert kibibytes < 600 * 1024
