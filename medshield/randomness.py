"""A block of code with its own, repeatable randomness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch inside the block and give the caller its own state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
