"""Which module may import which, and what must start without PyTorch."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from medshield.versions import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medshield"

FLOORS = [
    # The ball, the key, the gradient loop, and what has no idea of images.
    {"errors", "key_file", "kept_lines", "budget", "keys", "randomness", "projected_gradient"}
    | {"bounded", "checkpoint", "places", "pools", "private", "processes", "progress", "sharing"}
    | {"method_names", "states"}
    | {"text", "versions"},
    # Bytes to stored values and back; and a second reading, for `check`.
    {"audit", "formats"},
    # What a folder holds, and measures.
    {"augmentation", "dataset", "journal", "manifest", "metrics", "models", "splits", "tasks"}
    | {"cost", "duplicates", "movement", "pretrained", "visibility"},
    # The science.
    {
        "arms",
        "clusters",
        "contrastive",
        "countermeasures",
        "denoising",
        "evidence",
        "forecast",
        "generator",
        "generator_facts",
        "intervals",
        "methods",
        "probing",
        "sample",
        "threats",
        "training",
        "trials",
        "weighing",
    },
    # One function and one configuration each.
    {
        "bagging",
        "benchmarking",
        "benchmark_table",
        "limited",
        "paper_figures",
        "score_plot",
        "release_card",
        "checking",
        "compared_images",
        "cost_table",
        "contact_sheet",
        "dicom_release",
        "engines",
        "fitting",
        "kept_run",
        "medmnist_folder",
        "planning",
        "preview",
        "protect_config",
        "protecting",
    }
    | {
        "fidelity",
        "frontier",
        "leakage_table",
        "ray_engine",
        "release_run",
        "release_writer",
        "reports",
    }
    | {"shares", "tables", "verification", "verifying"}
    | {"chosen_cells", "preparation", "rounds", "verify_config"},
    # The verbs, and the names that `import medshield` offers.
    {"__init__", "api"},
    # The command line.
    {"cli", "cli_benchmark", "cli_exit", "cli_options", "cli_talk", "__main__"},
]

STARTS_WITHOUT_TORCH = [
    "import medshield",
    "import medshield; medshield.protect, medshield.verify, medshield.Scan, medshield.Record",
    "import medshield.cli",
    "import medshield.formats, medshield.audit, medshield.dataset.scan, medshield.checking",
    "import medshield.budget, medshield.keys, medshield.errors",
]


def module_name(path):
    """`formats/png/codec.py` is formats.png.codec, and a package is named by its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_in(tree):
    """The names in this package that are imported anywhere below a node, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "medshield")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("medshield.")
                yield name if name in MODULES else str(node.module)


def imported_by(tree):
    """The modules of this package below a node; a name of the package itself is `__init__`'s."""
    names = (name.removeprefix("medshield.") for name in imports_in(tree))
    return {"__init__" if name == "medshield" else name for name in names} & MODULES


def without_types(tree):
    """The tree less what is imported for type checkers alone."""
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = set(PATHS)
IMPORTS = {module: imported_by(parsed(path)) for module, path in PATHS.items()}
AT_RUN_TIME = {m: imported_by(without_types(parsed(path))) for m, path in PATHS.items()}


def floor_of(module):
    first = module.split(".")[0]
    return next((number for number, names in enumerate(FLOORS) if first in names), None)


def reached_from(modules, imports=IMPORTS):
    """These modules and all that they import, directly or not."""
    reached, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imports[module]
    return reached


def below(package):
    return {module for module in MODULES if module.split(".")[0] == package}


def test_the_walk_sees_imports_of_every_form():
    assert {"errors", "formats.base", "formats.reserved"} <= IMPORTS["formats.png.codec"]
    assert {"protecting", "tables", "api"} <= IMPORTS["cli"]  # inside functions, and a name
    assert "formats.dicom.coding" in IMPORTS["formats.dicom.refusals"]  # a module of a package


def test_every_module_has_a_floor():
    assert {module for module in MODULES if floor_of(module) is None} == set()
    assert sum(map(len, FLOORS)) == len({module.split(".")[0] for module in MODULES})


def test_the_documentation_says_the_same():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*?) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS)))
    for number, names in rows:
        named = {name.rstrip("/") for name in re.findall(r"`(.*?)`", names)}
        assert named <= FLOORS[int(number)]


def test_no_module_imports_from_a_floor_above():
    upwards = {
        f"{module} -> {other}"
        for module, others in IMPORTS.items()
        for other in others
        if (floor_of(other) or 0) > (floor_of(module) or 0)
    }
    assert upwards == set()


