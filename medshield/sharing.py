"""One training that several processes share: each works on its rows of every batch.

All draw the same batches by the same randomness. Gradients are added up over the processes, and
batch norm sees the whole batch, so that what is learned is what one process learns, but for
rounding. With a crew of one, nothing here does anything; where several processes each train
models of their own, every one of them is such a crew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medshield import processes
from medshield.processes import Processes


def own_rows(crew: Processes, count: int) -> slice:
    """The rows of a batch of so many that are this process's."""
    return slice(count * crew.rank // crew.count, count * (crew.rank + 1) // crew.count)


def gathered(crew: Processes, own: Tensor, count: int) -> Tensor:
    """All rows of a batch of so many, of which `own_rows` are given; without gradients."""
    if crew.count == 1:
        return own
    whole = own.new_zeros(count, *own.shape[1:])
    whole[own_rows(crew, count)] = own
    return _total(whole)


def agreed(crew: Processes, flag: bool) -> bool:
    """What the first process says, so that all go the same way."""
    return flag if crew.count == 1 else processes.agreed([flag])[0]


def add_gradients(crew: Processes, *models: nn.Module) -> None:
    """Give the parameters the sum of all processes' gradients, those of the whole batch."""
    if crew.count == 1:
        return
    found = [each.grad for model in models for each in model.parameters() if each.grad is not None]
    total = _total(torch.cat([gradient.flatten() for gradient in found]))
    parts = torch.split(total, [gradient.numel() for gradient in found])
    for gradient, part in zip(found, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_batch_norm(crew: Processes, model: nn.Module) -> None:
    """Have the batch norms of a model take their statistics over all processes."""
    if crew.count == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert type(module) in (nn.BatchNorm2d, SharedBatchNorm)  # noqa: S101 (as built here)
            module.__class__ = SharedBatchNorm


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of all processes, on a CPU too, where PyTorch's own has none."""

    def forward(self, images: Tensor) -> Tensor:
        """As `nn.BatchNorm2d`."""
        if not self.training:
            known: Tensor = super().forward(images)
            return known
        assert self.momentum is not None  # noqa: S101 (as built here)
        values = images.numel() // images.shape[1]
        count: Tensor = _total(torch.tensor(float(values), device=images.device))
        mean = _Total.apply(images.sum((0, 2, 3))) / count
        centred = images - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            unbiased = variance.detach() * count / (count - 1)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised


class _Total(torch.autograd.Function):
    """The sum over all processes; the loss is the sum over all processes, too."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        return _total(own)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _total(gradients[0])


def _total(own: Tensor) -> Tensor:
    import torch.distributed

    total = own.detach().clone(memory_format=torch.contiguous_format)
    with processes.others_may_end():
        torch.distributed.all_reduce(total)
    return total
