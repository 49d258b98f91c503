"""What the tests share."""

import os
import shutil
from pathlib import Path

import pytest
import torch

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure():
    """Where there is a process per core, each has one thread."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start


def pytest_collection_modifyitems(items):
    """Skip what needs real images where there are none."""
    if REAL_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="real images are not on this machine")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def real_data():
    """The folder of real images; tests that ask for it carry the mark `real_data`."""
    return REAL_DATA


@pytest.fixture(scope="session")
def program():
    """A function that finds an external program, or skips (fails where CI installed it)."""

    def find(name):
        path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
        if path is None:
            if os.environ.get("MEDSHIELD_REQUIRE_PROGRAMS"):
                pytest.fail(f"{name} should be installed here")
            pytest.skip(f"{name} is not installed")
        return path

    return find
