"""What a computation cost: seconds, and image-passes through networks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from medshield.models import Standardise

FORWARD_ONLY = 1 / 3
"""Of a pass: going back through a network takes about twice as long as going forward."""

Item = TypeVar("Item")


@dataclass
class Cost:
    """A running total.

    Attributes:
        seconds: of wall time, while counting.
        passes: images that a network of `models` saw: 1 where gradients were asked for, a third
            where not. Images that only fill up a block count as well.
    """

    seconds: float = 0.0
    passes: float = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add what happens inside the block, whoever does it.

        Every network begins with `Standardise`, so to watch that one module is to watch them all.
        """

        def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if isinstance(module, Standardise):
                self.passes += len(inputs[0]) * (1 if torch.is_grad_enabled() else FORWARD_ONLY)

        hook = register_module_forward_pre_hook(count)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
            hook.remove()

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; what it takes to make them is counted, what is done with them is not."""
        source = iter(items)
        while True:
            with self.counting():
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def to_json(self) -> dict[str, float]:
        """Rounded."""
        return {"seconds": round(self.seconds, 2), "passes": round(self.passes, 1)}


def mean_cost(costs: Iterable[Cost | None]) -> Cost | None:
    """The mean of those that were counted, if any was."""
    known = [cost for cost in costs if cost]
    if not known:
        return None
    seconds, passes = (sum(getattr(c, name) for c in known) for name in ("seconds", "passes"))
    return Cost(seconds / len(known), passes / len(known))