@pytest.mark.parametrize("module", ["errors", "budget", "keys", "projected_gradient"])
def test_the_ground_floor_stands_on_itself(module):
    assert reached_from([module]) <= {"errors", "budget", "keys", "projected_gradient"}


def test_formats_know_nothing_but_errors_and_themselves():
    assert reached_from(below("formats")) == below("formats") | {"errors"}


def test_what_writes_a_file_and_what_checks_it_share_no_code():
    """A mistake in one must not hide in the other: ranges and errors are all that they share."""
    shared = {"errors", "formats", "formats.base"}
    assert reached_from(below("audit"), AT_RUN_TIME) <= below("audit") | {"errors"}
    assert {o for m in below("audit") for o in IMPORTS[m]} <= below("audit") | shared
    assert not {o for m in below("formats") for o in IMPORTS[m]} & below("audit")


@pytest.mark.parametrize("package", ["dataset", "methods", "countermeasures"])
def test_data_and_science_know_nothing_of_the_commands(package):
    commands = {"protecting", "verifying", "checking", "benchmarking", "cli"}
    assert not reached_from(below(package)) & commands


def test_data_know_nothing_of_methods_and_methods_nothing_of_files():
    assert not reached_from(below("dataset")) & below("methods")
    assert not reached_from(below("methods")) & (below("formats") | below("dataset"))


def test_no_module_imports_itself_by_way_of_others():
    circles = {m for m in MODULES if m in reached_from(AT_RUN_TIME[m], AT_RUN_TIME)}
    assert circles == set()


def run(code, folder=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("statement", STARTS_WITHOUT_TORCH)
def test_importing_brings_no_torch(statement):
    assert run(f"import sys; {statement}; print('torch' in sys.modules)") == "False\n"


def test_protect_scans_before_pytorch_takes_its_memory():
    code = """
import sys
from medshield import cli, planning
def scan(*_, **__):
    print("torch" in sys.modules)
    raise SystemExit
planning.scan = scan
sys.argv = ["medshield", "protect", "sample_data/radiographs", "-o", "/nowhere", "--eps", "8/255"]
cli.main()
"""
    assert run(code) == "False\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["images"], "images: not a release"),
        ([], "0 releases here"),
    ],
)
def test_verify_says_before_pytorch_is_loaded_that_there_is_no_release(arguments, said, tmp_path):
    (tmp_path / "images").mkdir()
    code = f"""
import sys
from medshield import cli, cli_exit
cli_exit.complain = print
sys.argv = ["medshield", "verify", *{arguments!r}]
print(cli_exit.run(cli.cli), "torch" in sys.modules)
"""
    told, end = run(code, tmp_path).splitlines()
    assert told.startswith(said)
    assert end == "2 False"


def test_verify_says_before_pytorch_is_loaded_that_there_is_no_source(tmp_path):
    (tmp_path / "medshield.json").write_text("{}")
    code = f"""
import sys
from medshield import cli, cli_exit
cli_exit.complain = print
sys.argv = ["medshield", "verify", {str(tmp_path)!r}, "--source", "nowhere"]
print(cli_exit.run(cli.cli), "torch" in sys.modules)
"""
    assert run(code) == "nowhere: no such folder; give the folder that holds the images\n2 False\n"


def test_help_brings_no_torch():
    code = """
import sys
from medshield.cli import main
sys.argv = ["medshield", "--help"]
try:
    main()
except SystemExit as end:
    print("exit", end.code, "torch" in sys.modules)
"""
    assert run(code).splitlines()[-1] == "exit 0 False"


PLUGINS = {"pylibjpeg", "pylibjpeg-openjpeg"}  # which pydicom finds by itself
UNCOUNTED = {
    "safetensors",  # bytes to tensors, without a choice
    "threadpoolctl",
    "tqdm",
    "ray",  # hands on what others make
}


def test_versions_names_every_package_that_writes_a_release():
    """All that `protect` imports, in functions too, by way of any module."""
    used, left, foreign = set(), {"release_run"}, set()
    while left:
        used |= left
        for node in (node for name in left for node in ast.walk(parsed(PATHS[name]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            foreign |= {name.partition(".")[0] for name in names}
        left = set().union(*(IMPORTS[name] for name in left)) - used
    foreign -= {*sys.stdlib_module_names, "medshield"}
    named = packages_distributions()
    packages = {named[name][0].lower().replace("_", "-") for name in foreign if name in named}
    assert packages - UNCOUNTED == {name.lower() for name in PACKAGES} - PLUGINS - {"medshield"}
