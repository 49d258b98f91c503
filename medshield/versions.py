"""Which software made a release."""

from __future__ import annotations

import platform
import zlib
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medshield")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"

COMPUTING = (
    *("torch", "torchvision", "timm", "segmentation-models-pytorch"),
    *("numpy", "scipy", "scikit-learn", "PyWavelets"),
)
"""What deltas are computed with."""
CODING = (
    *("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs"),
    *("pillow", "jpeglib", "nibabel"),
)
"""What files are read and written with, and zlib, which Python brings or finds."""
PACKAGES = ("medshield", *COMPUTING, *CODING)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, down to the last byte."""
    found = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
