"""What must never get out, or in: keys, patients, code in data, and the network."""

import ast
import base64
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import medshield as package
from medshield.methods import error_minimizing
from tests.builders import EIGHT, in_classes, medshield, tree
from tests.test_verify import make_set

SOURCES = sorted(Path(package.__file__).parent.rglob("*.py"))
QUICK = ("--cells", "small_convnet", "--epochs", "1", "--seeds", "1", "--most-seeds", "1")


@pytest.fixture
def open_umask():
    """A umask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def addresses(monkeypatch):
    """Every address that is looked up or connected to, which fails."""
    found = []

    def refused(*arguments):
        found.append(arguments)
        raise OSError("no network in this test")

    connect = socket.socket.connect

    def connecting(self, address):
        if self.family != socket.AF_UNIX:
            refused(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket, "gethostbyname", refused)
    return found


def modes(folder):
    """The mode of a folder and of everything in it, and what it should be."""
    for path in (folder, *folder.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        yield path.relative_to(folder).as_posix(), stat.S_IMODE(path.stat().st_mode), wanted


def test_all_that_is_private_is_so_whatever_the_umask(tmp_path, open_umask):
    source = make_set(tmp_path / "in", patients=20, each=2)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)
    assert run.code == 0, run.err
    run = medshield("verify", tmp_path / "out", *QUICK, "--workers", "1")
    assert run.code in (4, 5), run.err
    run = medshield("fit", source, "-o", tmp_path / "generator", *EIGHT)
    assert run.code == 0, run.err
    found = [*modes(tmp_path / "out.private"), *modes(tmp_path / "generator")]
    names = {name for name, *_ in found}
    assert {"generator/key", "config.json", "labels.json", "verify/report.json"} <= names
    assert any(name.endswith(".npz") for name in names)
    assert any(name.startswith("verify") and name.endswith(".safetensors") for name in names)
    assert [one for one in found if one[1] != one[2]] == []


def test_new_uids_are_private_too(tmp_path, open_umask):
    source = in_classes(tmp_path / "in", (".dcm",), each=2)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--uid", "new")
    assert run.code == 0, run.err
    found = list(modes(tmp_path / "out.private"))
    assert "uids.csv" in {name for name, *_ in found}
    assert [one for one in found if one[1] != one[2]] == []


def test_a_private_folder_that_others_could_read_is_closed(tmp_path):
    source = in_classes(tmp_path / "in")
    (tmp_path / "out.private").mkdir(mode=0o755)
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume")
    assert run.code == 0, run.err
    assert [one for one in modes(tmp_path / "out.private") if one[1] != one[2]] == []


@pytest.mark.parametrize("name", ["out.private", "out.partial"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path, name):
    source = in_classes(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    for more in ((), ("--resume",)):
        run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, *more)
        assert run.code == 2
        assert run.err.count("\n") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_link_planted_in_an_unfinished_release_is_not_followed(tmp_path):
    source = in_classes(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "benign").symlink_to(tmp_path / "elsewhere")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--resume")
    assert run.code == 2
    assert "a symbolic link" in run.err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def spellings(key):
    """A key as it might be written."""
    raw = bytes.fromhex(key)
    return [raw, key.encode(), key.upper().encode(), base64.b64encode(raw), repr(raw).encode()]


def test_the_key_is_written_nowhere_but_in_its_own_file(tmp_path):
    source = make_set(tmp_path / "in", patients=20, each=2)
    log = tmp_path / "log"
    talk = ("--verbose", "--json", "--log-file", log)
    release, private = tmp_path / "out", tmp_path / "out.private"
    runs = [medshield("protect", source, "-o", release, *EIGHT, *talk)]
    key = (private / "generator" / "key").read_text().strip()
    runs.append(medshield("check", release, "--source", source, *talk))
    runs.append(medshield("verify", release, *QUICK, "--workers", "1", *talk))
    new = tmp_path / "new"
    generator = ("--generator", private / "generator")
    runs.append(medshield("protect", source, "-o", new, *generator, *talk))
    assert [run.code for run in runs][:2] == [0, 0]
    said = "".join(run.out + run.err for run in runs).encode()
    kept = {name: content for name, content in tree(private).items() if name != "generator/key"}
    places = {"output": said, "log": log.read_bytes(), **tree(release), **tree(new), **kept}
    found = {name for name, text in places.items() for one in spellings(key) if one in text}
    assert found == set()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_key_is_on_no_command_line_and_in_no_environment(tmp_path):
    """Others on a machine see the command lines of all processes."""
    source = in_classes(tmp_path / "in", each=8)
    command = [sys.executable, "-m", "medshield", "protect", str(source)]
    command += ["-o", str(tmp_path / "out"), *EIGHT, "--workers", "2", "-q"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    seen = set()
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    seen |= {(folder / name).read_bytes() for name in ("cmdline", "environ")}
            except (OSError, ValueError):
                continue
    assert process.returncode == 0
    assert any(b"medshield" in text for text in seen)
    key = (tmp_path / "out.private" / "generator" / "key").read_text().strip()
    assert [text for text in seen for one in spellings(key) if one in text] == []


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "subprocess"}
FORBIDDEN_MODULES |= {"socket", "urllib", "http", "ftplib", "requests", "httpx", "telnetlib"}
SAFE_LOADS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def dangers(tree):
    """What of a module could run what others wrote, or reach out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [str(node.module)]
            yield from ({module.split(".")[0] for module in modules} & FORBIDDEN_MODULES)
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                yield "from pickle"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            if node.attr != "UnpicklingError":  # what a refused file raises
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS or called in ("os.system", "os.popen"):
                yield called
            if called in SAFE_LOADS:
                name, value = SAFE_LOADS[called]
                given = {word.arg: word.value for word in node.keywords}
                if name not in given or ast.unparse(given[name]) != str(value):
                    yield called


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "def f():\n    import urllib.request",
        "import os\nos.system('x')",
    ],
)
def test_the_walk_sees_dangers(code):
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_data_is_run_as_code_and_no_module_reaches_out(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_no_network_is_used_that_nobody_asked_for(tmp_path, addresses, monkeypatch):
    monkeypatch.setattr(error_minimizing, "MOST_TURNS", 1)
    monkeypatch.setattr(error_minimizing, "REFINING_STEPS", 2)
    source = make_set(tmp_path / "in", patients=20, each=2)
    release = tmp_path / "out"
    assert medshield("scan", source).code == 0
    em = ("--method", "em", "--eps", "8/255", "--effort", "0.001")
    run = medshield("protect", source, "-o", release, *em)
    assert run.code == 0, run.err
    assert medshield("check", release, "--source", source).code == 0
    assert (
        medshield("verify", release, "--threat", "expert", "--dry-run", "--image-size", "32").code
        == 0
    )
    assert medshield("verify", release, *QUICK, "--workers", "1").code in (4, 5)
    assert addresses == []
