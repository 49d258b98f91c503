"""A block of code with its own, repeatable randomness; and where the randomness is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch inside the block and give the caller its own state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def random_state() -> list[Tensor]:
    """Where PyTorch's generators are: that of the CPU, then that of the GPU, if there is one."""
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def set_random_state(state: Sequence[Tensor]) -> None:
    """Take up where `random_state` was called."""
    torch.set_rng_state(state[0])
    for on_gpu in state[1:]:
        torch.cuda.set_rng_state(on_gpu)
