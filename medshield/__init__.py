"""medshield: release medical images that are of no use for training a model without permission."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medshield")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"
